//! A pool is made again from its disks alone: with all of them, with some, while volumes move under load; and what is no such pool is refused.

use crate::support::{CommandOutput, Pool, finish, unmount, vctl, write};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::thread;

fn lose(pool: &Pool) {
    fs::remove_dir_all(pool.pool_dir()).unwrap();
}

fn import(pool: &Pool, disks: &[&str], more: &[&str]) -> CommandOutput {
    let paths: Vec<String> = disks.iter().map(|disk| pool.file(disk)).collect();
    let words = ["pool", "import"]
        .into_iter()
        .chain(paths.iter().map(String::as_str));
    pool.run(words.chain(more.iter().copied()))
}

const BOTH: [&str; 2] = ["d1.img", "d2.img"];

#[test]
fn a_pool_whose_directory_is_lost_is_made_again_from_its_disks() {
    let pool = Pool::with_volume();
    pool.run(["pool", "set", "--policy", "pack"]).ok();
    pool.run(["volume", "create", "w", "3M", "--on", "d2"]).ok();
    pool.run(["volume", "move", "v", "--to", "d2", "--range", "2M..5M"])
        .ok();
    pool.run(["volume", "rename", "w", "x"]).ok();
    let tables = || {
        let table = |words: &[&str]| pool.json(words);
        [
            table(&["volume", "list"]),
            table(&["volume", "map", "v"]),
            table(&["volume", "map", "x"]),
            table(&["disk", "list"])["disks"][0]["tags"].clone(),
        ]
    };
    let before = tables();
    lose(&pool);
    let report = import(&pool, &BOTH, &["--dry-run"]).ok();
    assert!(
        report.out.contains("would be made again from 2 disks, 2 volumes"),
        "{report:#?}"
    );
    assert!(!pool.pool_dir().join("pool.db").exists());
    import(&pool, &BOTH, &[]).ok();
    assert_eq!(tables(), before);
    assert_eq!(pool.json(["pool", "show"])["pool"]["policy"], "pack");
    pool.run(["pool", "check"]).ok();
    // And once more, by what the import has written itself.
    pool.run(["volume", "remove", "x", "--yes"]).ok();
    lose(&pool);
    import(&pool, &BOTH, &[]).ok();
    assert_eq!(
        pool.json(["volume", "list"])["volumes"].as_array().unwrap().len(),
        1
    );
    pool.run(["volume", "create", "y", "60M"]).ok();
    pool.run(["pool", "check"]).ok();
    let events = pool.run(["events"]).ok().out;
    assert!(events.contains("made again from 2 disks"), "{events}");
}

#[test]
fn what_lies_on_missing_disks_is_named() {
    let pool = Pool::with_volume();
    pool.run(["volume", "move", "v", "--to", "d2", "--range", "0..3M"])
        .ok();
    lose(&pool);
    import(&pool, &["d1.img"], &[]).ended(1).complains(&[
        "disks are missing: d2",
        "1 volume lie on them: v",
        "d2 carried a copy of the metadata",
        "--accept-missing-disks",
    ]);
    let report = import(&pool, &["d1.img"], &["--accept-missing-disks"]).ok();
    assert!(report.out.contains("volume v: 3M lie on disk d2"), "{report:#?}");
    // The other one is found again where it was.
    pool.run(["volume", "move", "v", "--to", "d1"]).ok();
    pool.run(["pool", "check"]).ok();
}

#[test]
fn what_is_no_lost_pool_is_refused() {
    let pool = Pool::with_volume();
    import(&pool, &BOTH, &[])
        .ended(1)
        .complains(&["there is a pool here already"]);
    let elsewhere = |disks: &[&str]| {
        let dir = pool.path("other");
        let paths = disks.iter().map(|disk| pool.path(disk));
        let mut command = vctl();
        command
            .arg("--pool")
            .arg(dir)
            .args(["pool", "import"])
            .args(paths);
        finish(command.spawn().unwrap())
    };
    elsewhere(&BOTH)
        .ended(1)
        .complains(&["has its database", "--pool"]);
    write(&pool.path("empty"), &[0; 8192]);
    elsewhere(&["d1.img", "empty"])
        .ended(1)
        .complains(&["empty", "has no label"]);
    elsewhere(&["d1.img", "d1.img"])
        .ended(2)
        .complains(&["the same disk"]);
    let mount = pool.start("a");
    lose(&pool);
    import(&pool, &BOTH, &[]).ended(4);
    elsewhere(&BOTH).ended(4).complains(&["in use"]);
    unmount(&mount);
}

#[test]
fn an_older_copy_of_a_disk_does_not_bring_back_an_older_table() {
    let pool = Pool::with_volume();
    fs::copy(pool.path("d1.img"), pool.path("old.img")).unwrap();
    pool.run(["volume", "create", "w", "1M", "--on", "d1"]).ok();
    pool.run(["volume", "create", "x", "1M", "--on", "d2"]).ok();
    lose(&pool);
    import(&pool, &["old.img", "d2.img"], &["--dry-run"])
        .ended(1)
        .complains(&["is an older copy"]);
    import(&pool, &["old.img"], &[])
        .ended(1)
        .complains(&["disks are missing: d2"]);
    import(&pool, &BOTH, &[]).ok();
    pool.run(["volume", "show", "w"]).ok();
}

