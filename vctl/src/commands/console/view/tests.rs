//! The screen at the sizes people have, from made-up pools.

use super::super::model::dialog::{Dialog, Preview};
use super::super::model::{Effect, Event, JobLook, Model, PoolLook, Pulse, Tab};
use super::super::verb::Verb;
use super::{Theme, render};
use apparatus::ops::apparatus::{State, View};
use apparatus::ops::status::{Finding, Kind, Status};
use apparatus::ops::view::{DiskView, PoolView, Usage, VolumeView};
use apparatus::ops::{job, moving};
use apparatus::pool::holds::Holds;
use apparatus::pool::model::{Area, DiskRecord, Instance, PoolHeader, Segment, VolumeRecord};
use apparatus::pool::names::Name;
use apparatus::store::{
    self, JobKind, JobLimits, JobRecord, JobState, Member, MemberState, Progress, Severity, Step,
};
use apparatus::units::{
    ByteCount, DiskExtent, DiskId, ExtentSize, Generation, Incarnation, JobId, MembershipVersion, Slot, Term,
    Timestamp, VolumeExtent, VolumeId,
};
use apparatus::wire::message::{Figures, IoFigures, Latency};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use uuid::Uuid;

const PLAIN: Theme = Theme {
    colour: false,
    unicode: false,
};

fn name(text: &str) -> Name {
    Name::new("thing", text).unwrap()
}

fn disk(id: u32, text: &str, allocate: bool) -> DiskView {
    let mib = |count: u64| ByteCount(count << 20);
    DiskView {
        record: DiskRecord {
            id: DiskId(id),
            name: name(text),
            uuid: Uuid::nil(),
            path: format!("/disks/{text}.img").into(),
            extents: 64,
            tags: [name("fast")].into(),
            allocate,
            reserve: 0,
            label: 0,
        },
        usage: Usage {
            size: mib(64),
            used: mib(33),
            reserved: mib(8),
            quarantined: mib(2),
            free: mib(21),
            largest_free: mib(20),
        },
        volumes: 1,
    }
}

fn segment(start: u64, disk: u32, len: u64) -> Segment {
    Segment {
        start: VolumeExtent(start),
        home: Area {
            disk: DiskId(disk),
            start: DiskExtent(start + 1),
            len,
        },
    }
}

fn volume() -> VolumeView {
    VolumeView {
        record: VolumeRecord {
            id: VolumeId(1),
            name: name("vm"),
            size: ByteCount(32 << 20),
            mode: 0o600,
            uid: 0,
            gid: 0,
            read_only: false,
        },
        segments: vec![segment(0, 2, 8), segment(8, 1, 24)],
        on: vec![
            (name("d1"), ByteCount(24 << 20)),
            (name("d2"), ByteCount(8 << 20)),
        ],
    }
}

fn moving_job(state: JobState) -> JobLook {
    let record = JobRecord {
        id: JobId(7),
        kind: JobKind::Move { volume: VolumeId(1) },
        state,
        limits: JobLimits::default(),
        back: false,
        title: "volume move vm --to d2".into(),
        created: Timestamp(0),
        ended: None,
        copied: ByteCount(8 << 20),
        longest_hold_us: 1_400,
        held: 12,
        holds: Holds::default(),
        progress: Progress::default(),
        why: String::new(),
    };
    let step = Step {
        volume: VolumeId(1),
        from: segment(0, 1, 32),
        to: segment(0, 2, 32).home,
        done: 8,
    };
    JobLook {
        view: job::View {
            record,
            steps: vec![step],
            abandoned: false,
            subject: "volume vm".into(),
            done: ByteCount(8 << 20),
            total: ByteCount(32 << 20),
        },
        phase: "waits for the controller that acts: volume hold by pid 77".into(),
    }
}

fn look(at_us: u64) -> PoolLook {
    PoolLook {
        at_us,
        view: PoolView {
            header: PoolHeader {
                uuid: Uuid::nil(),
                extent_size: ExtentSize::DEFAULT,
                generation: Generation(41),
                layout: 0,
                membership: MembershipVersion(0),
                term: Term(3),
                instance: Instance::default(),
            },
            disks: vec![disk(1, "d1", false), disk(2, "d2", true)],
            volumes: vec![volume()],
        },
        jobs: vec![moving_job(JobState::Running)],
        controller: None,
        events: vec![store::Event {
            seq: 1,
            at: Timestamp(0),
            severity: Severity::Warning,
            subject: "disk d1".into(),
            text: "slow\u{1b}[2J".into(),
        }],
    }
}

