//! Findings about the memory of an apparatus, and the limit of dirty data of loop devices.

use super::apparatus::ApparatusView;
use super::finding::{Finding, FindingKind};
use crate::model::event::Severity;
use crate::model::size::HumanSize;
use crate::model::units::ByteCount;
use crate::rpc::message::Memory;

/// Dirty data of a loop device may fill the hosts' cgroup up to this part of the apparatus's limit.
const PART: u64 = 8;
/// Upper bound, in bytes: more makes no host faster.
const MOST: u64 = 64 << 20;
/// Lower bound, in bytes: less makes hosts slow.
const LEAST: u64 = 1 << 20;

/// Returns the dirty bytes that a loop device through an apparatus may have; `None` where they take none of its memory.
pub(super) fn unwritten_on_loop(memory: &Memory) -> Option<u64> {
    memory
        .may_be_shared()
        .then(|| (memory.most / PART).clamp(LEAST, MOST))
}

/// Returns the findings about an apparatus's memory.
pub(super) fn of(view: &ApparatusView) -> Vec<Finding> {
    let Some(figures) = &view.figures else {
        return Vec::new();
    };
    let (memory, name) = (figures.memory, &figures.name);
    let most = HumanSize(ByteCount(memory.most));
    let finding = |kind, severity, text: String| {
        let found = Finding::new(kind, severity, format!("apparatus {name}"), text);
        found.next(format!("vctl apparatus stop {name}"))
    };
    let shared = memory.is_shared().then(|| {
        let severity = match memory.may_wait_for_itself {
            true => Severity::Warning,
            false => Severity::Info,
        };
        finding(FindingKind::MemoryShared, severity, memory.danger())
    });
    let short = (memory.needs > memory.most).then(|| {
        let text = format!(
            "may need {} of memory by its limits, and may have {most}: lower parked_mib, threads or workers in its configuration",
            HumanSize(ByteCount(memory.needs))
        );
        finding(FindingKind::MemoryShort, Severity::Warning, text)
    });
    shared.into_iter().chain(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loop_devices_are_bounded_where_they_take_the_memory_of_the_apparatus() {
        let memory = Memory {
            needs: 40 << 20,
            most: 64 << 20,
            is_limited: true,
            may_wait_for_itself: true,
            own_cgroup: false,
            is_alone: true,
        };
        assert_eq!(unwritten_on_loop(&memory), Some(8 << 20));
        let large = Memory {
            most: 1 << 40,
            ..memory
        };
        assert_eq!(unwritten_on_loop(&large), Some(MOST));
        for well in [
            Memory {
                is_limited: false,
                ..memory
            },
            Memory {
                own_cgroup: true,
                ..memory
            },
        ] {
            assert_eq!(unwritten_on_loop(&well), None);
        }
    }
}
