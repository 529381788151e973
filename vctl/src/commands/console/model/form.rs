//! Forms that complete a verb. Their input is parsed by the same functions as the command line.

mod apparatus;
mod disk;
mod job;
mod volume;

use super::{Model, Verb};
use crate::arguments;
use ::apparatus::model::alloc::Policy;
use ::apparatus::model::error::{Error, Result};
use ::apparatus::model::names::Name;
use ::apparatus::model::units::{ByteCount, JobId};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::BTreeSet;
use tui_input::{Input, InputRequest};

const POLICIES: [Policy; 4] = [Policy::Order, Policy::Spread, Policy::Pack, Policy::Contiguous];

/// The purpose of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Creates a volume.
    NewVolume,
    /// Resizes this volume.
    ResizeVolume(String),
    /// Renames this volume.
    RenameVolume(String),
    /// Changes permissions, owner or access of this volume.
    SetVolume(String),
    /// Attaches this volume.
    Attach(String),
    /// Moves this volume.
    Move(String),
    /// Holds this volume.
    Hold(String),
    /// Adds a disk.
    NewDisk,
    /// Changes this disk.
    SetDisk(String),
    /// Resizes this disk.
    ResizeDisk(String),
    /// Evacuates this disk.
    Evacuate(String),
    /// Sets the rate of this job.
    Rate(JobId),
    /// Starts an apparatus.
    Start,
}

impl Subject {
    /// Returns the title of the form.
    pub fn title(&self) -> String {
        match self {
            Self::NewVolume => "new volume".into(),
            Self::ResizeVolume(volume) => format!("resize volume {volume}"),
            Self::RenameVolume(volume) => format!("rename volume {volume}"),
            Self::SetVolume(volume) => format!("settings of volume {volume}"),
            Self::Attach(volume) => format!("attach volume {volume}"),
            Self::Move(volume) => format!("move volume {volume}"),
            Self::Hold(volume) => format!("hold volume {volume}"),
            Self::NewDisk => "add a disk".into(),
            Self::SetDisk(disk) => format!("settings of disk {disk}"),
            Self::ResizeDisk(disk) => format!("resize disk {disk}"),
            Self::Evacuate(disk) => format!("evacuate disk {disk}"),
            Self::Rate(job) => format!("rate of job {job}"),
            Self::Start => "start an apparatus".into(),
        }
    }
}

/// An input field.
#[derive(Clone, Debug, Default)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// Its text.
    pub input: Input,
    /// Values that the arrow keys offer.
    pub offers: Vec<String>,
    /// Its initial text.
    was: String,
}

impl Field {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            ..Self::default()
        }
    }

    fn with(self, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            was: text.clone(),
            input: text.into(),
            ..self
        }
    }

    fn offering(self, offers: impl IntoIterator<Item = String>) -> Self {
        Self {
            offers: offers.into_iter().collect(),
            ..self
        }
    }

    /// A field for one of two words; the first is the default.
    fn choice(name: &'static str, help: &'static str, words: [&str; 2]) -> Self {
        Self::new(name, help)
            .with(words[0])
            .offering(words.map(str::to_owned))
    }
}

/// An input form.
#[derive(Clone, Debug)]
pub struct Form {
    /// Its purpose.
    pub subject: Subject,
    /// Its fields in order.
    pub fields: Vec<Field>,
    /// The index of the field that receives keys.
    pub at: usize,
    /// The error in the input.
    pub complaint: Option<String>,
}

impl Form {
    fn new(subject: Subject, fields: Vec<Field>) -> Self {
        Self {
            subject,
            fields,
            at: 0,
            complaint: None,
        }
    }

    /// Selects the next or the previous field.
    pub fn step(&mut self, forward: bool) {
        let count = self.fields.len();
        self.at = (self.at + if forward { 1 } else { count - 1 }) % count;
    }

    /// Puts the next or the previous offered value into the field.
    pub fn offer(&mut self, forward: bool) {
        let Some(field) = self.fields.get_mut(self.at) else {
            return;
        };
        let count = field.offers.len();
        if count == 0 {
            return;
        }
        let now = field.offers.iter().position(|offer| offer == field.input.value());
        let next = match now {
            Some(at) => (at + if forward { 1 } else { count - 1 }) % count,
            None => 0,
        };
        field.input = field.offers[next].clone().into();
        self.complaint = None;
    }

    /// Edits the selected field.
    pub fn edit(&mut self, key: KeyEvent) {
        if let Some(field) = self.fields.get_mut(self.at) {
            edit(&mut field.input, key);
        }
        self.complaint = None;
    }

    /// Returns the verb with its input.
    ///
    /// # Errors
    /// Fails with the error in the input.
    pub fn verb(&self) -> Result<Verb> {
        match &self.subject {
            Subject::NewVolume => self.new_volume(),
            Subject::ResizeVolume(volume) => self.resized(volume),
            Subject::RenameVolume(volume) => self.renamed(volume),
            Subject::SetVolume(volume) => self.set_volume(volume),
            Subject::Attach(volume) => self.attached(volume),
            Subject::Move(volume) => self.moved(volume),
            Subject::Hold(volume) => self.held(volume),
            Subject::NewDisk => self.new_disk(),
            Subject::SetDisk(disk) => self.set_disk(disk),
            Subject::ResizeDisk(disk) => self.resized_disk(disk),
            Subject::Evacuate(disk) => self.evacuated(disk),
            Subject::Rate(job) => self.rated(*job),
            Subject::Start => self.started(),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.name == name);
        field
            .map(|field| field.input.value().trim())
            .filter(|text| !text.is_empty())
    }

