//! Runs verbs that have been previewed.

use super::super::model::Tab;
use super::super::model::dialog::{Outcome, PlanOutcome};
use super::super::verb::{NewApparatus, NewDisk, Verb};
use super::{ENDING, LONG, MOMENT, Operator, plan, stale};
use crate::arguments::micros;
use crate::commands::hidden::apparatus_program;
use crate::commands::waited_in_words;
use crate::output::duration;
use apparatus::admin;
use apparatus::admin::apparatus::Fenced;
use apparatus::admin::attach;
use apparatus::admin::hold::Work;
use apparatus::admin::moving;
use apparatus::admin::plan::Planned;
use apparatus::admin::send::Sent;
use apparatus::cluster;
use apparatus::controller::Controller;
use apparatus::jobs::{self, Request};
use apparatus::model::error::{Error, ErrorKind, Result};
use apparatus::model::job::{JobLimits, JobState};
use apparatus::model::records::{DiskRecord, Edit};
use apparatus::model::units::{ByteCount, JobId};
use apparatus::store::Store;
use std::path::Path;
use std::time::Duration;

impl Operator<'_> {
    /// Runs a verb and describes its result.
    ///
    /// # Errors
    /// Fails with the reason why it was not done.
    pub fn send(&self, verb: &Verb, expected: Option<&PlanOutcome>) -> Result<Outcome> {
        match verb {
            Verb::Move { request, rate } => {
                let request = moving::of_volume(&mut *self.store()?, request)?;
                self.begin(verb, &request, *rate, expected)
            }
            Verb::Evacuate {
                disk,
                to,
                use_reserve,
                rate,
            } => {
                let request = moving::of_disk(&mut *self.store()?, disk, to, *use_reserve)?;
                self.begin(verb, &request, *rate, expected)
            }
            Verb::RemoveDisk(disk) => self.remove_disk(verb, disk),
            Verb::ResizeDisk { disk, size } => self.resize_disk(verb, disk, *size),
            Verb::AddDisk(new) => self.add_disk(verb, new, expected),
            Verb::Attach {
                volume,
                apparatus,
                read_only,
                partitions,
            } => {
                let options = attach::Options {
                    read_only: *read_only,
                    partitions: *partitions,
                };
                self.attach(volume, apparatus.as_deref(), options)
            }
            Verb::Detach(volume) => {
                let devices = attach::devices(self.pool, &mut *self.store()?, volume)?;
                attach::detach(volume, &devices)?;
                let paths: Vec<String> = devices.iter().map(|path| path.display().to_string()).collect();
                Ok(format!("volume {volume} is detached: {}", paths.join(", ")).into())
            }
            Verb::Hold { request, time } => self.hold(verb, request, *time),
            Verb::Start(new) => self.start(new),
            Verb::Stop { name, cut_off, lose } => {
                let store = &mut *self.store()?;
                if let Ok(member) = admin::apparatus::member(store, name) {
                    admin::open_images::check_end(self.pool, store, &member, lose)?;
                }
                let ran = admin::apparatus::stop(self.pool, store, name, *cut_off, LONG)?;
                let done = if ran { "has stopped" } else { "had ended already" };
                Ok(format!("apparatus {name} {done}").into())
            }
            Verb::Fence { name, cut_off, lose } => self.fence(name, *cut_off, lose),
            Verb::Rejoin(name) => {
                self.rejoin(name)?;
                Ok(format!("apparatus {name} serves").into())
            }
            Verb::Pause(_) | Verb::Resume(_) | Verb::Cancel { .. } | Verb::Rate { .. } => {
                self.do_to_job(verb)
            }
            _ => self.change(verb, expected),
        }
    }

    fn do_to_job(&self, verb: &Verb) -> Result<Outcome> {
        match verb {
            Verb::Pause(id) => {
                jobs::pause(&mut *self.store()?, *id)?;
                Ok(format!("job {id} is paused").into())
            }
            Verb::Resume(id) => self.go_on(*id, &|store| jobs::resume(store, *id)),
            Verb::Cancel { job, back } => {
                let worked_on = admin::job::worker(self.pool, *job)?.is_some();
                let done = if *back { "is moving back" } else { "is cancelled" };
                let request = |store: &mut dyn Store| jobs::cancel(store, *job, *back);
                if worked_on || !*back {
                    request(&mut *self.store()?)?;
                } else {
                    self.go_on(*job, &request)?;
                }
                Ok(format!("job {job} {done}").into())
            }
            Verb::Rate { job, rate } => {
                let mut store = self.store()?;
                let old = admin::job::find(&mut *store, *job)?.limits;
                jobs::set_limits(&mut *store, *job, JobLimits { rate: *rate, ..old })?;
                Ok(format!("job {job} has its new rate").into())
            }
            _ => Err(Error::usage(verb.command(), "is not about a job")),
        }
    }

    /// Sends a change of the table, planned again under the controller lock; the plan must equal the previewed one.
    fn change(&self, verb: &Verb, expected: Option<&PlanOutcome>) -> Result<Outcome> {
        let title = verb.command();
        let mut controller = self.controller(&title)?;
        let planned = plan::of(self.pool, controller.store(), verb)
            .unwrap_or_else(|| Err(Error::usage(title.clone(), "cannot be sent")))?;
        let Some(planned) = planned else {
            return Ok("nothing to change".to_owned().into());
        };
        if !is_expected(&planned, expected) {
            return Err(stale(verb));
        }
        let sent = admin::send::send(&mut controller, &title, &planned)?;
        let mut outcome = done(verb, sent, &controller);
        if let Verb::ResizeVolume { volume, .. } = verb {
            let failures = attach::refresh(self.pool, controller.store(), volume)?;
            for error in failures {
                outcome.text.push_str(&format!("; {error}"));
            }
        }
        Ok(outcome)
    }

    fn add_disk(&self, verb: &Verb, new: &NewDisk, expected: Option<&PlanOutcome>) -> Result<Outcome> {
        let disk = plan::new_disk(new)?;
        let title = verb.command();
        let mut controller = self.controller(&title)?;
        let content = admin::disk::content(controller.store(), &disk)?;
        if expected != Some(&PlanOutcome::Content(content.map(str::to_owned))) {
            return Err(stale(verb));
        }
        let (name, sent) = admin::disk::add(&mut controller, &title, &disk)?;
        let outcome = with_effect(format!("disk {name} is added"), sent, &controller);
        Ok(outcome.making(Tab::Disks, name))
    }

    fn remove_disk(&self, verb: &Verb, disk: &str) -> Result<Outcome> {
        let title = verb.command();
        let mut controller = self.controller(&title)?;
        let (sent, left) = admin::disk::remove(&mut controller, &title, disk)?;
        let label = left.map_or(String::new(), |error| {
            format!("; {}: {}", error.what(), admin::disk::label_left(&error))
        });
        Ok(with_effect(
            format!("disk {disk} is removed{label}"),
            sent,
            &controller,
        ))
    }

    fn resize_disk(&self, verb: &Verb, disk: &str, size: Option<ByteCount>) -> Result<Outcome> {
        let title = verb.command();
        let mut controller = self.controller(&title)?;
        Ok(match admin::disk::resize(&mut controller, &title, disk, size)? {
            Some(sent) => with_effect(format!("disk {disk} has its new size"), sent, &controller),
            None => "nothing to change".to_owned().into(),
        })
    }

    fn attach(&self, volume: &str, through: Option<&str>, options: attach::Options) -> Result<Outcome> {
        let store = &mut *self.store()?;
        let place = attach::place(self.pool, store, volume, through)?;
        let device = attach::attach(self.pool, store, &place, through, options)?;
        let path = device.path.display();
        let already = if device.is_new { "" } else { " already" };
        Ok(with_warning(format!("volume {volume} is{already} {path}"), device.warning).into())
    }

    fn start(&self, new: &NewApparatus) -> Result<Outcome> {
        let start = admin::apparatus::Start {
            name: new.name.clone(),
            mount: admin::place::absolute(Path::new(&new.mount))?,
            threads: new.threads,
            allow_other: new.allow_other,
            supervisor: false,
            transport: None,
            config: None,
            own_cgroup: admin::apparatus::is_memory_limited(),
            program: apparatus_program()?,
        };
        self.store()?.header()?;
        let started = admin::apparatus::start(self.pool, &start, LONG)?;
        self.background.adopt(started.process);
        let serves = format!("apparatus {} serves at {}", new.name, start.mount.display());
        let unopened = started.unopened.iter();
        let warnings = started
            .warning
            .into_iter()
            .chain(unopened.map(|each| format!("disk {}: {}", each.disk, each.why)));
        let warnings: Vec<String> = warnings.collect();
        let text = with_warning(serves, (!warnings.is_empty()).then(|| warnings.join("; ")));
        Ok(Outcome::from(text).making(Tab::Apparatuses, &new.name))
    }

    fn fence(&self, name: &str, overridden: bool, lose: &[String]) -> Result<Outcome> {
        let mut store = self.store()?;
        let member = admin::apparatus::member(&mut *store, name)?;
        if !overridden {
            admin::apparatus::check_fence(self.pool, &mut *store, &member)?;
        }
        admin::open_images::check_end(self.pool, &mut *store, &member, lose)?;
        let text = match admin::apparatus::fence(self.pool, &mut *store, &member, ENDING)? {
            Fenced::IsEnding => format!("apparatus {name} is fenced and killed, and has not ended yet"),
            Fenced::Ended | Fenced::HadEnded => format!("apparatus {name} is fenced, its process has ended"),
        };
        Ok(text.into())
    }

    /// Waits in short steps, so that leaving the console is not delayed.
    fn rejoin(&self, name: &str) -> Result<()> {
        let mut store = self.store()?;
        let mut left = LONG;
        loop {
            match admin::apparatus::rejoin(self.pool, &mut *store, name, MOMENT) {
                Err(error)
                    if error.kind() == ErrorKind::TimedOut
                        && !left.is_zero()
                        && !self.background.leaving() =>
                {
                    left = left.saturating_sub(MOMENT);
                }
                other => return other,
            }
        }
    }

    fn begin(
        &self,
        verb: &Verb,
        request: &Request,
        rate: Option<ByteCount>,
        expected: Option<&PlanOutcome>,
    ) -> Result<Outcome> {
        let title = verb.command();
        let mut controller = self.controller_for_job(&title)?;
        let (now, _) = moving::preview(self.pool, controller.store(), request)?;
        if expected.is_some_and(|expected| *expected != PlanOutcome::Steps(now.steps)) {
            return Err(stale(verb));
        }
        let limits = JobLimits {
            rate,
            ..JobLimits::default()
        };
        let begun = moving::begin(&mut controller, request, &title, limits)?;
        drop(controller);
        match begun.job {
            Some(job) => {
                let begun = self.go_on(job, &|_| Ok(()))?;
                Ok(begun.making(Tab::Jobs, job))
            }
            None => Ok("nothing to move: everything is at its destination"
                .to_owned()
                .into()),
        }
    }

    /// Lets an apparatus work on the job; if none serves, this process does.
    fn go_on(&self, job: JobId, request: &dyn Fn(&mut dyn Store) -> Result<()>) -> Result<Outcome> {
        match admin::job::command_and_hand_over(self.pool, &mut *self.store()?, job, None, request) {
            Ok(apparatus) => Ok(format!("job {job}: apparatus {apparatus} works on it").into()),
            Err(_) if self.is_unserved()? => self.work_here(job, request),
            Err(error) => Err(error),
        }
    }

    fn is_unserved(&self) -> Result<bool> {
        let views = admin::apparatus::list(self.pool, &mut *self.store()?)?;
        Ok(views
            .iter()
            .all(|view| view.state != admin::apparatus::State::Serving))
    }

    fn work_here(&self, job: JobId, request: &dyn Fn(&mut dyn Store) -> Result<()>) -> Result<Outcome> {
        let claim = jobs::take_on(&*cluster::open(self.pool)?, job, jobs::RELEASE_TIMEOUT)?;
        let mut controller = self.controller_for_job(&admin::job::purpose(job))?;
        request(controller.store())?;
        let state = jobs::run_taken(&mut controller, claim, &mut &*self.background)?;
        let word = match state {
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
            _ => "paused",
        };
        Ok(format!("job {job} is {word}").into())
    }

    fn hold(&self, verb: &Verb, request: &admin::hold::HoldRequest, time: Duration) -> Result<Outcome> {
        let title = verb.command();
        // The lock is taken before `for_hold` replaces the registration of a hold that is in place.
        let mut controller = self.controller(&title)?;
        let work = Work {
            time,
            flush: false,
            command: None,
            stop: self.background.for_hold()?,
        };
        let held = admin::hold::hold(&mut controller, &title, request, &work);
        self.background.release();
        let volumes = request.volumes.join(", ");
        match held {
            Ok(held) => {
                let text = format!("held {volumes} for {}", duration(micros(held.time)));
                Ok(with_effect(text, held.sent, &controller))
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => Ok(format!("released {volumes}").into()),
            Err(error) => Err(error),
        }
    }
}

