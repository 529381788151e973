//! Draws made-up pools at common terminal sizes, and checks the effect of keys.

mod acting;
mod layout;

use super::super::model::dialog::{Dialog, Preview};
use super::super::model::{Effect, Event, FailureText, JobLook, Model, Poll, PoolLook, Tab};
use super::super::verb::Verb;
use super::{Theme, render};
use crate::testing::segment;
use apparatus::admin::apparatus::{ApparatusView, State};
use apparatus::admin::status::{Finding, FindingKind, Status};
use apparatus::admin::view::{DiskView, PoolView, Usage, VolumeView};
use apparatus::admin::{job, moving};
use apparatus::model::event::{self, Severity};
use apparatus::model::holds::Holds;
use apparatus::model::job::{JobKind, JobLimits, JobRecord, JobState, Progress, Step};
use apparatus::model::member::{Member, MemberState};
use apparatus::model::names::Name;
use apparatus::model::records::{DiskRecord, Instance, PoolHeader, VolumeRecord};
use apparatus::model::units::{
    ByteCount, DiskId, ExtentSize, Generation, Incarnation, JobId, MembershipVersion, Slot, Term, Timestamp,
    VolumeId,
};
use apparatus::rpc::message::{ApparatusMetrics, IoFigures, Latency};
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
        segments: vec![segment(0, 2, 1, 8), segment(8, 1, 9, 24)],
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
        from: segment(0, 1, 1, 32),
        to: segment(0, 2, 1, 32).placement,
        done: 8,
    };
    JobLook {
        view: job::JobView {
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
                access: apparatus::model::records::DiskAccess::Cached,
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
        events: vec![event::Event {
            seq: 1,
            at: Timestamp(0),
            severity: Severity::Warning,
            subject: "disk d1".into(),
            text: "slow\u{1b}[2J".into(),
        }],
    }
}

fn serving(uptime_us: u64, reads: u64) -> ApparatusView {
    let io = IoFigures {
        reads,
        read_bytes: reads * 4096,
        read_latency: Latency {
            sum_us: 0,
            counts: vec![0, 0, reads],
        },
        ..IoFigures::default()
    };
    ApparatusView {
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
            node: None,
            port: None,
        },
        state: State::Serving,
        figures: Some(ApparatusMetrics {
            name: "a1".into(),
            pid: 4242,
            uptime_us,
            generation: Generation(41),
            in_flight: 3,
            parked: 2,
            volumes: [("vm".to_owned(), io)].into(),
            ..ApparatusMetrics::default()
        }),
        fault: None,
        supervisor: None,
    }
}

fn pulse(uptime_us: u64, reads: u64) -> Poll {
    Poll {
        apparatuses: vec![serving(uptime_us, reads)],
        status: Status {
            access: apparatus::model::records::DiskAccess::Cached,
            findings: vec![Finding {
                kind: FindingKind::DiskFault,
                severity: Severity::Error,
                subject: "disk d1".into(),
                text: "cannot be opened".into(),
                next: Some("vctl pool check".into()),
            }],
            usage: Usage::default(),
            disks: 2,
            volumes: 1,
            serving: (1, 1),
            nodes: 0,
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

fn control(model: &mut Model, letter: char) -> Vec<Effect> {
    let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    model.update(Event::Key(key))
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

/// Returns a pool with this many volumes, each with a name of 64 letters.
fn crowded(count: u64) -> Model {
    let mut model = model();
    let mut look = look(3_000_000);
    look.jobs[0].view.done = ByteCount(12 << 20);
    look.view.volumes = (0..count)
        .map(|number| {
            let mut view = volume();
            view.record.id = VolumeId(number + 1);
            view.record.name = name(&format!("{:0>60}{number:04}", "customer-database-"));
            view
        })
        .collect();
    model.update(Event::Pool(Box::new(look)));
    press(&mut model, KeyCode::Char('3'));
    model
}

fn lines(screen: &str) -> Vec<&str> {
    screen.lines().map(|line| line.trim_matches('"')).collect()
}

/// Fills a form in, field by field.
fn fill(model: &mut Model, lines: &[&str]) {
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            press(model, KeyCode::Tab);
        }
        control(model, 'u');
        type_in(model, line);
    }
}
