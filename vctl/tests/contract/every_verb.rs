//! Every verb, one row each: the properties of all verbs, checked for each of them. A verb without a row fails the first test.

use crate::locale::Comma;
use crate::support::{Pool, finish, vctl, write};
use std::collections::BTreeSet;

/// The properties of a verb beyond its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It changes something, and can be rehearsed by `--dry-run`.
    Changes,
    /// It prints a table with columns, order and headings.
    Table,
    /// It prints something else.
    Shows,
}
use Kind::{Changes, Shows, Table};

/// Verbs without output for scripts.
const INTERACTIVE: &[&str] = &["console", "demo", "completions", "man"];

/// Verbs that show what runs on the machine, other tests included.
const OF_THE_MACHINE: &[&str] = &["pool list"];

/// The words of a verb that work on the pool of [`scene`], and the exit status (of a rehearsal, if there is one). `FILE` and `NEW` are
/// paths beside the pool.
const VERBS: &[(&str, Kind, i32)] = &[
    ("pool create", Changes, 1),
    ("pool show", Shows, 0),
    ("pool set --policy pack", Changes, 0),
    ("pool check", Shows, 0),
    ("pool backup NEW", Changes, 0),
    ("pool backup list", Table, 0),
    ("pool restore FILE.backup --yes", Changes, 0),
    ("pool import NEW", Changes, 1),
    ("pool export", Changes, 1),
    (
        "pool join etcd://127.0.0.1:1 --uuid 5f0c0000-0000-4000-8000-000000000000 --node n1",
        Changes,
        1,
    ),
    ("pool adopt", Changes, 0),
    ("pool rescue", Changes, 1),
    (
        "pool tls init NEW --name n1",
        Changes,
        if cfg!(feature = "etcd") { 0 } else { 1 },
    ),
    ("pool apply FILE.ron", Changes, 0),
    ("pool dump", Shows, 0),
    ("pool destroy", Changes, 0),
    ("disk add NEW --create 16M", Changes, 0),
    ("disk list", Table, 0),
    ("disk show d1", Shows, 0),
    ("disk set d1 --tag x", Changes, 0),
    ("disk resize d1 128M", Changes, 0),
    ("disk evacuate d1", Changes, 0),
    ("disk revert d1 --yes", Changes, 1),
    ("disk label d1", Changes, 0),
    ("disk clear d1", Changes, 0),
    ("disk remove d2", Changes, 0),
    ("volume create w 1M", Changes, 0),
    ("volume list", Table, 0),
    ("volume show v", Shows, 0),
    ("volume map v", Table, 0),
    ("volume resize v +1M", Changes, 0),
    ("volume rename v w", Changes, 0),
    ("volume set v --mode 644", Changes, 0),
    ("volume remove v", Changes, 0),
    ("volume undelete w", Changes, 3),
    ("volume move v --to d2", Changes, 0),
    ("volume move v --to @fast --to d2 --policy spread", Changes, 0),
    ("volume attach v", Changes, 1),
    ("volume detach v", Changes, 3),
    ("volume hold v", Changes, 0),
    ("apparatus start b NEW", Changes, 0),
    ("apparatus stop a", Changes, 3),
    ("apparatus upgrade a", Changes, 3),
    ("apparatus list", Table, 0),
    ("apparatus show a", Shows, 3),
    ("apparatus fence a", Changes, 3),
    ("apparatus rejoin a", Shows, 3),
    ("node list", Table, 0),
    ("node show n1", Shows, 3),
    ("node remove n1", Changes, 3),
    ("job list", Table, 0),
    ("job show 1", Table, 0),
    ("job wait 1", Shows, 0),
    ("job pause 1", Changes, 1),
    ("job resume 1", Changes, 1),
    ("job cancel 1", Changes, 1),
    ("job set 1 --rate 1M", Changes, 1),
    ("status", Shows, 0),
    ("events", Table, 0),
    ("history", Table, 0),
    ("metrics", Shows, 0),
];

/// Creates a pool with two disks, a volume, a completed job, a backup and a description; no apparatus serves it.
fn scene() -> Pool {
    let pool = Pool::with_volume();
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    pool.run(["volume", "move", "v", "--to", "d1"]).ok();
    pool.run(["pool", "backup", &pool.file("FILE.backup")]).ok();
    let dump = pool.run(["pool", "dump"]).ok().out;
    write(&pool.path("FILE.ron"), dump.replace("8MiB", "9MiB").as_bytes());
    pool
}

fn words(pool: &Pool, verb: &str) -> Vec<String> {
    let path = |word: &str| word.starts_with("FILE") || word == "NEW";
    let word = |word: &str| match path(word) {
        true => pool.file(word),
        false => word.to_owned(),
    };
    verb.split(' ').map(word).collect()
}

fn rehearsed(pool: &Pool, verb: &str, kind: Kind) -> Vec<String> {
    let mut words = words(pool, verb);
    words.extend((kind == Changes).then(|| "--dry-run".to_owned()));
    words
}