    /// Returns the text of a field if it is not its initial text.
    fn changed(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        self.text(name).filter(|text| *text != field.was)
    }

    /// Returns the text of a field that must not be empty.
    fn needed(&self, name: &str) -> Result<&str> {
        self.text(name)
            .ok_or_else(|| Error::usage(name.to_owned(), "is empty"))
    }

    fn words(&self, name: &str) -> Vec<String> {
        let words = self.text(name).unwrap_or_default().split([' ', ',']);
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// Parses new names; `noun` is used in the error.
    fn names(&self, field: &str, noun: &'static str) -> Result<Vec<Name>> {
        let words = self.words(field).into_iter();
        words
            .map(|word| Name::new(noun, word.strip_prefix('@').unwrap_or(&word)))
            .collect()
    }

    fn size(&self, name: &str) -> Result<Option<ByteCount>> {
        self.text(name).map(::apparatus::model::size::parse).transpose()
    }

    /// Returns whether the second of two words was entered; `None` if nothing was changed.
    fn either(&self, name: &str, [first, second]: [&str; 2]) -> Result<Option<bool>> {
        match self.text(name) {
            None => Ok(None),
            Some(text) if text == first || text == second => Ok(Some(text == second)),
            Some(other) => Err(Error::usage(
                format!("{name} {other:?}"),
                format!("is neither {first} nor {second}"),
            )),
        }
    }

    fn rate(&self) -> Result<Option<ByteCount>> {
        let text = self.text("rate").filter(|text| *text != "none");
        text.map(arguments::rate).transpose()
    }

    fn policy(&self) -> Result<Option<Policy>> {
        let Some(text) = self.text("policy") else {
            return Ok(None);
        };
        let found = POLICIES.into_iter().find(|policy| policy.word() == text);
        let words = POLICIES.map(Policy::word).join(", ");
        found
            .map(Some)
            .ok_or_else(|| Error::usage(format!("policy {text:?}"), format!("is none of {words}")))
    }

    fn range(&self) -> Result<Option<(ByteCount, Option<ByteCount>)>> {
        let range = self.text("range").map(arguments::byte_range).transpose()?;
        Ok(range.map(|range| (range.start, range.end)))
    }
}

/// Edits a text by the keys that shells use.
pub fn edit(input: &mut Input, key: KeyEvent) {
    const LONGEST: usize = 4000;
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let request = match (key.code, control) {
        (KeyCode::Backspace, _) | (KeyCode::Char('h'), true) => InputRequest::DeletePrevChar,
        (KeyCode::Delete, _) | (KeyCode::Char('d'), true) => InputRequest::DeleteNextChar,
        (KeyCode::Left, false) | (KeyCode::Char('b'), true) => InputRequest::GoToPrevChar,
        (KeyCode::Right, false) | (KeyCode::Char('f'), true) => InputRequest::GoToNextChar,
        (KeyCode::Left, true) => InputRequest::GoToPrevWord,
        (KeyCode::Right, true) => InputRequest::GoToNextWord,
        (KeyCode::Home, _) | (KeyCode::Char('a'), true) => InputRequest::GoToStart,
        (KeyCode::End, _) | (KeyCode::Char('e'), true) => InputRequest::GoToEnd,
        (KeyCode::Char('u'), true) => InputRequest::DeleteLine,
        (KeyCode::Char('w'), true) => InputRequest::DeletePrevWord,
        (KeyCode::Char('k'), true) => InputRequest::DeleteTillEnd,
        (KeyCode::Char('y'), true) => InputRequest::Yank,
        (KeyCode::Char(letter), false) if input.value().len() < LONGEST => InputRequest::InsertChar(letter),
        _ => return,
    };
    input.handle(request);
}

/// Returns the error for a form without changes.
fn unchanged(subject: &str) -> Error {
    Error::usage(subject.to_owned(), "nothing was changed")
}

fn rate() -> Field {
    Field::new(
        "rate",
        "limit in bytes per second, like 50M; empty or none: no limit",
    )
}

fn policy() -> Field {
    let words = POLICIES.map(|policy| policy.word().to_owned());
    Field::new("policy", "which disk is filled first; empty: the pool's policy").offering(words)
}

/// Returns the disks that accept new data and are not excluded, emptiest first, and the tags.
fn places(model: &Model, leave_out: &dyn Fn(&str) -> bool) -> Vec<String> {
    let open = |disk: &&::apparatus::admin::view::DiskView| {
        disk.record.allocate && !leave_out(disk.record.name.as_str())
    };
    let mut disks: Vec<_> = model.disks().iter().filter(open).collect();
    disks.sort_by_key(|disk| std::cmp::Reverse(disk.usage.free));
    let tags: BTreeSet<String> = disks
        .iter()
        .flat_map(|disk| &disk.record.tags)
        .map(|tag| format!("@{tag}"))
        .collect();
    let names = disks.iter().map(|disk| disk.record.name.to_string());
    names.chain(tags).collect()
}
