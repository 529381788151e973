//! Nodes of one pool, here on one machine, each with a directory of its own. A second one is refused; debug builds let it in, so that what is there can be tried.

mod handing_over;
mod load;
mod moving;
mod shared_disk;
mod unreached_disk;

use crate::etcd::cluster::Cluster;
use crate::etcd::free_port;
use crate::support::{CommandOutput, Pool, finish};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

/// The volume of the tests, and its size.
const VOLUME: &str = "v";
const VOLUME_BYTES: usize = 8 << 20;

/// Two directories, of which the first one has a pool as the node n1; certificates for n1 and n2 are in it.
struct Scene {
    cluster: Cluster,
    one: Pool,
    two: Pool,
}

impl Scene {
    /// Returns `None`, with a message, where etcd is not installed.
    fn new(more: &[&str]) -> Option<Self> {
        let cluster = Cluster::start(1)?;
        let scene = Self {
            cluster,
            one: Pool::absent(),
            two: Pool::absent(),
        };
        let tls = scene.one.file("tls");
        scene
            .one
            .run(["pool", "tls", "init", &tls, "--name", "n1", "--name", "n2"])
            .ok();
        let url = scene.url();
        let create = ["pool", "create", "--store", &url];
        let node = scene.node("n1");
        let node = node.iter().map(String::as_str);
        scene
            .one
            .run(create.into_iter().chain(more.iter().copied()).chain(node))
            .ok();
        Some(scene)
    }

    fn url(&self) -> String {
        format!("etcd://{}", self.cluster.addresses[0])
    }

    /// Returns the options of a node.
    fn node(&self, name: &str) -> Vec<String> {
        let listen = format!("127.0.0.1:{}", free_port());
        let tls = self.one.file(&format!("tls/{name}"));
        let lease = ["--lease", "6s"];
        ["--node", name, "--listen", &listen, "--node-tls", &tls]
            .into_iter()
            .chain(lease)
            .map(str::to_owned)
            .collect()
    }

    /// Has the second directory join; `allowed` is what only debug builds take.
    fn join(&self, name: &str, allowed: bool) -> CommandOutput {
        let uuid = self.one.json(["pool", "show"])["pool"]["uuid"]
            .as_str()
            .unwrap()
            .to_owned();
        let url = self.url();
        let words = ["pool", "join", &url, "--uuid", &uuid].map(str::to_owned);
        let mut command = self.two.command(words.into_iter().chain(self.node(name)));
        if allowed {
            command.env("APPARATUS_SEVERAL_NODES", "1");
        }
        finish(command.spawn().unwrap())
    }

    fn nodes(&self) -> usize {
        self.one.json(["node", "list"])["nodes"].as_array().unwrap().len()
    }
}

#[test]
fn a_second_node_is_refused_and_leaves_no_trace() {
    let Some(scene) = Scene::new(&["--direct"]) else {
        return;
    };
    scene
        .join("n2", false)
        .ended(1)
        .complains(&["node n2: cannot join", "n1 is the pool's node"]);
    scene.two.run(["pool", "show"]).ended(3);
    assert_eq!(scene.nodes(), 1);
    scene.two.run(["pool", "create"]).ok();
}

#[test]
fn a_pool_that_goes_through_the_page_cache_stays_one_of_one_machine() {
    let Some(scene) = Scene::new(&[]) else { return };
    scene
        .join("n2", true)
        .ended(1)
        .complains(&["cannot join", "page cache", "--direct"]);
    scene.two.run(["pool", "show"]).ended(3);
}

/// Creates volume `v` of 8 MiB on a disk `d1`.
fn create_volume(pool: &Pool) {
    let image = pool.file("d1.img");
    pool.run(["disk", "add", &image, "--create", "64M", "--name", "d1"])
        .ok();
    pool.run(["volume", "create", "v", "8M"]).ok();
}

#[test]
fn a_change_of_either_node_reaches_the_apparatuses_of_both() {
    let Some(scene) = Scene::new(&["--direct"]) else {
        return;
    };
    let (one, two) = (&scene.one, &scene.two);
    create_volume(one);
    scene.join("n2", true).ok();
    assert_eq!(scene.nodes(), 2);
    // Both are on one kernel, where only one directory has a disk: the second apparatus serves the names alone.
    let (here, there) = (one.start("a1"), two.start("a2"));
    for pool in [one, two] {
        let list = pool.json(["apparatus", "list"]);
        for (row, node) in list["apparatuses"].as_array().unwrap().iter().zip(["n1", "n2"]) {
            assert_eq!(
                (&row["node"], &row["state"]),
                (&node.into(), &"serving".into()),
                "{row}"
            );
        }
    }
    for (pool, old, new) in [(one, "v", "w"), (two, "w", "x")] {
        pool.run(["volume", "rename", old, new]).ok();
        for mount in [&here, &there] {
            assert!(
                mount.join(new).exists() && !mount.join(old).exists(),
                "{mount:?} {new}"
            );
        }
    }
    one.run(["apparatus", "stop", "a2"])
        .ended(1)
        .complains(&["runs on node n2"]);
    one.run(["node", "remove", "n2"]).ended(4).complains(&["a2"]);
    two.run(["apparatus", "stop", "a2"]).ok();
    one.run(["apparatus", "stop", "a1"]).ok();
    one.run(["node", "remove", "n2"]).ok();
    assert_eq!(scene.nodes(), 1);
}

/// A process that stands still until this is dropped.
struct Stopped(String);

