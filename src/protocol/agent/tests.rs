use super::*;
use crate::model::build;
use crate::model::records::Edit;

const X: ChangeId = ChangeId(7);
const L: Link = Link(1);
const LIFE: Incarnation = Incarnation(3);
const OLD: Generation = Generation(4);
const NEW: Generation = Generation(5);
const V: VolumeId = VolumeId(1);

/// What the agent has called, and what it is told.
#[derive(Default)]
struct Recorder {
    calls: Vec<String>,
    fenced: bool,
    in_flight: u64,
    lags: BTreeSet<ChangeId>,
    oldest: Generation,
    now: u64,
    /// Nobody can be asked.
    busy: bool,
}

impl Recorder {
    fn call(&mut self, text: impl Into<String>) {
        self.calls.push(text.into());
    }

    /// Returns the calls since this was called last.
    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }
}

impl Services for Recorder {
    fn answer(&mut self, _link: Link, answer: Answer) {
        let text = format!("{answer:?}");
        let name = text.split([' ', '{']).next().unwrap_or_default();
        self.call(format!("answer {name}"));
    }

    fn arm(&mut self, due: Due, _after_us: u64) {
        self.call(format!("arm {due:?}"));
    }

    fn disarm(&mut self, change: Option<ChangeId>) {
        self.call(change.map_or("disarm all".into(), |change| format!("disarm {change}")));
    }

    fn now_us(&mut self) -> u64 {
        self.now
    }

    fn is_fenced(&mut self) -> bool {
        self.fenced
    }

    fn show_oldest(&mut self, oldest: Generation) {
        self.call(format!("show oldest {oldest}"));
    }

    fn place_note(&mut self, change: ChangeId, _spans: &[Span]) -> bool {
        self.call(format!("note {change}"));
        true
    }

    fn written(&mut self, _change: ChangeId) -> Option<Vec<Span>> {
        None
    }

    fn end_note(&mut self, change: ChangeId) {
        self.call(format!("end note {change}"));
    }

    fn place_hold(&mut self, change: ChangeId, spans: &[Span], _mode: HoldMode) -> bool {
        let volumes: Vec<u64> = spans.iter().map(|span| span.volume.0).collect();
        self.call(format!("hold {change} {volumes:?}"));
        true
    }

    fn lag(&mut self, change: ChangeId) -> Option<Answer> {
        self.lags.contains(&change).then(|| Answer::StillDraining {
            change,
            in_flight: 1,
            oldest_us: 0,
            disk: String::new(),
        })
    }

    fn release(&mut self, change: ChangeId) -> Parked {
        self.call(format!("release {change}"));
        Parked::default()
    }

    fn close_gate(&mut self) {
        self.call("close");
    }

    fn open_gate(&mut self) {
        self.call("open");
    }

    fn in_flight(&mut self) -> u64 {
        self.in_flight
    }

    fn oldest(&mut self) -> Generation {
        self.oldest
    }

    fn apply(&mut self, delta: &Delta) -> bool {
        self.call(format!("apply {}", delta.from.next()));
        true
    }

    fn load(&mut self, rejoined: &Rejoined) -> bool {
        self.call(format!("load {}", rejoined.generation));
        true
    }

    fn end(&mut self, _slot: Slot) {
        self.call("end");
    }

    fn open_disks(&mut self, _change: ChangeId, _disks: Vec<DiskRecord>) -> bool {
        true
    }

    fn forget_disks(&mut self, _change: Option<ChangeId>) {}

    fn still_opening(&mut self, _change: ChangeId) -> Option<Answer> {
        None
    }

    fn cancel(&mut self, change: ChangeId) -> bool {
        self.call(format!("cancel {change}"));
        !self.busy
    }

    fn find_others(&mut self, generations: &BTreeSet<Generation>) -> bool {
        self.call(format!("others {generations:?}"));
        !self.busy
    }

    fn rejoin(&mut self, from: Incarnation) -> bool {
        self.call(format!("rejoin from {from}"));
        !self.busy
    }

    fn take_over(&mut self) {
        self.call("take over");
    }
}

fn rejoined(incarnation: Incarnation, generation: Generation, volumes: &[VolumeId]) -> Rejoined {
    Rejoined {
        slot: Slot(2),
        incarnation,
        generation,
        volumes: volumes.to_vec(),
    }
}

/// An agent that serves, and that knows the volume `V`.
fn serving() -> (Agent, Recorder) {
    let bounds = Bounds {
        holds: 4,
        patience_us: 50,
    };
    let (mut agent, mut recorder) = (Agent::new(rejoined(LIFE, OLD, &[V]), bounds), Recorder::default());
    recorder.oldest = OLD;
    agent.begin(&mut recorder);
    agent.on(Input::OthersReached(vec![OLD]), &mut recorder);
    assert_eq!(agent.machine().standing(), Participation::Serving);
    recorder.take();
    (agent, recorder)
}

