//! Removed volumes are had back with their data, as long as nothing else has been given their extents.

use crate::support::{Pool, unmount};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Returns `mib` MiB of words that name their places.
fn content(mib: u64) -> Vec<u8> {
    (0..mib << 17)
        .flat_map(|word| (word | 1 << 63).to_le_bytes())
        .collect()
}

/// Writes the whole volume, durably.
fn fill(mount: &Path, volume: &str, mib: u64) -> Vec<u8> {
    let bytes = content(mib);
    let mut file = File::options().write(true).open(mount.join(volume)).unwrap();
    file.write_all(&bytes).unwrap();
    file.sync_all().unwrap();
    bytes
}

/// Returns the removed volumes: name, number, and how many bytes were given away.
fn removed(pool: &Pool) -> Vec<(String, u64, u64)> {
    let listed = pool.json(["volume", "list", "--removed"]);
    let row = |row: &Value| {
        let name = row["volume"]["name"].as_str().unwrap().to_owned();
        (
            name,
            row["volume"]["id"].as_u64().unwrap(),
            row["lost"].as_u64().unwrap(),
        )
    };
    listed["removed"].as_array().unwrap().iter().map(row).collect()
}

#[track_caller]
fn is_in_order(pool: &Pool) {
    let check = pool.run(["pool", "check"]).ok();
    assert_eq!(check.err, "", "{check:#?}");
}

#[test]
fn hosts_of_two_apparatuses_have_a_removed_volume_back() {
    let pool = Pool::with_volume();
    let mounts = [pool.start("a"), pool.start("b")];
    let bytes = fill(&mounts[0], "v", 8);
    pool.run(["volume", "move", "v", "--to", "d2", "--range", "2M..5M"])
        .ok();
    let map = pool.json(["volume", "map", "v"]);
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    assert!(mounts.iter().all(|mount| !mount.join("v").exists()));
    assert_eq!(removed(&pool), [("v".to_owned(), 1, 0)]);
    let rehearsed = pool.run(["volume", "undelete", "v", "--dry-run"]).ok();
    assert!(rehearsed.out.contains('v'), "{rehearsed:#?}");
    assert_eq!(removed(&pool).len(), 1);

    let back = pool.run(["volume", "undelete", "v"]).ok();
    assert!(back.out.contains("volume v: had back, 8M"), "{back:#?}");
    for mount in &mounts {
        assert!(fs::read(mount.join("v")).unwrap() == bytes, "{mount:?}");
    }
    assert_eq!(pool.json(["volume", "map", "v"]), map);
    assert_eq!(removed(&pool), []);
    is_in_order(&pool);
    // It is a volume like any other: it moves, and can be removed and had back once more.
    pool.run(["volume", "move", "v", "--to", "d1"]).ok();
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    pool.run(["volume", "undelete", "v", "--as", "w"]).ok();
    assert!(fs::read(mounts[1].join("w")).unwrap() == bytes);
    is_in_order(&pool);
    mounts.iter().for_each(|mount| unmount(mount));
}

#[test]
fn a_removed_volume_outlives_the_processes_of_the_pool_and_its_name_may_be_taken() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let bytes = fill(&mount, "v", 8);
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
    pool.run(["volume", "create", "v", "1M"]).ok();
    pool.run(["volume", "undelete", "v"])
        .ended(1)
        .complains(&["exists already", "--as NEW"]);
    pool.run(["volume", "undelete", "v", "--as", "old"]).ok();
    let mount = pool.start("a");
    assert!(fs::read(mount.join("old")).unwrap() == bytes);
    assert!(fs::read(mount.join("v")).unwrap() == vec![0; 1 << 20]);
    // Two that had one name are told apart by their numbers.
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    pool.run(["volume", "rename", "old", "v"]).ok();
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    pool.run(["volume", "undelete", "v"])
        .ended(1)
        .complains(&["number 2 and 1", "--removed"]);
    pool.run(["volume", "undelete", "1"]).ok();
    assert!(fs::read(mount.join("v")).unwrap() == bytes);
    pool.run(["volume", "undelete", "w"])
        .ended(3)
        .complains(&["is no removed volume"]);
    unmount(&mount);
}

