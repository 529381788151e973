//! Two machines that mirror one log which loses answers, is away or is trimmed.

use super::*;
use crate::model::dir::PoolDir;
use crate::model::event::{Event, Severity};
use crate::model::member::Joiner;
use crate::model::names::Name;
use crate::model::node::Node;
use crate::model::units::{CacheEpoch, ExtentSize, Term, Timestamp};
use crate::store::journal::shared::{SharedLog, Trouble};
use crate::store::roles::*;
use crate::store::sqlite::SqliteStore;
use std::fs;
use tempfile::TempDir;

struct Machines {
    scratch: TempDir,
    log: SharedLog,
}

const EPOCH: CacheEpoch = CacheEpoch(Uuid::from_u128(1));

impl Machines {
    fn new() -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let machines = Self {
            scratch,
            log: SharedLog::default(),
        };
        SqliteStore::create(&machines.dir("a"), ExtentSize::MIN).unwrap();
        machines.open("a").begin_log().unwrap();
        machines
    }

    fn dir(&self, name: &str) -> PoolDir {
        PoolDir::new(self.scratch.path().join(name))
    }

    fn join(&self, name: &str) -> SqliteStore {
        SqliteStore::join(&self.dir(name), Box::new(self.log.clone())).unwrap();
        self.open(name)
    }

    fn open(&self, name: &str) -> SqliteStore {
        SqliteStore::open_mirror(&self.dir(name), EPOCH, Box::new(self.log.clone())).unwrap()
    }
}

fn log_event(store: &mut SqliteStore, text: &str) -> Result<()> {
    store.log(Severity::Info, "test", text)
}

fn texts(store: &mut SqliteStore) -> Vec<String> {
    let events: Vec<Event> = store.events(0, 100).unwrap();
    events.into_iter().map(|event| event.text).collect()
}

/// Returns all rows of a machine's copy, without asking the log.
fn rows(store: &mut SqliteStore) -> Vec<u8> {
    let mirror = store.mirror.as_ref().unwrap();
    mirror.capture.all(&store.connection).unwrap()
}

#[test]
fn what_one_machine_writes_the_others_read() {
    let machines = Machines::new();
    let (mut a, mut b) = (machines.open("a"), machines.join("b"));
    log_event(&mut a, "one").unwrap();
    log_event(&mut b, "two").unwrap();
    log_event(&mut a, "three").unwrap();
    assert_eq!(texts(&mut b), ["one", "two", "three"]);
    assert_eq!(texts(&mut a), ["one", "two", "three"]);
    assert_eq!(rows(&mut a), rows(&mut b));
}

#[test]
fn an_answer_that_is_lost_is_found_in_the_log() {
    let machines = Machines::new();
    let (mut a, mut b) = (machines.open("a"), machines.join("b"));
    machines.log.plan(Trouble::LosesAnswer);
    log_event(&mut a, "one").unwrap();
    assert_eq!(texts(&mut b), ["one"]);
    assert_eq!(texts(&mut a), ["one"]);
}

#[test]
fn an_entry_that_arrives_late_competes_with_the_next() {
    let machines = Machines::new();
    let (mut a, mut b) = (machines.open("a"), machines.join("b"));
    machines.log.plan(Trouble::Delays);
    let error = log_event(&mut a, "late").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.why().contains("unknown whether"), "{error}");
    log_event(&mut b, "next").unwrap();
    assert_eq!(
        texts(&mut a),
        ["next"],
        "the late entry was not accepted behind it"
    );
    assert_eq!(rows(&mut a), rows(&mut b));
}

