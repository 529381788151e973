//! A controller that stops in the middle of a transaction.

use super::*;

const STOPPED_POOL: &str = "TEST_STOPPED_POOL";

/// The controller of the test below: it holds a volume, begins to write to the database, and stops.
#[test]
fn a_controller_that_stops_while_it_writes() {
    let Ok(pool) = std::env::var(STOPPED_POOL) else {
        return;
    };
    let pool = PoolDir::new(pool);
    let mut controller = Controller::acquire(&pool, "test", Wait::No).unwrap();
    controller.set_patience(Patience {
        hold_us: 2_000_000,
        ..PATIENT
    });
    let volume = controller.store().volumes().unwrap()[0].id;
    let change = NewChange {
        title: "stops".into(),
        job: None,
        delta: Delta {
            from: controller.store().header().unwrap().generation,
            edits: vec![],
        },
        spans: vec![Span::whole(volume)],
        mode: HoldMode::All,
    };
    let mut stop = || {
        let database = rusqlite::Connection::open(pool.database()).unwrap();
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
        database.execute_batch("ROLLBACK").unwrap();
        // It is stopped again about here. The hold expires meanwhile, so the apparatus cancels the change.
        let end = Instant::now() + PATIENCE;
        while !open_store(&pool).unwrap().unfinished().unwrap().is_empty() {
            assert!(Instant::now() < end, "nobody cancels the change");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    assert!(controller.run(change, false, &mut stop).is_err());
}

/// P5: a hold does not outlive its deadline, even while the database is locked.
#[test]
fn a_controller_that_stops_in_the_middle_of_a_transaction_holds_no_host_for_ever() {
    let scene = Scene::new(EXTENT, 8);
    let x = scene.pool.start("x");
    let mut controller = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &moving::beside("stopped::a_controller_that_stops_while_it_writes"),
            "--nocapture",
        ])
        .env(STOPPED_POOL, scene.pool.dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while !stopped(controller.id()) {
        assert!(Instant::now() < end, "it does not stop");
        thread::sleep(Duration::from_millis(2));
    }
    let file = x.open("v");
    let (done, host) = std::sync::mpsc::channel();
    let writer = thread::spawn(move || {
        file.write_all_at(&[7; 4096], 0).unwrap();
        done.send(()).unwrap();
    });
    let answered = host.recv_timeout(PATIENCE / 3);
    // It was stopped on purpose, and stays stopped.
    let left_alone = stopped(controller.id());
    let handle = pidfd_open(Pid::from_child(&controller), PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&handle, Signal::CONT).unwrap();
    assert!(controller.wait().unwrap().success());
    writer.join().unwrap();
    assert!(
        answered.is_ok(),
        "the host waited for as long as the controller was stopped"
    );
    assert!(left_alone);
    x.stop();
    scene.assert_nothing_left_over();
}