fn serving(uptime_us: u64, reads: u64) -> View {
    let io = IoFigures {
        reads,
        read_bytes: reads * 4096,
        read_latency: Latency {
            sum_us: 0,
            counts: vec![0, 0, reads],
        },
        ..IoFigures::default()
    };
    View {
        member: Member {
            slot: Slot(0),
            name: name("a1"),
            incarnation: Incarnation(1),
            state: MemberState::Joined,
            pid: 4242,
            mount: "/mnt/a1".into(),
            joined_at: Generation(1),
            since: Timestamp(0),
            origin: None,
        },
        state: State::Serving,
        figures: Some(Figures {
            name: "a1".into(),
            pid: 4242,
            uptime_us,
            generation: Generation(41),
            in_flight: 3,
            parked: 2,
            volumes: [("vm".to_owned(), io)].into(),
            ..Figures::default()
        }),
        fault: None,
    }
}

fn pulse(uptime_us: u64, reads: u64) -> Pulse {
    Pulse {
        apparatuses: vec![serving(uptime_us, reads)],
        status: Status {
            findings: vec![Finding {
                kind: Kind::DiskFault,
                severity: Severity::Error,
                subject: "disk d1".into(),
                text: "cannot be opened".into(),
                next: Some("vctl pool check".into()),
            }],
            usage: Usage::default(),
            disks: 2,
            volumes: 1,
            serving: (1, 1),
            jobs: 1,
            controller: None,
        },
        usage: std::collections::BTreeMap::new(),
    }
}

fn model() -> Model {
    let mut model = Model::new("/pools/p".into());
    model.update(Event::Pool(Box::new(look(1_000_000))));
    let mut later = look(2_000_000);
    later.jobs[0].view.done = ByteCount(12 << 20);
    later.events.clear();
    model.update(Event::Pool(Box::new(later)));
    model.update(Event::Pulse(Box::new(pulse(1_000_000, 100))));
    model.update(Event::Pulse(Box::new(pulse(2_000_000, 350))));
    model
}

