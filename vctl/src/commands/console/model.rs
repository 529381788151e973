//! The state of the console. Pure: [`Model::update`] takes an event and returns the effects to execute.

mod acting;
mod choice;
pub mod dialog;
pub mod form;
mod keys;

pub use acting::YES;
pub use choice::Choice;

use super::rates::{Levels, Paces, Traces};
use super::verb::Verb;
use crate::output::Tone;
use apparatus::admin::apparatus::ApparatusView;
use apparatus::admin::job;
use apparatus::admin::status::Status;
use apparatus::admin::usage::Usage;
use apparatus::admin::view::{DiskView, PoolView, VolumeView};
use apparatus::model::error::Error;
use apparatus::model::event;
use apparatus::model::job::JobState;
use apparatus::model::units::VolumeId;
use dialog::{Dialog, Outcome, PlanOutcome, Preview};
use form::Form;
use ratatui::crossterm::event::KeyEvent;
use std::collections::{BTreeMap, VecDeque};
use tui_input::Input;

/// Number of events that are kept.
const EVENTS: usize = 500;

/// A failure as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureText {
    /// What failed, and why.
    pub text: String,
    /// The way out.
    pub hint: Option<String>,
}

impl From<&Error> for FailureText {
    fn from(error: &Error) -> Self {
        Self {
            text: error.to_string(),
            hint: error.way_out().map(str::to_owned),
        }
    }
}

/// A job with its activity.
#[derive(Clone, Debug)]
pub struct JobLook {
    /// The job.
    pub view: job::JobView,
    /// What it does, or what it waits for and the way out.
    pub phase: String,
}

/// The content of the store at one moment.
#[derive(Clone, Debug)]
pub struct PoolLook {
    /// The time in microseconds of a monotonic clock.
    pub at_us: u64,
    /// Disks and volumes.
    pub view: PoolView,
    /// By id.
    pub jobs: Vec<JobLook>,
    /// The purpose of the holder of the controller lock.
    pub controller: Option<String>,
    /// Events since the last read.
    pub events: Vec<event::Event>,
}

/// The state of apparatuses and disks at one moment.
#[derive(Clone, Debug)]
pub struct Poll {
    /// All apparatuses that have not left.
    pub apparatuses: Vec<ApparatusView>,
    /// The status of the pool.
    pub status: Status,
    /// How volumes are used; unused volumes are absent.
    pub usage: BTreeMap<VolumeId, Usage>,
}

/// An event for the model.
#[derive(Debug)]
pub enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// The window has a new size.
    Resized,
    /// The process was stopped and continued: the screen may have been overwritten.
    Continued,
    /// The store was read.
    Pool(Box<PoolLook>),
    /// The apparatuses were asked.
    Pulse(Box<Poll>),
    /// The pool cannot be read.
    Fault(FailureText),
    /// The preview of a verb is ready.
    Previewed(Verb, Result<Box<Preview>, FailureText>),
    /// A verb has ended.
    Ended(Verb, Result<Outcome, FailureText>),
    /// A signal asks the console to end.
    Signal,
    /// A thread of the console has died.
    Broken(&'static str),
}

/// An effect for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out what the verb would do.
    Preview(Verb),
    /// Run the verb. Its plan must still equal the previewed one.
    Send(Verb, Option<PlanOutcome>),
    /// Release the hold that is in place.
    Release,
    /// Draw the whole screen again.
    Repaint,
    /// Leave the console.
    Quit,
}

/// A page of the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tab {
    /// A part of every page.
    #[default]
    Overview,
    /// The list of apparatuses.
    Apparatuses,
    /// The list of volumes.
    Volumes,
    /// The list of disks.
    Disks,
    /// The list of jobs.
    Jobs,
    /// The events.
    Events,
}

impl Tab {
    /// All pages in order.
    pub const ALL: [Self; 6] = [
        Self::Overview,
        Self::Apparatuses,
        Self::Volumes,
        Self::Disks,
        Self::Jobs,
        Self::Events,
    ];

    /// The pages that are lists.
    pub const LISTS: [Self; 4] = [Self::Apparatuses, Self::Volumes, Self::Disks, Self::Jobs];

