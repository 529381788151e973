//! The metadata of a pool goes into etcd and out of it again, also when either is interrupted at any step. Skipped by name where etcd is not installed.

use crate::etcd::cluster::Cluster;
use crate::etcd::{keys, read, write};
use crate::support::{CommandOutput, Pool, finish};
use apparatus::failpoint;

/// A pool of this machine alone, and an etcd that may have it.
struct Scene {
    cluster: Cluster,
    pool: Pool,
}

impl Scene {
    fn new() -> Option<Self> {
        let cluster = Cluster::start(1)?;
        let pool = Pool::with_volume();
        Some(Self { cluster, pool })
    }

    fn import(&self) -> Vec<String> {
        let url = format!("etcd://{}", self.cluster.addresses[0]);
        let dir = self.pool.pool_dir().display().to_string();
        ["pool", "import", &dir, "--store", &url, "--node", "n1"]
            .map(str::to_owned)
            .into()
    }

    fn export() -> Vec<String> {
        ["pool", "export"].map(str::to_owned).into()
    }

    /// Runs a command that is killed at this point.
    fn killed(&self, command: &[String], point: &str) {
        let mut command = self.pool.command(command);
        command.env(failpoint::VARIABLE, format!("{point}=kill"));
        let ended = finish(command.spawn().unwrap());
        assert_eq!(ended.status, -1, "{point}: {ended:?}");
    }

    fn is_in_etcd(&self) -> bool {
        let shown = self.pool.json(["pool", "show"]);
        let named = shown["pool"].get("etcd").is_some();
        assert_eq!(named, keys(&self.cluster) > 0);
        named
    }

    /// Writes and reads the volume, changes something, and checks the pool.
    #[track_caller]
    fn works(&self, byte: u8) {
        let volume = self.pool.start("a").join("v");
        write(&volume, byte);
        self.pool.run(["volume", "move", "v", "--to", "d2"]).ok();
        self.pool.run(["volume", "move", "v", "--to", "d1"]).ok();
        assert_eq!(read(&volume), byte);
        self.pool.run(["apparatus", "stop", "a"]).ok();
        self.pool.run(["pool", "check"]).ok();
    }
}

#[test]
fn a_pool_goes_into_etcd_and_back_with_its_volumes() {
    let Some(scene) = Scene::new() else { return };
    let pool = &scene.pool;
    let old = pool.path("old");
    let copied = std::fs::copy(pool.pool_dir().join("pool.db"), &old);
    assert!(copied.unwrap() > 0);
    let backup = pool.file("backup");
    pool.run(["pool", "backup", &backup]).ok();
    let volume = pool.start("a").join("v");
    write(&volume, 1);
    pool.run(scene.import())
        .ended(4)
        .complains(&["apparatus a", "runs"]);
    pool.run(["apparatus", "stop", "a"]).ok();
    let volumes = pool.json(["volume", "list"]);
    let rehearsed = pool
        .run(scene.import().iter().map(String::as_str).chain(["--dry-run"]))
        .ok();
    assert!(rehearsed.out.contains("would be in etcd"), "{rehearsed:?}");
    assert!(!scene.is_in_etcd());

    pool.run(scene.import()).ok();
    assert!(scene.is_in_etcd());
    assert_eq!(pool.json(["volume", "list"]), volumes);
    pool.run(scene.import()).ended(1).complains(&["in etcd already"]);
    scene.works(2);
    assert_eq!(pool.json(["node", "list"])["nodes"][0]["name"], "n1");

    let rehearsed = pool.run(["pool", "export", "--dry-run"]).ok();
    assert!(rehearsed.out.contains("would leave"), "{rehearsed:?}");
    assert!(scene.is_in_etcd());
    pool.run(Scene::export()).ok();
    assert!(!scene.is_in_etcd());
    pool.run(Scene::export())
        .ended(1)
        .complains(&["nothing to export"]);
    scene.works(3);
    // What was copied before is refused as older.
    pool.run(["pool", "restore", &backup, "--yes"])
        .ended(1)
        .complains(&["older than the disks"]);
}

#[test]
fn a_step_that_was_interrupted_is_completed_or_taken_back() {
    let Some(scene) = Scene::new() else { return };
    let pool = &scene.pool;
    let refuses = |command: CommandOutput, words: &str| command.ended(1).complains(&["interrupted", words]);
    for (at, point) in (1..).zip(["import.begun", "import.logged", "import.done"]) {
        scene.killed(&scene.import(), point);
        if point == "import.done" {
            assert!(scene.is_in_etcd());
        } else {
            refuses(pool.run(["status"]), "vctl pool import");
            refuses(pool.run(["volume", "create", "w", "1M"]), "vctl pool export");
            // Taken back, and begun anew.
            pool.run(Scene::export()).ok();
            assert!(!scene.is_in_etcd(), "{point}");
            scene.killed(&scene.import(), point);
            let mut another = scene.import();
            another.truncate(5);
            pool.run(another).ended(1).complains(&["another target"]);
            pool.run(scene.import()).ok();
        }
        assert!(scene.is_in_etcd(), "{point}");
        scene.works(at);
        let point = point.replace("import", "export").replace("logged", "log-gone");
        scene.killed(&Scene::export(), &point);
        if point != "export.done" {
            refuses(pool.run(["volume", "create", "w", "1M"]), "vctl pool export");
            pool.run(Scene::export()).ok();
        }
        assert!(!scene.is_in_etcd(), "{point}");
        scene.works(at + 10);
    }
}