#[test]
fn extents_of_removed_volumes_are_given_last_and_what_is_not_whole_is_refused() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let bytes = fill(&mount, "v", 8);
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    // The disk has 55 other extents.
    pool.run(["volume", "create", "big", "55M", "--on", "d1"]).ok();
    pool.run(["volume", "undelete", "v"]).ok();
    assert!(fs::read(mount.join("v")).unwrap() == bytes);
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    pool.run(["volume", "resize", "big", "+3M", "--on", "d1"]).ok();
    assert_eq!(removed(&pool), [("v".to_owned(), 1, 3 << 20)]);
    pool.run(["volume", "undelete", "v"])
        .ended(1)
        .complains(&["3MiB of its 8MiB", "--forget"]);
    let big = fs::read(mount.join("big")).unwrap();
    assert!(
        big.iter().all(|byte| *byte == 0),
        "nobody reads bytes of another volume"
    );
    is_in_order(&pool);
    // A move takes what is left as well, where it needs it.
    pool.run(["volume", "create", "other", "5M", "--on", "d2"]).ok();
    pool.run(["volume", "move", "other", "--to", "d1"]).ok();
    assert_eq!(removed(&pool), [("v".to_owned(), 1, 8 << 20)]);
    is_in_order(&pool);
    unmount(&mount);
}

#[test]
fn what_is_forgotten_or_removed_for_good_is_discarded() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    let used = || (fs::metadata(pool.path("d1.img")).unwrap().blocks() * 512) >> 20;
    fill(&mount, "v", 8);
    let full = used();
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    assert!(used() >= full, "{} of {full}", used());
    pool.run(["volume", "undelete", "v", "--forget"])
        .ended(2)
        .complains(&["--yes"]);
    let rehearsed = pool
        .run(["volume", "undelete", "v", "--forget", "--dry-run"])
        .ok();
    assert!(rehearsed.out.contains("would be forgotten"), "{rehearsed:#?}");
    assert_eq!(removed(&pool).len(), 1);
    pool.run(["volume", "undelete", "v", "--forget", "--yes"]).ok();
    assert!(used() + 7 <= full, "{} of {full}", used());
    assert_eq!(removed(&pool), []);
    pool.run(["volume", "undelete", "v"]).ended(3);

    pool.run(["volume", "create", "w", "8M", "--on", "d1"]).ok();
    fill(&mount, "w", 8);
    pool.run(["volume", "remove", "w", "--yes", "--discard"]).ok();
    assert!(used() + 7 <= full, "{} of {full}", used());
    assert_eq!(removed(&pool), []);
    is_in_order(&pool);
    unmount(&mount);
}

/// A restored or imported database does not know what was given away since, so it brings nothing back.
#[test]
fn a_database_that_comes_back_remembers_no_removed_volumes() {
    let pool = Pool::with_volume();
    pool.run(["volume", "create", "w", "1M"]).ok();
    pool.run(["volume", "remove", "w", "--yes"]).ok();
    assert_eq!(removed(&pool).len(), 1);
    pool.run(["pool", "backup", &pool.file("b")]).ok();
    pool.run(["pool", "restore", &pool.file("b"), "--yes"]).ok();
    assert_eq!(removed(&pool), []);
    pool.run(["volume", "remove", "v", "--yes"]).ok();
    assert_eq!(removed(&pool).len(), 1);
    fs::remove_dir_all(pool.pool_dir()).unwrap();
    pool.run(["pool", "import", &pool.file("d1.img"), &pool.file("d2.img")])
        .ok();
    assert_eq!(removed(&pool), []);
    is_in_order(&pool);
}
