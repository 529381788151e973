//! Hosts, and what they ask for.

use super::copy::At;
use super::disk::{BLOCKS, Begun};
use super::fault::Fault;
use super::history::Tag;
use super::{Delay, ProcId, ReqId, Task, World};
use apparatus::gate::Access;
use apparatus::model::change::{ChangeRecord, ChangeState};
use apparatus::model::records::Span;
use apparatus::model::units::{ChangeId, Generation, Incarnation, VolumeId, VolumeOffset};
use apparatus::store::memory::Extent;
use apparatus::store::roles::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Bytes of a block.
pub const BLOCK: u64 = (64 << 10) / BLOCKS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Read,
    Write,
    Flush,
}

/// Something that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    pub what: What,
    pub volume: VolumeId,
    pub first: u64,
    pub blocks: u64,
}

/// A thread of a host: asks for one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub app: usize,
    pub busy: Option<ReqId>,
    /// Requests it has made.
    pub made: u64,
    /// What it is to ask next; otherwise it makes something up.
    pub script: VecDeque<Ask>,
}

/// One block's part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    pub block: u64,
    pub placement: Extent,
    pub tag: Tag,
    pub done: bool,
}

impl Piece {
    /// The disk and its block.
    pub fn at(&self) -> (usize, u64) {
        (
            self.placement.0.0 as usize - 1,
            self.placement.1.0 * BLOCKS + self.block % BLOCKS,
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Req {
    pub client: usize,
    pub app: usize,
    pub proc: ProcId,
    pub ask: Ask,
    pub begin: u64,
    /// How many times its accesses were begun.
    pub runs: u64,
    pub pieces: Vec<Piece>,
    /// All writes have reached the disk, and the fence came before the reply.
    pub reached: bool,
    pub flush: Flush,
    /// The simulation's: a write that is to be durable before it is acknowledged.
    pub durable: bool,
    /// And under what tags its blocks were written last, by which life of its apparatus.
    pub tags: BTreeMap<u64, Tag>,
    pub ran_in: Option<Incarnation>,
    /// A fault: where its blocks lay before it came to the gate.
    pub early: BTreeMap<u64, At>,
}

/// How far a flush is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Flush {
    Begin,
    Disks(Vec<(usize, Begun)>, Vec<ChangeId>),
    Persist(Vec<ChangeId>),
}

/// A request inside the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    pub generation: Generation,
    pub span: Span,
    pub access: Access,
}

impl Req {
    pub fn blocks(&self) -> Range<u64> {
        self.ask.first..self.ask.first + self.ask.blocks
    }

    pub fn span(&self) -> Span {
        let end = if self.ask.what == What::Flush {
            0
        } else {
            (self.ask.first + self.ask.blocks) * BLOCK
        };
        let start = if self.ask.what == What::Flush {
            0
        } else {
            self.ask.first * BLOCK
        };
        Span {
            volume: self.ask.volume,
            start: VolumeOffset(start),
            end: VolumeOffset(end),
        }
    }

    pub fn access(&self) -> Access {
        if self.ask.what == What::Write {
            Access::Write
        } else {
            Access::Read
        }
    }
}

impl World {
    /// A client asks for its next thing, if it has one.
    pub fn issue(&mut self, client: usize) {
        let app = self.clients[client].app;
        let Some(proc) = self.apps[app]
            .as_ref()
            .filter(|app| app.serves())
            .map(|app| app.proc)
        else {
            return;
        };
        if self.clients[client].busy.is_some() {
            return;
        }
        let Some(ask) = self.next_ask(client) else { return };
        let id = self.new_req(client);
        let begin = self.history.tick();
        let (pieces, reached) = (Vec::new(), false);
        let req = Req {
            client,
            app,
            proc,
            ask,
            begin,
            runs: 0,
            pieces,
            reached,
            flush: Flush::Begin,
            durable: ask.what == What::Write && !self.options.explore && self.rng.permille(60),
            tags: BTreeMap::new(),
            ran_in: None,
            early: BTreeMap::new(),
        };
        self.reqs.insert(id, req);
        self.clients[client].busy = Some(id);
        self.spec_asked(id);
        if self.options.explore {
            self.enter(id);
        } else {
            self.give_to_reader(app, client, id);
        }
    }

    /// A client's nth request has the same number whatever else happened before.
    fn new_req(&mut self, client: usize) -> ReqId {
        self.clients[client].made += 1;
        ReqId((client as u64 + 1) * 1_000_000 + self.clients[client].made)
    }

    fn next_ask(&mut self, client: usize) -> Option<Ask> {
        if let Some(ask) = self.clients[client].script.pop_front() {
            return Some(ask);
        }
        if self.ending || self.options.explore {
            return None;
        }
        let app = self.apps[self.clients[client].app].as_ref()?;
        let known: Vec<(VolumeId, u64)> = app
            .placements
            .volumes()
            .filter_map(|volume| Some((volume.id, *self.usable.get(&volume.id)?, volume.size.0 / BLOCK)))
            .map(|(volume, usable, size)| (volume, usable.min(size)))
            .collect();
        let Some(&(volume, size)) = self.rng.pick(&known) else {
            self.after(None, Delay::Exactly(500), Task::Issue(client));
            return None;
        };
        let what = match self.rng.below(20) {
            0..9 => What::Write,
            9..18 => What::Read,
            _ => What::Flush,
        };
        let first = self.rng.below(size);
        let blocks = if self.rng.permille(250) && first + 1 < size {
            2
        } else {
            1
        };
        Some(Ask {
            what,
            volume,
            first,
            blocks,
        })
    }

    /// Whether the fence word names the life that this apparatus's data path is in.
    pub fn fenced(&self, index: usize) -> bool {
        let Some(app) = &self.apps[index] else {
            return false;
        };
        let row = self.rows.get(app.slot.0 as usize).copied().unwrap_or_default();
        row.fenced >= app.incarnation && !self.wrong(Fault::NoFenceCheck)
    }

    /// The request is over, one way or the other.
    pub fn finish(&mut self, id: ReqId) {
        let Some(req) = self.reqs.remove(&id) else { return };
        if self.options.explore {
            self.leave_lane(req.app, id);
        }
        self.clients[req.client].busy = None;
        let pause = if self.options.explore {
            0
        } else {
            self.rng.between(5, 400)
        };
        self.after(Some(req.proc), Delay::Exactly(pause), Task::Issue(req.client));
    }

    /// Changes that are committed and not persisted, and the disks that they map.
    pub fn not_persisted(&mut self) -> (BTreeSet<usize>, Vec<ChangeId>) {
        mapped_by(&self.committed())
    }

    pub fn committed(&mut self) -> Vec<ChangeRecord> {
        let mut committed = self.store.unfinished().unwrap_or_default();
        committed.retain(|record| record.state == ChangeState::Committed);
        committed.sort_by_key(|record| record.change.delta.from);
        committed
    }
}

/// The disks that these changes map, and the changes.
pub fn mapped_by(committed: &[ChangeRecord]) -> (BTreeSet<usize>, Vec<ChangeId>) {
    let mapped = committed.iter().flat_map(super::copy::mapped);
    let disks = mapped.map(|disk| disk.0 as usize - 1).collect();
    (disks, committed.iter().map(|record| record.id).collect())
}
