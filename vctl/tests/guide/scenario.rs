//! The first days of a pool, by commands and keys that the documents name: a loop block device and an image file, a mounted file system on
//! one volume and a VM's image on the other; the block device is evacuated and removed at the console while both are in use, and the
//! machine is restarted.

use crate::document;
use crate::place::{Place, has, is_root};
use crate::terminal::Terminal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = include_str!("scenario.sh");
/// Seconds until the volumes are in use.
const LONG: i64 = 120;

/// Returns the command that the system's unit runs, for the apparatus of this name at this mount point.
fn unit(name: &str, mount: &str) -> String {
    let unit = document("packaging/systemd/apparatus@.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    let command = line.unwrap().replace("%i", name);
    command.replace("${MOUNT}", mount).replace("$OPTIONS", "")
}

#[test]
fn a_disk_leaves_under_hosts_and_all_is_there_after_a_new_start() {
    let this = "the first days of a pool";
    if !is_root() || !Path::new("/dev/loop-control").exists() {
        return eprintln!("skipped: {this}: needs root and loop devices");
    }
    for program in ["mkfs.ext4", "e2fsck", "losetup"] {
        if !has(program) {
            return eprintln!("skipped: {this}: needs {program}");
        }
    }
    let starts =
        ["a1", "a2"].map(|name| format!("{} > /tmp/{name}.log 2>&1 &", unit(name, &format!("/tmp/{name}"))));
    let script = SCRIPT.replace("START_BY_UNITS", &starts.join("\n"));
    let place = Place::new(false);
    let pool = place.path().join("pool");
    let in_use = pipe(&place.path().join("to-the-operator"));
    let mut answer = pipe(&place.path().join("from-the-operator"));
    // The pipe closes if the operator fails, so that the script does not wait for it.
    std::thread::scope(move |scope| {
        let hosts = scope.spawn(move || place.run(&script));
        let timeout = Timespec {
            tv_sec: LONG,
            tv_nsec: 0,
        };
        let output = poll(&mut [PollFd::new(&in_use, PollFlags::IN)], Some(&timeout)).unwrap();
        if output == 1 {
            at_the_console(&pool);
            answer.write_all(b"done\n").unwrap();
        }
        drop(answer);
        hosts.join().unwrap();
        assert_eq!(output, 1, "the operator was not called");
    });
}

/// Opens a named pipe for reading and writing, which never waits.
fn pipe(path: &Path) -> File {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Uses the keys that `docs/CONSOLE.md` describes.
fn at_the_console(pool: &Path) {
    let screen = Terminal::open(pool, 80, 24, &[]);
    screen.shows(&["healthy"]);
    screen.keys_show("4", &["> A device", "B image"]);
    screen.keys_show(
        "r",
        &["disk remove device: not done", "vctl disk evacuate device"],
    );
    screen.keys("\x1b");
    screen.hides("any key closes");
    screen.keys_show("e", &["evacuate disk device", "arrows: image"]);
    screen.keys_show("image\t\t\x1b[3~50M", &["image", "50M_"]);
    screen.keys_show(
        "\r",
        &["vctl disk evacuate device --to image --rate 50M", "y confirms"],
    );
    screen.keys_show("y", &["apparatus a1 works on it"]);
    screen.keys_show("5", &["done", "100%", "disk device"]);
    screen.keys_show("4", &["volumes: none"]);
    screen.keys_show("r", &["vctl disk remove device", "leaves the pool", "y confirms"]);
    screen.keys_show("y", &["disk device is removed", "> A image"]);
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
}

#[test]
fn the_story_needs_nothing_that_the_documents_do_not_name() {
    let named: String = ["README.md", "docs/OPERATING.md", "docs/CONSOLE.md"]
        .map(document)
        .concat();
    let commands = SCRIPT.split("vctl ").skip(1);
    let commands = commands.map(|text| text.split(['\n', '|', ')', ';']).next().unwrap());
    let mut seen = 0;
    for command in commands {
        let verb: Vec<&str> = command.split_whitespace().take(2).collect();
        let options = command.split_whitespace().filter(|word| word.starts_with('-'));
        for words in options
            .map(str::to_owned)
            .chain([format!("vctl {}", verb.join(" "))])
        {
            assert!(
                named.contains(&words),
                "{words:?} of {command:?} is in no document"
            );
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}
