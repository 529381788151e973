use super::*;
use crate::cli::Cli;
use apparatus::model::names::Name;
use apparatus::model::units::JobId;
use clap::CommandFactory;

fn name(text: &str) -> Name {
    Name::new("thing", text).unwrap()
}

fn volumes() -> Vec<(Verb, &'static str)> {
    let new = NewVolume {
        name: name("db"),
        size: ByteCount(10 << 30),
        on: vec!["d1".into(), "@fast".into()],
        policy: Some(Policy::Pack),
        mode: 0o640,
        owner: Some("1000:7".into()),
        read_only: true,
    };
    vec![
        (
            Verb::CreateVolume(new),
            "volume create db 10G --on d1 --on @fast --policy pack --mode 0640 --owner 1000:7 --read-only",
        ),
        (
            Verb::ResizeVolume {
                volume: "v".into(),
                size: NewSize::By(ByteCount(1536)),
                on: vec!["d2".into()],
                policy: None,
                cut_off: true,
            },
            "volume resize v +1536 --on d2 --cut-off-users",
        ),
        (
            Verb::RenameVolume {
                volume: "v".into(),
                new: name("w"),
            },
            "volume rename v w",
        ),
        (
            Verb::SetVolume {
                volume: "v".into(),
                mode: Some(0o600),
                owner: Some("root".into()),
                read_only: Some(false),
                cut_off: false,
            },
            "volume set v --mode 0600 --owner root --read-write",
        ),
        (
            Verb::RemoveVolume {
                volume: "v".into(),
                cut_off: true,
            },
            "volume remove v --cut-off-users",
        ),
        (
            Verb::Attach {
                volume: "v".into(),
                apparatus: Some("a".into()),
                read_only: true,
                partitions: true,
            },
            "volume attach v --apparatus a --read-only --partitions",
        ),
    ]
}

fn moves() -> Vec<(Verb, &'static str)> {
    let request = moving::MoveRequest {
        volume: "v".into(),
        to: vec!["d2".into(), "@fast".into()],
        from: Some("d1".into()),
        range: Some((ByteCount(4097), None)),
        policy: Some(Policy::Spread),
    };
    let held = hold::HoldRequest {
        volumes: vec!["v".into()],
        range: Some((ByteCount(0), Some(ByteCount(1 << 30)))),
        writes_only: true,
    };
    vec![
        (Verb::Detach("v".into()), "volume detach v"),
        (
            Verb::Move {
                request,
                rate: Some(ByteCount(1_234_567)),
            },
            "volume move v --to d2 --to @fast --from d1 --range 4097.. --policy spread --rate 1234567",
        ),
        (
            Verb::Hold {
                request: held,
                time: Duration::from_micros(1_250_000),
            },
            "volume hold v --range 0..1G --requests writes --for 1250ms",
        ),
    ]
}

fn disks_and_jobs() -> Vec<(Verb, &'static str)> {
    let disk = NewDisk {
        path: "/mnt/a disk's.img".into(),
        name: Some(name("d3")),
        create: Some(ByteCount(1 << 40)),
        preallocate: true,
        tags: vec![name("fast"), name("near")],
        allocate: false,
        reserve: Some(ByteCount(1 << 20)),
    };
    let request = DiskRequest {
        disk: "d1".into(),
        name: Some(name("d9")),
        tag: vec![name("a")],
        untag: vec![name("b")],
        allocate: Some(true),
        reserve: Some(ByteCount(0)),
        path: Some("/dev/sdx".into()),
    };
    let job = JobId(3);
    vec![
        (
            Verb::AddDisk(disk),
            "disk add '/mnt/a disk'\\''s.img' --name d3 --create 1T --preallocate --tag fast --tag near --no-allocate --reserve 1M",
        ),
        (
            Verb::SetDisk(request),
            "disk set d1 --name d9 --tag a --untag b --allocate --reserve 0 --path /dev/sdx",
        ),
        (
            Verb::ResizeDisk {
                disk: "d1".into(),
                size: Some(ByteCount(1 << 30)),
            },
            "disk resize d1 1G",
        ),
        (
            Verb::Evacuate {
                disk: "d1".into(),
                to: vec!["d2".into()],
                use_reserve: true,
                rate: None,
            },
            "disk evacuate d1 --to d2 --use-reserve",
        ),
        (Verb::RemoveDisk("d1".into()), "disk remove d1"),
        (Verb::Pause(job), "job pause 3"),
        (Verb::Resume(job), "job resume 3"),
        (Verb::Cancel { job, back: true }, "job cancel 3 --roll-back"),
        (Verb::Rate { job, rate: None }, "job set 3 --rate none"),
    ]
}

fn apparatuses() -> Vec<(Verb, &'static str)> {
    let apparatus = NewApparatus {
        name: name("a"),
        mount: "/mnt/a".into(),
        threads: Some(4),
        allow_other: true,
    };
    vec![
        (
            Verb::Start(apparatus),
            "apparatus start a /mnt/a --threads 4 --allow-other",
        ),
        (
            Verb::Stop {
                name: "a".into(),
                cut_off: true,
                lose: vec!["d1".into()],
            },
            "apparatus stop a --cut-off-users --lose-disk d1",
        ),
        (
            Verb::Fence {
                name: "a".into(),
                cut_off: false,
                lose: Vec::new(),
            },
            "apparatus fence a",
        ),
        (
            Verb::Fence {
                name: "a".into(),
                cut_off: true,
                lose: Vec::new(),
            },
            "apparatus fence a --cut-off-users",
        ),
        (Verb::Rejoin("a".into()), "apparatus rejoin a"),
    ]
}

#[test]
fn a_verb_is_named_as_one_would_type_it() {
    for (verb, command) in volumes()
        .into_iter()
        .chain(moves())
        .chain(disks_and_jobs())
        .chain(apparatuses())
    {
        assert_eq!(verb.command(), command);
    }
}

/// The command line that is shown is valid.
#[test]
fn vctl_takes_each_of_these_command_lines() {
    for (verb, command) in volumes()
        .into_iter()
        .chain(moves())
        .chain(disks_and_jobs())
        .chain(apparatuses())
    {
        let words = ["vctl", "--pool", "/p"]
            .map(str::to_owned)
            .into_iter()
            .chain(verb.words());
        let parsed = Cli::command().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
    }
}
