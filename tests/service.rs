//! An apparatus under a service manager: readiness, the heartbeat for its watchdog, and the units.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod manager;
mod supervised;
mod support;

use manager::Manager;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;
use supervised::{kill_server, server_of, soon};
use support::{TestPool, is_mount_point, name_of};

/// An apparatus whose service manager is this test.
struct Service {
    child: Child,
    manager: UnixDatagram,
}

impl Service {
    fn start(pool: &TestPool, name: &str, watchdog: Duration) -> Self {
        let path = pool.scratch().join("manager");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
        let child = pool
            .command(name, &pool.mount_point(name))
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, manager }
    }

    fn hear(&self) -> String {
        let mut message = [0; 4096];
        let len = self.manager.recv(&mut message).expect("nothing was said in time");
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    /// Receives notifications until one contains this text.
    fn receive_until(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        let mut received = std::iter::repeat_with(|| self.hear());
        received.find(|message| is_wanted(message)).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_beats_while_its_control_thread_answers_and_says_why_when_it_does_not() {
    let pool = TestPool::new(64 << 10);
    let mut service = Service::start(&pool, "x", Duration::from_millis(300));
    let ready = service.hear();
    assert!(
        ready.contains("READY=1") && ready.contains("STATUS=x serves at"),
        "{ready}"
    );
    // On a busy machine a beat may be late, which it says in between.
    for _ in 0..3 {
        service.receive_until(|message| message.contains("WATCHDOG=1"));
    }
    // The apparatus could not be controlled or asked for its figures any more.
    let socket = pool.dir.socket(&name_of("x"));
    let elsewhere = pool.scratch().join("aside");
    fs::rename(&socket, &elsewhere).unwrap();
    let ill = service.receive_until(|is_wanted| !is_wanted.contains("WATCHDOG=1"));
    assert!(
        ill.contains("STATUS=") && ill.contains("x") && !ill.contains("serves"),
        "{ill}"
    );
    fs::rename(&elsewhere, &socket).unwrap();
    let well = service.receive_until(|is_wanted| is_wanted.contains("WATCHDOG=1"));
    assert!(well.contains("STATUS=serves again"), "{well}");

    service.signal(Signal::TERM);
    service.receive_until(|is_wanted| is_wanted.contains("STOPPING=1"));
    assert!(service.child.wait().unwrap().success());
    assert!(!is_mount_point(&pool.mount_point("x")));
}

fn unit(path: &str) -> String {
    fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("packaging/systemd")
            .join(path),
    )
    .unwrap()
}

fn settings(unit: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('='))
}

#[test]
fn units_give_no_mount_namespace_and_users_keep_their_setuid_helper() {
    let hides_mounts = [
        "Private",
        "Protect",
        "ReadOnly",
        "ReadWrite",
        "Inaccessible",
        "Exec",
        "NoExec",
        "Bind",
        "TemporaryFileSystem",
        "Root",
        "Mount",
        "DynamicUser",
        "ProcSubset",
    ];
    for (setting, value) in settings(&unit("apparatus@.service")) {
        let hides = hides_mounts.iter().any(|begin| setting.starts_with(begin));
        assert!(
            !hides || matches!(setting, "ExecStart" | "ExecReload"),
            "{setting}={value}"
        );
    }
    let takes_setuid_away = [
        "NoNewPrivileges",
        "SystemCall",
        "Restrict",
        "Lock",
        "MemoryDeny",
        "Private",
        "Protect",
    ];
    for (setting, value) in settings(&unit("user/apparatus@.service")) {
        let takes = takes_setuid_away.iter().any(|begin| setting.starts_with(begin));
        assert!(
            !takes || setting.starts_with("RestartS") || setting.starts_with("RestartP"),
            "{setting}={value}"
        );
    }
}

#[test]
fn the_systems_unit_uses_the_pool_that_root_has() {
    let unit = unit("apparatus@.service");
    let state = settings(&unit)
        .find(|(name, _)| *name == "StateDirectory")
        .unwrap()
        .1;
    let pool = format!("VCTL_POOL=/var/lib/{state}/pool ");
    assert!(unit.contains(&pool));
    if rustix::process::geteuid().is_root() && std::env::var_os("VCTL_POOL").is_none() {
        let usual = apparatus::admin::place::pool_dir(None).unwrap();
        assert!(pool.contains(usual.path().to_str().unwrap()), "{usual:?}");
    }
}

