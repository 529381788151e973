//! A disk that hangs blocks only the requests that use it: hosts read, write and flush other volumes meanwhile.

use super::*;

/// Returns the number of unanswered requests at a mount. `connections` is the kernel's directory of them.
fn unanswered(connections: &Mount, daemon: &Daemon) -> u64 {
    let device = rustix::fs::stat(daemon.mount()).unwrap().st_dev;
    let connection = rustix::fs::minor(device).to_string();
    let waiting = connections.at.path().join(connection).join("waiting");
    let waiting = std::fs::read_to_string(waiting).unwrap();
    waiting.trim().parse().unwrap()
}

/// A volume `v` on a disk that answers, and `hanging` on one that hangs while a server is stopped; their first MiB are random bytes and
/// cold.
struct Hanging {
    daemon: Daemon,
    connections: Mount,
    scene: Scene,
    _place: Mount,
    server: Daemon,
    _below: TestPool,
    bytes: Vec<u8>,
}

const PART: usize = 512 << 10;

const PARTS: u64 = 8;

impl Hanging {
    fn new() -> Option<Self> {
        let below = TestPool::new(EXTENT);
        let disk = below.add_disk("a", 520).id;
        below.add_volume("v", 32 * MIB, &[(disk, 1, 512)]);
        let server = below.start("below");
        let device = Loop::over(&server.path("v"))?;
        let place = Mount::made_on(device, &["mkfs.ext4", "-q"])?;
        let connections = Mount::of_kind("fusectl", "ro")?;
        let image = place.at.path().join("b.img");
        File::create(&image).unwrap().set_len(28 * MIB).unwrap();
        let scene = Scene::with_second_disk_at(&image, EXTENT, EXTENTS);
        let hanging = [(scene.disks[1], 200, 128)];
        scene.pool.add_volume("hanging", 128 * EXTENT, &hanging);
        let daemon = scene.pool.start("x");
        let bytes = Random::new(5).bytes(PART);
        for (volume, disk) in [("v", "a"), ("hanging", "b")] {
            let file = daemon.open(volume);
            for index in 0..PARTS {
                file.write_all_at(&bytes, index * PART as u64).unwrap();
            }
            file.sync_all().unwrap();
            let image = File::open(scene.pool.image(disk)).unwrap();
            rustix::fs::fadvise(&image, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        Some(Self {
            daemon,
            connections,
            scene,
            _place: place,
            server,
            _below: below,
            bytes,
        })
    }

    /// Starts `dd` with one block of `block` bytes, the first of this part of the volume, in a process of its own.
    fn begin(&self, volume: &str, write: bool, block: usize, part: usize) -> Child {
        let path = self.daemon.path(volume).display().to_string();
        let (which, place) = match write {
            true => (
                vec![
                    format!("of={path}"),
                    "if=/dev/zero".into(),
                    "conv=notrunc,fsync".into(),
                ],
                "seek",
            ),
            false => (vec![format!("if={path}")], "skip"),
        };
        Command::new("dd")
            .args(which)
            .args(["count=1", "status=none"])
            .args([format!("bs={block}"), format!("{place}={}", part * PART / block)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Requests for each part of the hung disk wait; those for the other disk are answered all the same.
    fn keeps(self, write: bool, block: usize) {
        let stopped = Stopped::new(&self.server);
        let kept: Vec<Child> = (0..PARTS as usize)
            .map(|part| self.begin("hanging", write, block, part))
            .collect();
        let since = Instant::now();
        while unanswered(&self.connections, &self.daemon) < PARTS {
            assert!(since.elapsed() < LONG);
            std::thread::yield_now();
        }
        let read = answered(self.begin("v", false, PART, 0));
        assert_eq!(read, self.bytes);
        answered(self.begin("v", true, 4096, 1));
        assert_eq!(answered(self.begin("v", false, 4096, 1)), [0; 4096]);
        let findings = self.await_findings(|findings| findings.iter().any(is_of_the_volume));
        for finding in &findings {
            // The label is read where it is not in memory any more.
            let is_of_the_disk = finding.subject == "disk b" && finding.text == "does not answer";
            assert!(is_of_the_volume(finding) || is_of_the_disk, "{finding:?}");
        }
        let scene = &self.scene;
        let new = [(scene.disks[0], 1 + EXTENTS, 4)];
        scene.pool.add_volume("new", 4 * EXTENT, &new);
        answered(self.begin("new", true, 4096, 0));
        // Closes of the file may be among them.
        assert!(unanswered(&self.connections, &self.daemon) >= PARTS);
        drop(stopped);
        for child in kept {
            let read = answered(child);
            assert!(write || read == self.bytes[..block]);
        }
        let begin = match write {
            true => vec![0; block],
            false => self.bytes[..block].to_vec(),
        };
        for part in 0..PARTS as usize {
            assert_eq!(answered(self.begin("hanging", false, block, part)), begin);
        }
        self.await_findings(<[_]>::is_empty);
        self.daemon.stop();
    }

    /// Returns the status of the pool, once it satisfies the condition.
    fn await_findings(&self, is_so: impl Fn(&[Finding]) -> bool) -> Vec<Finding> {
        let pool = &self.scene.pool;
        let since = Instant::now();
        loop {
            let mut findings = apparatus::admin::status::status(&pool.dir, &mut *pool.store())
                .unwrap()
                .findings;
            // The free space of the image's file system is not the subject of these tests.
            findings.retain(|finding| finding.severity > Severity::Info);
            if is_so(&findings) {
                return findings;
            }
            assert!(since.elapsed() < LONG, "{findings:?}");
        }
    }
}

fn is_of_the_volume(finding: &Finding) -> bool {
    finding.subject == "volume hanging" && finding.text.contains("disk b (")
}

/// Only a move of `v` needs the hung disk: flushes of others go on, and the status names the disk and the volume.
#[test]
fn a_flush_does_not_wait_for_a_disk_that_only_another_volumes_move_needs() {
    let Some(hanging) = Hanging::new() else { return };
    let scene = &hanging.scene;
    scene
        .pool
        .add_volume("w", 4 * EXTENT, &[(scene.disks[0], 1 + EXTENTS, 4)]);
    move_and_leave(scene, 64);
    let stopped = Stopped::new(&hanging.server);
    let kept = write_and_sync(&hanging.daemon, "v");
    let is_of_v = |finding: &Finding| finding.subject == "volume v" && finding.text.contains("disk b (");
    hanging.await_findings(|findings| findings.iter().any(is_of_v));
    for _ in 0..4 {
        answered(write_and_sync(&hanging.daemon, "w"));
    }
    hanging.await_findings(|findings| !findings.iter().any(|finding| finding.subject == "volume w"));
    drop(stopped);
    answered(kept);
    hanging.await_findings(<[_]>::is_empty);
    hanging.daemon.stop();
}

#[test]
fn cold_reads_of_a_disk_that_does_not_answer_keep_nothing_of_another() {
    let Some(hanging) = Hanging::new() else { return };
    hanging.keeps(false, PART);
}

/// Readers do not check whether small reads would wait.
#[test]
fn small_cold_reads_of_a_disk_that_does_not_answer_keep_nothing_of_another() {
    let Some(hanging) = Hanging::new() else { return };
    hanging.keeps(false, 4096);
}

/// The kernel reads the rest of the block first.
#[test]
fn writes_to_a_disk_that_does_not_answer_keep_nothing_of_another() {
    let Some(hanging) = Hanging::new() else { return };
    hanging.keeps(true, 512);
}