impl Stopped {
    fn stop(pool: &Pool, apparatus: &str) -> Self {
        let stopped = Self(row_of(pool, apparatus)["pid"].to_string());
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, signal: &str) {
        let kill = std::process::Command::new("kill")
            .args([signal, &self.0])
            .status();
        assert!(kill.unwrap().success(), "kill {signal} {}", self.0);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// Returns what `apparatus list` says of one; nothing if it does not list it.
fn row_of(pool: &Pool, apparatus: &str) -> Value {
    let list = pool.json(["apparatus", "list"]);
    let rows = list["apparatuses"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == apparatus);
    row.cloned().unwrap_or_default()
}

/// Renames the volume on the first node while `a2` on the second one stands still, and waits until `a2` is back with the new table.
fn rename_while_a2_stands_still(scene: &Scene, there: &Path) {
    let (one, two) = (&scene.one, &scene.two);
    let stopped = Stopped::stop(two, "a2");
    one.run(["volume", "rename", "v", "w"])
        .ended(5)
        .complains(&["a2"]);
    drop(stopped);
    let since = Instant::now();
    while !there.join("w").exists() || row_of(two, "a2")["state"] != "serving" {
        assert!(since.elapsed().as_secs() < 60, "a2 does not rejoin");
        std::thread::yield_now();
    }
    assert!(!there.join("v").exists());
    // It takes part again.
    one.run(["volume", "rename", "w", "x"]).ok();
    assert!(there.join("x").exists());
}

#[test]
fn a_neighbour_fences_an_apparatus_of_another_node_at_once() {
    let Some(scene) = Scene::new(&["--direct"]) else {
        return;
    };
    let (one, two) = (&scene.one, &scene.two);
    create_volume(one);
    scene.join("n2", true).ok();
    let there = two.start("a2");
    let (_, _) = (one.start("a1"), two.start("a3"));
    rename_while_a2_stands_still(&scene, &there);
    let events = one.json(["events"]).to_string();
    assert!(!events.contains("for the lease of"), "{events}");
    for (pool, name) in [(two, "a2"), (two, "a3"), (one, "a1")] {
        pool.run(["apparatus", "stop", name]).ok();
    }
}

#[test]
fn without_a_neighbour_the_lease_of_an_apparatus_on_another_node_is_waited_out() {
    let Some(scene) = Scene::new(&["--direct"]) else {
        return;
    };
    let (one, two) = (&scene.one, &scene.two);
    create_volume(one);
    scene.join("n2", true).ok();
    let (_, there) = (one.start("a1"), two.start("a2"));
    let begun = Instant::now();
    rename_while_a2_stands_still(&scene, &there);
    assert!(
        begun.elapsed().as_secs() >= 7,
        "a lease of 6 s was not waited out"
    );
    let events = one.json(["events"]).to_string();
    assert!(events.contains("waits 8 s for the lease of a2 on n2"), "{events}");
    two.run(["apparatus", "stop", "a2"]).ok();
    one.run(["apparatus", "stop", "a1"]).ok();
}

/// Writes to a volume again and again, until it is told to end. Returns the last byte that was written.
fn write_until(volume: &Path, ends: &AtomicBool) -> u8 {
    let file = OpenOptions::new().write(true).open(volume).unwrap();
    let mut byte = 0_u8;
    while !ends.load(SeqCst) {
        byte = byte.wrapping_add(1);
        file.write_all_at(&[byte; 4096], 0).unwrap();
    }
    byte
}

#[test]
fn hosts_wait_while_the_lease_has_run_out_and_go_on_when_etcd_is_back() {
    let Some(mut scene) = Scene::new(&["--direct"]) else {
        return;
    };
    create_volume(&scene.one);
    scene.join("n2", true).ok();
    let volume = scene.one.start("a1").join("v");
    let (ends, incarnation) = (
        AtomicBool::new(false),
        row_of(&scene.one, "a1")["incarnation"].clone(),
    );
    let (parked, last) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write_until(&volume, &ends));
        scene.cluster.signal(0, "STOP");
        let since = Instant::now();
        // Nothing fails here, because the writer could not end then.
        let waits = || {
            let list = scene.one.run(["apparatus", "list", "--json"]).out;
            let list: Value = serde_json::from_str(&list).unwrap_or_default();
            list["apparatuses"][0]["figures"]["parked"].as_u64() > Some(0)
        };
        let mut parked = false;
        while !parked && since.elapsed().as_secs() < 60 {
            parked = waits();
        }
        scene.cluster.signal(0, "CONT");
        ends.store(true, SeqCst);
        (parked, writing.join().unwrap())
    });
    assert!(parked, "hosts are served without a lease");
    assert_eq!(std::fs::read(&volume).unwrap()[..4096], [last; 4096]);
    assert_eq!(
        row_of(&scene.one, "a1")["incarnation"],
        incarnation,
        "it is the same life"
    );
    scene.one.run(["apparatus", "stop", "a1"]).ok();
}

#[test]
fn the_one_node_comes_back_when_its_directory_is_lost() {
    let Some(scene) = Scene::new(&["--direct"]) else {
        return;
    };
    let (one, two) = (&scene.one, &scene.two);
    create_volume(one);
    scene.join("n1", false).ok();
    let volumes = one.json(["volume", "list"]);
    std::fs::remove_dir_all(one.pool_dir()).unwrap();
    assert_eq!(two.json(["volume", "list"]), volumes);
    let volume = two.start("a").join("v");
    std::fs::write(&volume, [7; 4096]).unwrap();
    assert_eq!(std::fs::read(&volume).unwrap()[..4096], [7; 4096]);
    two.run(["apparatus", "stop", "a"]).ok();
    two.run(["pool", "check"]).ok();
}
