//! Mode, owner and group of volumes, and a pool that is served by an ordinary user.

use super::*;

fn let_others_look(pool: &TestPool) {
    fs::set_permissions(pool.scratch(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(pool.scratch().join("mounts")).unwrap();
}

fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(program);
    command
}

#[test]
fn mode_owner_and_group_are_obeyed() {
    const GROUP: u32 = 4242;
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root, to be somebody else");
    }
    let pool = TestPool::new(EXTENT);
    let_others_look(&pool);
    let a = pool.add_disk("a", 9).id;
    for (at, name, mode, uid) in [
        (1, "closed", 0o600, 0),
        (2, "open", 0o604, 0),
        (3, "own", 0o400, NOBODY),
    ] {
        let mut record = pool.volume_record(name, EXTENT);
        (record.mode, record.uid) = (mode, uid);
        pool.add(&record, &[(a, at, 1)]);
    }
    let mut of_a_group = pool.volume_record("group", EXTENT);
    (of_a_group.mode, of_a_group.gid) = (0o040, GROUP);
    pool.add(&of_a_group, &[(a, 4, 1)]);
    let can_read = |path: &Path| {
        let cat = as_nobody(Path::new("cat"))
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        cat.unwrap().success()
    };
    let all = pool.start_with("x", &["--allow-other"]);
    assert!(!can_read(&all.path("closed")));
    assert!(can_read(&all.path("open")) && can_read(&all.path("own")));
    assert!(!can_read(&all.path("group")));
    let member = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            &format!("--groups={GROUP}"),
            "cat",
        ])
        .arg(all.path("group"))
        .output()
        .unwrap();
    assert!(
        member.status.success(),
        "a supplementary group counts: {member:?}"
    );
    let own = pool.start("y");
    assert!(
        !can_read(&own.path("open")),
        "without --allow-other nobody else looks in"
    );
}

#[test]
fn an_ordinary_user_can_serve() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: all tests are run by an ordinary user");
    }
    if Command::new("fusermount3").arg("-V").output().is_err() {
        return eprintln!("skipped: needs fusermount3");
    }
    if fs::metadata("/dev/fuse").unwrap().permissions().mode() & 0o6 != 0o6 {
        return eprintln!("skipped: only root may use /dev/fuse here");
    }
    let pool = TestPool::new(EXTENT);
    let a = pool.add_disk("a", 9).id;
    let mut record = pool.volume_record("v", EXTENT);
    record.uid = NOBODY;
    pool.add(&record, &[(a, 1, 1)]);
    let program = pool.scratch().join("apparatus");
    fs::copy(env!("CARGO_BIN_EXE_apparatus"), &program).unwrap();
    let_others_look(&pool);
    give_away(pool.scratch());
    let mut command = as_nobody(&program);
    let mount = pool.mount_point("x");
    command
        .arg("--pool")
        .arg(pool.dir.path())
        .args(["--name", "x", "--mount"])
        .arg(&mount);
    // Root itself may not access another user's mount: everything is done as that user.
    command.env("HOME", pool.scratch());
    let daemon = Daemon::start(command, pool.scratch(), "x", mount);
    let shell = |script: &str| {
        let output = as_nobody(Path::new("sh"))
            .args(["-ec", script, "sh"])
            .arg(daemon.path("v"))
            .output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    shell("printf hello | dd of=$1 conv=notrunc,fsync 2>/dev/null");
    assert_eq!(shell("head -c 5 $1"), "hello");
    daemon.stop();
}

/// Makes the ordinary user the owner of everything below `dir`.
fn give_away(dir: &Path) {
    chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => give_away(&entry.path()),
            false => chown_if_there(&entry.path()),
        }
    }
}

/// Makes the ordinary user the owner of a file. A file that has gone since it was listed needs no owner, nor does a link
/// to one: the last user of a member table removes what `run/members` points to.
fn chown_if_there(path: &Path) {
    match chown(path, Some(NOBODY), Some(NOBODY)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        done => done.unwrap(),
    }
}