fn is_expected(planned: &Planned, expected: Option<&PlanOutcome>) -> bool {
    match expected {
        Some(PlanOutcome::Edits(edits)) => {
            let now = planned.delta.edits.iter().map(without_label);
            now.eq(edits.iter().map(without_label))
        }
        _ => false,
    }
}

/// Removes the label number, which changes at any time and is not shown in a preview.
fn without_label(edit: &Edit) -> Edit {
    match edit {
        Edit::SetDisk(disk) => Edit::SetDisk(DiskRecord {
            label: 0,
            ..disk.clone()
        }),
        edit => edit.clone(),
    }
}

fn done(verb: &Verb, sent: Sent, controller: &Controller) -> Outcome {
    let (text, made) = match verb {
        Verb::CreateVolume(new) => (
            format!("volume {} is created", new.name),
            Some((Tab::Volumes, new.name.to_string())),
        ),
        Verb::ResizeVolume { volume, .. } => (format!("volume {volume} has its new size"), None),
        Verb::RenameVolume { volume, new } => (format!("volume {volume} is called {new} now"), None),
        Verb::SetVolume { volume, .. } => (format!("volume {volume} is set"), None),
        Verb::RemoveVolume { volume, .. } => (format!("volume {volume} is removed"), None),
        Verb::SetDisk(request) => (format!("disk {} is set", request.disk), None),
        _ => (format!("{} is done", verb.command()), None),
    };
    Outcome {
        made,
        ..with_effect(text, sent, controller)
    }
}

fn with_warning(text: String, warning: Option<String>) -> String {
    match warning {
        Some(warning) => format!("{text}; warning: {warning}"),
        None => text,
    }
}

/// Adds the effect on hosts and apparatuses to the text.
fn with_effect(mut text: String, sent: Sent, controller: &Controller) -> Outcome {
    if sent.parked > 0 {
        text.push_str(&format!("; {}", waited_in_words(sent.parked, sent.longest_us)));
    }
    Outcome::from(text).fencing(controller.fenced())
}
