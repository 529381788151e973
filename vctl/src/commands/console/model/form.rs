//! What has to be asked before a verb is complete. Read by the same rules as the command line.

use super::{Model, Verb};
use crate::arguments;
use apparatus::error::{Error, Result};
use apparatus::ops::{hold, moving};
use apparatus::pool::alloc::Policy;
use apparatus::units::{ByteCount, JobId};
use std::collections::BTreeSet;

const POLICIES: [Policy; 4] = [Policy::Order, Policy::Spread, Policy::Pack, Policy::Contiguous];

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Where this volume is to go.
    Move(String),
    /// Where what is on this disk is to go.
    Evacuate(String),
    /// How fast this job may be.
    Rate(JobId),
    /// How long this volume is to be held.
    Hold(String),
}

/// One line to fill in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// What it is called.
    pub name: &'static str,
    /// What may be put in.
    pub help: &'static str,
    /// What has been put in.
    pub text: String,
    /// What the arrow keys offer.
    pub offers: Vec<String>,
}

/// Lines to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// What it is about.
    pub subject: Subject,
    /// In order.
    pub fields: Vec<Field>,
    /// The one that keys go to.
    pub at: usize,
    /// What is wrong with what was put in.
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

    /// Where a volume is to go.
    pub fn of_move(model: &Model, volume: &str) -> Self {
        let lies = model
            .volumes()
            .iter()
            .find(|each| each.record.name.as_str() == volume);
        let on: Vec<String> = lies.map_or(Vec::new(), |each| {
            each.on.iter().map(|(disk, _)| disk.to_string()).collect()
        });
        let all_on = |name: &str| on.len() == 1 && on.first().is_some_and(|disk| disk == name);
        let fields = vec![
            to(model, "disk or @tag; several: d2 d3", &all_on),
            Field {
                name: "from",
                help: "only what lies on this disk; may stay empty",
                offers: on.clone(),
                ..Field::default()
            },
            Field {
                name: "range",
                help: "only this part, like 1G..2G; may stay empty",
                ..Field::default()
            },
            Field {
                name: "policy",
                help: "which disk is taken first; empty: as the pool has it",
                offers: POLICIES.map(|policy| policy.word().into()).into(),
                ..Field::default()
            },
            rate(),
        ];
        Self::new(Subject::Move(volume.into()), fields)
    }

    /// Where what is on a disk is to go.
    pub fn of_evacuation(model: &Model, disk: &str) -> Self {
        let mut to = to(model, "disk or @tag; empty: wherever there is room", &|name| {
            name == disk
        });
        to.text.clear();
        let reserve = Field {
            name: "reserve",
            help: "keep it free at the destinations, or use it",
            text: "keep".into(),
            offers: vec!["keep".into(), "use".into()],
        };
        Self::new(Subject::Evacuate(disk.into()), vec![to, reserve, rate()])
    }

    /// How fast a job may be.
    pub fn of_rate(job: JobId, now: Option<ByteCount>) -> Self {
        let text = now.map_or("none".into(), |rate| crate::output::size(rate.0));
        Self::new(Subject::Rate(job), vec![Field { text, ..rate() }])
    }

    /// How long a volume is to be held.
    pub fn of_hold(volume: &str) -> Self {
        let fields = vec![
            Field {
                name: "for",
                help: "at most so long, like 500ms or 10s; x releases it earlier",
                text: "10s".into(),
                ..Field::default()
            },
            Field {
                name: "range",
                help: "only this part, like 1G..2G; may stay empty",
                ..Field::default()
            },
            Field {
                name: "requests",
                help: "all, or only writes",
                text: "all".into(),
                offers: vec!["all".into(), "writes".into()],
            },
        ];
        Self::new(Subject::Hold(volume.into()), fields)
    }

    /// The next field, or the one before.
    pub fn step(&mut self, forward: bool) {
        let count = self.fields.len();
        self.at = (self.at + if forward { 1 } else { count - 1 }) % count;
    }

    /// The next of what is offered for this field, or the one before.
    pub fn offer(&mut self, forward: bool) {
        let Some(field) = self.fields.get_mut(self.at) else {
            return;
        };
        let count = field.offers.len();
        if count == 0 {
            return;
        }
        let next = match field.offers.iter().position(|offer| *offer == field.text) {
            Some(at) => (at + if forward { 1 } else { count - 1 }) % count,
            None => 0,
        };
        field.text.clone_from(&field.offers[next]);
    }

    /// Puts a character in.
    pub fn put(&mut self, letter: char) {
        const LONGEST: usize = 200;
        if let Some(field) = self
            .fields
            .get_mut(self.at)
            .filter(|field| field.text.len() < LONGEST)
        {
            field.text.push(letter);
        }
        self.complaint = None;
    }

    /// Takes the last character out.
    pub fn erase(&mut self) {
        if let Some(field) = self.fields.get_mut(self.at) {
            field.text.pop();
        }
        self.complaint = None;
    }

    /// Empties the field.
    pub fn clear(&mut self) {
        if let Some(field) = self.fields.get_mut(self.at) {
            field.text.clear();
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.name == name);
        field
            .map(|field| field.text.trim())
            .filter(|text| !text.is_empty())
    }

    fn words(&self, name: &str) -> Vec<String> {
        let words = self.text(name).unwrap_or_default().split([' ', ',']);
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// Whether the second of two words was put in; the first stands for nothing, too.
    fn either(&self, name: &str, [first, second]: [&str; 2]) -> Result<bool> {
        match self.text(name) {
            None => Ok(false),
            Some(text) if text == first || text == second => Ok(text == second),
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

    /// The verb that was asked for.
    ///
    /// # Errors
    /// What is wrong with what was put in.
    pub fn verb(&self) -> Result<Verb> {
        Ok(match &self.subject {
            Subject::Move(volume) => {
                let to = self.words("to");
                if to.is_empty() {
                    return Err(Error::usage("to", "names no disk"));
                }
                let wish = moving::Wish {
                    volume: volume.clone(),
                    to,
                    from: self.text("from").map(str::to_owned),
                    range: self.range()?,
                    policy: self.policy()?,
                };
                Verb::Move {
                    wish,
                    rate: self.rate()?,
                }
            }
            Subject::Evacuate(disk) => Verb::Evacuate {
                disk: disk.clone(),
                to: self.words("to"),
                use_reserve: self.either("reserve", ["keep", "use"])?,
                rate: self.rate()?,
            },
            Subject::Rate(job) => Verb::Rate {
                job: *job,
                rate: self.rate()?,
            },
            Subject::Hold(volume) => self.hold(volume)?,
        })
    }

    fn hold(&self, volume: &str) -> Result<Verb> {
        let wish = hold::Wish {
            volumes: vec![volume.to_owned()],
            range: self.range()?,
            writes_only: self.either("requests", ["all", "writes"])?,
        };
        let time = arguments::duration(self.text("for").unwrap_or("2s"))?;
        Ok(Verb::Hold { wish, time })
    }
}

fn rate() -> Field {
    Field {
        name: "rate",
        help: "at most so many bytes a second, like 50M; none: no limit",
        text: "none".into(),
        ..Field::default()
    }
}

/// Offers the disks that take something new and are not left out, emptiest first, and the tags.
fn to(model: &Model, help: &'static str, leave_out: &dyn Fn(&str) -> bool) -> Field {
    let open = |disk: &&apparatus::ops::view::DiskView| {
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
    let offers: Vec<String> = names.chain(tags).collect();
    Field {
        name: "to",
        help,
        text: offers.first().cloned().unwrap_or_default(),
        offers,
    }
}