fn hold() -> Input {
    let request = Request::Hold {
        change: X,
        spans: vec![Span::whole(V)],
        mode: HoldMode::Writes,
        drain_us: 10,
        deadline_us: 100,
        incarnation: LIFE,
        disks: Vec::new(),
    };
    Input::Asked(L, Term(1), request)
}

fn apply(edits: Vec<Edit>) -> Input {
    let request = Request::Apply {
        change: X,
        generation: NEW,
        delta: Delta { from: OLD, edits },
    };
    Input::Asked(L, Term(1), request)
}

fn woken() -> Input {
    Input::Woken(BTreeSet::new())
}

#[test]
fn a_new_agent_holds_all_writes_before_it_opens_the_gate_and_until_the_others_are_known() {
    let bounds = Bounds {
        holds: 4,
        patience_us: 50,
    };
    let mut recorder = Recorder::default();
    let mut agent = Agent::new(rejoined(LIFE, OLD, &[V]), bounds);
    agent.begin(&mut recorder);
    assert_eq!(
        recorder.take(),
        [
            "hold 0 [1]",
            "open",
            "others {Generation(4)}",
            "arm Change(ChangeId(0), Patience)"
        ]
    );
    agent.on(Input::OthersReached(Vec::new()), &mut recorder);
    assert_eq!(recorder.take(), ["arm Others"], "nothing is reached yet");
    agent.on(Input::Due(Due::Others), &mut recorder);
    agent.on(Input::OthersReached(vec![OLD]), &mut recorder);
    assert_eq!(
        recorder.take(),
        ["others {Generation(4)}", "arm Others", "release 0"]
    );
}

#[test]
fn a_hold_is_reported_when_what_was_in_flight_is_done() {
    let (mut agent, mut recorder) = serving();
    recorder.lags.insert(X);
    agent.on(hold(), &mut recorder);
    agent.on(woken(), &mut recorder);
    assert!(!recorder.take().contains(&"answer Held".to_owned()));
    recorder.lags.clear();
    agent.on(woken(), &mut recorder);
    assert_eq!(recorder.take(), ["answer Held"]);
    agent.on(woken(), &mut recorder);
    assert!(recorder.take().is_empty(), "it is reported once");
}

#[test]
fn a_note_is_reported_when_the_writes_from_before_it_are_done() {
    let (mut agent, mut recorder) = serving();
    recorder.lags.insert(X);
    let note = Request::Note {
        change: X,
        spans: vec![Span::whole(V)],
        drain_us: 10,
        deadline_us: 100,
        incarnation: LIFE,
    };
    agent.on(Input::Asked(L, Term(1), note), &mut recorder);
    agent.on(woken(), &mut recorder);
    assert!(!recorder.take().contains(&"answer Noting".to_owned()));
    recorder.lags.clear();
    agent.on(woken(), &mut recorder);
    assert_eq!(recorder.take(), ["answer Noting"]);
}

#[test]
fn too_many_parked_requests_end_the_hold_as_the_store_decides() {
    let (mut agent, mut recorder) = serving();
    agent.on(hold(), &mut recorder);
    recorder.take();
    agent.on(Input::Woken(BTreeSet::from([X])), &mut recorder);
    assert_eq!(recorder.take(), ["cancel 7"]);
}

#[test]
fn after_a_fence_the_others_are_awaited_for_the_new_table_alone() {
    let (mut agent, mut recorder) = serving();
    agent.on(hold(), &mut recorder);
    agent.on(apply(Vec::new()), &mut recorder);
    agent.on(Input::Lost(L), &mut recorder);
    assert_eq!(agent.awaited(), &BTreeSet::from([NEW]));
    recorder.fenced = true;
    agent.on(woken(), &mut recorder);
    assert!(agent.awaited().is_empty());
    let back = rejoined(Incarnation(4), Generation(6), &[V]);
    agent.on(Input::Rejoined(Some(back)), &mut recorder);
    assert_eq!(agent.awaited(), &BTreeSet::from([Generation(6)]));
}

#[test]
fn the_table_is_switched_before_that_is_reported() {
    let (mut agent, mut recorder) = serving();
    agent.on(hold(), &mut recorder);
    recorder.take();
    agent.on(apply(Vec::new()), &mut recorder);
    assert_eq!(recorder.take(), ["apply 5", "answer Applied"]);
}

