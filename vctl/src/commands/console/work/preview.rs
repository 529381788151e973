//! Finds out what a verb would do, without doing it.

use super::super::model::dialog::{Layouts, PlanOutcome, Preview};
use super::super::verb::{NewApparatus, NewDisk, Verb};
use super::{Operator, changes, plan};
use crate::arguments::micros;
use crate::commands::hidden::apparatus_program;
use crate::commands::volume::map::picture;
use crate::output::{count, duration, size};
use apparatus::admin;
use apparatus::admin::attach;
use apparatus::admin::job::JobView;
use apparatus::admin::moving;
use apparatus::admin::plan::Planned;
use apparatus::admin::usage::Census;
use apparatus::admin::view::{PoolView, VolumeView};
use apparatus::jobs::{self, Request};
use apparatus::model::error::{Error, Result};
use apparatus::model::units::{ByteCount, JobId};
use apparatus::store::Store;
use std::path::Path;
use std::time::Duration;

impl Operator<'_> {
    /// Returns what the verb would do. Changes nothing.
    ///
    /// # Errors
    /// Fails with the reason why it cannot be done.
    pub fn preview(&self, verb: &Verb) -> Result<Preview> {
        let mut store = self.rehearsal()?;
        let store = &mut *store;
        if let Some(planned) = plan::of(self.pool, store, verb) {
            return self.of_plan(store, verb, planned?);
        }
        match verb {
            Verb::Move { request, .. } => {
                let request = moving::of_volume(store, request)?;
                self.of_request(store, &request)
            }
            Verb::Evacuate {
                disk,
                to,
                use_reserve,
                ..
            } => {
                let request = moving::of_disk(store, disk, to, *use_reserve)?;
                let mut preview = self.of_request(store, &request)?;
                let closed = format!("disk {disk} gets no new data from then on");
                preview.summary.push(closed);
                Ok(preview)
            }
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
                self.of_attachment(store, volume, apparatus.as_deref(), options)
            }
            Verb::Detach(volume) => {
                let devices = attach::devices(self.pool, store, volume)?;
                let paths: Vec<String> = devices.iter().map(|path| path.display().to_string()).collect();
                Ok(summary([format!("removes {}", paths.join(", "))]))
            }
            Verb::Hold { request, time } => of_hold(store, request, *time),
            Verb::AddDisk(new) => of_new_disk(store, new),
            Verb::Start(new) => self.of_start(new),
            Verb::Stop { name, cut_off, lose } => self.of_stop(store, name, *cut_off, lose),
            Verb::Fence { name, cut_off, lose } => self.of_fence(store, name, *cut_off, lose),
            Verb::Rejoin(name) => self.of_rejoin(store, name),
            _ => self.of_job_verb(store, verb),
        }
    }

    fn of_job_verb(&self, store: &mut dyn Store, verb: &Verb) -> Result<Preview> {
        let (job, what) = match verb {
            Verb::Pause(job) => (
                *job,
                "stops at the end of a chunk; what was moved stays moved".into(),
            ),
            Verb::Resume(job) => (*job, "goes on".into()),
            Verb::Cancel { job, back: false } => (*job, "ends; what was moved stays moved".into()),
            Verb::Cancel { job, back: true } => (*job, "moves back what it moved, and ends".into()),
            Verb::Rate { job, rate } => {
                let text = |rate: Option<ByteCount>| {
                    rate.map_or("no limit".into(), |rate| format!("{}/s", size(rate.0)))
                };
                let old = admin::job::find(store, *job)?.limits.rate;
                (*job, format!("rate: {} -> {}", text(old), text(*rate)))
            }
            _ => return Err(Error::usage(verb.command(), "has no preview")),
        };
        let preview = self.of_job(store, job, what)?;
        admin::job::rehearse(self.pool, |copy| obey(copy, verb))?;
        Ok(preview)
    }

    fn of_job(&self, store: &mut dyn Store, id: JobId, what: String) -> Result<Preview> {
        let JobView {
            record,
            subject,
            done,
            total,
            ..
        } = admin::job::show(self.pool, store, id)?;
        let state = crate::commands::job::word(record.state);
        Ok(summary([
            format!(
                "job {id}, {subject}: {state}, {} of {} moved",
                size(done.0),
                size(total.0)
            ),
            what,
        ]))
    }

    /// Previews a change of the table; refuses one that takes something away from users.
    fn of_plan(&self, store: &mut dyn Store, verb: &Verb, planned: Option<Planned>) -> Result<Preview> {
        let Some(planned) = planned else {
            return Ok(summary(["nothing to change: nothing would be sent".into()]));
        };
        admin::usage::check(self.pool, store, &planned)?;
        Ok(Preview {
            summary: other_effects(verb),
            danger: self.danger(store, verb)?,
            changes: changes(store, &planned.delta)?,
            expected: Some(PlanOutcome::Edits(planned.delta.edits)),
            ..Preview::default()
        })
    }

    /// Describes the data that would be lost, and the users that would be cut off.
    fn danger(&self, store: &mut dyn Store, verb: &Verb) -> Result<Option<String>> {
        let (volume, gone) = match verb {
            Verb::RemoveVolume { volume, .. } => {
                (volume, Some(format!("all data of volume {volume} will be lost")))
            }
            Verb::ResizeVolume {
                volume, size: new, ..
            } => {
                let old = PoolView::load(store)?.volume(volume)?.record.size;
                let lost = old.0.saturating_sub(new.from(old)?.0);
                let gone =
                    (lost > 0).then(|| format!("the last {} of volume {volume} will be lost", size(lost)));
                (volume, gone)
            }
            Verb::SetVolume { volume, .. } => (volume, None),
            _ => return Ok(None),
        };
        let users = match verb.cuts_off_users() {
            true => self.users(store, volume)?,
            false => None,
        };
        let both: Vec<String> = gone.into_iter().chain(users).collect();
        Ok((!both.is_empty()).then(|| both.join("; ")))
    }

    fn users(&self, store: &mut dyn Store, volume: &str) -> Result<Option<String>> {
        let view = PoolView::load(store)?;
        let record = &view.volume(volume)?.record;
        let usage = Census::take(self.pool, store)?.usage(record.id, &record.name);
        let users: Vec<String> = usage.users.iter().map(ToString::to_string).collect();
        Ok(Some(match users.is_empty() {
            true => "its users are cut off, and get errors".into(),
            false => format!("these are cut off, and get errors: {}", users.join(", ")),
        }))
    }

    fn of_attachment(
        &self,
        store: &mut dyn Store,
        volume: &str,
        through: Option<&str>,
        options: attach::Options,
    ) -> Result<Preview> {
        let place = attach::place(self.pool, store, volume, through)?;
        let present = attach::present(self.pool, store, &place, through, options)?;
        Ok(summary([match present {
            Some(device) => format!("is attached already as {}", device.path.display()),
            None => format!("creates a loop device on {}", place.file.display()),
        }]))
    }

    fn of_start(&self, new: &NewApparatus) -> Result<Preview> {
        if admin::apparatus::runs(self.pool, &new.name)? {
            let hint = format!(
                "choose another name, or stop it: vctl apparatus stop {}",
                new.name
            );
            return Err(Error::failed(format!("apparatus {}", new.name), "runs already").hint(hint));
        }
        let mount = admin::place::absolute(Path::new(&new.mount))?;
        let program = apparatus_program()?;
        let program = program.last().map(|word| word.to_string_lossy().into_owned());
        Ok(summary([
            format!("mounts the pool's volumes at {}", mount.display()),
            format!(
                "runs {} in the background; it continues when the console ends",
                program.unwrap_or_default()
            ),
        ]))
    }

    fn of_stop(
        &self,
        store: &mut dyn Store,
        name: &str,
        overridden: bool,
        lose: &[String],
    ) -> Result<Preview> {
        let view = admin::apparatus::show(self.pool, store, name)?;
        admin::open_images::check_end(self.pool, store, &view.member, lose)?;
        if !overridden {
            admin::apparatus::check_stop(self.pool, store, name)?;
        }
        Ok(Preview {
            danger: lost_by_end(&view, overridden, lose),
            ..summary([format!(
                "process {} unmounts {} and ends",
                view.member.pid,
                view.member.mount.display()
            )])
        })
    }

    fn of_fence(
        &self,
        store: &mut dyn Store,
        name: &str,
        overridden: bool,
        lose: &[String],
    ) -> Result<Preview> {
        let view = admin::apparatus::show(self.pool, store, name)?;
        admin::open_images::check_end(self.pool, store, &view.member, lose)?;
        if !overridden {
            admin::apparatus::check_fence(self.pool, store, &view.member)?;
        }
        let waiting = view
            .figures
            .as_ref()
            .map_or(0, |figures| figures.in_flight + figures.parked);
        Ok(Preview {
            danger: lost_by_end(&view, overridden, lose),
            ..summary([
                format!("kills process {} and waits for its end", view.member.pid),
                format!(
                    "{} in it fail; hosts of {} lose their volumes",
                    count(waiting, "host request"),
                    view.member.mount.display()
                ),
                "what it acknowledged is safe; other apparatuses continue".into(),
            ])
        })
    }

    fn of_rejoin(&self, store: &mut dyn Store, name: &str) -> Result<Preview> {
        let view = admin::apparatus::show(self.pool, store, name)?;
        let state = crate::commands::apparatus::word(view.state).0;
        Ok(summary([
            format!("it is {state}, process {}", view.member.pid),
            "waits until it has rejoined, which it does by itself, or reports the reason".into(),
        ]))
    }

    fn of_request(&self, store: &mut dyn Store, request: &Request) -> Result<Preview> {
        let (outline, ends) = moving::preview(self.pool, store, request)?;
        let view = PoolView::load(store)?;
        let mut summary = vec![format!(
            "moves {} in {}, while hosts use it",
            size(outline.bytes.0),
            count(outline.steps.len(), "run")
        )];
        if outline.steps.is_empty() {
            summary = vec!["nothing to move: everything is at its destination already".into()];
        }
        for job in ends {
            summary.push(format!("cancels abandoned job {job}"));
        }
        let moved = |volume: &&VolumeView| outline.steps.iter().any(|step| step.volume == volume.record.id);
        let layouts = view.volumes.iter().filter(moved).map(|volume| Layouts {
            volume: volume.record.name.to_string(),
            before: volume.segments.clone(),
            after: picture::after(volume.record.id, &volume.segments, &outline.steps),
        });
        Ok(Preview {
            summary,
            layouts: layouts.collect(),
            changes: changes(store, &outline.delta)?,
            expected: Some(PlanOutcome::Steps(outline.steps)),
            ..Preview::default()
        })
    }
}

