//! Forms for volumes.

use super::{Field, Form, Subject, places, policy, rate, unchanged};
use crate::arguments;
use crate::commands::console::model::Model;
use crate::commands::console::verb::{NewVolume, Verb};
use crate::output::exact;
use apparatus::admin::apparatus::State;
use apparatus::admin::view::VolumeView;
use apparatus::admin::{hold, moving};
use apparatus::model::error::{Error, Result};
use apparatus::model::names::Name;

const ACCESS: [&str; 2] = ["read-write", "read-only"];
const NO_YES: [&str; 2] = ["no", "yes"];

fn on(model: &Model, help: &'static str) -> Field {
    Field::new("on", help).offering(places(model, &|_| false))
}

fn range() -> Field {
    Field::new("range", "only this part, like 1G..2G; may stay empty")
}

fn mode() -> Field {
    Field::new("mode", "permissions of its file, in octal, like 0640")
}

fn owner() -> Field {
    Field::new("owner", "USER or USER:GROUP, by name or number")
}

impl Form {
    /// Returns the form for a new volume.
    pub fn of_new_volume(model: &Model) -> Self {
        let fields = vec![
            Field::new("name", "letters, digits, -, _ and .; the name of its file"),
            Field::new("size", "like 10G or 512M"),
            on(model, "only on these disks or @tags; empty: any disk with room"),
            policy(),
            mode().with("0600"),
            owner(),
            Field::choice("access", "read-write or read-only", ACCESS),
        ];
        Self::new(Subject::NewVolume, fields)
    }

    pub(super) fn new_volume(&self) -> Result<Verb> {
        let size = self.size("size")?;
        Ok(Verb::CreateVolume(NewVolume {
            name: Name::new("volume", self.needed("name")?)?,
            size: size.ok_or_else(|| Error::usage("size", "is empty"))?,
            on: self.words("on"),
            policy: self.policy()?,
            mode: self.text("mode").map_or(Ok(0o600), arguments::mode)?,
            owner: self.text("owner").map(str::to_owned),
            read_only: self.either("access", ACCESS)?.unwrap_or(false),
        }))
    }

    /// Returns the form for the size of a volume.
    pub fn of_resize(model: &Model, volume: &VolumeView) -> Self {
        let size = Field::new(
            "size",
            "the new size, or +S or -S to change it by S; data beyond a smaller size is lost",
        );
        let fields = vec![
            size.with(exact(volume.record.size.0)),
            on(model, "new space only on these disks or @tags; may stay empty"),
            policy(),
        ];
        Self::new(Subject::ResizeVolume(volume.record.name.to_string()), fields)
    }

    pub(super) fn resized(&self, volume: &str) -> Result<Verb> {
        Ok(Verb::ResizeVolume {
            volume: volume.to_owned(),
            size: arguments::new_size(self.needed("size")?)?,
            on: self.words("on"),
            policy: self.policy()?,
            cut_off: false,
        })
    }

    /// Returns the form for the name of a volume.
    pub fn of_rename(volume: &str) -> Self {
        let field = Field::new("name", "its new name").with(volume);
        Self::new(Subject::RenameVolume(volume.into()), vec![field])
    }

    pub(super) fn renamed(&self, volume: &str) -> Result<Verb> {
        Ok(Verb::RenameVolume {
            volume: volume.to_owned(),
            new: Name::new("volume", self.needed("name")?)?,
        })
    }

    /// Returns the form for the settings of a volume.
    pub fn of_volume_settings(volume: &VolumeView) -> Self {
        let record = &volume.record;
        let access = Field::choice("access", "read-write or read-only", ACCESS);
        let fields = vec![
            access.with(ACCESS[usize::from(record.read_only)]),
            mode().with(format!("{:04o}", record.mode)),
            owner().with(format!("{}:{}", record.uid, record.gid)),
        ];
        Self::new(Subject::SetVolume(record.name.to_string()), fields)
    }

    pub(super) fn set_volume(&self, volume: &str) -> Result<Verb> {
        let access = self.either("access", ACCESS)?;
        let (mode, owner) = (self.changed("mode"), self.changed("owner"));
        let read_only = access.filter(|_| self.changed("access").is_some());
        if mode.is_none() && owner.is_none() && read_only.is_none() {
            return Err(unchanged(&format!("volume {volume}")));
        }
        Ok(Verb::SetVolume {
            volume: volume.to_owned(),
            mode: mode.map(arguments::mode).transpose()?,
            owner: owner.map(str::to_owned),
            read_only,
            cut_off: false,
        })
    }

    /// Returns the form for a loop device on a volume.
    pub fn of_attachment(model: &Model, volume: &str) -> Self {
        let serving = model.apparatuses().iter();
        let serving = serving.filter(|view| view.state == State::Serving);
        let names = serving.map(|view| view.member.name.to_string());
        let through = Field::new(
            "through",
            "the mount of this apparatus; empty: of any that serves",
        );
        let fields = vec![
            through.offering(names),
            Field::choice("access", "read-write or read-only", ACCESS),
            Field::choice("partitions", "yes: the kernel scans it for partitions", NO_YES),
        ];
        Self::new(Subject::Attach(volume.into()), fields)
    }

    pub(super) fn attached(&self, volume: &str) -> Result<Verb> {
        Ok(Verb::Attach {
            volume: volume.to_owned(),
            apparatus: self.text("through").map(str::to_owned),
            read_only: self.either("access", ACCESS)?.unwrap_or(false),
            partitions: self.either("partitions", NO_YES)?.unwrap_or(false),
        })
    }

    /// Returns the form for a move.
    pub fn of_move(model: &Model, volume: &VolumeView) -> Self {
        let on: Vec<String> = volume.on.iter().map(|(disk, _)| disk.to_string()).collect();
        let all_on = |name: &str| on.len() == 1 && on.first().is_some_and(|disk| disk == name);
        let places = places(model, &all_on);
        let to = Field::new("to", "disk or @tag; several: d2 d3");
        let fields = vec![
            to.with(places.first().cloned().unwrap_or_default())
                .offering(places),
            Field::new("from", "only what is on this disk; may stay empty").offering(on),
            range(),
            policy(),
            rate(),
        ];
        Self::new(Subject::Move(volume.record.name.to_string()), fields)
    }

    pub(super) fn moved(&self, volume: &str) -> Result<Verb> {
        let to = self.words("to");
        if to.is_empty() {
            return Err(Error::usage("to", "names no disk"));
        }
        let request = moving::MoveRequest {
            volume: volume.to_owned(),
            to,
            from: self.text("from").map(str::to_owned),
            range: self.range()?,
            policy: self.policy()?,
        };
        Ok(Verb::Move {
            request,
            rate: self.rate()?,
        })
    }

    /// Returns the form for a hold.
    pub fn of_hold(volume: &str) -> Self {
        let time = Field::new(
            "for",
            "at most this long, like 500ms or 10s; x releases it earlier",
        );
        let fields = vec![
            time.with("10s"),
            range(),
            Field::choice("requests", "all, or only writes", ["all", "writes"]),
        ];
        Self::new(Subject::Hold(volume.into()), fields)
    }

    pub(super) fn held(&self, volume: &str) -> Result<Verb> {
        let writes_only = self.either("requests", ["all", "writes"])?;
        let request = hold::HoldRequest {
            volumes: vec![volume.to_owned()],
            range: self.range()?,
            writes_only: writes_only.unwrap_or(false),
        };
        let time = arguments::hold_time(self.text("for").unwrap_or("2s"))?;
        Ok(Verb::Hold { request, time })
    }
}
