//! [`RemovedStore`] of this store: it remembers no removed volumes.

use crate::store::RemovedStore;
use crate::store::memory::MemoryStore;

impl RemovedStore for MemoryStore {}
