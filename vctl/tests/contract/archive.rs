//! The copies of the database that a pool makes by itself.

use crate::support::Pool;
use std::fs;
use std::path::PathBuf;

/// Returns the generations of the copies, oldest first, and the file of the newest.
fn copies(pool: &Pool) -> (Vec<u64>, PathBuf) {
    let listed = pool.json(["pool", "backup", "list"]);
    let listed = listed["backups"].as_array().unwrap();
    let generations = listed.iter().map(|copy| copy["generation"].as_u64().unwrap());
    let newest = listed.last().unwrap()["file"].as_str().unwrap();
    (generations.collect(), newest.into())
}

#[test]
fn each_change_leaves_a_copy_that_brings_the_pool_back() {
    let pool = Pool::with_volume();
    let (before, _) = copies(&pool);
    pool.run(["volume", "create", "w", "1M"]).ok();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    let (after, newest) = copies(&pool);
    assert!(after.len() >= before.len() + 2, "{before:?}, {after:?}");
    assert!(after.is_sorted() && after.last() > before.last(), "{after:?}");

    // What changes no volume and no disk leaves no copy; a rehearsal does not either.
    pool.run(["volume", "list"]).ok();
    pool.run(["volume", "remove", "w", "--dry-run"]).ok();
    assert_eq!(copies(&pool).0, after);

    let volumes = pool.json(["volume", "list"]);
    for file in ["pool.db", "pool.db-wal"] {
        let _ = fs::remove_file(pool.pool_dir().join(file));
    }
    let gone = pool
        .run(["volume", "list"])
        .ended(3)
        .complains(&["is gone", "vctl pool import"]);
    assert!(gone.err.contains("vctl pool restore"), "{gone:#?}");
    assert_eq!(
        copies(&pool).1,
        newest,
        "the archive is listed without a database"
    );
    let name = newest.file_name().unwrap();
    pool.run(["pool".as_ref(), "restore".as_ref(), name]).ok();
    assert_eq!(pool.json(["volume", "list"]), volumes);
    assert!(pool.run(["pool", "check"]).ok().err.is_empty());
}

#[test]
fn the_disks_carry_the_restored_table_at_once() {
    let pool = Pool::with_volume();
    pool.run(["pool", "backup", &pool.file("b")]).ok();
    pool.run(["volume", "create", "w", "1M"]).ok();
    let words = [
        "pool",
        "restore",
        &pool.file("b"),
        "--accept-older-layout",
        "--yes",
    ];
    assert_eq!(pool.run(words).ok().err, "");
    let volumes = pool.json(["volume", "list"]);
    assert_eq!(volumes["volumes"].as_array().unwrap().len(), 1);
    // Nothing has changed since: what the disks say is what the restore has written.
    fs::remove_dir_all(pool.pool_dir()).unwrap();
    pool.run(["pool", "import", &pool.file("d1.img"), &pool.file("d2.img")])
        .ok();
    assert_eq!(pool.json(["volume", "list"]), volumes);
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_copy_that_is_older_than_the_disks_is_refused_and_a_destroyed_pool_leaves_none() {
    let pool = Pool::with_volume();
    let (_, older) = copies(&pool);
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    let words = [
        "pool".as_ref(),
        "restore".as_ref(),
        older.as_os_str(),
        "--yes".as_ref(),
    ];
    pool.run(words).ended(1).complains(&["older than the disks"]);
    pool.run(["pool", "destroy", "--yes"]).ok();
    assert!(!pool.pool_dir().join("archive").exists());
}

#[test]
fn an_error_names_the_file_that_was_asked_for() {
    let pool = Pool::with_volume();
    for file in ["none/backup", "d1.img/backup"] {
        let file = pool.file(file);
        let refused = pool
            .run(["pool", "backup", &file])
            .ended(1)
            .complains(&[&format!("{file}: ")]);
        assert!(!refused.err.contains(".new"), "{refused:?}");
    }
}
