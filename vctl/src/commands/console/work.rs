//! Does what the operator wants: finds out what a verb would do, and does it, by the operations that the commands use.

use super::model::dialog::{Layouts, Preview};
use super::verb::Verb;
use crate::commands::volume::map::picture;
use crate::commands::waited_in_words;
use crate::output::{count, duration, size};
use apparatus::change::driver::{Controller, Wait};
use apparatus::change::jobs::{self, Observer, Request};
use apparatus::error::{Error, Kind, Result};
use apparatus::ops;
use apparatus::ops::hold::Work;
use apparatus::ops::job::View;
use apparatus::ops::moving::{self, Outline};
use apparatus::ops::view::PoolView;
use apparatus::pool::dir::PoolDir;
use apparatus::pool::names::Name;
use apparatus::store::{JobLimits, JobRecord, JobState, Store};
use apparatus::units::{ByteCount, JobId};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long the arbitration is waited for: whoever has it may be about to give it back.
const ARBITRATION: Duration = Duration::from_secs(2);
/// How long an apparatus may take to end or to come back.
const LONG: Duration = Duration::from_secs(60);
/// Whoever leaves waits no longer than this for a wait to end.
const MOMENT: Duration = Duration::from_secs(1);

/// Ends what goes on until it is told to end.
#[derive(Default)]
pub struct Leash {
    leaving: AtomicBool,
    /// Closing it ends the hold that is in place.
    hold: Mutex<Option<UnixStream>>,
}

impl Leash {
    /// Ends the hold.
    pub fn release(&self) {
        drop(self.hold.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends everything.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.release();
    }

    fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Readable once the hold is to end.
    fn for_hold(&self) -> Result<OwnedFd> {
        let failed = |error| Error::because("hold", error);
        let (told, tell) = UnixStream::pair().map_err(failed)?;
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        if self.leaving() {
            self.release();
        }
        Ok(told.into())
    }
}

/// A job that is worked on here.
impl Observer for &Leash {
    fn progress(&mut self, _: &JobRecord, _: u64, _: u64) -> bool {
        !self.leaving()
    }
}

/// Does things to one pool.
pub struct Hand<'a> {
    /// The pool.
    pub pool: &'a PoolDir,
    /// Ends what goes on.
    pub leash: &'a Leash,
}

