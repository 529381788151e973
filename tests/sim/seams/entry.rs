//! The entry of an apparatus in the member table, as its data path sees it. The control side of the simulation writes it.

use super::glance;
use crate::sim::World;
use crate::sim::fault::Fault;
use crate::sim::request;
use crate::sim::thread::world;
use apparatus::cluster::OwnEntry;
use apparatus::model::units::{Generation, Incarnation};

pub struct SimEntry {
    index: usize,
}

impl SimEntry {
    pub fn new(index: usize) -> Self {
        Self { index }
    }

    fn look(&self, world: &mut World) -> bool {
        request::look_at_mapped(|(disk, block)| world.disks[disk].read(block));
        let unseen = request::is_look_after_write() && world.wrong(Fault::NoLookAfterWrite);
        let fenced = !unseen && world.fenced(self.index);
        if fenced {
            world.count("requests met a fence");
            // Production code closes the gate before anything else happens.
            if let Some(app) = world.apps[self.index].as_mut() {
                app.closed = true;
            }
        }
        fenced
    }
}

impl OwnEntry for SimEntry {
    fn begin(&self, _incarnation: Incarnation, _generation: Generation) {}

    fn end(&self) {}

    fn is_fenced(&self) -> bool {
        request::has_entered();
        glance();
        world(|world| self.look(world)) == Some(true)
    }

    fn set_generation(&self, _generation: Generation) {}

    fn set_oldest(&self, _oldest: Generation) {}

    fn beat(&self) {}
}