/// A copy that was left behind is not taken for the present table, and the disk that knows of later changes is named.
#[test]
fn a_copy_that_was_left_behind_does_not_bring_back_an_older_table() {
    let pool = Pool::with_volume();
    let faults = pool.path("faults.ron");
    write(
        &faults,
        format!(
            "{{ {:?}: [(on: Metadata, fault: Error(5))] }}",
            pool.path("d1.img")
        )
        .as_bytes(),
    );
    let mut rename = pool.command(["volume", "rename", "v", "later"]);
    finish(rename.env("APPARATUS_FAULTS", &faults).spawn().unwrap()).ok();
    let status = pool.run(["status"]).out;
    assert!(status.contains("metadata is left behind"), "{status}");
    lose(&pool);
    // Only the left copy can be read: the other disk's is damaged, or away.
    let whole = fs::read(pool.path("d2.img")).unwrap();
    let disk = OpenOptions::new().write(true).open(pool.path("d2.img")).unwrap();
    disk.write_all_at(&vec![0; (1 << 20) - 8192], 8192).unwrap();
    import(&pool, &BOTH, &[]).ended(1).complains(&[
        "d2.img",
        "its copy cannot be used",
        "--accept-older-layout",
    ]);
    import(&pool, &["d1.img"], &[])
        .ended(1)
        .complains(&["covers layout 3", "d1.img has seen layout 4"]);
    let report = import(&pool, &BOTH, &["--dry-run", "--accept-older-layout"]).ok();
    assert!(report.out.contains("passed over"), "{report:#?}");
    // With the other copy, the newer one counts.
    disk.write_all_at(&whole, 0).unwrap();
    let report = import(&pool, &BOTH, &[]).ok();
    assert!(report.out.contains("as disk d2 has it"), "{report:#?}");
    assert!(report.out.contains("its copy is behind"), "{report:#?}");
    pool.run(["volume", "show", "later"]).ok();
    pool.run(["pool", "check"]).ok();
}

/// A process that imports is killed at each of its steps: the pool is there afterwards, as it was, or it can be imported again.
#[test]
fn an_import_that_is_killed_at_any_step_is_ended_by_the_next_command_or_import() {
    let points = [
        "import.stored",
        "import.labelled@1",
        "import.labelled@2",
        "import.took-over",
        "controller.locked",
        "controller.term-raised",
        "controller.recovered",
        "controller.recorded",
        "controller.persisted",
    ];
    let pool = Pool::with_volume();
    pool.run(["volume", "move", "v", "--to", "d2", "--range", "2M..5M"])
        .ok();
    let map = pool.json(["volume", "map", "v"]);
    for point in points {
        let (name, time) = point.split_once('@').unwrap_or((point, "1"));
        lose(&pool);
        let mut command = pool.command(["pool", "import", &pool.file("d1.img"), &pool.file("d2.img")]);
        command.env("APPARATUS_FAILPOINT", format!("{name}=kill@{time}"));
        let killed = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(killed.status.code(), None, "{point} was not reached: {killed:?}");
        // The directory may be lost once more, or be gone on with.
        if time == "1" {
            pool.run(["volume", "set", "v", "--mode", "600"]).ok();
            pool.run(["pool", "check", "--repair"]);
            assert_eq!(pool.json(["volume", "map", "v"]), map, "{point}");
            pool.run(["pool", "check"]).ok();
        }
        lose(&pool);
        import(&pool, &BOTH, &[]).ok();
        assert_eq!(pool.json(["volume", "map", "v"]), map, "{point}");
        pool.run(["pool", "check"]).ok();
    }
}

/// The disks fail in the middle of an import, at each of their operations: nothing is lost by that.
#[test]
fn an_import_that_a_disk_fails_can_be_done_again() {
    let pool = Pool::with_volume();
    let map = pool.json(["volume", "map", "v"]);
    let faults = pool.path("faults.ron");
    let mut met = 0;
    for after in 0..10 {
        let rule = format!("(on: Any, after: {after}, fault: Error(5))");
        let text = format!(
            "{{ {:?}: [{rule}], {:?}: [{rule}] }}",
            pool.path("d1.img"),
            pool.path("d2.img")
        );
        write(&faults, text.as_bytes());
        lose(&pool);
        let mut command = pool.command(["pool", "import", &pool.file("d1.img"), &pool.file("d2.img")]);
        let ended = finish(command.env("APPARATUS_FAULTS", &faults).spawn().unwrap());
        // What was begun is ended by a command, or begun again.
        if !pool.pool_dir().join("pool.db").exists() {
            import(&pool, &BOTH, &[]).ok();
        }
        met += i32::from(ended.status != 0 || pool.run(["pool", "check"]).status != 0);
        pool.run(["pool", "check", "--repair"]);
        assert_eq!(pool.json(["volume", "map", "v"]), map, "after {after} operations");
        pool.run(["pool", "check"]).ok();
    }
    assert!(met > 0, "no import has met a fault");
}