impl Hand<'_> {
    fn store(&self) -> Result<Box<dyn Store>> {
        ops::open(self.pool)
    }

    fn controller(&self, purpose: &str) -> Result<Controller> {
        Controller::acquire(self.pool, purpose, Wait::For(Some(ARBITRATION))).map_err(|error| {
            match error.kind() {
                Kind::Busy => Error::new(Kind::Busy, "busy", error.why())
                    .hint("one controller acts at a time: wait for its end, or pause its job"),
                _ => error,
            }
        })
    }

    /// What the verb would do. Changes nothing.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn preview(&self, verb: &Verb) -> Result<Preview> {
        let mut store = self.store()?;
        let store = &mut *store;
        match verb {
            Verb::Move { wish, .. } => {
                let request = moving::of_volume(store, wish)?;
                of_request(self.pool, store, &request)
            }
            Verb::Evacuate {
                disk,
                to,
                use_reserve,
                ..
            } => {
                let request = moving::of_disk(store, disk, to, *use_reserve)?;
                let mut preview = of_request(self.pool, store, &request)?;
                let closed = format!("disk {disk} takes nothing new from then on");
                preview.summary.push(closed);
                Ok(preview)
            }
            Verb::Remove(disk) => of_removal(store, disk),
            Verb::Pause(id) => of_job(
                self.pool,
                store,
                *id,
                "stops at the end of a chunk; what was moved stays moved",
            ),
            Verb::Resume(id) => of_job(self.pool, store, *id, "goes on"),
            Verb::Cancel { job, back: false } => {
                of_job(self.pool, store, *job, "ends; what was moved stays moved")
            }
            Verb::Cancel { job, back: true } => {
                of_job(self.pool, store, *job, "moves back what it moved, and ends")
            }
            Verb::Rate { job, rate } => {
                let said = |rate: Option<ByteCount>| {
                    rate.map_or("no limit".into(), |rate| format!("{}/s", size(rate.0)))
                };
                let old = ops::job::find(store, *job)?.limits.rate;
                of_job(
                    self.pool,
                    store,
                    *job,
                    &format!("rate: {} -> {}", said(old), said(*rate)),
                )
            }
            Verb::Fence(name) => self.of_fence(store, name),
            Verb::Rejoin(name) => self.of_rejoin(store, name),
            Verb::Hold { wish, time } => {
                let planned = ops::hold::plan(store, wish)?;
                let which = if wish.writes_only {
                    "writes"
                } else {
                    "all requests"
                };
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                Ok(Preview {
                    summary: vec![
                        format!(
                            "holds {which} of volume {} for {} at most",
                            wish.volumes.join(", "),
                            duration(micros)
                        ),
                        "hosts wait meanwhile, and see no error; x releases it".into(),
                    ],
                    difference: lines(&ops::plan::as_ron(&planned.difference)?),
                    ..Preview::default()
                })
            }
        }
    }

    fn of_fence(&self, store: &mut dyn Store, name: &str) -> Result<Preview> {
        let view = ops::apparatus::show(self.pool, store, name)?;
        let waiting = view
            .figures
            .map_or(0, |figures| figures.in_flight + figures.parked);
        Ok(summary([
            format!("kills process {} and waits for its end", view.member.pid),
            format!(
                "{} in it fail; hosts of {} lose their volumes",
                count(waiting, "host request"),
                view.member.mount.display()
            ),
            "what it acknowledged is safe; other apparatuses go on".into(),
        ]))
    }

    fn of_rejoin(&self, store: &mut dyn Store, name: &str) -> Result<Preview> {
        let view = ops::apparatus::show(self.pool, store, name)?;
        let state = crate::commands::apparatus::word(view.state).0;
        Ok(summary([
            format!("it is {state}, process {}", view.member.pid),
            "waits until it serves again, which it does by itself, or says what keeps it".into(),
        ]))
    }

    /// Does it; answers what was done, in words.
    ///
    /// # Errors
    /// Why it was not done.
    pub fn send(&self, verb: &Verb, expected: Option<&Outline>) -> Result<String> {
        match verb {
            Verb::Move { wish, rate } => {
                let request = moving::of_volume(&mut *self.store()?, wish)?;
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
            Verb::Remove(disk) => self.remove(verb, disk),
            Verb::Pause(id) => {
                jobs::pause(&mut *self.store()?, *id)?;
                Ok(format!("job {id} is paused"))
            }
            Verb::Resume(id) => self.go_on(*id, &|store| jobs::resume(store, *id)),
            Verb::Cancel { job, back } => {
                let worked_on = ops::job::worker(self.pool, *job)?.is_some();
                let done = if *back { "is moving back" } else { "is cancelled" };
                let wish = |store: &mut dyn Store| jobs::cancel(store, *job, *back);
                if worked_on || !*back {
                    wish(&mut *self.store()?)?;
                } else {
                    self.go_on(*job, &wish)?;
                }
                Ok(format!("job {job} {done}"))
            }
            Verb::Rate { job, rate } => {
                let mut store = self.store()?;
                let old = ops::job::find(&mut *store, *job)?.limits;
                jobs::set_limits(&mut *store, *job, JobLimits { rate: *rate, ..old })?;
                Ok(format!("job {job} has its new rate"))
            }
            Verb::Fence(name) => {
                // Before the arbitration: taking it forgets those whose process has ended.
                let member = ops::apparatus::show(self.pool, &mut *self.store()?, name)?.member;
                let mut controller = self.controller(&verb.command())?;
                ops::apparatus::fence(self.pool, &mut controller, &member, LONG)?;
                Ok(format!("apparatus {name} is fenced, its process has ended"))
            }
            Verb::Rejoin(name) => {
                self.rejoin(name)?;
                Ok(format!("apparatus {name} serves"))
            }
            Verb::Hold { wish, time } => self.hold(verb, wish, *time),
        }
    }

    fn remove(&self, verb: &Verb, disk: &str) -> Result<String> {
        let title = verb.command();
        let mut controller = self.controller(&title)?;
        let (_, left) = ops::disk::remove(&mut controller, &title, disk)?;
        let label = left.map_or(String::new(), |error| {
            format!("; its label is still there: {error}")
        });
        Ok(format!(
            "disk {disk} is removed{label}{}",
            fenced(controller.fenced())
        ))
    }

    /// A moment at a time, so that nobody who leaves has to wait for it.
    fn rejoin(&self, name: &str) -> Result<()> {
        let mut store = self.store()?;
        let mut left = LONG;
        loop {
            match ops::apparatus::rejoin(self.pool, &mut *store, name, MOMENT) {
                Err(error) if error.kind() == Kind::TimedOut && !left.is_zero() && !self.leash.leaving() => {
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
        expected: Option<&Outline>,
    ) -> Result<String> {
        let title = verb.command();
        let mut controller = self.controller(&title)?;
        let (now, _) = moving::preview(self.pool, controller.store(), request)?;
        if expected.is_some_and(|expected| expected.steps != now.steps) {
            return Err(Error::new(
                Kind::Stale,
                title,
                "the pool has changed since the preview, nothing was sent",
            )
            .hint("look at the preview again"));
        }
        let limits = JobLimits {
            rate,
            ..JobLimits::default()
        };
        let begun = moving::begin(&mut controller, request, &title, limits)?;
        drop(controller);
        match begun.job {
            Some(job) => self.go_on(job, &|_| Ok(())),
            None => Ok("nothing to move: all lies where it is to go".into()),
        }
    }

    /// An apparatus works on it, or, where none serves, this process does.
    fn go_on(&self, job: JobId, wish: &dyn Fn(&mut dyn Store) -> Result<()>) -> Result<String> {
        match ops::job::wish_and_hand_over(self.pool, &mut *self.store()?, job, None, wish) {
            Ok(apparatus) => Ok(format!("job {job}: apparatus {apparatus} works on it")),
            Err(_) if self.nobody_serves()? => self.work_here(job, wish),
            Err(error) => Err(error),
        }
    }

    fn nobody_serves(&self) -> Result<bool> {
        let views = ops::apparatus::list(self.pool, &mut *self.store()?)?;
        Ok(views
            .iter()
            .all(|view| view.state != ops::apparatus::State::Serving))
    }

    fn work_here(&self, job: JobId, wish: &dyn Fn(&mut dyn Store) -> Result<()>) -> Result<String> {
        let mut controller = self.controller(&ops::job::purpose(job))?;
        wish(controller.store())?;
        let state = jobs::run(&mut controller, job, &mut &*self.leash)?;
        Ok(match state {
            JobState::Done => format!("job {job} is done"),
            JobState::Cancelled => format!("job {job} is cancelled"),
            _ => format!("job {job} is paused"),
        })
    }

    fn hold(&self, verb: &Verb, wish: &ops::hold::Wish, time: Duration) -> Result<String> {
        let title = verb.command();
        // Before the leash is laid on: that of a hold that is in place stays its own.
        let mut controller = self.controller(&title)?;
        let work = Work {
            time,
            flush: false,
            command: None,
            stop: self.leash.for_hold()?,
        };
        let held = ops::hold::hold(&mut controller, &title, wish, &work);
        self.leash.release();
        let volumes = wish.volumes.join(", ");
        match held {
            Ok(held) => Ok(format!(
                "held {volumes}: {}{}",
                waited_in_words(held.sent.parked, held.sent.longest_us),
                fenced(controller.fenced())
            )),
            Err(error) if error.kind() == Kind::Cancelled => Ok(format!("released {volumes}")),
            Err(error) => Err(error),
        }
    }
}

fn fenced(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("; fenced: {}", names.join(", "))
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn summary<const N: usize>(lines: [String; N]) -> Preview {
    Preview {
        summary: lines.into(),
        ..Preview::default()
    }
}

fn of_removal(store: &mut dyn Store, disk: &str) -> Result<Preview> {
    let planned = ops::disk::plan_remove(store, disk)?;
    Ok(Preview {
        summary: vec!["leaves the pool; its label is erased, so that another pool can take it".into()],
        difference: lines(&ops::plan::as_ron(&planned.difference)?),
        ..Preview::default()
    })
}

fn of_job(pool: &PoolDir, store: &mut dyn Store, id: JobId, what: &str) -> Result<Preview> {
    let View {
        record,
        subject,
        done,
        total,
        ..
    } = ops::job::show(pool, store, id)?;
    let state = crate::commands::job::word(record.state);
    Ok(summary([
        format!(
            "job {id}, {subject}: {state}, {} of {} moved",
            size(done.0),
            size(total.0)
        ),
        what.to_owned(),
    ]))
}

fn of_request(pool: &PoolDir, store: &mut dyn Store, request: &Request) -> Result<Preview> {
    let (outline, ends) = moving::preview(pool, store, request)?;
    let view = PoolView::load(store)?;
    let mut summary = vec![format!(
        "moves {} in {}, while hosts go on",
        size(outline.bytes.0),
        count(outline.steps.len(), "run")
    )];
    if outline.steps.is_empty() {
        summary = vec!["nothing is to be moved: all lies there already".into()];
    }
    for job in ends {
        summary.push(format!("cancels job {job}, on which nobody works any more"));
    }
    let moved =
        |volume: &&ops::view::VolumeView| outline.steps.iter().any(|step| step.volume == volume.record.id);
    let layouts = view.volumes.iter().filter(moved).map(|volume| Layouts {
        volume: volume.record.name.to_string(),
        before: volume.segments.clone(),
        after: picture::after(volume.record.id, &volume.segments, &outline.steps),
    });
    Ok(Preview {
        summary,
        layouts: layouts.collect(),
        difference: lines(&ops::plan::as_ron(&outline.difference)?),
        outline: Some(outline),
    })
}
