//! Runs every target with damaged copies of valid input.

use super::{BLOCK, TARGETS};
use crate::blockdev::label::Label;
use crate::metadata::contents::{Contents, Facts};
use crate::metadata::copy::checkpoint;
use crate::metadata::header::{Identity, Position};
use crate::metadata::log;
use crate::model::build;
use crate::model::records::{Delta, Edit, SECTOR};
use crate::model::units::{ByteCount, ChangeId, ExtentSize, Generation, Term};
use crate::rpc::frame::encode;
use crate::rpc::message::{Answer, AnswerFrame, Request, RequestFrame, VERSION};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Serialize;
use std::fs;
use std::path::Path;
use uuid::Uuid;

/// A change to valid input.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Number(Index, u64, usize),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, Index, usize),
    Truncate(Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
        match self {
            Self::Flip(index, bit) => {
                let at = at(index, bytes);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::Number(index, number, width) => {
                let (at, number) = (at(index, bytes), number.to_le_bytes());
                bytes.splice(
                    at..(at + width).min(bytes.len()),
                    number[..*width].iter().copied(),
                );
            }
            Self::Insert(index, more) => {
                let at = at(index, bytes);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Remove(index, len) => {
                let at = at(index, bytes);
                bytes.drain(at..(at + len).min(bytes.len()));
            }
            Self::Repeat(from, to, len) => {
                let (from, to) = (at(from, bytes), at(to, bytes));
                let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                bytes.splice(to..to, piece);
            }
            Self::Truncate(index) => bytes.truncate(at(index, bytes)),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(i64::MAX as u64),
        0_u64..10_000
    ];
    let width = prop::sample::select(vec![1_usize, 2, 4, 8]);
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        3 => (any::<Index>(), number, width).prop_map(|(at, number, width)| Damage::Number(at, number, width)),
        2 => (any::<Index>(), vec(any::<u8>(), 1..20)).prop_map(|(at, more)| Damage::Insert(at, more)),
        2 => (any::<Index>(), 1_usize..40).prop_map(|(at, len)| Damage::Remove(at, len)),
        2 => (any::<Index>(), any::<Index>(), 1_usize..200).prop_map(|(from, to, len)| Damage::Repeat(from, to, len)),
        1 => any::<Index>().prop_map(Damage::Truncate),
    ]
}

fn frame(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![9];
    encode(message, &mut bytes).unwrap();
    bytes
}

fn edits() -> Vec<Edit> {
    vec![
        Edit::AddDisk(build::disk(1, 1000)),
        Edit::AddVolume(build::volume(1, 64 * SECTOR)),
        build::map(1, &[build::segment(0, 1, 9, 4), build::segment(4, 1, 40, 12)]),
        build::unmap(1, 2, 3),
        Edit::SetVolume(build::volume(1, 32 * SECTOR)),
    ]
}

fn request_frames() -> Vec<Vec<u8>> {
    let delta = Delta {
        from: Generation(8),
        edits: edits(),
    };
    let requests = vec![
        Request::Hello {
            version: VERSION,
            pool: Uuid::from_u128(7),
        },
        Request::Apply {
            change: ChangeId(3),
            generation: Generation(9),
            delta,
        },
        Request::Release {
            change: ChangeId(3),
            given_up: true,
        },
        Request::Stop,
    ];
    let each = requests.iter().map(|request| vec![request.clone()]);
    let all = each.chain([requests.clone()]).map(|requests| RequestFrame {
        term: Term(7),
        requests,
    });
    all.map(|message| frame(&message)).collect()
}

fn answer_frames() -> Vec<Vec<u8>> {
    let answers = vec![Answer::Applied {
        change: ChangeId(3),
        generation: Generation(9),
        oldest: Generation(8),
    }];
    vec![frame(&AnswerFrame { answers })]
}

fn label() -> Vec<u8> {
    let label = |sequence| Label {
        pool: Uuid::from_u128(1),
        disk: Uuid::from_u128(2),
        size: ByteCount(8 << 20),
        extent_size: ExtentSize::DEFAULT,
        layout: 7,
        sequence,
        instance: Uuid::from_u128(3),
        copy: None,
    };
    [label(4).encode(), label(5).encode()].concat()
}

fn contents() -> Contents {
    let mut contents = Contents::default();
    contents.facts = Facts {
        directory: "/pool".into(),
        policy: "order".into(),
        ..Facts::default()
    };
    for edit in &edits()[..3] {
        contents.edit(edit.clone()).unwrap();
    }
    contents
}

/// Returns a slot with a checkpoint and a record.
fn slot() -> Vec<u8> {
    let (contents, position) = (contents(), Position::default());
    let identity = Identity {
        pool: Uuid::from_u128(1),
        disk: Uuid::from_u128(2),
        lineage: Uuid::from_u128(3),
    };
    let (header, body) = checkpoint(
        identity,
        1,
        position,
        &contents.body().unwrap(),
        64 * BLOCK as u64,
    )
    .unwrap();
    let later = &edits()[3..];
    let (record, _) = log::encode(header.chain(), position, &contents.facts, later.iter()).unwrap();
    [&header.encode()[..], &body, &record, &[0; BLOCK]].concat()
}

fn fuse_requests() -> Vec<Vec<u8>> {
    // Length, opcode, number, inode, user, group, process; then the body.
    let request = |opcode: u32, body: &[u8]| {
        let len = u32::try_from(40 + body.len()).unwrap();
        let head: [&[u8]; 5] = [
            &len.to_le_bytes(),
            &opcode.to_le_bytes(),
            &2_u64.to_le_bytes(),
            &1_u64.to_le_bytes(),
            &[0; 16],
        ];
        [&head.concat()[..], body].concat()
    };
    (1..=53)
        .flat_map(|opcode| [request(opcode, b"name\0other\0"), request(opcode, &[0; 80])])
        .collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let read = |file: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "requests" => request_frames(),
        "answers" => answer_frames(),
        "label" => vec![label()],
        "metadata" => vec![slot()],
        "metadata_body" => vec![contents().body().unwrap()],
        "description" => vec![read("mounts/pool.ron")],
        "configuration" => vec![read("mounts/apparatus.ron")],
        "size" => texts(&["1G", "512", "1.5 TiB", "64KiB", "0", "18446744073709551615"]),
        "proc" => texts(&[
            "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - fuse.apparatus a1 rw,user_id=0\n",
            "23 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22",
        ]),
        "fuse" => fuse_requests(),
        "supervisor" => (0..6_u32)
            .map(|verb| [&verb.to_le_bytes()[..], &[0; 20], b"text"].concat())
            .collect(),
        other => panic!("{other} has no seeds"),
    }
}

/// With `WRITE_SEEDS=DIR` the seeds are written there, as libFuzzer takes them: `DIR/TARGET/NUMBER`.
#[test]
fn every_target_accepts_its_seeds() {
    for target in TARGETS {
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty());
        for (number, seed) in seeds.iter().enumerate() {
            (target.run)(seed);
            if let Some(dir) = std::env::var_os("WRITE_SEEDS") {
                let dir = Path::new(&dir).join(target.name);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(number.to_string()), seed).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200_000))]

    #[test]
    fn no_target_finds_a_fault_in_damaged_input(
        target in prop::sample::select(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>()),
        seed in any::<Index>(),
        damages in vec(damage(), 0..8),
    ) {
        let seeds = seeds(target);
        let mut bytes = seeds[seed.index(seeds.len())].clone();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        super::run(target, &bytes);
    }

    #[test]
    fn no_target_finds_a_fault_in_any_bytes(
        target in prop::sample::select(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>()),
        bytes in vec(any::<u8>(), 0..400),
    ) {
        super::run(target, &bytes);
    }
}