#[test]
fn after_a_lost_connection_the_store_decides_and_is_asked_until_it_answers() {
    let (mut agent, mut recorder) = serving();
    agent.on(hold(), &mut recorder);
    recorder.take();
    recorder.busy = true;
    agent.on(Input::Lost(L), &mut recorder);
    assert_eq!(recorder.take(), ["cancel 7", "arm Change(ChangeId(7), Patience)"]);
    recorder.busy = false;
    agent.on(Input::Due(Due::Change(X, Timer::Patience)), &mut recorder);
    assert_eq!(recorder.take(), ["cancel 7"]);
    agent.on(Input::CancelAnswered(X, None), &mut recorder);
    assert_eq!(recorder.take(), ["arm Change(ChangeId(7), Patience)"]);
    agent.on(Input::Due(Due::Change(X, Timer::Patience)), &mut recorder);
    assert_eq!(recorder.take(), ["cancel 7"]);
    agent.on(Input::CancelAnswered(X, Some(Cancel::Cancelled)), &mut recorder);
    assert_eq!(recorder.take(), ["disarm 7", "release 7"]);
}

#[test]
fn a_fenced_agent_rejoins_when_nothing_is_in_flight_and_holds_the_writes_of_the_new_table() {
    let (mut agent, mut recorder) = serving();
    agent.on(hold(), &mut recorder);
    recorder.take();
    (recorder.fenced, recorder.in_flight, recorder.busy) = (true, 1, true);
    agent.on(woken(), &mut recorder);
    assert_eq!(recorder.take(), ["close", "disarm all"]);
    recorder.in_flight = 0;
    agent.on(woken(), &mut recorder);
    assert_eq!(recorder.take(), ["rejoin from 3", "arm Rejoin"]);
    recorder.busy = false;
    agent.on(Input::Due(Due::Rejoin), &mut recorder);
    agent.on(Input::Rejoined(None), &mut recorder);
    assert_eq!(
        recorder.take(),
        ["rejoin from 3", "arm Rejoin"],
        "the store has failed"
    );
    recorder.fenced = false;
    let back = rejoined(Incarnation(4), NEW, &[V, VolumeId(9)]);
    agent.on(Input::Rejoined(Some(back)), &mut recorder);
    assert_eq!(
        recorder.take()[..3],
        ["load 5", "hold 0 [1, 9]", "open"],
        "all writes are held before the gate opens"
    );
}

#[test]
fn an_agent_whose_slot_belongs_to_another_ends() {
    let (mut agent, mut recorder) = serving();
    recorder.fenced = true;
    agent.on(woken(), &mut recorder);
    recorder.take();
    let other = Rejoined {
        slot: Slot(3),
        ..rejoined(Incarnation(4), NEW, &[V])
    };
    agent.on(Input::Rejoined(Some(other)), &mut recorder);
    assert_eq!(recorder.take(), ["end"]);
}

#[test]
fn the_volumes_whose_writes_are_held_follow_the_table() {
    let (mut agent, mut recorder) = serving();
    agent.on(hold(), &mut recorder);
    let record = build::volume(9, 1);
    agent.on(
        apply(vec![Edit::AddVolume(record), Edit::RemoveVolume(V)]),
        &mut recorder,
    );
    assert_eq!(agent.volumes, [VolumeId(9)]);
}

#[test]
fn an_answer_for_other_generations_ends_no_wait() {
    let (mut agent, mut recorder) = serving();
    agent.on(hold(), &mut recorder);
    agent.on(apply(Vec::new()), &mut recorder);
    agent.on(Input::Lost(L), &mut recorder);
    agent.on(Input::OthersReached(vec![OLD]), &mut recorder);
    assert!(!recorder.take().contains(&"release 7".to_owned()));
    agent.on(Input::Due(Due::Others), &mut recorder);
    agent.on(Input::OthersReached(vec![NEW]), &mut recorder);
    assert!(recorder.take().contains(&"release 7".to_owned()));
}

#[test]
fn quiesce_is_answered_when_old_tables_are_out_of_use_or_its_time_is_over() {
    let (mut agent, mut recorder) = serving();
    let quiesce = || Input::Asked(L, Term(1), Request::Quiesce { wait_us: 100 });
    recorder.oldest = Generation(3);
    agent.on(quiesce(), &mut recorder);
    assert_eq!(recorder.take(), ["arm Quiesce"]);
    recorder.oldest = OLD;
    agent.on(Input::Due(Due::Quiesce), &mut recorder);
    assert_eq!(recorder.take(), ["show oldest 4", "answer Quiesced"]);
    recorder.oldest = Generation(3);
    agent.on(quiesce(), &mut recorder);
    recorder.now = 100;
    agent.on(woken(), &mut recorder);
    assert_eq!(
        recorder.take(),
        ["arm Quiesce", "show oldest 3", "answer Quiesced"]
    );
    for _ in 0..=QUIESCES {
        agent.on(quiesce(), &mut recorder);
    }
    assert_eq!(recorder.take().last().map(String::as_str), Some("answer Refused"));
    agent.on(Input::Lost(L), &mut recorder);
    recorder.take();
    recorder.now = 1000;
    agent.on(woken(), &mut recorder);
    assert!(recorder.take().is_empty(), "a lost connection waits no longer");
}
