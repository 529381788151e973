//! The pool's database is locked: flushes that need it wait for it.

use super::*;

/// The pool's database, kept locked by another process.
struct Locked(Child);

impl Locked {
    fn new(scene: &Scene) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(scene.pool.dir.database())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let words = b"BEGIN IMMEDIATE;\nSELECT 'locked';\n";
        child.stdin.as_mut().unwrap().write_all(words).unwrap();
        let mut text = [0; 7];
        child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
        assert_eq!(&text, b"locked\n");
        Self(child)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `dd` of one block with an `fsync` at its end, in a process of its own.
pub(crate) fn write_and_sync(daemon: &Daemon, volume: &str) -> Child {
    Command::new("dd")
        .arg(format!("of={}", daemon.path(volume).display()))
        .args([
            "if=/dev/zero",
            "conv=notrunc,fsync",
            "bs=4096",
            "count=1",
            "status=none",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the output of a process, which must end soon and successfully.
pub(crate) fn answered(child: Child) -> Vec<u8> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let waiting = std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let output = receiver.recv_timeout(LONG).unwrap();
    waiting.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// No disk has failed: a flush waits for the database (the kernel sends one of each file), the status shows the number and the time, and
/// flushes that do not need the database do not wait.
#[test]
fn a_flush_waits_for_the_pools_database_as_long_as_it_takes() {
    let scene = Scene::new(EXTENT, EXTENTS);
    let new = [(scene.disks[0], 1 + EXTENTS, 4)];
    scene.pool.add_volume("w", 4 * EXTENT, &new);
    let daemon = scene.pool.start("x");
    move_and_leave(&scene, EXTENTS);
    let locked = Locked::new(&scene);
    let mut kept: Vec<Child> = (0..8).map(|_| write_and_sync(&daemon, "v")).collect();
    answered(write_and_sync(&daemon, "w"));
    let since = Instant::now();
    let of_the_database = |finding: &Finding| {
        finding.subject == "volume v" && finding.text.contains("pool's database (1 request,")
    };
    while !status_of(&scene).iter().any(of_the_database) {
        assert!(since.elapsed() < LONG, "{:?}", status_of(&scene));
    }
    answered(write_and_sync(&daemon, "w"));
    assert!(kept.iter_mut().all(|child| child.try_wait().unwrap().is_none()));
    drop(locked);
    kept.into_iter().for_each(|child| drop(answered(child)));
    assert_eq!(at_risk(&scene), 0);
    daemon.stop();
}
