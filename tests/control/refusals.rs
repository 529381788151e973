//! Bad input on the control socket is answered by name where possible, ends its own connection, and disturbs no other.

use crate::rig::{PATIENCE, Pool, name, until};
use apparatus::agent::server::Limits;
use apparatus::model::change::HoldMode;
use apparatus::model::error::ErrorKind;
use apparatus::model::records::Delta;
use apparatus::model::units::{ChangeId, Generation, Incarnation, Term};
use apparatus::rpc::client::ask;
use apparatus::rpc::frame::{CAP, GREETING_CAP};
use apparatus::rpc::message::{Answer, Refusal, Request, VERSION};
use apparatus::rpc::written::Written;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use uuid::Uuid;

fn refusal(answers: &[Answer]) -> &Refusal {
    match answers {
        [Answer::Refused { refusal, .. }] => refusal,
        other => panic!("one refusal was due, not {other:?}"),
    }
}

fn release(change: ChangeId) -> Request {
    Request::Release {
        change,
        given_up: false,
    }
}

fn hold(change: u64, incarnation: Incarnation) -> Request {
    Request::Hold {
        change: ChangeId(change),
        spans: Vec::new(),
        mode: HoldMode::All,
        drain_us: 1_000_000,
        deadline_us: 10_000_000,
        incarnation,
        disks: Vec::new(),
    }
}

#[test]
fn garbage_is_answered_as_malformed_and_the_others_are_served_on() {
    let pool = Pool::new();
    let _apparatus = pool.apparatus("a");
    let mut other = pool.greeted("a");
    for garbage in [
        &b"\x07\0\0\0garbage"[..],
        b"\0\0\0\0",
        b"\x02\0\0\0\xff\xff",
        b"\x14\0\0\0(term:0,requests:[X])",
    ] {
        let mut raw = pool.connect("a");
        raw.bytes(garbage);
        assert!(matches!(refusal(&raw.last_words()), Refusal::Malformed(_)));
        let mut greeted = pool.greeted("a");
        greeted.bytes(garbage);
        assert!(matches!(refusal(&greeted.last_words()), Refusal::Malformed(_)));
    }
    assert!(matches!(other.ask(Term(0), Request::Status), Answer::Status(_)));
}

#[test]
fn a_frame_that_is_too_long_is_refused_by_its_length_alone() {
    let pool = Pool::new();
    let _apparatus = pool.apparatus("a");
    let mut raw = pool.connect("a");
    raw.bytes(&u32::try_from(GREETING_CAP + 1).unwrap().to_le_bytes());
    assert!(matches!(refusal(&raw.last_words()), Refusal::Malformed(why) if why.contains("more than")));
    let mut greeted = pool.greeted("a");
    greeted.bytes(&u32::try_from(CAP + 1).unwrap().to_le_bytes());
    assert!(matches!(refusal(&greeted.last_words()), Refusal::Malformed(why) if why.contains("more than")));
}

#[test]
fn the_first_word_is_hello_for_this_version_and_this_pool() {
    let pool = Pool::new();
    let _apparatus = pool.apparatus("a");
    let refused = |request| {
        let mut raw = pool.connect("a");
        raw.send(Term(0), vec![request, Request::Stop]);
        refusal(&raw.last_words()).clone()
    };
    assert_eq!(refused(Request::Status), Refusal::NoHello);
    assert_eq!(
        refused(Request::Hello {
            version: VERSION + 1,
            pool: pool.uuid
        }),
        Refusal::Version(VERSION)
    );
    let foreign = Request::Hello {
        version: VERSION,
        pool: Uuid::from_u128(7),
    };
    assert_eq!(refused(foreign), Refusal::Pool(pool.uuid));
}

#[test]
fn a_partial_frame_and_a_silent_connection_are_ended_in_time() {
    let pool = Pool::new();
    let limits = Limits {
        // Long enough for a connection that greets on a busy machine.
        partial: Duration::from_secs(3),
        ..Limits::default()
    };
    let _apparatus = pool.apparatus_with("a", limits);
    let silent = pool.connect("a");
    assert!(
        matches!(refusal(&silent.last_words()), Refusal::Malformed(why) if why.contains("no complete frame came"))
    );
    let mut partial = pool.greeted("a");
    partial.bytes(&[20, 0]);
    assert!(
        matches!(refusal(&partial.last_words()), Refusal::Malformed(why) if why.contains("no complete frame came"))
    );
    let mut idle = pool.greeted("a");
    let mut another = pool.greeted("a");
    another.bytes(&[20, 0]);
    refusal(&another.last_words());
    assert!(
        matches!(idle.ask(Term(0), Request::Status), Answer::Status(_)),
        "greeted and idle is allowed"
    );
}

#[test]
fn there_are_so_many_connections_and_no_more() {
    let pool = Pool::new();
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let _apparatus = pool.apparatus_with("a", limits);
    let mut three: Vec<_> = (0..3).map(|_| pool.greeted("a")).collect();
    assert_eq!(refusal(&pool.connect("a").last_words()), &Refusal::TooMany);
    assert!(matches!(
        three[0].ask(Term(0), Request::Status),
        Answer::Status(_)
    ));
    three.pop();
    until("a place is free again", || {
        let mut raw = pool.connect("a");
        matches!(
            raw.ask(
                Term(0),
                Request::Hello {
                    version: VERSION,
                    pool: pool.uuid
                }
            ),
            Answer::Welcome { .. }
        )
    });
}

