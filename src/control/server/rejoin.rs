//! The way of a fenced apparatus back into the control range.
//!
//! ```text
//!  No --fenced--> Draining --nothing in flight--> Asked --rejoined--> No (the machine goes on)
//!                                                  ^  |
//!                                        time out  |  | the store fails
//!                                                  +--+
//! ```

use super::core::{Core, Key};
use super::helpers::Back;
use crate::change::failpoint::{Point, hit};
use crate::change::participant::Event;
use crate::error::Result;
use std::time::Duration;

/// How soon a failed attempt is made again.
const AGAIN: Duration = Duration::from_millis(200);

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rejoining {
    /// In the control range, as far as we know.
    No,
    /// The gate is closed; requests are still in flight.
    Draining,
    /// A helper asks the store, or will again. The last failure, so that it is told once.
    Asked(String),
}

impl Core {
    /// Parks everything, and begins the way back.
    pub(super) fn rejoin(&mut self) {
        log::warn!("fenced, or with a damaged table: hosts wait until this apparatus has rejoined");
        self.setup.runtime.close();
        self.void_holds();
        self.rejoining = Rejoining::Draining;
        self.look_at_rejoining();
    }

    pub(super) fn look_at_rejoining(&mut self) {
        if self.rejoining == Rejoining::Draining && self.setup.runtime.in_flight() == 0 {
            hit(Point::ApparatusDrainedForRejoin);
            self.rejoining = Rejoining::Asked(String::new());
            self.rejoin_again();
        }
    }

    /// Asks, or asks again.
    pub(super) fn rejoin_again(&mut self) {
        let asked = matches!(self.rejoining, Rejoining::Asked(_));
        if asked && !self.helpers.rejoin(self.machine.incarnation()) {
            self.timers.arm(Key::Rejoin, AGAIN);
        }
    }

    pub(super) fn rejoined(&mut self, answer: Result<Back>) {
        match answer {
            Ok(back) if back.joined.member.slot != self.setup.member.slot => {
                log::error!(
                    "the line {} in the member table is somebody else's: leaving",
                    self.setup.member.slot
                );
                self.setup.runtime.stop();
            }
            Ok(back) => self.begin_again(back),
            Err(why) => self.not_rejoined(why.to_string()),
        }
    }

    fn not_rejoined(&mut self, why: String) {
        if let Rejoining::Asked(told) = &mut self.rejoining {
            if *told != why {
                log::error!("cannot rejoin, trying on: {why}");
                *told = why;
            }
            self.timers.arm(Key::Rejoin, AGAIN);
        }
    }

    fn begin_again(&mut self, back: Back) {
        let Back { joined, table, disks } = back;
        for disk in disks {
            self.setup.runtime.disks().insert(disk);
        }
        if let Err(why) = self.setup.runtime.reload(table, &joined.snapshot.disks) {
            log::error!("{why}: leaving");
            self.setup.runtime.stop();
            return;
        }
        self.openings.set_table(joined.snapshot.disks.clone());
        hit(Point::ApparatusReloaded);
        let (incarnation, generation) = (joined.member.incarnation, joined.snapshot.header.generation);
        self.setup.line.begin(incarnation, generation);
        self.volumes = joined.snapshot.volumes.iter().map(|volume| volume.id).collect();
        self.rejoining = Rejoining::No;
        log::info!("rejoined as life {incarnation} with the table of generation {generation}");
        self.events.push_back(Event::Rejoined(incarnation, generation));
    }
}
