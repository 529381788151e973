//! A disk that does not answer for a while.

use super::*;

/// A file system of its own on a loop device, which can be frozen: writers to it wait.
struct Freezer {
    dir: tempfile::TempDir,
    place: PathBuf,
}

impl Freezer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, place) = (dir.path().join("fs.img"), dir.path().join("fs"));
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&place).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place));
        Self { dir, place }
    }

    fn freeze(&self) {
        run(Command::new("fsfreeze").arg("-f").arg(&self.place));
    }

    fn thaw(&self) {
        run(Command::new("fsfreeze").arg("-u").arg(&self.place));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze")
            .arg("-u")
            .arg(&self.place)
            .stderr(Stdio::null())
            .status();
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        assert!(self.dir.path().exists());
    }
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// A slow disk: a request in flight on it makes the drain take too long, so the change is given up; no apparatus is fenced for it,
/// and the job shows what it waits for.
#[test]
fn a_slow_disk_delays_the_job_and_fences_no_apparatus() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        println!("skipped: needs root and loop devices");
        return;
    }
    for action in [None, Some("kill"), Some("stop")] {
        slow_disk(action);
    }
}

fn slow_disk(action: Option<&str>) {
    let freezer = Freezer::new();
    let scene = Scene::with_first_disk_in(&freezer.place, EXTENT, 64);
    let y = start(&scene, "y", None);
    let job = scene.create(&scene.to(1), JobLimits::default());
    let file = y.open("v");
    freezer.freeze();
    let host = thread::spawn(move || file.write_all_at(&[7; 4096], 0).map(|()| file));
    scene.wait_until("the request is in flight", |_| in_flight(&scene, "y") > 0);
    let failpoint = action.map(|action| format!("controller.cancelled={action}"));
    let mut worker = Worker::start(&scene, job, failpoint.as_deref());
    match action {
        Some(_) => assert_eq!(worker.wait_for_point(), action == Some("kill")),
        None => scene.wait_until("the job says what it waits for", |store| {
            store.job(job).unwrap().unwrap().why.contains("in flight")
        }),
    }
    let (_, members) = scene.pool.store().members().unwrap();
    assert!(
        members.iter().all(|member| member.state == MemberState::Joined),
        "{members:?}"
    );
    freezer.thaw();
    let file = host.join().unwrap().unwrap();
    if action != Some("kill") {
        worker.signal(Signal::CONT);
    }
    worker.wait();
    assert_eq!(scene.run(job).unwrap(), JobState::Done);
    assert_eq!(support::read_up_to(&file, 4096, 0), vec![7; 4096]);
    scene.assert_all_on(1);
    drop(file);
    y.stop();
    drop(scene);
}

fn in_flight(scene: &Scene, name: &str) -> u64 {
    use apparatus::rpc::client;
    use apparatus::rpc::message::{Answer, Request};
    let uuid = scene.pool.store().header().unwrap().uuid;
    match client::ask(
        &scene.pool.dir,
        uuid,
        &support::name_of(name),
        Request::Status,
        PATIENCE,
    )
    .unwrap()
    {
        Answer::Status(figures) => figures.in_flight,
        other => panic!("{other:?}"),
    }
}
