//! What hosts have seen of one block, and whether one register can have answered so. Each value is written once.

use super::world::Time;
use std::collections::BTreeMap;

/// A request of a host. `end` is missing if it was never answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) is_write: bool,
    pub(super) value: u64,
    pub(super) start: Time,
    pub(super) end: Option<Time>,
}

/// The requests of one value: the earliest end and the latest start among them.
#[derive(Clone, Copy, Debug)]
struct Zone {
    write: Time,
    earliest_end: Time,
    latest_start: Time,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.earliest_end < self.latest_start
    }
}

fn zones(history: &[Record]) -> BTreeMap<u64, Zone> {
    let first = Zone {
        write: 0,
        earliest_end: 0,
        latest_start: 0,
    };
    let mut zones = BTreeMap::from([(0, first)]);
    for record in history.iter().filter(|record| record.is_write) {
        let zone = Zone {
            write: record.start,
            earliest_end: record.end.unwrap_or(Time::MAX),
            latest_start: record.start,
        };
        zones.insert(record.value, zone);
    }
    zones
}

/// Checks that the history is linearizable (the zones of Gibbons and Korach). The block has the value 0 at first.
pub(super) fn check(history: &[Record]) -> Result<(), String> {
    let mut zones = zones(history);
    let mut seen: BTreeMap<u64, bool> = history
        .iter()
        .filter(|record| record.is_write)
        .map(|record| (record.value, record.end.is_some()))
        .collect();
    seen.insert(0, true);
    for read in history.iter().filter(|record| !record.is_write) {
        let Some(end) = read.end else { continue };
        let Some(zone) = zones.get_mut(&read.value) else {
            return Err(format!("{read:?} has a value that nobody wrote"));
        };
        if end < zone.write {
            return Err(format!("{read:?} ended before its write began"));
        }
        zone.earliest_end = zone.earliest_end.min(end);
        zone.latest_start = zone.latest_start.max(read.start);
        seen.insert(read.value, true);
    }
    // A write that nobody acknowledged or read need not have happened.
    zones.retain(|value, _| seen.get(value).copied().unwrap_or(false));
    let zones: Vec<(u64, Zone)> = zones.into_iter().collect();
    for (at, (value, zone)) in zones.iter().enumerate() {
        for (other, inner) in zones.iter().skip(at + 1) {
            if conflict(zone, inner) || conflict(inner, zone) {
                return Err(format!(
                    "values {value} and {other} have no order: {zone:?} {inner:?}"
                ));
            }
        }
    }
    Ok(())
}

fn conflict(zone: &Zone, other: &Zone) -> bool {
    zone.is_forward() && zone.earliest_end < other.latest_start && other.earliest_end < zone.latest_start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(is_write: bool, value: u64, start: Time, end: u64) -> Record {
        Record {
            is_write,
            value,
            start,
            end: (end > 0).then_some(end),
        }
    }

    #[test]
    fn lost_stale_and_reversed_values_are_found() {
        let write = |value, start, end| record(true, value, start, end);
        let read = |value, start, end| record(false, value, start, end);
        check(&[write(1, 1, 5), read(0, 2, 3), read(1, 4, 6)]).unwrap();
        check(&[write(1, 1, 5), read(1, 2, 3), read(1, 6, 7)]).unwrap();
        // A write that was never answered may be seen or not.
        check(&[write(1, 1, 0), read(0, 2, 3), read(1, 4, 6)]).unwrap();
        check(&[write(1, 1, 5), read(0, 6, 7)]).unwrap_err();
        check(&[write(1, 1, 0), read(1, 2, 3), read(0, 4, 6)]).unwrap_err();
        check(&[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]).unwrap_err();
        check(&[read(9, 1, 2)]).unwrap_err();
    }
}
