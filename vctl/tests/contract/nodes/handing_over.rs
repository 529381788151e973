//! A host ends on one node and starts on another, an apparatus is killed and comes back, and file locks are refused meanwhile.

use super::VOLUME;
use super::moving::Shared;
use crate::support::until;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn write(volume: &Path, byte: u8) {
    let file = OpenOptions::new().write(true).open(volume).unwrap();
    // Neither begins nor ends with a block.
    file.write_all_at(&vec![byte; 3 << 20], 1000).unwrap();
    file.sync_all().unwrap();
}

fn reads(volume: &Path, byte: u8) -> bool {
    let mut bytes = vec![0; 3 << 20];
    File::open(volume)
        .unwrap()
        .read_exact_at(&mut bytes, 1000)
        .unwrap();
    bytes.iter().all(|found| *found == byte)
}

fn lock(volume: &Path) -> Result<(), Errno> {
    let file = OpenOptions::new().write(true).open(volume).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive)
}

#[test]
fn what_a_host_wrote_on_one_node_is_there_when_it_starts_on_another() {
    let Some(shared) = Shared::new() else { return };
    let [here, there] = &shared.volumes;
    for round in 1..=3 {
        write(here, round);
        assert!(reads(there, round));
        shared
            .scene
            .one
            .run([
                "volume",
                "move",
                VOLUME,
                "--to",
                if round % 2 == 1 { "d2" } else { "d1" },
            ])
            .ok();
        write(there, round + 100);
        assert!(reads(here, round + 100));
    }
    // Nobody is told that it has a lock which the other node does not see.
    for volume in &shared.volumes {
        assert_eq!(lock(volume), Err(Errno::NOLCK));
    }
    let (one, two) = (&shared.scene.one, &shared.scene.two);
    two.run(["apparatus", "stop", "a2"]).ok();
    one.run(["node", "remove", "n2"]).ok();
    until("locks hold on the one node that is left", || lock(here).is_ok());
    assert!(reads(here, 103));
    one.run(["apparatus", "stop", "a1"]).ok();
    one.run(["pool", "check"]).ok();
}

#[test]
fn an_apparatus_that_is_killed_on_the_other_node_comes_back() {
    let Some(shared) = Shared::new() else { return };
    let (one, two) = (&shared.scene.one, &shared.scene.two);
    let [here, there] = &shared.volumes;
    write(there, 1);
    kill_process(two.pid_of("a2"), Signal::KILL).unwrap();
    assert!(reads(here, 1));
    write(here, 2);
    // Nothing tells this node that the process of the other one has ended.
    let moved = one.run(["volume", "move", VOLUME, "--to", "d2"]);
    assert!(moved.status != 0 && moved.err.contains("a2"), "{moved:?}");
    let status = one.run(["status"]);
    assert!(
        status.out.contains("apparatus a2") && status.out.contains("on 2 nodes"),
        "{status:?}"
    );
    write(here, 3);
    let back = two.run([
        "apparatus",
        "start",
        "a2",
        there.parent().unwrap().to_str().unwrap(),
    ]);
    back.ok();
    assert!(reads(there, 3));
    one.run(["volume", "move", VOLUME, "--to", "d2"]).ok();
    two.run(["volume", "move", VOLUME, "--to", "d1"]).ok();
    write(there, 4);
    assert!(reads(here, 4));
    let history = one.run(["history", "-o", "node,command"]).ok().out;
    for line in ["n1    vctl volume move", "n2    vctl volume move"] {
        assert!(history.contains(line), "{history}");
    }
    shared.end();
}