    /// Returns its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Apparatuses => "Apparatuses",
            Self::Volumes => "Volumes",
            Self::Disks => "Disks",
            Self::Jobs => "Jobs",
            Self::Events => "Events",
        }
    }

    /// Returns its title in at most four letters.
    pub fn short(self) -> &'static str {
        match self {
            Self::Overview => "All",
            Self::Apparatuses => "App",
            Self::Volumes => "Vol",
            Self::Disks => "Disk",
            Self::Jobs => "Job",
            Self::Events => "Evt",
        }
    }

    fn number(self) -> usize {
        Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0)
    }

    fn after(self, steps: usize) -> Self {
        Self::ALL[(self.number() + steps) % Self::ALL.len()]
    }
}

/// The state of the console.
#[derive(Debug, Default)]
pub struct Model {
    /// The pool's directory.
    pub pool: String,
    /// The last content of the store.
    pub look: Option<PoolLook>,
    /// The last state of the apparatuses.
    pub pulse: Option<Poll>,
    /// The history of their rates.
    pub traces: Traces,
    /// The rates of jobs.
    pub paces: Paces,
    /// Events, oldest first.
    pub events: VecDeque<event::Event>,
    /// The current page.
    pub tab: Tab,
    /// Selection, filter and order of each list.
    choices: BTreeMap<Tab, Choice>,
    /// A new object, which is selected as soon as it appears.
    wanted: Option<(Tab, String)>,
    /// The filter while it is typed.
    pub typing: Option<Input>,
    /// Whether the selected object fills the screen.
    pub zoomed: bool,
    /// Lines by which the events, or the zoomed object, are scrolled.
    pub back: usize,
    /// The open dialog.
    pub dialog: Option<Dialog>,
    /// The form that was completed last: what is refused can be corrected there.
    entered: Option<Form>,
    /// Lines by which the dialog is scrolled down.
    pub scroll: usize,
    /// Failures that occurred while a dialog was open.
    failures: VecDeque<Dialog>,
    /// The result of the last verb.
    pub notice: Option<(Tone, String)>,
    /// Running verbs.
    pub under_way: Vec<Verb>,
    /// Why the pool cannot be read.
    pub fault: Option<FailureText>,
}

impl Model {
    /// Creates the state before anything is known of the pool.
    pub fn new(pool: String) -> Self {
        Self {
            pool,
            ..Self::default()
        }
    }

