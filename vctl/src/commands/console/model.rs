//! What the console knows and what it does about it. Pure: [`Model::update`] takes an event and answers what is to be done.

pub mod dialog;
pub mod form;
mod keys;

use super::rates::{Paces, Traces};
use super::verb::Verb;
use crate::output::Tone;
use apparatus::error::Error;
use apparatus::ops::apparatus::View;
use apparatus::ops::job;
use apparatus::ops::moving::Outline;
use apparatus::ops::status::Status;
use apparatus::ops::usage::Usage;
use apparatus::ops::view::{DiskView, PoolView, VolumeView};
use apparatus::store::{self, JobState};
use apparatus::units::VolumeId;
use dialog::{Dialog, Preview};
use ratatui::crossterm::event::KeyEvent;
use std::collections::{BTreeMap, VecDeque};

/// Events kept for reading.
const EVENTS: usize = 500;

/// A failure as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What and why.
    pub text: String,
    /// The way out.
    pub hint: Option<String>,
}

impl From<&Error> for Told {
    fn from(error: &Error) -> Self {
        Self {
            text: error.to_string(),
            hint: error.way_out().map(str::to_owned),
        }
    }
}

/// A job, and what it is doing or waiting for.
#[derive(Clone, Debug)]
pub struct JobLook {
    /// The job.
    pub view: job::View,
    /// What it does, or what keeps it and would free it.
    pub phase: String,
}

/// What the store says at one moment.
#[derive(Clone, Debug)]
pub struct PoolLook {
    /// When, in microseconds of a clock that only goes forward.
    pub at_us: u64,
    /// Disks and volumes.
    pub view: PoolView,
    /// By id.
    pub jobs: Vec<JobLook>,
    /// Who holds the arbitration.
    pub controller: Option<String>,
    /// What happened since the last look.
    pub events: Vec<store::Event>,
}

/// What apparatuses and disks say at one moment.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// Of all that have not left.
    pub apparatuses: Vec<View>,
    /// Whether all is well.
    pub status: Status,
    /// How volumes are used; those that nobody uses are left out.
    pub usage: BTreeMap<VolumeId, Usage>,
}

/// What happens to the console.
#[derive(Debug)]
pub enum Event {
    /// A key.
    Key(KeyEvent),
    /// The window is another size.
    Resized,
    /// The process was stopped and goes on: somebody may have drawn over it.
    Continued,
    /// A look at the store.
    Pool(Box<PoolLook>),
    /// A look at the apparatuses.
    Pulse(Box<Pulse>),
    /// The pool cannot be looked at.
    Fault(Told),
    /// What a verb would do.
    Previewed(Verb, Result<Box<Preview>, Told>),
    /// What a verb did.
    Ended(Verb, Result<String, Told>),
    /// Somebody wants the console to end.
    Signal,
    /// A thread of the console has died.
    Broken(&'static str),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out what the verb would do.
    Preview(Verb),
    /// Do it. What was previewed must still be so.
    Send(Verb, Option<Outline>),
    /// End the hold that is in place.
    Release,
    /// Draw everything anew.
    Repaint,
    /// Leave.
    Quit,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tab {
    /// A little of everything.
    #[default]
    Overview,
    /// Apparatuses.
    Apparatuses,
    /// Volumes.
    Volumes,
    /// Disks.
    Disks,
    /// Jobs.
    Jobs,
    /// Events.
    Events,
}

impl Tab {
    /// In order.
    pub const ALL: [Self; 6] = [
        Self::Overview,
        Self::Apparatuses,
        Self::Volumes,
        Self::Disks,
        Self::Jobs,
        Self::Events,
    ];

    /// What it is called.
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

    fn number(self) -> usize {
        Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0)
    }

    fn after(self, steps: usize) -> Self {
        Self::ALL[(self.number() + steps) % Self::ALL.len()]
    }
}

/// The whole state.
#[derive(Debug, Default)]
pub struct Model {
    /// The pool's directory.
    pub pool: String,
    /// The latest look at the store.
    pub look: Option<PoolLook>,
    /// The latest look at the apparatuses.
    pub pulse: Option<Pulse>,
    /// Their rates.
    pub traces: Traces,
    /// How fast jobs go.
    pub paces: Paces,
    /// Oldest first.
    pub events: VecDeque<store::Event>,
    /// What is looked at.
    pub tab: Tab,
    /// What is chosen in each list, by name, so that it stays chosen when the list changes.
    chosen: BTreeMap<Tab, String>,
    /// Lines that the list of events is scrolled back.
    pub back: usize,
    /// What stands over the rest.
    pub dialog: Option<Dialog>,
    /// What was done last.
    pub notice: Option<(Tone, String)>,
    /// Being done.
    pub under_way: Vec<Verb>,
    /// Why the pool cannot be looked at.
    pub fault: Option<Told>,
}

impl Model {
    /// Of this pool, before anything is known of it.
    pub fn new(pool: String) -> Self {
        Self {
            pool,
            ..Self::default()
        }
    }