/// Does to a job what the verb asks for.
fn obey(store: &mut dyn Store, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Pause(job) => jobs::pause(store, *job),
        Verb::Resume(job) => jobs::resume(store, *job),
        Verb::Cancel { job, back } => jobs::cancel(store, *job, *back),
        Verb::Rate { job, .. } => {
            let limits = admin::job::find(store, *job)?.limits;
            jobs::set_limits(store, *job, limits)
        }
        _ => Ok(()),
    }
}

/// Names the danger of ending an apparatus while its mount is in use, or while it has the last copy of disks.
fn lost_by_end(view: &admin::apparatus::ApparatusView, overridden: bool, lose: &[String]) -> Option<String> {
    let users = overridden.then(|| {
        format!(
            "users of volumes through {} are cut off, and get errors",
            view.member.mount.display()
        )
    });
    let disks = lose
        .iter()
        .map(|disk| format!("disk {disk} is lost, with all data of the volumes on it"));
    let all: Vec<String> = users.into_iter().chain(disks).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn summary<const N: usize>(lines: [String; N]) -> Preview {
    Preview {
        summary: lines.into(),
        ..Preview::default()
    }
}

/// Returns effects of a verb that the edits of the table do not show.
fn other_effects(verb: &Verb) -> Vec<String> {
    match verb {
        Verb::RemoveDisk(_) => {
            vec!["leaves the pool; its label is erased, so that another pool can take it".into()]
        }
        Verb::CreateVolume(_) => vec!["it reads as zeroes".into()],
        _ => Vec::new(),
    }
}

fn of_hold(store: &mut dyn Store, request: &admin::hold::HoldRequest, time: Duration) -> Result<Preview> {
    // The volumes have to exist.
    admin::hold::plan(store, request)?;
    let which = if request.writes_only {
        "writes"
    } else {
        "all requests"
    };
    Ok(summary([
        format!(
            "holds {which} of volume {} for {} at most",
            request.volumes.join(", "),
            duration(micros(time))
        ),
        "hosts wait meanwhile, and see no error; x releases it".into(),
    ]))
}

fn of_new_disk(store: &mut dyn Store, new: &NewDisk) -> Result<Preview> {
    let disk = plan::new_disk(new)?;
    let planned = admin::disk::plan_add(store, &disk)?;
    let content = admin::disk::content(store, &disk)?;
    let mut summary = Vec::new();
    if let Some(size) = new.create {
        let view = PoolView::load(store)?;
        if let Some(short) = admin::room::short_with(&view, &disk.name()?, &disk.path, size) {
            summary.push(format!("warning: {}", short.words()));
        }
    }
    let danger = content.map(|found| format!("{} holds {found}, which will be lost", new.path));
    Ok(Preview {
        summary,
        danger,
        changes: changes(store, &planned.delta)?,
        expected: Some(PlanOutcome::Content(content.map(str::to_owned))),
        ..Preview::default()
    })
}