#[test]
fn a_lost_database_names_the_way_back() {
    let pool = Pool::with_volume();
    for file in ["pool.db", "pool.db-shm"] {
        let _ = fs::remove_file(pool.pool_dir().join(file));
    }
    pool.run(["status"])
        .ended(3)
        .complains(&["its database is gone", "vctl pool import"]);
    import(&pool, &BOTH, &[]).ok();
    pool.run(["volume", "show", "v"]).ok();
}

const BLOCK: usize = 64 << 10;
const BLOCKS: u64 = (8 << 20) / BLOCK as u64;

/// What is written to a block: which one it is, and for which time it is written.
fn block(index: u64, turn: u64) -> Vec<u8> {
    let word = [index.to_le_bytes(), turn.to_le_bytes()].concat();
    word.repeat(BLOCK / word.len())
}

/// The earliest write that any of the block is from: one that was not synced may be there in part.
fn turn_of(bytes: &[u8], index: u64) -> u64 {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let turn = |word: &[u8]| {
        let turn = number(&word[8..]);
        assert!(
            turn == 0 || number(&word[..8]) == index,
            "block {index} has what is another's"
        );
        turn
    };
    bytes.chunks(16).map(turn).min().unwrap()
}

fn writes_and_syncs(file: &Path, safe: &[AtomicU64], stop: &AtomicBool) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    for n in 0_u64.. {
        let (index, turn) = (n * 7 % BLOCKS, n / BLOCKS + 1);
        let offset = index * BLOCK as u64;
        let done = file
            .write_all_at(&block(index, turn), offset)
            .and_then(|()| file.sync_data());
        if done.is_err() || stop.load(SeqCst) {
            return;
        }
        safe[usize::try_from(index).unwrap()].store(turn, SeqCst);
    }
}

/// Starts moves, one after the other, until the process of one is killed by the test or `stop` is set. Its number is in `mover`.
fn moves(pool: &Pool, mover: &AtomicI32, stop: &AtomicBool) {
    for to in ["d2", "d1"].into_iter().cycle() {
        let child = pool.command(["volume", "move", "v", "--to", to]).spawn().unwrap();
        mover.store(i32::try_from(child.id()).unwrap(), SeqCst);
        let output = child.wait_with_output().unwrap();
        mover.store(0, SeqCst);
        if stop.load(SeqCst) || output.status.code().is_none() {
            return;
        }
    }
}

/// The directory is deleted at some moment of a move, the apparatuses and the controller are killed, and the disks alone, in a new directory, have all that was synced.
#[test]
fn nothing_synced_is_lost_with_the_directory_while_volumes_move() {
    for lost_after in [40_u64, 150, 333] {
        let pool = Pool::with_volume();
        let mounts = [pool.start("a"), pool.start("b")];
        let safe: Vec<AtomicU64> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
        let (stop, mover) = (AtomicBool::new(false), AtomicI32::new(0));
        let file: PathBuf = mounts[0].join("v");
        thread::scope(|scope| {
            scope.spawn(|| writes_and_syncs(&file, &safe, &stop));
            scope.spawn(|| moves(&pool, &mover, &stop));
            let synced = || safe.iter().map(|turn| turn.load(SeqCst)).sum::<u64>();
            crate::support::until("enough is synced", || synced() >= lost_after);
            crate::support::until("a move is under way", || mover.load(SeqCst) != 0);
            let pids = ["a", "b"].map(|name| pool.pid_of(name));
            // What a program that works meanwhile makes anew is in the way of removing.
            while fs::remove_dir_all(pool.pool_dir()).is_err() && pool.pool_dir().exists() {}
            stop.store(true, SeqCst);
            for pid in pids.into_iter().chain(Pid::from_raw(mover.load(SeqCst))) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        mounts.iter().for_each(|mount| unmount(mount));
        let synced: Vec<u64> = safe.iter().map(|turn| turn.load(SeqCst)).collect();
        let _ = fs::remove_dir_all(pool.pool_dir());
        let other = pool.file("other");
        import(&pool, &BOTH, &["--pool", &other]).ok();
        // A directory that was renamed is the same one.
        fs::rename(&other, pool.pool_dir()).unwrap();
        pool.run(["pool", "check"]).ok();
        let mount = pool.start("c");
        let file = File::open(mount.join("v")).unwrap();
        for (index, synced) in (0..).zip(synced) {
            let mut bytes = vec![0; BLOCK];
            file.read_exact_at(&mut bytes, index * BLOCK as u64).unwrap();
            let found = turn_of(&bytes, index);
            assert!(found >= synced, "block {index}: {found} is older than {synced}");
        }
    }
}