    /// Takes an event in.
    pub fn update(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Key(key) => {
                let effects = self.key(key);
                self.settle(&[self.tab]);
                return effects;
            }
            Event::Resized => {}
            Event::Continued => return vec![Effect::Repaint],
            Event::Pool(look) => self.take_look(*look),
            Event::Pulse(pulse) => self.take_pulse(*pulse),
            Event::Fault(reason) => self.fault = Some(reason),
            Event::Previewed(verb, result) => self.previewed(verb, result),
            Event::Ended(verb, result) => self.ended(&verb, result),
            Event::Signal | Event::Broken(_) => return vec![Effect::Quit],
        }
        Vec::new()
    }

    fn take_look(&mut self, mut look: PoolLook) {
        self.fault = None;
        self.paces.look(look.at_us, look.jobs.iter().map(|job| &job.view));
        self.events.extend(look.events.drain(..));
        let surplus = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..surplus);
        self.look = Some(look);
        self.settle(&Tab::LISTS);
    }

    fn take_pulse(&mut self, pulse: Poll) {
        let open = |volume: &VolumeView| pulse.usage.get(&volume.record.id).map_or(0, |usage| usage.open);
        let volumes = self.volumes().iter();
        let volumes: Levels = volumes
            .map(|each| (each.record.name.to_string(), Some(open(each))))
            .collect();
        let used = |disk: &DiskView| disk.usage.size.0.saturating_sub(disk.usage.free.0);
        let disks = self.disks().iter();
        let disks: Levels = disks
            .map(|each| (each.record.name.to_string(), Some(used(each))))
            .collect();
        self.traces.look(&pulse.apparatuses, volumes, disks);
        self.pulse = Some(pulse);
        self.settle(&Tab::LISTS);
    }

    /// Takes a preview in. It is dropped if the operator has closed its dialog.
    fn previewed(&mut self, verb: Verb, result: Result<Box<Preview>, FailureText>) {
        if !matches!(&self.dialog, Some(Dialog::Planning(planned)) if *planned == verb) {
            return;
        }
        self.show(Some(match result {
            Ok(preview) => Dialog::Confirm {
                verb,
                preview,
                typed: Input::default(),
            },
            Err(reason) => self.failure(&verb, reason),
        }));
    }

    fn ended(&mut self, verb: &Verb, result: Result<Outcome, FailureText>) {
        if let Some(at) = self.under_way.iter().position(|each| each == verb) {
            self.under_way.remove(at);
        }
        match result {
            Ok(outcome) => {
                self.notice = Some((outcome.tone, outcome.text));
                self.wanted = outcome.made;
                self.settle(&Tab::LISTS);
            }
            // The queue is bounded by the number of running verbs.
            Err(reason) => {
                let failure = self.failure(verb, reason);
                self.failures.push_back(failure);
                if self.dialog.is_none() {
                    self.show(None);
                }
            }
        }
    }

    /// Returns the dialog for a failed verb, with the form that it was entered in.
    fn failure(&self, verb: &Verb, reason: FailureText) -> Dialog {
        let entered = |form: &&Form| form.verb().is_ok_and(|entered| entered == *verb);
        Dialog::failed(verb, reason, self.entered.as_ref().filter(entered).cloned())
    }

    /// Returns whether a hold of this console is in place.
    pub fn holding(&self) -> bool {
        self.under_way
            .iter()
            .any(|verb| matches!(verb, Verb::Hold { .. }))
    }

    /// Returns the apparatuses of the last poll.
    pub fn apparatuses(&self) -> &[ApparatusView] {
        self.pulse.as_ref().map_or(&[], |pulse| &pulse.apparatuses)
    }

    /// Returns the disks of the last look.
    pub fn disks(&self) -> &[DiskView] {
        self.look.as_ref().map_or(&[], |look| &look.view.disks)
    }

    /// Returns the volumes of the last look.
    pub fn volumes(&self) -> &[VolumeView] {
        self.look.as_ref().map_or(&[], |look| &look.view.volumes)
    }

    /// Returns the jobs: unfinished ones by number, then finished ones, latest first.
    pub fn jobs(&self) -> Vec<&JobLook> {
        let mut jobs: Vec<&JobLook> = self.look.iter().flat_map(|look| &look.jobs).collect();
        jobs.sort_by_key(|job| {
            let id = job.view.record.id.0;
            if is_open(job) { (0, id) } else { (1, u64::MAX - id) }
        });
        jobs
    }

    /// Returns the number of lines of a list without filter.
    pub fn count(&self, tab: Tab) -> usize {
        match tab {
            Tab::Overview => 0,
            Tab::Apparatuses => self.apparatuses().len(),
            Tab::Volumes => self.volumes().len(),
            Tab::Disks => self.disks().len(),
            Tab::Jobs => self.look.as_ref().map_or(0, |look| look.jobs.len()),
            Tab::Events => self.events.len(),
        }
    }

    /// Returns the jobs that have not ended.
    pub fn open_jobs(&self) -> impl Iterator<Item = &JobLook> {
        let jobs = self.look.iter().flat_map(|look| &look.jobs);
        jobs.filter(|job| is_open(job))
    }

    /// Returns the selected apparatus.
    pub fn apparatus(&self) -> Option<&ApparatusView> {
        let id = self.choice(Tab::Apparatuses).id()?;
        self.apparatuses()
            .iter()
            .find(|view| view.member.name.as_str() == id)
    }

    /// Returns the selected volume.
    pub fn volume(&self) -> Option<&VolumeView> {
        let id = self.choice(Tab::Volumes).id()?;
        self.volumes()
            .iter()
            .find(|view| view.record.id.to_string() == id)
    }

    /// Returns the selected disk.
    pub fn disk(&self) -> Option<&DiskView> {
        let id = self.choice(Tab::Disks).id()?;
        self.disks().iter().find(|view| view.record.id.to_string() == id)
    }

    /// Returns the selected job.
    pub fn job(&self) -> Option<&JobLook> {
        let id = self.choice(Tab::Jobs).id()?;
        let mut jobs = self.look.iter().flat_map(|look| &look.jobs);
        jobs.find(|job| job.view.record.id.to_string() == id)
    }
}

/// Returns whether a job runs or may continue.
fn is_open(job: &JobLook) -> bool {
    let state = job.view.record.state;
    job::wants_work(state) || state == JobState::Paused
}