    /// Takes in what happened.
    pub fn update(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Key(key) => return self.key(key),
            Event::Resized => {}
            Event::Continued => return vec![Effect::Repaint],
            Event::Pool(look) => self.take_look(*look),
            Event::Pulse(pulse) => {
                self.traces.look(&pulse.apparatuses);
                self.pulse = Some(*pulse);
            }
            Event::Fault(told) => self.fault = Some(told),
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
    }

    /// An answer that nobody waits for any more is dropped.
    fn previewed(&mut self, verb: Verb, result: Result<Box<Preview>, Told>) {
        if self.dialog != Some(Dialog::Planning(verb.clone())) {
            return;
        }
        self.dialog = Some(match result {
            Ok(preview) => Dialog::Confirm {
                verb,
                preview,
                scroll: 0,
            },
            Err(told) => Dialog::Failed(verb.command(), told),
        });
    }

    fn ended(&mut self, verb: &Verb, result: Result<String, Told>) {
        if let Some(at) = self.under_way.iter().position(|each| each == verb) {
            self.under_way.remove(at);
        }
        match result {
            Ok(text) => self.notice = Some((Tone::Good, text)),
            Err(told) if self.dialog.is_none() => {
                self.dialog = Some(Dialog::Failed(verb.command(), told));
            }
            Err(told) => self.notice = Some((Tone::Bad, format!("{}: {}", verb.command(), told.text))),
        }
    }

    /// A hold that this console placed is in place.
    pub fn holding(&self) -> bool {
        self.under_way
            .iter()
            .any(|verb| matches!(verb, Verb::Hold { .. }))
    }

    /// The apparatuses, as last seen.
    pub fn apparatuses(&self) -> &[View] {
        self.pulse.as_ref().map_or(&[], |pulse| &pulse.apparatuses)
    }

    /// The disks, as last seen.
    pub fn disks(&self) -> &[DiskView] {
        self.look.as_ref().map_or(&[], |look| &look.view.disks)
    }

    /// The volumes, as last seen.
    pub fn volumes(&self) -> &[VolumeView] {
        self.look.as_ref().map_or(&[], |look| &look.view.volumes)
    }

    /// The jobs: those that go on or may, by number, then those that have ended, the latest first.
    pub fn jobs(&self) -> Vec<&JobLook> {
        let mut jobs: Vec<&JobLook> = self.look.iter().flat_map(|look| &look.jobs).collect();
        let open = |job: &JobLook| {
            job::wants_work(job.view.record.state) || job.view.record.state == JobState::Paused
        };
        jobs.sort_by_key(|job| {
            let id = job.view.record.id.0;
            if open(job) { (0, id) } else { (1, u64::MAX - id) }
        });
        jobs
    }

    /// What a list shows, by name.
    pub fn names(&self, tab: Tab) -> Vec<String> {
        match tab {
            Tab::Overview | Tab::Events => Vec::new(),
            Tab::Apparatuses => {
                let all = self.apparatuses().iter();
                all.map(|view| view.member.name.to_string()).collect()
            }
            Tab::Volumes => self
                .volumes()
                .iter()
                .map(|each| each.record.name.to_string())
                .collect(),
            Tab::Disks => self
                .disks()
                .iter()
                .map(|each| each.record.name.to_string())
                .collect(),
            Tab::Jobs => self
                .jobs()
                .iter()
                .map(|job| job.view.record.id.to_string())
                .collect(),
        }
    }

    /// Which line of a list is chosen; the first where what was chosen has gone.
    pub fn chosen(&self, tab: Tab) -> usize {
        let names = self.names(tab);
        let found = self
            .chosen
            .get(&tab)
            .and_then(|name| names.iter().position(|each| each == name));
        found.unwrap_or(0)
    }

    /// The chosen apparatus.
    pub fn apparatus(&self) -> Option<&View> {
        self.apparatuses().get(self.chosen(Tab::Apparatuses))
    }

    /// The chosen volume.
    pub fn volume(&self) -> Option<&VolumeView> {
        self.volumes().get(self.chosen(Tab::Volumes))
    }

    /// The chosen disk.
    pub fn disk(&self) -> Option<&DiskView> {
        self.disks().get(self.chosen(Tab::Disks))
    }

    /// The chosen job.
    pub fn job(&self) -> Option<&JobLook> {
        self.jobs().get(self.chosen(Tab::Jobs)).copied()
    }

    fn choose(&mut self, by: isize) {
        let names = self.names(self.tab);
        let last = names.len().saturating_sub(1);
        let to = self.chosen(self.tab).saturating_add_signed(by).min(last);
        if let Some(name) = names.into_iter().nth(to) {
            self.chosen.insert(self.tab, name);
        }
    }
}
