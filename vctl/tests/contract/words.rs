//! Messages about failures: the owner of the pool is named; a command that was done says so even if its output is lost; no optional option
//! is called required.

use crate::support::{Pool, finish, vctl};
use std::fs::{File, OpenOptions, Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

const NOBODY: u32 = 65534;

/// Runs a command as a user who owns nothing; `None` where that is impossible.
fn as_another_user(pool: &Pool, words: &[&str]) -> Option<crate::support::CommandOutput> {
    let mut command = pool.command(words);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    match command.spawn() {
        Ok(child) => Some(finish(child)),
        Err(why) => {
            println!("passed over: another user cannot run it: {why}");
            None
        }
    }
}

#[test]
fn a_pool_of_another_user_is_named_by_its_owner() {
    if !rustix::process::geteuid().is_root() {
        println!("passed over: only root can be another user");
        return;
    }
    let pool = Pool::with_volume();
    let verbs: [&[&str]; 5] = [
        &["status"],
        &["volume", "list"],
        &["volume", "create", "w", "1M"],
        &["apparatus", "start", "a", "/nowhere"],
        &["pool", "create"],
    ];
    // The path, the directory, the database: each may be the one that denies access.
    let (above, dir) = (pool.path(""), pool.pool_dir());
    let open = [(&above, 0o755), (&dir, 0o755)];
    let barriers = [above.clone(), dir.clone(), dir.clone()];
    for (step, barrier) in barriers.iter().enumerate() {
        if let Some((path, mode)) = step.checked_sub(1).and_then(|step| open.get(step)) {
            set_permissions(path, Permissions::from_mode(*mode)).unwrap();
        }
        for words in verbs {
            let Some(output) = as_another_user(&pool, words) else {
                return;
            };
            if step == 2 && words[1..] == ["create"] {
                continue;
            }
            let barrier = barrier.to_str().unwrap().trim_end_matches('/').to_owned();
            let output = output.complains(&[&barrier, "belongs to user root", "hint: run this as user root"]);
            assert!(matches!(output.status, 1 | 2), "{output:?}");
            assert!(!output.err.contains("os error"), "{output:?}");
        }
    }
    set_permissions(&above, Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_command_that_was_done_says_so_if_its_output_is_lost() {
    let pool = Pool::with_volume();
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut command = pool.command(["volume", "create", "w", "1M"]);
    let output = finish(command.stdout(full()).spawn().unwrap()).ended(1);
    output.complains(&["standard output", "the operation itself was done"]);
    pool.run(["volume", "show", "w"]).ok();
    let mut command = pool.command(["volume", "list"]);
    let output = finish(command.stdout(full()).spawn().unwrap()).ended(1);
    assert!(!output.err.contains("was done"), "it changes nothing: {output:?}");
}

#[test]
fn no_usage_line_asks_for_a_pool() {
    let pool = Pool::empty();
    for words in [
        &["volume", "show"][..],
        &["volume", "create", "v"],
        &["disk", "set", "d1"],
        &["job", "show", "x", "y"],
    ] {
        let output = pool.run(words).ended(2);
        assert!(!output.err.contains("--pool"), "{output:?}");
    }
    let bare = finish(vctl().args(["volume", "show"]).spawn().unwrap()).ended(2);
    assert!(bare.err.contains("usage: vctl volume show <VOLUME>"), "{bare:?}");
}

#[test]
fn the_number_that_means_no_user_is_no_owner() {
    let pool = Pool::with_volume();
    for owner in ["4294967295", "0:4294967295"] {
        pool.run(["volume", "create", "w", "1M", "--owner", owner])
            .ended(2)
            .complains(&["4294967295"]);
    }
}

#[test]
fn places_on_disks_are_not_rounded() {
    let pool = Pool::empty();
    File::create(pool.path("d1.img"))
        .unwrap()
        .set_len(4 << 30)
        .unwrap();
    pool.run(["disk", "add", &pool.file("d1.img")]).ok();
    pool.run(["volume", "create", "v", "2049M"]).ok();
    let map = pool.run([
        "volume",
        "map",
        "v",
        "-o",
        "start,end,length,offset",
        "--no-headings",
    ]);
    assert_eq!(
        map.ok().out.split_whitespace().collect::<Vec<_>>(),
        ["0", "2049M", "2049M", "1M"]
    );
}

#[test]
fn each_step_of_a_description_is_reported_once() {
    let pool = Pool::absent();
    let description = r#"(disks: [(name: "d", path: "d.img", create: "32M")], volumes: [(name: "v", size: "1M"), (name: "w", size: "1M")])"#;
    crate::support::write(&pool.path("FILE.ron"), description.as_bytes());
    let output = pool.run(["pool", "apply", &pool.file("FILE.ron")]).ok();
    let all = format!("{}{}", output.out, output.err);
    for step in [
        "pool create",
        "disk add ",
        "volume create v 1",
        "volume create w 1",
    ] {
        assert_eq!(all.matches(step).count(), 1, "{step}: {output:#?}");
    }
}

#[test]
fn a_pool_is_destroyed_with_a_word_and_its_disks_are_free_then() {
    let pool = Pool::with_volume();
    let path = pool.pool_dir();
    pool.run(["pool", "destroy"])
        .ended(2)
        .complains(&["its 1 volume and all data in it will be lost", "--yes"]);
    pool.start("a");
    for extra in [&[][..], &["--dry-run"]] {
        pool.run(["pool", "destroy", "--yes"].iter().chain(extra))
            .ended(4)
            .complains(&["apparatus a", "vctl apparatus stop a"]);
    }
    pool.run(["apparatus", "stop", "a"]).ok();
    let would = pool.run(["pool", "destroy", "--dry-run"]).ok().out;
    assert!(would.contains("would erase the label of disk d1"), "{would}");
    pool.run(["volume", "show", "v"]).ok();

    std::fs::write(path.join("notes"), "mine").unwrap();
    pool.run(["pool", "destroy", "--yes"]).ok();
    let left: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes"], "what is not the pool's stays");
    pool.run(["pool", "destroy", "--yes"]).ended(3);
    pool.run(["pool", "create"]).ok();
    pool.run(["disk", "add", &pool.file("d1.img")]).ok();
}