fn press(model: &mut Model, code: KeyCode) -> Vec<Effect> {
    model.update(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn type_in(model: &mut Model, text: &str) -> Vec<Effect> {
    text.chars()
        .flat_map(|letter| press(model, KeyCode::Char(letter)))
        .collect()
}

fn drawn(model: &Model, theme: Theme, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| render(model, theme, frame)).unwrap();
    terminal
}

fn screen(model: &Model, width: u16, height: u16) -> String {
    drawn(model, PLAIN, width, height).backend().to_string()
}

#[track_caller]
fn shows(screen: &str, words: &[&str]) {
    for word in words {
        assert!(screen.contains(word), "{word:?} in\n{screen}");
    }
}

#[test]
fn everything_has_its_place_at_80x24() {
    let mut model = model();
    shows(
        &screen(&model, 80, 24),
        &[
            "/pools/p",
            "generation 41",
            "errors: 1",
            "next: vctl pool check",
            "a1",
            "serving",
            "250",
            "1000K/s",
            "<4us",
            "vm",
            "AAAA",
            "d2",
            "volume vm",
            "37%",
            "4M/s",
            "1.4ms",
            "events",
            "slow",
        ],
    );
    press(&mut model, KeyCode::Char('2'));
    shows(
        &screen(&model, 80, 24),
        &[
            "> a1", "/mnt/a1", "4242", "IOPS", "bytes", "P99-R", "p99 r", "p99 w", "most",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(
        &screen(&model, 80, 24),
        &[
            "> vm",
            "after job 7, 37% done",
            "BBBBBBBB",
            "A d1 24M",
            "B d2 32M",
            "m move",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(
        &screen(&model, 80, 24),
        &[
            "> A d1",
            "faulty",
            "no",
            "@fast",
            "quarantined 2M",
            "####",
            "rr",
            "qq",
            "..",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(
        &screen(&model, 80, 24),
        &[
            "running",
            "why: waits for the controller that acts: volume hold by pid 77",
            "12 host requests held",
            "5.0s left",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(&screen(&model, 80, 24), &["warning disk d1: slow\\u{1b}[2J"]);
}

#[test]
fn no_size_breaks_it() {
    let mut model = model();
    for tab in '1'..='6' {
        press(&mut model, KeyCode::Char(tab));
        for (width, height) in [
            (1, 1),
            (39, 30),
            (40, 12),
            (60, 15),
            (132, 24),
            (133, 60),
            (300, 100),
        ] {
            drawn(&model, PLAIN, width, height);
        }
    }
    shows(&screen(&model, 20, 5), &["needs 40 x 12"]);
    let nothing = Model::new("p".into());
    for tab in Tab::ALL {
        let mut model = Model::new("p".into());
        model.tab = tab;
        drawn(&model, PLAIN, 80, 24);
    }
    shows(&screen(&nothing, 80, 24), &["looking"]);
}

#[test]
fn without_colour_there_is_none_and_ascii_is_enough() {
    for tab in '1'..='6' {
        let mut model = model();
        press(&mut model, KeyCode::Char(tab));
        let terminal = drawn(&model, PLAIN, 133, 40);
        for cell in terminal.backend().buffer().content() {
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
            assert!(cell.symbol().is_ascii(), "{:?}", cell.symbol());
        }
    }
}

#[test]
fn what_is_chosen_stays_chosen_when_the_list_changes() {
    let mut model = model();
    press(&mut model, KeyCode::Char('4'));
    press(&mut model, KeyCode::Down);
    assert_eq!(model.disk().unwrap().record.name.as_str(), "d2");
    let mut fewer = look(3_000_000);
    fewer.view.disks.remove(0);
    model.update(Event::Pool(Box::new(fewer)));
    assert_eq!(model.disk().unwrap().record.name.as_str(), "d2");
    press(&mut model, KeyCode::End);
    press(&mut model, KeyCode::Home);
    assert_eq!(model.disk().unwrap().record.name.as_str(), "d2");
}

#[test]
fn a_move_is_asked_for_previewed_and_sent() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    assert_eq!(press(&mut model, KeyCode::Char('m')), []);
    shows(
        &screen(&model, 80, 24),
        &["move volume vm", "> to", "d2_", "arrows: d2 @fast"],
    );
    press(&mut model, KeyCode::Up);
    press(&mut model, KeyCode::BackTab);
    press(&mut model, KeyCode::Delete);
    type_in(&mut model, "1x");
    assert_eq!(press(&mut model, KeyCode::Enter), []);
    shows(&screen(&model, 80, 24), &["size", "1x"]);
    press(&mut model, KeyCode::Backspace);
    type_in(&mut model, "M");
    let verb = Verb::Move {
        wish: moving::Wish {
            volume: "vm".into(),
            to: vec!["@fast".into()],
            from: None,
            range: None,
            policy: None,
        },
        rate: Some(ByteCount(1 << 20)),
    };
    assert_eq!(press(&mut model, KeyCode::Enter), [Effect::Preview(verb.clone())]);
    shows(&screen(&model, 80, 24), &["finding out"]);
    let preview = Preview {
        summary: vec!["moves 24M in 1 run".into()],
        difference: vec!["Difference(".into(); 99],
        ..Preview::default()
    };
    model.update(Event::Previewed(verb.clone(), Ok(Box::new(preview))));
    let asked = screen(&model, 80, 24);
    shows(
        &asked,
        &[
            "vctl volume move vm --to @fast --rate 1M",
            "moves 24M",
            "Difference(",
            "y does it",
        ],
    );
    assert_eq!(press(&mut model, KeyCode::Enter), [], "only y does it");
    assert_eq!(
        press(&mut model, KeyCode::Char('y')),
        [Effect::Send(verb.clone(), None)]
    );
    assert_eq!(model.under_way, std::slice::from_ref(&verb));
    model.update(Event::Ended(verb, Ok("job 8: apparatus a1 works on it".into())));
    shows(&screen(&model, 80, 24), &["job 8: apparatus a1 works on it"]);
    assert!(model.under_way.is_empty());
}

#[test]
fn what_is_left_is_not_sent_and_a_late_preview_is_dropped() {
    let mut model = model();
    press(&mut model, KeyCode::Char('5'));
    let [Effect::Preview(verb)] = &press(&mut model, KeyCode::Char('p'))[..] else {
        panic!("no preview");
    };
    assert_eq!(press(&mut model, KeyCode::Esc), []);
    model.update(Event::Previewed(verb.clone(), Ok(Box::default())));
    assert_eq!(model.dialog, None);
    press(&mut model, KeyCode::Char('p'));
    model.update(Event::Previewed(verb.clone(), Ok(Box::default())));
    assert!(matches!(model.dialog, Some(Dialog::Confirm { .. })));
    assert_eq!(press(&mut model, KeyCode::Char('n')), []);
    assert_eq!(model.dialog, None);
}

#[test]
fn whoever_leaves_is_told_what_ends_with_it() {
    let mut model = model();
    assert_eq!(press(&mut model, KeyCode::Char('q')), [Effect::Quit]);
    model.under_way.push(Verb::Pause(JobId(7)));
    assert_eq!(press(&mut model, KeyCode::Char('q')), []);
    shows(&screen(&model, 80, 24), &["job pause 7", "y leaves"]);
    assert_eq!(press(&mut model, KeyCode::Esc), []);
    assert_eq!(model.dialog, None);
    press(&mut model, KeyCode::Char('q'));
    assert_eq!(press(&mut model, KeyCode::Char('y')), [Effect::Quit]);
}
