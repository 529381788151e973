//! [`MetadataStore`] of this store: its disks carry no copies of the pool's metadata.

use crate::store::MetadataStore;
use crate::store::memory::MemoryStore;

impl MetadataStore for MemoryStore {}
