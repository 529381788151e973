//! Direct pools: what commands say of the access of a pool, and that it stays what it was when the pool was created.

use crate::support::{Pool, unmount, write};
use std::fs;

fn access(pool: &Pool) -> String {
    let shown = pool.json(["pool", "show"]);
    shown["pool"]["access"].as_str().unwrap().to_owned()
}

fn direct() -> Pool {
    let pool = Pool::absent();
    let made = pool
        .run(["pool", "create", "--direct", "--extent-size", "64K"])
        .ok();
    assert!(made.out.contains("past the page cache"), "{made:#?}");
    for disk in ["d1", "d2"] {
        let file = pool.file(&format!("{disk}.img"));
        pool.run(["disk", "add", &file, "--create", "16M"]).ok();
    }
    pool.run(["volume", "create", "v", "4M", "--on", "d1"]).ok();
    pool
}

#[test]
fn commands_say_how_a_pool_uses_its_disks() {
    let cached = Pool::with_volume();
    assert_eq!(access(&cached), "cached");
    assert!(!cached.run(["status"]).ok().out.contains("direct"));
    let absent = Pool::absent();
    let would = absent.json(["pool", "create", "--direct", "--dry-run"]);
    assert_eq!(would["access"], "direct");
    let pool = direct();
    assert_eq!(access(&pool), "direct");
    assert!(pool.run(["status"]).ok().out.contains("2 direct disks"));
    assert_eq!(pool.json(["status"])["access"], "direct");
    // The list has the pools of others that are in use, too.
    let list = pool.json(["pool", "list"]);
    let path = serde_json::json!(pool.pool_dir());
    let mut rows = list["pools"].as_array().unwrap().iter();
    assert_eq!(rows.find(|row| row["path"] == path).unwrap()["access"], "direct");
}

#[test]
fn the_access_outlives_backup_import_and_description() {
    let pool = direct();
    let mount = pool.start("a");
    let bytes: Vec<u8> = (0..251).cycle().take(4 << 20).collect();
    write(&mount.join("v"), &bytes);
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    assert!(fs::read(mount.join("v")).unwrap() == bytes);
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&mount);
    let backup = pool.file("backup");
    pool.run(["pool", "backup", &backup]).ok();
    pool.run(["pool", "restore", &backup, "--yes"]).ok();
    assert_eq!(access(&pool), "direct");
    fs::remove_dir_all(pool.pool_dir()).unwrap();
    let (d1, d2) = (pool.file("d1.img"), pool.file("d2.img"));
    pool.run(["pool", "import", &d1, &d2]).ok();
    assert_eq!(access(&pool), "direct");
    pool.run(["pool", "check"]).ok();
    let mount = pool.start("a");
    assert!(fs::read(mount.join("v")).unwrap() == bytes);

    let dump = pool.run(["pool", "dump"]).ok().out;
    assert!(dump.contains("access: direct"), "{dump}");
    let other = Pool::absent();
    let description = "(access: direct, disks: [(name: \"d\", path: \"d.img\", create: \"4MiB\")])";
    let file = other.file("pool.ron");
    write(&other.path("pool.ron"), description.as_bytes());
    other.run(["pool", "apply", &file]).ok();
    assert_eq!(access(&other), "direct");
    write(
        &other.path("pool.ron"),
        description.replace("direct", "cached").as_bytes(),
    );
    other.run(["pool", "apply", &file]).ended(2).complains(&[
        "access",
        "described as cached",
        "this pool is direct",
    ]);
}

#[test]
fn a_disk_that_cannot_be_used_directly_is_refused_and_left_as_it_is() {
    let pool = Pool::absent();
    pool.run(["pool", "create", "--direct"]).ok();
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("passed over: there is no /dev/shm");
        return;
    };
    let image = memory.path().join("d.img");
    let name = image.to_str().unwrap();
    pool.run(["disk", "add", name, "--create", "8M"])
        .ended(1)
        .complains(&["tmpfs keeps its files in the page cache", "without --direct"]);
    assert!(!image.exists(), "what was created for it is gone");
    write(&image, &[7; 4 << 20]);
    pool.run(["disk", "add", name, "--yes"])
        .ended(1)
        .complains(&["tmpfs"]);
    assert!(fs::read(&image).unwrap() == [7; 4 << 20]);
}