#[test]
fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root can act as another user");
        return;
    }
    let pool = Pool::new();
    let _apparatus = pool.apparatus("a");
    let socket = pool.dir.socket(&name("a"));
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::metadata(pool.dir.run()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    // The files' modes keep other users out already; this tests the check behind them.
    for open in socket
        .ancestors()
        .take_while(|path| *path != std::env::temp_dir())
    {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let script = "import socket, sys, os\n\
        os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdout.buffer.write(s.makefile('rb').read())";
    let child = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&socket)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(text.contains("User(65534)"), "{text:?}");
}

#[test]
fn a_lower_term_is_refused_and_changes_nothing() {
    let pool = Pool::new();
    let apparatus = pool.apparatus("a");
    let life = pool.member("a").incarnation;
    let mut raw = pool.greeted("a");
    assert_eq!(
        raw.ask(Term(5), hold(1, life)),
        Answer::Held {
            change: ChangeId(1),
            written: Written::All
        }
    );
    for request in [hold(2, life), release(ChangeId(1))] {
        let answer = raw.ask(Term(4), request);
        assert!(
            matches!(
                answer,
                Answer::Refused {
                    refusal: Refusal::StaleTerm(Term(5)),
                    ..
                }
            ),
            "{answer:?}"
        );
    }
    assert_eq!(apparatus.path.holds(), 1);
}

#[test]
fn requests_may_be_repeated() {
    let pool = Pool::new();
    let apparatus = pool.apparatus("a");
    let mut store = pool.store();
    let term = store.raise_term().unwrap();
    let change = crate::rig::change("nothing", Vec::new());
    let from = store.header().unwrap().generation;
    let change = apparatus::model::change::NewChange {
        delta: Delta {
            from,
            edits: Vec::new(),
        },
        ..change
    };
    let id = store.prepare(term, &change).unwrap();
    let life = pool.member("a").incarnation;
    let mut raw = pool.greeted("a");
    for _ in 0..2 {
        assert_eq!(
            raw.ask(term, hold(id.0, life)),
            Answer::Held {
                change: id,
                written: Written::All
            }
        );
    }
    let (version, _) = store.members().unwrap();
    store.commit(term, id, version).unwrap();
    let apply = Request::Apply {
        change: id,
        generation: from.next(),
        delta: change.delta.clone(),
    };
    raw.send(term, vec![apply.clone(), apply]);
    for _ in 0..2 {
        assert!(matches!(raw.answer(), Answer::Applied { generation, .. } if generation == from.next()));
    }
    assert_eq!(apparatus.path.applied.lock().unwrap().len(), 1);
    raw.send(term, vec![release(id), release(id)]);
    assert!(matches!(raw.answer(), Answer::Released { .. }));
    assert!(matches!(raw.answer(), Answer::Released { .. }));
    assert_eq!(apparatus.path.holds(), 0);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let pool = Pool::new();
    let apparatus = pool.apparatus("a");
    let mut raw = pool.greeted("a");
    let answer = raw.ask(Term(1), hold(1, Incarnation(77)));
    assert!(
        matches!(
            answer,
            Answer::Refused {
                refusal: Refusal::Incarnation(_),
                ..
            }
        ),
        "{answer:?}"
    );
    let delta = Delta {
        from: Generation(0),
        edits: Vec::new(),
    };
    let apply = Request::Apply {
        change: ChangeId(9),
        generation: Generation(9),
        delta,
    };
    let answer = raw.ask(Term(1), apply);
    assert!(
        matches!(
            answer,
            Answer::Refused {
                refusal: Refusal::NotHeld,
                ..
            }
        ),
        "{answer:?}"
    );
    assert_eq!(apparatus.path.holds(), 0);
}

#[test]
fn one_question_is_asked_and_answered() {
    let pool = Pool::new();
    let one = |request| ask(&pool.dir, pool.uuid, &name("a"), request, PATIENCE);
    assert_eq!(one(Request::Status).unwrap_err().kind(), ErrorKind::NotFound);
    let apparatus = pool.apparatus("a");
    let Answer::Status(figures) = one(Request::Status).unwrap() else {
        panic!("figures were due")
    };
    assert_eq!((figures.name.as_str(), figures.threads), ("a", 3));
    assert_eq!(figures.pid, std::process::id());
    assert_eq!(figures.incarnation, pool.member("a").incarnation);
    let foreign = ask(
        &pool.dir,
        Uuid::from_u128(7),
        &name("a"),
        Request::Status,
        PATIENCE,
    )
    .unwrap_err();
    assert!(foreign.to_string().contains("another pool"), "{foreign}");
    assert_eq!(
        one(Request::Quiesce { wait_us: 0 }).unwrap(),
        Answer::Quiesced {
            oldest: figures.generation
        }
    );
    assert_eq!(one(Request::Stop).unwrap(), Answer::Accepted);
    assert!(apparatus.path.stopped.load(std::sync::atomic::Ordering::SeqCst));
    drop(apparatus);
    assert!(!pool.dir.socket(&name("a")).exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_long_path_is_no_matter() {
    let pool = Pool::new();
    let long = apparatus::model::dir::PoolDir::new(pool.dir.path().join("x".repeat(120)));
    std::fs::create_dir_all(long.run()).unwrap();
    let who = name(&"n".repeat(100));
    for _ in 0..2 {
        let cluster = apparatus::cluster::open(&long).unwrap();
        let claim = cluster.claim(who.as_str()).unwrap().unwrap();
        let listener = apparatus::rpc::Listener::bind(&long, &who, &*claim).unwrap();
        // The file of an apparatus that died stays.
        std::mem::forget(listener);
        assert!(long.socket(&who).exists());
    }
}
