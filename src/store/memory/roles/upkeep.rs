//! [`UpkeepStore`] of this store.

use crate::model::error::Result;
use crate::store::UpkeepStore;
use crate::store::memory::MemoryStore;

impl UpkeepStore for MemoryStore {
    fn raise_layout_to(&mut self, layout: u64) -> Result<()> {
        self.write(|state, _| {
            state.header.layout = state.header.layout.max(layout);
            Ok(())
        })?;
        self.sync();
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.sync();
        Ok(())
    }
}
