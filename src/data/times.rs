//! When volumes were written: through this apparatus, which its threads note each for itself, and through others, as those tell.

use super::{Apparatus, Notice, lock};
use crate::member::times::Times;
use crate::pool::model::VolumeRecord;
use crate::units::VolumeId;
use std::time::{Duration, SystemTime};

impl Apparatus {
    /// When the volume was last written, as far as is known here; when this apparatus began, if nothing is.
    #[must_use]
    pub fn modified(&self, id: VolumeId) -> SystemTime {
        let at = self.modified_us(id);
        let known = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(at));
        known.filter(|_| at > 0).unwrap_or(self.began.1)
    }

    /// The same in microseconds since 1970, 0 for nothing known.
    pub(super) fn modified_us(&self, id: VolumeId) -> u64 {
        let learnt = lock(&self.learnt).get(&id).copied();
        let here = self.book.written_at_us(id);
        learnt.unwrap_or(0).max(self.since_1970(here))
    }

    /// Of all volumes there are. Those of which nothing is known count as written now, so that all apparatuses show the same for them.
    #[must_use]
    pub fn modified_here(&self) -> Times {
        // A reader of its own: the control thread does not wait for this.
        let volumes = self.table.volumes(&mut self.table.reader());
        let written = self.book.written();
        let now = self.since_1970(self.now_us());
        let mut learnt = lock(&self.learnt);
        let time = |VolumeRecord { id, .. }: &VolumeRecord| {
            let here = self.since_1970(written.get(id).copied().unwrap_or(0));
            match learnt.get(id).copied().unwrap_or(0).max(here) {
                0 => (*id, now),
                known => (*id, known),
            }
        };
        let times: Times = volumes.iter().map(time).collect();
        learnt.clone_from(&times);
        times
    }

    /// What others tell, or an earlier life.
    pub fn learn_modified(&self, times: &Times) {
        for (&id, &at) in times {
            if at > self.modified_us(id) {
                lock(&self.learnt).insert(id, at);
                self.tell_kernel(Notice::Attributes(id));
            }
        }
    }

    /// From microseconds since this apparatus began; 0 stays 0.
    fn since_1970(&self, us: u64) -> u64 {
        let began = self.began.1.duration_since(SystemTime::UNIX_EPOCH);
        let began = began.map_or(0, super::io::micros);
        if us == 0 { 0 } else { began.saturating_add(us) }
    }
}
