//! Data moves between disks that two nodes share, while hosts use it through both.

use super::load::Load;
use super::shared_disk::{SharedDisk, View};
use super::{Scene, VOLUME, VOLUME_BYTES};
use crate::support::{Pool, until};
use std::path::PathBuf;

/// Two nodes with the disks `d1` and `d2`, and a volume on `d1` that each of them serves.
pub struct Shared {
    pub scene: Scene,
    /// The volume in the mount of each node.
    pub volumes: [PathBuf; 2],
    views: Vec<View>,
    _disks: Vec<SharedDisk>,
}

impl Shared {
    /// Returns `None`, with a message, where etcd is not installed.
    pub fn new() -> Option<Self> {
        let scene = Scene::new(&["--direct"])?;
        let dir = scene.one.path("disks");
        std::fs::create_dir(&dir).unwrap();
        let (mut disks, mut views) = (Vec::new(), Vec::new());
        for name in ["d1", "d2"] {
            let disk = SharedDisk::new(&dir, name, 64);
            let view = disk.view(&dir);
            let path = view.path().to_str().unwrap();
            scene.one.run(["disk", "add", path, "--name", name]).ok();
            views.push(view);
            disks.push(disk);
        }
        scene
            .one
            .run([
                "volume",
                "create",
                VOLUME,
                &VOLUME_BYTES.to_string(),
                "--on",
                "d1",
            ])
            .ok();
        scene.join("n2", true).ok();
        for (disk, name) in disks.iter().zip(["d1", "d2"]) {
            let view = disk.view(scene.two.path(".").as_path());
            let path = view.path().to_str().unwrap();
            scene
                .two
                .run(["disk", "set", name, "--path", path, "--here"])
                .ok();
            views.push(view);
        }
        let volumes =
            [(&scene.one, "a1"), (&scene.two, "a2")].map(|(pool, name)| pool.start(name).join(VOLUME));
        Some(Self {
            scene,
            volumes,
            views,
            _disks: disks,
        })
    }

    /// Takes `d2` away from the second node, whose apparatus starts without it. Returns false where the nodes have no file systems of their own.
    pub fn lose_last_view(&mut self) -> bool {
        if self.views.iter().all(|view| !view.is_mount()) {
            return false;
        }
        let two = &self.scene.two;
        two.run(["apparatus", "stop", "a2"]).ok();
        drop(self.views.pop());
        two.start("a2");
        true
    }

    pub fn load(&self) -> Load {
        Load::new(self.volumes.to_vec(), VOLUME_BYTES)
    }

    /// Stops both apparatuses and checks the pool on both nodes.
    pub fn end(self) {
        for (pool, name) in [(&self.scene.one, "a1"), (&self.scene.two, "a2")] {
            pool.run(["apparatus", "stop", name]).ok();
        }
        for pool in [&self.scene.one, &self.scene.two] {
            pool.run(["pool", "check"]).ok();
        }
    }
}

fn move_to(pool: &Pool, disk: &str) {
    pool.run(["volume", "move", VOLUME, "--to", disk]).ok();
}

#[test]
fn a_volume_moves_while_hosts_write_and_read_it_through_both_nodes() {
    let Some(shared) = Shared::new() else { return };
    let (one, two) = (&shared.scene.one, &shared.scene.two);
    let load = shared.load();
    load.during(|| {
        for (pool, disk) in [(one, "d2"), (two, "d1"), (one, "d2")] {
            let before = load.requests();
            until("hosts are served", || load.requests() > before + 100);
            move_to(pool, disk);
        }
    });
    let placed = one.json(["volume", "map", VOLUME]);
    assert!(placed.to_string().contains("d2"), "{placed}");
    shared.end();
}
