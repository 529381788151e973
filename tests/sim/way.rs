//! A request's way through an apparatus of the explorer: gate, lookup, fence word, disk accesses, fence word, reply. In the simulation production
//! code goes this way (`served.rs`).

use super::disk::BLOCKS;
use super::fault::Fault;
use super::history::Tag;
use super::host::{BLOCK, Flush, Lane, Piece, Req, What, mapped_by};
use super::{Delay, ReqId, Task, World};
use apparatus::gate::Access;
use apparatus::model::change::ChangeRecord;
use apparatus::model::units::{ChangeId, VolumeExtent, VolumeId};
use apparatus::store::roles::*;
use std::collections::BTreeSet;

impl World {
    /// A request comes to the gate.
    pub fn enter(&mut self, id: ReqId) {
        let Some(req) = self.reqs.get(&id) else { return };
        let (index, span, access) = (req.app, req.span(), req.access());
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        let parked = app.holds.park(id, span, access, 1, self.now).is_none();
        self.check_parked(id, parked);
        if parked {
            self.count(if access == Access::Write {
                "writes parked"
            } else {
                "reads parked"
            });
            return;
        }
        let Some(app) = self.apps[index].as_mut() else {
            return;
        };
        app.holds.note_write(&span, access);
        let generation = app.generation;
        app.lanes.insert(
            id,
            Lane {
                generation,
                span,
                access,
            },
        );
        if self.fenced(index) {
            self.stray(id);
        } else if self.is_cut_away(id) {
            self.count("requests of what is cut away");
            self.finish(id);
        } else {
            self.begin_io(id);
        }
    }

    /// Whether its apparatus's table has no such place any more; hosts have known that it would go.
    fn is_cut_away(&mut self, id: ReqId) -> bool {
        let Some(ask) = self.reqs.get(&id).map(|req| (req.app, req.ask)) else {
            return true;
        };
        let ((index, ask), Some(app)) = (ask, self.apps[ask.0].as_ref()) else {
            return true;
        };
        let end = ask.first + ask.blocks;
        let size = app.placements.volumes().find(|volume| volume.id == ask.volume);
        let cut = size.is_none_or(|volume| volume.size.0 / BLOCK < end);
        let known = self.usable.get(&ask.volume).is_none_or(|&usable| usable < end);
        self.must(!cut || known, || {
            format!("host error: {ask:?} on a{index} has no placement")
        });
        cut
    }

    /// Found fenced: nothing more is done for it until the apparatus has rejoined.
    fn stray(&mut self, id: ReqId) {
        let Some(index) = self.reqs.get(&id).map(|req| req.app) else {
            return;
        };
        self.count("requests met a fence");
        if let Some(app) = self.apps[index].as_mut() {
            app.strays.push(id);
        }
        self.leave_lane(index, id);
        let owner = self.apps[index].as_ref().map(|app| app.proc);
        self.after(owner, Delay::Step, Task::Word(index));
    }

    fn begin_io(&mut self, id: ReqId) {
        let Some(mut req) = self.reqs.remove(&id) else {
            return;
        };
        self.forget_earlier(&req);
        let owner = Some(req.proc);
        if req.ask.what == What::Flush {
            req.flush = Flush::Begin;
            self.reqs.insert(id, req);
            return self.after(owner, Delay::Step, Task::Flush(id));
        }
        req.reached = false;
        req.runs += 1;
        req.pieces = self.locate(&req);
        for (index, piece) in req.pieces.iter_mut().enumerate() {
            if req.ask.what == What::Write {
                piece.tag = self.tag(id, req.runs, index);
                self.history
                    .write((req.ask.volume, piece.block), piece.tag, req.begin);
                self.spec_write_begins((req.ask.volume, piece.block), piece.tag);
            }
            self.after(None, Delay::Disk, Task::Io(id, index));
        }
        self.reqs.insert(id, req);
    }

    /// A tag for what a request writes.
    fn tag(&mut self, id: ReqId, runs: u64, index: usize) -> Tag {
        if self.options.explore {
            return Tag((id.0 * 100 + runs * 10) as u32 + index as u32);
        }
        self.history.tag()
    }

    /// What an earlier run wrote may have taken effect, or not.
    fn forget_earlier(&mut self, req: &Req) {
        if req.ask.what == What::Write && !req.pieces.is_empty() {
            self.count("writes run again");
            for piece in &req.pieces {
                self.history.again((req.ask.volume, piece.block), piece.tag);
            }
        }
    }

    fn locate(&mut self, req: &Req) -> Vec<Piece> {
        let Some(app) = &self.apps[req.app] else {
            return Vec::new();
        };
        let blocks = req.ask.first..req.ask.first + req.ask.blocks;
        let placement = |block| {
            app.placements
                .placement(req.ask.volume, VolumeExtent(block / BLOCKS))
        };
        let piece = |block| {
            placement(block).map(|placement| Piece {
                block,
                placement,
                tag: Tag::GARBAGE,
                done: false,
            })
        };
        let pieces: Vec<Piece> = blocks.filter_map(piece).collect();
        let whole = pieces.len() as u64 == req.ask.blocks;
        self.must(whole, || format!("host error: {:?} has no placement", req.ask));
        pieces
    }

