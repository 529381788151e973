//! What hosts are answered by production code.

use super::copy::At;
use super::fault::Fault;
use super::history::Tag;
use super::host::{BLOCK, Req, What};
use super::request::{self, Content};
use super::thread::{pause, world};
use super::{Delay, ReqId, Task, World};
use apparatus::datapath::{Delivery, Failure, Reply, Response};

/// A host's end of a request.
pub struct HostReply(pub ReqId);

/// What a host gets for a block.
#[derive(Clone, Copy, Debug)]
pub enum Got {
    Tag(Tag),
    /// It is copied from a mapping; at the last look at the fence word it was this.
    Mapped(At, Tag),
}

/// A reply.
#[derive(Clone, Debug)]
pub enum Answered {
    Blocks(Vec<Got>),
    Written(u64),
    Done,
    Failed(Failure),
}

impl Reply for HostReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        let looked = request::is_answered();
        let got = |content: Content| match content {
            Content::Mapped(at) => Got::Mapped(at, looked.get(&at).copied().unwrap_or(Tag::GARBAGE)),
            Content::Read(tag) => Got::Tag(tag),
            Content::Written(..) => Got::Tag(Tag::GARBAGE),
        };
        let answered = match answer {
            Response::Data(bytes) => {
                let contents = request::contents(bytes).unwrap_or_default();
                Answered::Blocks(contents.into_iter().map(got).collect())
            }
            Response::Placed(_) => Answered::Failed(Failure::Disk),
            Response::Written(bytes) => Answered::Written(bytes / BLOCK),
            Response::Done | Response::Found(_) => Answered::Done,
            Response::Failed(failure) => Answered::Failed(failure),
        };
        if world(|world| world.wrong(Fault::LaneLeftEarly)) == Some(true) {
            world(|world| world.answer_later(self.0, answered));
            return Delivery::Taken;
        }
        pause(Delay::Step);
        world(|world| world.answered(self.0, &answered));
        if world(|world| world.rng.permille(100)) == Some(true) {
            pause(Delay::Step);
        }
        Delivery::Taken
    }
}

impl World {
    /// A fault: the reply is sent when the request has left its lane.
    fn answer_later(&mut self, id: ReqId, answered: Answered) {
        let Some(proc) = self.reqs.get(&id).map(|req| req.proc) else {
            return;
        };
        self.late_answers.insert(id, answered);
        let later = self.rng.between(0, 20_000);
        self.after(Some(proc), Delay::Exactly(later), Task::Reply(id));
    }

    pub fn late_answer(&mut self, id: ReqId) {
        if let Some(answered) = self.late_answers.remove(&id) {
            self.answered(id, &answered);
        }
    }

    /// A host gets its answer.
    pub fn answered(&mut self, id: ReqId, answered: &Answered) {
        let Some(req) = self.reqs.get(&id).cloned() else {
            return self.fail(format!("{id:?} is answered twice"));
        };
        self.trace(|| format!("{id:?} {:?}: {answered:?}", req.ask));
        let (now, asked) = (self.history.tick(), req.ask.blocks);
        match (req.ask.what, answered) {
            (What::Flush, Answered::Done) => {
                self.count("flushes");
                self.history.flush(req.ask.volume, req.begin, now);
            }
            (What::Write, Answered::Written(blocks)) if *blocks == asked => self.write_answered(&req, now),
            (What::Read, Answered::Blocks(blocks)) if blocks.len() as u64 == asked => {
                self.count("reads");
                let fenced = self.fenced(req.app);
                for (block, got) in req.blocks().zip(blocks) {
                    let tag = match *got {
                        Got::Mapped((disk, at), _) if !fenced => self.disks[disk].read(at),
                        Got::Tag(tag) | Got::Mapped(_, tag) => tag,
                    };
                    self.history.read((req.ask.volume, block), tag, req.begin, now);
                }
            }
            (What::Write, Answered::Written(_))
            | (What::Read, Answered::Blocks(_))
            | (_, Answered::Failed(Failure::NoVolume | Failure::PastEnd)) => self.cut_away(&req),
            _ => self.fail(format!("host error: {:?} is answered with {answered:?}", req.ask)),
        }
        self.finish(id);
    }

    fn write_answered(&mut self, req: &Req, now: u64) {
        self.count("writes");
        let incarnation = self.apps[req.app].as_ref().map(|app| app.incarnation);
        if incarnation != req.ran_in {
            self.count("parked writes acknowledged");
        }
        let unwritten = req.blocks().find(|block| !req.tags.contains_key(block));
        self.must(unwritten.is_none(), || {
            format!(
                "{:?} is acknowledged, and block {unwritten:?} has reached no disk",
                req.ask
            )
        });
        for (&block, &tag) in &req.tags {
            let place = (req.ask.volume, block);
            self.history.acknowledged(place, tag, now);
            if req.durable {
                self.history.durable(place, tag);
            }
        }
        if req.durable {
            self.count("durable writes");
        }
    }

    /// Its apparatus's table has no such place any more; hosts have known that it would go.
    fn cut_away(&mut self, req: &Req) {
        self.count("requests of what is cut away");
        let usable = self.usable.get(&req.ask.volume).copied();
        self.must(usable.is_none_or(|usable| usable < req.blocks().end), || {
            format!("host error: {:?} has no placement", req.ask)
        });
    }
}
