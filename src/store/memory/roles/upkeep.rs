//! [`UpkeepStore`] of this store.

use crate::model::error::Result;
use crate::store::UpkeepStore;
use crate::store::memory::MemoryStore;

impl UpkeepStore for MemoryStore {
    fn checkpoint(&mut self) -> Result<()> {
        self.sync();
        Ok(())
    }
}
