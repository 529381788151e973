//! The memory of an apparatus: how much it needs and may have, and that the kernel does not make it wait for its own disks to reclaim
//! memory.
//!
//! Where hosts fill a memory cgroup with data that they have written to a volume, the kernel writes that
//! back to make room, and a process that allocates memory there may wait for it: the apparatus too, without
//! which nothing is written back. `PR_SET_IO_FLUSHER` exempts it from that; so does a cgroup of its own.

use super::Settings;
use super::process::notify;
use crate::admin::apparatus::WARNING;
use crate::model::member::Joined;
use crate::model::size::HumanSize;
use crate::model::units::ByteCount;
use crate::rpc::message;
use crate::sys::{self, memory::Cgroup, memory::Limit, memory::OwnCgroup};
use sd_notify::NotifyState;
use std::sync::Arc;

/// The memory limits, as found and set up at the start.
pub(super) struct Memory {
    /// All figures except whether the cgroup is shared now.
    fixed: message::Memory,
    limit: Option<Limit>,
    /// Why the kernel may have this process wait for its own disks.
    waits: Option<String>,
    /// The cgroup of this process, which it leaves and removes when it ends.
    _own: Option<OwnCgroup>,
}

impl Memory {
    /// Sets up the process, before threads start and disks are opened.
    pub(super) fn prepare(settings: &Settings) -> Self {
        let limit = Cgroup::mine().and_then(|cgroup| cgroup.limit());
        let own = limit.as_ref().filter(|_| settings.own_cgroup);
        let own = own.and_then(|limit| enter_own(limit, settings));
        let prepared = sys::become_storage_daemon();
        for refused in &prepared.refused {
            log::debug!("a setting of a storage daemon was refused: {refused}");
        }
        let most = limit
            .as_ref()
            .map_or_else(sys::memory::of_machine, |limit| limit.bytes);
        Self {
            fixed: message::Memory {
                needs: settings.config.memory_needed(most),
                most,
                is_limited: limit.is_some(),
                may_wait_for_itself: prepared.waits.is_some()
                    && limit.as_ref().is_some_and(Limit::waits_for_writeback),
                own_cgroup: own.is_some(),
                is_alone: own.is_some(),
            },
            limit: limit.filter(|_| own.is_none()),
            waits: prepared.waits,
            _own: own,
        }
    }

    /// Returns the most memory that this process may have, in bytes.
    pub(super) const fn most(&self) -> u64 {
        self.fixed.most
    }

    /// Returns the figures for the pool that this process has joined.
    fn in_pool(&self, settings: &Settings, joined: &Joined) -> message::Memory {
        let more = settings.config.memory_of_access(joined.snapshot.header.access);
        message::Memory {
            needs: self.fixed.needs.saturating_add(more),
            ..self.fixed
        }
    }

    /// Returns a function that reports the memory figures, for the control socket.
    pub(super) fn reporter(
        &self,
        settings: &Settings,
        joined: &Joined,
    ) -> Arc<dyn Fn() -> message::Memory + Send + Sync> {
        let (fixed, limit) = (self.in_pool(settings, joined), self.limit.clone());
        Arc::new(move || now(fixed, limit.as_ref()))
    }

    /// Warns the operator, in the log and in the notification to the process that started this one.
    pub(super) fn warn(&self, settings: &Settings, joined: &Joined) {
        let (name, figures) = (
            &settings.name,
            now(self.in_pool(settings, joined), self.limit.as_ref()),
        );
        let most = HumanSize(ByteCount(figures.most));
        if let Some(why) = &self.waits {
            let whose = match (figures.is_limited, figures.is_alone) {
                (true, true) => format!("it is alone in its memory cgroup, of {most}"),
                (true, false) => format!("it shares a memory cgroup of {most} with others"),
                (false, _) => "its memory cgroup has no limit".into(),
            };
            log::warn!(
                "the kernel may make it wait for its own volumes while it reclaims memory: {why}; {whose}"
            );
        }
        if figures.is_shared() {
            let text = format!("apparatus {name}: {}", figures.danger());
            log::warn!("{text}");
            notify(&[NotifyState::Custom(&format!("{WARNING}={text}"))]);
        }
        if figures.needs > figures.most {
            let needs = HumanSize(ByteCount(figures.needs));
            log::warn!(
                "by its limits it may need {needs} of memory, and it may have {most}: lower parked_mib, threads or workers"
            );
        }
    }
}

/// Returns the figures, with whether the cgroup is shared now.
fn now(fixed: message::Memory, limit: Option<&Limit>) -> message::Memory {
    message::Memory {
        is_alone: fixed.is_alone || limit.is_some_and(Limit::is_mine_alone),
        ..fixed
    }
}

fn enter_own(limit: &Limit, settings: &Settings) -> Option<OwnCgroup> {
    // The name is unique among the pools of a machine, and the same at the next start.
    let pool = crate::admin::place::pool_dir(settings.pool.as_deref()).ok()?;
    let pool = crc32c::crc32c(pool.path().as_os_str().as_encoded_bytes());
    let entered = limit.enter_beside(&format!("apparatus-{pool:08x}-{}", settings.name));
    entered.inspect_err(|why| log::info!("{why}")).ok()
}