/// Collects all verbs that help lists, as `noun verb`.
fn known(noun: &[String], found: &mut BTreeSet<String>) {
    let help = finish(vctl().args(noun).arg("--help").spawn().unwrap()).ok().out;
    let names = crate::help::listed(&help);
    // This verb has an argument or a verb below it.
    if names.is_empty() || noun == ["pool", "backup"] {
        found.insert(noun.join(" "));
    }
    for name in names {
        known(&[noun, &[name]].concat(), found);
    }
}

fn name(verb: &str) -> String {
    let alone = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
    let count = if ["status", "events", "history", "metrics"]
        .iter()
        .any(|one| verb.starts_with(one))
    {
        1
    } else if verb == "pool backup list" || verb.starts_with("pool tls") {
        3
    } else {
        2
    };
    verb.split(' ')
        .take(count)
        .filter(alone)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn has_a_row() {
    let mut verbs = BTreeSet::new();
    known(&[], &mut verbs);
    let rows: BTreeSet<String> = VERBS.iter().map(|(verb, ..)| name(verb)).collect();
    let without: Vec<_> = verbs
        .iter()
        .filter(|verb| !rows.contains(*verb))
        .filter(|verb| !INTERACTIVE.contains(&verb.as_str()) && !OF_THE_MACHINE.contains(&verb.as_str()))
        .collect();
    assert!(without.is_empty(), "no row for {without:?}");
    assert!(rows.is_subset(&verbs), "{:?}", rows.difference(&verbs));
}

#[test]
fn errors_name_the_accepted_values() {
    for (verb, kind, _) in VERBS {
        let name = name(verb);
        let help = finish(vctl().args(name.split(' ')).arg("--help").spawn().unwrap())
            .ok()
            .out;
        let options: &[&str] = match kind {
            Changes => &["--dry-run"],
            Table => &["-o", "--sort", "--no-headings"],
            Shows => &[],
        };
        for option in options.iter().chain(&["--json", "--bytes", "--pool"]) {
            assert!(help.contains(option), "{name}: no {option}");
        }
        assert!(!help.contains("--force"), "{name}");
    }
}

/// Each verb prints one object, the same in a locale with a decimal comma, changes nothing in a rehearsal, and asks no question.
#[test]
fn gives_one_object_and_a_rehearsal_changes_nothing() {
    let pool = scene();
    let before = pool.state();
    let comma = Comma::new();
    for (verb, kind, status) in VERBS {
        let words = rehearsed(&pool, verb, *kind);
        let mut json = words.clone();
        json.push("--json".into());
        let plain = pool.run(&json).ended(*status);
        plain.json();
        assert!(plain.err.is_empty() || *status != 0, "{plain:#?}");
        let mut german = pool.command(&json);
        comma.set(&mut german);
        let german = finish(german.spawn().unwrap()).ended(*status);
        // These figures grow from one call to the next.
        if *verb != "metrics" {
            assert_eq!(german.out, plain.out, "{verb}");
        }
        let interactive = pool.run(&words).ended(*status);
        assert!(!interactive.out.contains('\x1b'), "{interactive:#?}");
        if *status != 0 {
            interactive.complains(&[]);
        }
        assert_eq!(pool.state(), before, "{verb}");
    }
}

#[test]
fn refuses_unknown_values() {
    let pool = scene();
    let before = pool.state();
    let none = Pool::absent();
    for (verb, ..) in VERBS {
        let mut unknown = words(&pool, verb);
        unknown.push("--no-such-option".into());
        pool.run(&unknown).ended(2).complains(&["--no-such-option"]);
        let without_pool = [
            "pool create",
            "pool apply",
            "pool restore",
            "pool import",
            "pool join",
            "pool tls init",
        ];
        if !without_pool.contains(&name(verb).as_str()) {
            none.run(words(&pool, verb)).ended(3).complains(&["pool"]);
        }
        assert!(!none.pool_dir().exists(), "{verb}");
    }
    assert_eq!(pool.state(), before);
}

#[test]
fn is_quiet_when_its_reader_went_away() {
    let pool = scene();
    for (verb, kind, status) in VERBS.iter().filter(|(_, _, status)| *status == 0) {
        let mut child = pool.command(rehearsed(&pool, verb, *kind)).spawn().unwrap();
        drop(child.stdout.take());
        let output = finish(child);
        assert_eq!((output.status, output.err.as_str()), (*status, ""), "{verb}");
    }
}

#[test]
fn prints_tables_as_asked_for() {
    let pool = scene();
    for (verb, ..) in VERBS.iter().filter(|(_, kind, _)| *kind == Table) {
        let words = words(&pool, verb);
        let with = |more: &[&str]| {
            let more = more.iter().map(|word| (*word).to_owned());
            let all: Vec<String> = words.iter().cloned().chain(more).collect();
            pool.run(all)
        };
        with(&["-o", "nonsense"]).ended(2).complains(&["nonsense"]);
        with(&["--sort", "nonsense"]).ended(2).complains(&["nonsense"]);
        let headed = with(&[]).ok().out.lines().count();
        assert_eq!(
            with(&["--no-headings"]).ok().out.lines().count(),
            headed - 1,
            "{verb}"
        );
    }
}
