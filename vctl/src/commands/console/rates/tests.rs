use super::gain::p99;
use super::*;
use apparatus::admin::apparatus::State;
use apparatus::model::member::{Member, MemberState};
use apparatus::model::names::Name;
use apparatus::model::units::{Generation, Incarnation, Slot, Timestamp};
use apparatus::rpc::message::{IoFigures, Latency};

fn io(reads: u64, took: &[u64]) -> IoFigures {
    IoFigures {
        reads,
        read_bytes: reads * 4096,
        read_latency: Latency {
            sum_us: 0,
            counts: took.to_vec(),
        },
        ..IoFigures::default()
    }
}

fn figures(uptime_us: u64, volumes: &[(&str, IoFigures)]) -> ApparatusMetrics {
    ApparatusMetrics {
        pid: 1,
        uptime_us,
        volumes: volumes
            .iter()
            .map(|(name, io)| ((*name).to_owned(), io.clone()))
            .collect(),
        ..ApparatusMetrics::default()
    }
}

fn view(name: &str, figures: Option<ApparatusMetrics>) -> ApparatusView {
    ApparatusView {
        member: Member {
            slot: Slot(0),
            name: Name::new("thing", name).unwrap(),
            incarnation: Incarnation(1),
            state: MemberState::Joined,
            pid: 1,
            mount: "/m".into(),
            joined_at: Generation(1),
            since: Timestamp(0),
            origin: None,
            node: None,
            port: None,
        },
        state: State::Serving,
        figures,
        fault: None,
        supervisor: None,
    }
}

fn levels(names: &[&str]) -> Levels {
    names.iter().map(|name| ((*name).to_owned(), Some(0))).collect()
}

#[test]
fn a_rate_is_the_gain_in_the_apparatuss_own_time() {
    let mut traces = Traces::default();
    let mut look = |uptime, reads, took: &[u64]| {
        let view = view("a", Some(figures(uptime, &[("v", io(reads, took))])));
        traces.look(&[view], levels(&["v"]), Levels::new());
        (
            traces.apparatuses.now("a"),
            traces.volumes.now("v"),
            traces.pool.now(),
        )
    };
    assert_eq!(
        look(1_000_000, 100, &[0, 100]),
        (None, None, None),
        "nothing to compare with"
    );
    let expected = Point {
        requests: 200,
        read: 200 * 4096,
        written: 0,
        read_p99_us: Some(4),
        write_p99_us: None,
        level: Some(0),
    };
    assert_eq!(
        look(1_500_000, 200, &[0, 100, 100]),
        (Some(expected), Some(expected), Some(expected))
    );
}

#[test]
fn another_process_begins_anew_and_silence_is_a_gap() {
    let mut traces = Traces::default();
    let one = |uptime, reads| Some(figures(uptime, &[("v", io(reads, &[]))]));
    for figures in [one(5_000_000, 100), one(1_000_000, 3), None, one(2_000_000, 4)] {
        traces.look(&[view("a", figures)], levels(&["v"]), Levels::new());
        assert_eq!(traces.apparatuses.now("a"), None);
    }
    assert_eq!(traces.apparatuses.trace("a").unwrap().points.len(), 4);
}

#[test]
fn the_rate_of_a_volume_is_the_sum_of_all_apparatuses() {
    let mut traces = Traces::default();
    for (uptime, fast, slow) in [(1_000_000, 0, 0), (2_000_000, 90, 10)] {
        let a = figures(uptime, &[("v", io(fast, &[fast]))]);
        let b = figures(uptime, &[("v", io(slow, &[0, 0, 0, slow]))]);
        traces.look(
            &[view("a", Some(a)), view("b", Some(b))],
            levels(&["v"]),
            Levels::new(),
        );
    }
    let now = traces.volumes.now("v").unwrap();
    assert_eq!((now.requests, now.read_p99_us), (100, Some(8)));
}

/// Its counts continue under another name; they are no new activity.
#[test]
fn a_renamed_volume_has_no_peak() {
    let mut traces = Traces::default();
    for (uptime, name, reads) in [(1_000_000, "old", 1_000_000), (2_000_000, "new", 1_000_001)] {
        let figures = figures(uptime, &[(name, io(reads, &[]))]);
        traces.look(&[view("a", Some(figures))], levels(&[name]), Levels::new());
    }
    assert_eq!(traces.apparatuses.now("a").unwrap().requests, 0);
}

#[test]
fn history_and_the_number_of_charts_are_bounded() {
    let mut traces = Traces::default();
    let names: Vec<String> = (0..2 * CHARTED).map(|number| format!("v{number}")).collect();
    let levels = || names.iter().map(|name| (name.clone(), Some(1))).collect();
    for _ in 0..LOOKS + 5 {
        traces.look(&[], levels(), Levels::new());
    }
    assert_eq!(traces.volumes.0.len(), CHARTED);
    assert_eq!(traces.volumes.trace("v0").unwrap().points.len(), LOOKS);
    traces.look(&[], Levels::new(), Levels::new());
    assert!(traces.volumes.0.is_empty(), "what has gone is forgotten");
}

#[test]
fn objects_without_activity_take_no_memory() {
    let mut traces = Traces::default();
    traces.look(&[], levels(&["v"]), levels(&["d"]));
    assert!(traces.volumes.trace("v").is_none());
    assert!(
        traces.disks.trace("d").is_some(),
        "disks are few, and their use is drawn"
    );
}

#[test]
fn the_99th_of_100_counts() {
    assert_eq!(p99(&[]), None);
    assert_eq!(p99(&[0, 0]), None);
    assert_eq!(p99(&[1]), Some(1));
    assert_eq!(p99(&[99, 0, 0, 1]), Some(1));
    assert_eq!(p99(&[98, 0, 0, 2]), Some(8));
}
