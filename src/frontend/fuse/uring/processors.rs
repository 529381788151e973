//! Processors, and which thread serves the queue of which.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;

/// Lists the processors that the machine may have.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// Returns the number of queues of a connection: one for each processor that the machine may have. `None` where the kernel does not say.
pub(super) fn queues() -> Option<u16> {
    number_of(&fs::read_to_string(POSSIBLE).ok()?)
}

/// Returns how many processors a list like `0-3,8` names.
fn number_of(list: &str) -> Option<u16> {
    let mut number = 0_u16;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        number = number.checked_add(last.checked_sub(first)?)?.checked_add(1)?;
    }
    Some(number)
}

/// Returns the processors that this process may use.
pub(super) fn usable() -> Vec<u16> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let most = u16::try_from(CpuSet::MAX_CPU).unwrap_or(u16::MAX);
    let usable: Vec<u16> = (0..most).filter(|&number| set.is_set(number.into())).collect();
    match usable.is_empty() {
        true => vec![0],
        false => usable,
    }
}

/// Has the calling thread run on this processor, where that is allowed.
pub(super) fn stay_on(processor: u16) {
    let mut set = CpuSet::new();
    if usize::from(processor) < CpuSet::MAX_CPU {
        set.set(processor.into());
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        log::debug!("a thread cannot stay on processor {processor}: {error}");
    }
}

/// Returns for each thread its processor and the queues that it serves, its own first. There is a thread for each processor that the process may use; the
/// queues of the others are spread over them.
pub(super) fn shares(queues: u16, usable: &[u16]) -> Vec<(u16, Vec<u16>)> {
    let own = usable.iter().filter(|&&processor| processor < queues);
    let mut shares: Vec<(u16, Vec<u16>)> = own.map(|&processor| (processor, vec![processor])).collect();
    if shares.is_empty() {
        shares.push((usable.first().copied().unwrap_or(0), Vec::new()));
    }
    let others = (0..queues).filter(|queue| !usable.contains(queue));
    let threads = shares.len();
    for (number, queue) in others.enumerate() {
        shares[number % threads].1.push(queue);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        for (list, number) in [("0\n", Some(1)), ("0-3\n", Some(4)), ("0-3,8,10-11", Some(7))] {
            assert_eq!(number_of(list), number, "{list}");
        }
        for list in ["", "a", "3-0", "0-", "0-65535", "-1"] {
            assert_eq!(number_of(list), None, "{list}");
        }
    }

    #[test]
    fn each_queue_is_served_by_one_thread() {
        for (queues, usable) in [(1, vec![0]), (2, vec![0, 1]), (8, vec![1, 3]), (4, vec![9])] {
            let shares = shares(queues, &usable);
            let mut served: Vec<u16> = shares.iter().flat_map(|share| share.1.clone()).collect();
            served.sort_unstable();
            assert_eq!(served, (0..queues).collect::<Vec<_>>());
            for (processor, queues) in &shares {
                assert!(usable.contains(processor) && !queues.is_empty());
            }
        }
        assert_eq!(shares(4, &[1, 3]), vec![(1, vec![1, 0]), (3, vec![3, 2])]);
    }
}