#[test]
fn without_the_log_nothing_is_written_and_what_is_known_is_read() {
    let machines = Machines::new();
    let mut a = machines.open("a");
    log_event(&mut a, "one").unwrap();
    machines.log.plan(Trouble::Away);
    assert_eq!(log_event(&mut a, "two").unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(texts(&mut a), ["one"]);
    machines.log.plan(Trouble::None);
    log_event(&mut a, "three").unwrap();
    assert_eq!(texts(&mut a), ["one", "three"]);
}

#[test]
fn a_machine_that_died_before_it_wrote_its_copy_catches_up() {
    let machines = Machines::new();
    let mut a = machines.open("a");
    log_event(&mut a, "one").unwrap();
    let dir = machines.dir("a");
    let files = ["pool.db", "pool.db-wal"].map(|name| dir.path().join(name));
    let before = files.clone().map(|file| fs::read(file).unwrap());
    log_event(&mut a, "two").unwrap();
    drop(a);
    fs::remove_file(dir.path().join("pool.db-shm")).unwrap();
    for (file, content) in files.iter().zip(before) {
        fs::write(file, content).unwrap();
    }
    let mut a = machines.open("a");
    log_event(&mut a, "three").unwrap();
    assert_eq!(texts(&mut a), ["one", "two", "three"]);
}

#[test]
fn a_machine_that_is_far_behind_begins_with_the_base() {
    let machines = Machines::new();
    let (mut a, mut b) = (machines.open("a"), machines.join("b"));
    for at in 0..20 {
        log_event(&mut a, &format!("event {at}")).unwrap();
    }
    machines.log.keep(10);
    a.mirror.as_mut().unwrap().trim(&mut a.connection).unwrap();
    assert_eq!(machines.log.len(), 0);
    log_event(&mut a, "last").unwrap();
    assert_eq!(texts(&mut b).len(), 21);
    let mut c = machines.join("c");
    assert_eq!(rows(&mut a), rows(&mut b));
    assert_eq!(rows(&mut a), rows(&mut c));
    // Each machine has kept its own directory.
    b.own().unwrap();
    assert_eq!(b.copied_from().unwrap(), None);
}

#[test]
fn an_older_log_is_refused() {
    let machines = Machines::new();
    let mut a = machines.open("a");
    for text in ["one", "two", "three"] {
        log_event(&mut a, text).unwrap();
    }
    machines.log.forget(2);
    let mut b = machines.join("b");
    log_event(&mut b, "other").unwrap();
    log_event(&mut b, "another").unwrap();
    log_event(&mut b, "more").unwrap();
    let error = log_event(&mut a, "four").unwrap_err();
    assert!(error.why().contains("not a copy of this log"), "{error}");
    assert!(log_event(&mut b, "four").is_ok());
}

#[test]
fn a_refusal_is_given_on_the_newest_state_only() {
    let machines = Machines::new();
    let (mut a, mut b) = (machines.open("a"), machines.join("b"));
    let term = a.raise_term().unwrap();
    // This machine's copy does not have the new term yet, and refuses only what the newest one refuses.
    let found = b.write(|db| {
        let known: u64 = db.query_row("SELECT term FROM pool", [], |row| row.get(0))?;
        match known == term.0 {
            true => Ok(known),
            false => Err(Error::new(ErrorKind::Stale, "term", "is not known yet")),
        }
    });
    assert_eq!(found.unwrap(), term.0);
}

#[test]
fn the_columns_of_the_metadata_are_integers_and_text() {
    let machines = Machines::new();
    let a = machines.open("a");
    let sql = "SELECT count(*) FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
               WHERE tables.type = 'table' AND columns.type NOT IN ('INTEGER', 'TEXT')
               AND tables.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let others: u64 = a.connection.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(others, 0);
    let keys = "SELECT count(*) FROM sqlite_schema AS tables WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
                AND NOT EXISTS (SELECT 1 FROM pragma_table_info(tables.name) WHERE pk > 0)";
    let without_key: u64 = a.connection.query_row(keys, [], |row| row.get(0)).unwrap();
    assert_eq!(without_key, 0);
}

#[test]
fn joining_and_fencing_set_the_keys_that_renewals_are_decided_by() {
    let machines = Machines::new();
    let mut a = machines.open("a");
    let node = |name: &str| Node {
        name: Name::new("node", name).unwrap(),
        machine: name.into(),
        epoch: EPOCH,
        certificate: name.into(),
        address: None,
        program: "1".into(),
        since: Timestamp(0),
    };
    a.set_node(&node("n1")).unwrap();
    assert_eq!(machines.log.key("nodes").unwrap(), "n1");
    let joiner = Joiner {
        node: Some(Name::new("node", "n1").unwrap()),
        ..Joiner::new(&Name::new("apparatus", "a1").unwrap(), 1, "/m")
    };
    let joined = a.join(&joiner, &|_| false).unwrap().member;
    let key = format!("member/{}", joined.slot);
    let value = |state: &str, life: u64| format!("{state} {life} n1");
    let life = joined.incarnation.0;
    assert_eq!(machines.log.key(&key), Some(value("joined", life)));
    a.set_node(&Node {
        since: Timestamp(1),
        ..node("n2")
    })
    .unwrap();
    assert_eq!(machines.log.key("nodes").unwrap(), "n1 n2");
    // A fence by another machine whose answer is lost sets the key nevertheless, with its entry.
    let mut b = machines.join("b");
    machines.log.plan(Trouble::LosesAnswer);
    b.fence(Term(0), joined.slot, joined.incarnation).unwrap();
    assert_eq!(machines.log.key(&key), Some(value("fenced", life)));
    let rejoined = a.rejoin(joined.slot, joined.incarnation, None).unwrap().member;
    assert_eq!(
        machines.log.key(&key),
        Some(value("joined", rejoined.incarnation.0))
    );
    a.leave(joined.slot, rejoined.incarnation).unwrap();
    assert_eq!(
        machines.log.key(&key),
        Some(value("left", rejoined.incarnation.0))
    );
    a.remove_node(&Name::new("node", "n2").unwrap()).unwrap();
    assert_eq!(machines.log.key("nodes").unwrap(), "n1");
    // What concerns no member sets no key.
    log_event(&mut a, "text").unwrap();
    assert_eq!(derived::keys(&a.connection, b"i\tevents\t[1]\n").unwrap(), []);
}

/// Else two controllers would have one term.
#[test]
fn an_entry_of_another_machine_is_not_taken_for_ones_own_whose_answer_was_lost() {
    let machines = Machines::new();
    let mut a = machines.open("a");
    let before = a.header().unwrap().term;
    machines.log.plan(Trouble::Overtakes);
    assert_eq!(
        a.raise_term().unwrap(),
        Term(before.0 + 2),
        "the other has the one between"
    );
}
