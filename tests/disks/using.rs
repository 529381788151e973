//! A file that another program uses does not become a disk: the refusal names the program.

use super::*;
use apparatus::sys::{RangeLock, set_range_lock};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::Stdio;

fn busy(path: &Path, words: &[&str]) {
    let error = inspect(path, &[]).expect_err("was accepted");
    let way_out = error.way_out().unwrap_or_default();
    let text = format!("{error}; {way_out}");
    assert_eq!(error.kind(), ErrorKind::Busy, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_file_that_somebody_writes_does_not_become_a_disk() {
    for place in places() {
        let path = place.path().join("image");
        empty_file(&path, 4 * MIB);
        let me = format!("process {}", std::process::id());
        let reader = File::open(&path).unwrap();
        inspect(&path, &[]).unwrap();
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        busy(&path, &["is open for writing", &me, "end that program"]);
        drop(writer);
        inspect(&path, &[]).unwrap();

        let shared = RangeLock {
            start: 100,
            end: 100,
            exclusive: Some(false),
        };
        set_range_lock(reader.as_fd(), shared).unwrap();
        busy(&path, &["is locked by another program", "end that program"]);
        drop(reader);
        inspect(&path, &[]).unwrap();
    }
}

#[test]
fn an_image_that_qemu_uses_does_not_become_a_disk() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("image");
    empty_file(&path, 4 * MIB);
    let started = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut qemu) = started else {
        println!("passed over: qemu-io is not installed");
        return;
    };
    let mut commands = qemu.stdin.take().unwrap();
    let mut answers = BufReader::new(qemu.stdout.take().unwrap());
    writeln!(commands, "length").unwrap();
    let mut answer = String::new();
    answers.read_line(&mut answer).unwrap();
    assert!(answer.contains("4 MiB"), "{answer}");
    busy(&path, &[&format!("process {}", qemu.id()), "end that program"]);
    // It ends with its commands.
    drop(commands);
    qemu.wait().unwrap();
    inspect(&path, &[]).unwrap();
}