/// systemd unmounts what is ordered after `remote-fs-pre.target` (mounts with `_netdev`) before it stops what is ordered before that.
#[test]
fn what_is_mounted_from_volumes_is_unmounted_before_the_apparatus_stops() {
    let unit = unit("apparatus@.service");
    let has = |wanted: &str, target: &str| {
        settings(&unit)
            .any(|(setting, value)| setting == wanted && value.split(' ').any(|word| word == target))
    };
    assert!(has("Before", "remote-fs-pre.target") && has("Wants", "remote-fs-pre.target"));
    assert!(
        !has("Before", "local-fs.target"),
        "pools are on local file systems"
    );
}

/// An apparatus with a supervisor, whose service manager stores descriptors.
struct Stored {
    pool: TestPool,
    manager: Manager,
    main: Child,
}

impl Stored {
    fn new() -> Self {
        let pool = supervised::pool();
        let manager = Manager::new(pool.scratch());
        let main = begin(&pool, &manager);
        let stored = Self { pool, manager, main };
        stored.await_ready(1);
        stored
    }

    /// Waits until a descriptor of this kind is stored: the service may be ready a moment before.
    fn await_stored(&self, kind: &str) {
        soon("a stored descriptor", || {
            let stored = self.manager.stored();
            stored.iter().any(|name| name.starts_with(kind)).then_some(())
        });
    }

    fn await_ready(&self, times: u64) {
        soon("readiness", || (self.manager.ready() >= times).then_some(()));
    }

    fn open(&self) -> File {
        let path = self.pool.mount_point("a1").join("v");
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    /// Kills the supervisor, and waits for the end of both processes.
    fn kill(&mut self) {
        let server = server_of(&self.pool);
        self.main.kill().unwrap();
        self.main.wait().unwrap();
        soon("the end of the server", || {
            rustix::process::test_kill_process(server).is_err().then_some(())
        });
    }

    fn start_again(&mut self) {
        self.main = begin(&self.pool, &self.manager);
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.main), Signal::TERM).unwrap();
        assert!(self.main.wait().unwrap().success());
        assert!(!is_mount_point(&self.pool.mount_point("a1")));
        soon("an empty store", || {
            (self.manager.stored() == ["state"]).then_some(())
        });
    }
}

fn begin(pool: &TestPool, manager: &Manager) -> Child {
    let mut service = pool.command("a1", &pool.mount_point("a1"));
    service.arg("--supervisor");
    manager.start(&service, &pool.scratch().join("a1.log"))
}

impl Drop for Stored {
    fn drop(&mut self) {
        let _ = self.main.kill();
        let _ = self.main.wait();
    }
}

#[test]
fn a_supervisor_that_is_killed_is_a_pause_for_hosts_where_the_manager_stores_descriptors() {
    let mut service = Stored::new();
    let other = service.pool.start("a2");
    let (file, theirs) = (service.open(), other.open("v"));
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let is_refused = || flock(&theirs, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN);
    // A lock that was granted a moment before the supervisor is killed may not be stored yet.
    service.await_stored("lock-");
    for round in 1..4_u64 {
        file.write_all_at(&round.to_ne_bytes(), 4096 * round).unwrap();
        service.kill();
        assert!(is_refused(), "nobody serves, and the lock is held");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut bytes = [0; 8];
                file.read_exact_at(&mut bytes, 4096 * round).map(|()| bytes)
            });
            service.start_again();
            assert_eq!(waiting.join().unwrap().unwrap(), round.to_ne_bytes());
        });
        service.await_ready(2 * round);
        // Its servers are started again as before, and their handles are none of earlier ones.
        kill_server(&service.pool);
        service.await_ready(2 * round + 1);
        drop(service.open());
        assert!(is_refused());
    }
    drop(file);
    soon("the end of the file's lock", || (!is_refused()).then_some(()));
    drop(theirs);
    other.stop();
    service.stop();
}

#[test]
fn a_supervisor_that_is_started_after_the_end_of_its_mount_mounts_anew() {
    let mut service = Stored::new();
    service.await_stored("device-");
    service.kill();
    rustix::mount::unmount(
        service.pool.mount_point("a1"),
        rustix::mount::UnmountFlags::DETACH,
    )
    .unwrap();
    service.start_again();
    service.await_ready(2);
    service.open().write_all_at(b"anew", 0).unwrap();
    kill_server(&service.pool);
    service.await_ready(3);
    let mut bytes = [0; 4];
    service.open().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"anew");
    service.stop();
}