    /// A disk access takes place. It may do so while its process is stopped, and it may be the last thing of it.
    pub fn io(&mut self, id: ReqId, index: usize) {
        let Some(req) = self.reqs.get_mut(&id) else { return };
        let Some(piece) = req.pieces.get_mut(index).filter(|piece| !piece.done) else {
            return;
        };
        piece.done = true;
        let (disk, block) = piece.at();
        if req.ask.what == What::Write {
            self.disks[disk].write(block, piece.tag);
        } else {
            piece.tag = self.disks[disk].read(block);
        }
        let text = format!(
            "{id:?} {:?} {:?} block {} at {:?}: {:?}",
            req.ask.what, req.ask.volume, piece.block, piece.placement, piece.tag
        );
        let all = req.pieces.iter().all(|piece| piece.done);
        self.trace(|| text);
        let Some(req) = self.reqs.get(&id) else { return };
        if all {
            let owner = Some(req.proc);
            self.note_late_write(id);
            self.after(owner, Delay::Step, Task::Look(id));
        }
    }

    fn note_late_write(&mut self, id: ReqId) {
        let Some(req) = self.reqs.get(&id) else { return };
        if req.ask.what == What::Write && self.fenced(req.app) {
            self.count("late writes");
        }
    }

    /// The look at the fence word before the reply.
    pub fn look(&mut self, id: ReqId) {
        let Some(req) = self.reqs.get_mut(&id) else { return };
        let (index, owner) = (req.app, Some(req.proc));
        req.reached = req.ask.what == What::Write;
        if self.fenced(index) {
            self.stray(id);
        } else {
            self.after(owner, Delay::Step, Task::Reply(id));
        }
    }

    pub fn reply(&mut self, id: ReqId) {
        let Some(req) = self.reqs.get(&id).cloned() else {
            return;
        };
        let now = self.history.tick();
        match req.ask.what {
            What::Flush => {
                self.count("flushes");
                self.history.flush(req.ask.volume, req.begin, now);
                self.spec_flush_ends(id, req.ask);
            }
            What::Write => {
                self.count("writes");
                for piece in &req.pieces {
                    self.history
                        .acknowledged((req.ask.volume, piece.block), piece.tag, now);
                    self.spec_write_ends(id, (req.ask.volume, piece.block), piece.tag);
                }
            }
            What::Read => {
                self.count("reads");
                for piece in &req.pieces {
                    self.history
                        .read((req.ask.volume, piece.block), piece.tag, req.begin, now);
                    self.spec_read_ends(id, (req.ask.volume, piece.block), piece.tag);
                }
            }
        }
        self.finish(id);
    }

    /// The next step of a host's flush: read what is not persisted, flush the disks, persist, answer.
    pub fn flush_step(&mut self, id: ReqId) {
        let Some(req) = self.reqs.get(&id).cloned() else {
            return;
        };
        let owner = Some(req.proc);
        match req.flush {
            Flush::Begin => {
                let (disks, ids) = self.to_flush(req.app, req.ask.volume);
                let begun = disks
                    .into_iter()
                    .map(|disk| (disk, self.disks[disk].begin_flush()))
                    .collect();
                self.set_flush(id, Flush::Disks(begun, ids));
                self.after(owner, Delay::Disk, Task::Flush(id));
            }
            Flush::Disks(begun, ids) => {
                for (disk, at) in begun {
                    self.disks[disk].end_flush(at);
                }
                if ids.is_empty() || self.wrong(Fault::FlushBeforePersist) {
                    return self.look(id);
                }
                self.set_flush(id, Flush::Persist(ids));
                self.after(owner, Delay::Store, Task::Flush(id));
            }
            Flush::Persist(ids) => {
                self.count("persisted by a flush");
                let persisted = self.store.persist(&ids);
                self.must(persisted.is_ok(), || format!("persist: {persisted:?}"));
                self.look(id);
            }
        }
    }

    fn set_flush(&mut self, id: ReqId, flush: Flush) {
        if let Some(req) = self.reqs.get_mut(&id) {
            req.flush = flush;
        }
    }

    /// The changes that are not persisted and that a flush of the volume rests on, with all that come before them; the disks that those map, and
    /// those that hold the volume.
    fn to_flush(&mut self, index: usize, volume: VolumeId) -> (BTreeSet<usize>, Vec<ChangeId>) {
        let mut committed = self.committed();
        let version = self.apps[index].as_ref().map(|app| app.generation);
        let rests_on = |record: &ChangeRecord| {
            let mut edits = record.change.delta.edits.iter();
            Some(record.change.delta.from.next()) <= version
                && edits.any(|edit| edit.volume() == Some(volume))
        };
        let last = committed.iter().rposition(rests_on);
        if last.is_none_or(|last| last + 1 < committed.len()) {
            self.count("flushes that left later changes alone");
        }
        committed.truncate(last.map_or(0, |last| last + 1));
        let (mut disks, ids) = mapped_by(&committed);
        if let Some(app) = &self.apps[index] {
            let placements = app.placements.iter().filter(|&(other, ..)| other == volume);
            disks.extend(placements.map(|(_, _, (disk, _))| disk.0 as usize - 1));
        }
        (disks, ids)
    }
}
