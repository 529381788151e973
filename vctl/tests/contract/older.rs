//! Pools that earlier versions have made, kept in `tests/pools`: this version opens them, by their database and by their disks alone.
//!
//! A directory is one pool: `pool.db`, a backup of its database, and its disks `d1.img` and `d2.img`, each as text: the length, then a line
//! for each sector that is not zero, its position and its bytes, without zeroes at the end. `KEEP_POOL=NAME cargo test -p vctl --test contract
//! older` makes one more by the present version; one that exists is never made again. The database has the paths of disks and programs.

use crate::support::{Pool, unmount, write};
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;
const FILES: [&str; 3] = ["pool.db", "d1.img", "d2.img"];

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pools")
}

fn as_text(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
        let Some(last) = sector.iter().rposition(|byte| *byte != 0) else {
            continue;
        };
        write!(text, "{} ", index * SECTOR).unwrap();
        for byte in &sector[..=last] {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

fn from_text(text: &str) -> Vec<u8> {
    let (length, sectors) = text.split_once('\n').unwrap();
    let mut bytes = vec![0; length.parse().unwrap()];
    for line in sectors.lines() {
        let (at, sector) = line.split_once(' ').unwrap();
        let at: usize = at.parse().unwrap();
        for (index, digits) in sector.as_bytes().chunks(2).enumerate() {
            let digits = std::str::from_utf8(digits).unwrap();
            bytes[at + index] = u8::from_str_radix(digits, 16).unwrap();
        }
    }
    bytes
}

/// Returns what each sixteenth sector of a volume begins with.
fn word(volume: &str, index: u64) -> Vec<u8> {
    format!("volume {volume}, sector {index}").into_bytes()
}

const MARKED: u64 = 16;
const VOLUMES: [(&str, u64); 2] = [("v", 1 << 20), ("w", 256 << 10)];

fn fill(mount: &Path) {
    for (volume, size) in VOLUMES {
        let file = File::options().write(true).open(mount.join(volume)).unwrap();
        let marked = |index: &u64| index.is_multiple_of(MARKED);
        for index in (0..size / SECTOR as u64).filter(marked) {
            file.write_all_at(&word(volume, index), index * SECTOR as u64)
                .unwrap();
        }
        file.sync_all().unwrap();
    }
}

fn has_all(mount: &Path) {
    for (volume, size) in VOLUMES {
        let bytes = fs::read(mount.join(volume)).unwrap();
        assert_eq!(bytes.len() as u64, size);
        for (index, sector) in (0_u64..).zip(bytes.chunks(SECTOR)) {
            let mut expected = vec![0; SECTOR];
            if index.is_multiple_of(MARKED) {
                let word = word(volume, index);
                expected[..word.len()].copy_from_slice(&word);
            }
            assert!(sector == expected, "{volume}: sector {index}");
        }
    }
}

/// Makes a pool by this version and keeps it.
fn keep(name: &str) {
    let dir = kept().join(name);
    assert!(!dir.exists(), "{name} exists: a kept pool is never made again");
    let pool = Pool::absent();
    pool.run(["pool", "create", "--extent-size", "64K"]).ok();
    for disk in ["d1.img", "d2.img"] {
        pool.run(["disk", "add", &pool.file(disk), "--create", "4M", "--tag", "kept"])
            .ok();
    }
    pool.run(["volume", "create", "v", "1M", "--on", "d1"]).ok();
    pool.run(["volume", "create", "w", "256K", "--on", "d2", "--mode", "640"])
        .ok();
    let mount = pool.start("a");
    fill(&mount);
    pool.run(["volume", "move", "v", "--to", "d2", "--range", "256K..512K"])
        .ok();
    pool.run(["volume", "create", "gone", "64K"]).ok();
    pool.run(["volume", "remove", "gone", "--yes"]).ok();
    has_all(&mount);
    pool.run(["apparatus", "stop", "a"]).ok();
    pool.run(["pool", "backup", &pool.file("pool.db")]).ok();
    fs::create_dir_all(&dir).unwrap();
    for file in FILES {
        let text = as_text(&fs::read(pool.path(file)).unwrap());
        fs::write(dir.join(format!("{file}.txt")), text).unwrap();
    }
}

/// Returns a directory with the files of a kept pool, and no pool.
fn unpacked(dir: &Path) -> Pool {
    let pool = Pool::absent();
    for file in FILES {
        let text = fs::read_to_string(dir.join(format!("{file}.txt"))).unwrap();
        write(&pool.path(file), &from_text(&text));
    }
    pool
}

/// Serves the pool, and moves, grows and creates in it.
fn works(pool: &Pool) {
    let check = pool.run(["pool", "check"]).ok();
    assert_eq!(check.err, "", "{check:#?}");
    let mount = pool.start("a");
    has_all(&mount);
    assert_eq!(pool.json(["volume", "show", "w"])["volume"]["mode"], "0640");
    pool.run(["volume", "move", "v", "--to", "@kept", "--range", "0..128K"])
        .ok();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    pool.run(["volume", "move", "w", "--to", "d1"]).ok();
    pool.run(["volume", "create", "x", "128K"]).ok();
    has_all(&mount);
    pool.run(["pool", "check"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
    unmount(&mount);
}

#[test]
fn pools_of_earlier_versions_are_served_and_imported() {
    if let Ok(name) = std::env::var("KEEP_POOL") {
        keep(&name);
    }
    let mut pools: Vec<PathBuf> = fs::read_dir(kept())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pools.sort();
    assert!(!pools.is_empty(), "no pool is kept");
    for dir in pools {
        println!("{}", dir.display());
        let by_database = unpacked(&dir);
        by_database
            .run(["pool", "restore", &by_database.file("pool.db")])
            .ok();
        by_database.run(["pool", "adopt", "--accept-missing-disks"]).ok();
        for disk in ["d1", "d2"] {
            let path = by_database.file(&format!("{disk}.img"));
            by_database.run(["disk", "set", disk, "--path", &path]).ok();
        }
        works(&by_database);
        let by_disks = unpacked(&dir);
        let (d1, d2) = (by_disks.file("d1.img"), by_disks.file("d2.img"));
        by_disks.run(["pool", "import", &d1, &d2]).ok();
        works(&by_disks);
    }
}
