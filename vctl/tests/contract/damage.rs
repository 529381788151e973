//! Each damage that tests make is found by `pool check`: what needs no guess is mended by `--repair`, the rest names its way out.

use crate::support::{Pool, write};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where a disk's first copy of the metadata begins, and where the extent ends that it lies in.
const COPY: (usize, usize) = (8192, 1 << 20);

fn overwrite(path: &Path, at: usize, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at as u64).unwrap();
}

/// Puts a backup in the place of the database, as somebody does who copies files.
fn replace_database(pool: &Pool) {
    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(pool.pool_dir().join(format!("pool.db{ending}")));
    }
    fs::copy(pool.path("backup"), pool.pool_dir().join("pool.db")).unwrap();
}

struct Damage {
    name: &'static str,
    make: fn(&Pool),
    /// A word of the problem's subject, and one of its reason.
    found: [&'static str; 2],
    /// Whether `--repair` mends it.
    mended: bool,
}

/// A pool with two disks, a volume of which a part was moved, and a backup that was made before the volume was renamed.
fn scene() -> Pool {
    let pool = Pool::with_volume();
    pool.run(["volume", "move", "v", "--to", "d2", "--range", "2M..5M"])
        .ok();
    pool.run(["pool", "backup", &pool.file("backup")]).ok();
    fs::copy(pool.path("d1.img"), pool.path("earlier.img")).unwrap();
    pool.run(["volume", "rename", "v", "w"]).ok();
    pool
}

const DAMAGES: &[Damage] = &[
    Damage {
        name: "an image is gone",
        make: |pool| fs::remove_file(pool.path("d2.img")).unwrap(),
        found: ["d2", ""],
        mended: false,
    },
    Damage {
        name: "an image was truncated",
        make: |pool| {
            let file = File::options().write(true).open(pool.path("d2.img")).unwrap();
            file.set_len(9 << 20).unwrap();
        },
        found: ["d2", "shorter"],
        mended: false,
    },
    Damage {
        name: "both labels of a disk are lost",
        make: |pool| overwrite(&pool.path("d2.img"), 0, &[0; 8192]),
        found: ["d2", "label"],
        mended: false,
    },
    Damage {
        name: "a disk of another pool lies in the place of one",
        make: |pool| {
            let other = Pool::with_volume();
            fs::copy(other.path("d2.img"), pool.path("d2.img")).unwrap();
        },
        found: ["d2", ""],
        mended: false,
    },
    Damage {
        name: "two disks were exchanged",
        make: |pool| {
            fs::rename(pool.path("d1.img"), pool.path("x")).unwrap();
            fs::rename(pool.path("d2.img"), pool.path("d1.img")).unwrap();
            fs::rename(pool.path("x"), pool.path("d2.img")).unwrap();
        },
        found: ["d1", ""],
        mended: false,
    },
    Damage {
        name: "a copy of the metadata is damaged",
        make: |pool| overwrite(&pool.path("d2.img"), COPY.0, &vec![0xff; COPY.1 - COPY.0]),
        found: ["d2", "copy of the pool's metadata"],
        mended: true,
    },
    Damage {
        name: "a copy of the metadata is an earlier one",
        make: |pool| {
            let earlier = fs::read(pool.path("earlier.img")).unwrap();
            overwrite(&pool.path("d1.img"), COPY.0, &earlier[COPY.0..COPY.1]);
        },
        found: ["d1", "copy of the pool's metadata"],
        mended: true,
    },
    Damage {
        name: "the database is an earlier one, and only the copies know",
        make: replace_database,
        found: ["d", "layout"],
        mended: false,
    },
    Damage {
        name: "the log of the database is lost",
        make: |pool| {
            fs::remove_file(pool.pool_dir().join("pool.db-wal")).unwrap();
            let status = pool.run(["status"]).ended(7);
            assert!(status.out.contains("next: vctl pool restore /"), "{status:?}");
        },
        found: ["database", "is older than the copy of it"],
        mended: false,
    },
    Damage {
        name: "a job is abandoned by its process",
        make: |pool| {
            // Holes are moved at once, whatever the rate.
            overwrite(&pool.path("d1.img"), 1 << 20, &vec![0x5a; 8 << 20]);
            let mut command = pool.command(["volume", "move", "w", "--to", "d2", "--rate", "64K"]);
            let mut child = command.spawn().unwrap();
            crate::support::until("a job is there", || {
                let jobs = pool.json(["job", "list"]);
                let jobs = jobs["jobs"].as_array().unwrap();
                jobs.iter().any(|job| job["state"] == "running")
            });
            child.kill().unwrap();
            child.wait().unwrap();
        },
        found: ["job", "no process works on it"],
        mended: false,
    },
    Damage {
        name: "the database contradicts itself",
        make: |pool| {
            let database = pool.pool_dir().join("pool.db");
            let bytes = fs::read(&database).unwrap();
            write(&database, &bytes[..bytes.len() / 2]);
            for ending in ["-wal", "-shm"] {
                let _ = fs::remove_file(pool.pool_dir().join(format!("pool.db{ending}")));
            }
        },
        found: ["", ""],
        mended: false,
    },
];

#[test]
fn each_damage_is_found_and_mended_or_has_a_way_out() {
    for Damage {
        name,
        make,
        found,
        mended,
    } in DAMAGES
    {
        let pool = scene();
        pool.run(["pool", "check"]).ok();
        make(&pool);
        let output = pool.run(["pool", "check", "--json"]);
        assert!(matches!(output.status, 1 | 7), "{name}: {output:#?}");
        if output.status == 1 {
            assert!(
                output.err.contains("vctl pool"),
                "{name}: no way out: {output:#?}"
            );
            continue;
        }
        let problems = output.json();
        let text = |problem: &Value, field: &str| problem[field].as_str().unwrap_or_default().to_owned();
        let is_it = |problem: &&Value| {
            text(problem, "subject").contains(found[0]) && text(problem, "why").contains(found[1])
        };
        let problems = problems["problems"].as_array().unwrap();
        let problem = problems.iter().find(is_it);
        let problem = problem.unwrap_or_else(|| panic!("{name}: not found: {problems:#?}"));
        assert_eq!(problem["repairable"], *mended, "{name}: {problem:#?}");
        assert_ne!(text(problem, "hint"), "", "{name}: no way out: {problem:#?}");
        if *mended {
            let repaired = pool.run(["pool", "check", "--repair"]).ok();
            assert!(repaired.out.contains("no problems"), "{name}: {repaired:#?}");
            pool.run(["pool", "check"]).ok();
        }
    }
}
