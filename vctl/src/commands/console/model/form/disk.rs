//! Forms for disks.

use super::{Field, Form, Subject, places, rate, unchanged};
use crate::commands::console::model::Model;
use crate::commands::console::verb::{DiskRequest, NewDisk, Verb};
use crate::output::exact;
use apparatus::admin::view::DiskView;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::model::units::ByteCount;

const YES_NO: [&str; 2] = ["yes", "no"];
const SPACE: [&str; 2] = ["as it is used", "at once"];
const RESERVE: [&str; 2] = ["keep", "use"];

impl Form {
    /// Returns the form for a new disk.
    pub fn of_new_disk() -> Self {
        let fields = vec![
            Field::new("path", "the block device or image file"),
            Field::new("name", "empty: the file's name without its extension"),
            Field::new(
                "create",
                "create an image file of this size first, like 10G; empty: it exists",
            ),
            Field::choice(
                "space",
                "whether a new image is given its space as it is used, or at once",
                SPACE,
            ),
            Field::new("tags", "for @TAG; several: fast near"),
            Field::choice("allocate", "whether new volumes are placed on it", YES_NO),
            Field::new("reserve", "keep this much of it free; may stay empty"),
        ];
        Self::new(Subject::NewDisk, fields)
    }

    pub(super) fn new_disk(&self) -> Result<Verb> {
        let create = self.size("create")?;
        Ok(Verb::AddDisk(NewDisk {
            path: self.needed("path")?.to_owned(),
            name: self
                .text("name")
                .map(|text| Name::new("disk", text))
                .transpose()?,
            create,
            preallocate: self.either("space", SPACE)? == Some(true) && create.is_some(),
            tags: self.names("tags", "tag")?,
            allocate: !self.either("allocate", YES_NO)?.unwrap_or(false),
            reserve: self.size("reserve")?.filter(|size| size.0 > 0),
        }))
    }

    /// Returns the form for the settings of a disk.
    pub fn of_disk_settings(model: &Model, disk: &DiskView) -> Self {
        let record = &disk.record;
        let extent = model
            .look
            .as_ref()
            .map_or(0, |look| look.view.header.extent_size.bytes());
        let tags: Vec<String> = record.tags.iter().map(ToString::to_string).collect();
        let allocate = Field::choice("allocate", "whether new volumes are placed on it", YES_NO);
        let fields = vec![
            allocate.with(YES_NO[usize::from(!record.allocate)]),
            Field::new(
                "reserve",
                "keep this much of it free; only an evacuation may take that",
            )
            .with(exact(record.reserve.saturating_mul(extent))),
            Field::new("tag", "tags to add; several: fast near"),
            Field::new("untag", "tags to remove").offering(tags),
            Field::new("name", "its name").with(record.name.as_str()),
            Field::new("path", "its path; the label there has to be that of this disk")
                .with(record.path.to_string_lossy()),
        ];
        Self::new(Subject::SetDisk(record.name.to_string()), fields)
    }

    pub(super) fn set_disk(&self, disk: &str) -> Result<Verb> {
        let allocate = self.either("allocate", YES_NO)?.map(|no| !no);
        let reserve = self.size("reserve")?;
        let name = self.changed("name").map(|text| Name::new("disk", text));
        let request = DiskRequest {
            disk: disk.to_owned(),
            name: name.transpose()?,
            tag: self.names("tag", "tag")?,
            untag: self.names("untag", "tag")?,
            allocate: allocate.filter(|_| self.changed("allocate").is_some()),
            reserve: reserve.filter(|_| self.changed("reserve").is_some()),
            path: self.changed("path").map(str::to_owned),
        };
        let nothing = DiskRequest {
            disk: disk.to_owned(),
            ..DiskRequest::default()
        };
        if request == nothing {
            return Err(unchanged(&format!("disk {disk}")));
        }
        Ok(Verb::SetDisk(request))
    }

    /// Returns the form for the size of a disk.
    pub fn of_disk_resize(disk: &str) -> Self {
        let help = "an image file is extended to it; empty: its present size";
        let field = Field::new("size", help);
        Self::new(Subject::ResizeDisk(disk.into()), vec![field])
    }

    pub(super) fn resized_disk(&self, disk: &str) -> Result<Verb> {
        let size: Option<ByteCount> = self.size("size")?;
        Ok(Verb::ResizeDisk {
            disk: disk.to_owned(),
            size,
        })
    }

    /// Returns the form for an evacuation.
    pub fn of_evacuation(model: &Model, disk: &str) -> Self {
        let to = Field::new("to", "disk or @tag; empty: any disk with room");
        let fields = vec![
            to.offering(places(model, &|name| name == disk)),
            Field::choice("reserve", "keep it free at the destinations, or use it", RESERVE),
            rate(),
        ];
        Self::new(Subject::Evacuate(disk.into()), fields)
    }

    pub(super) fn evacuated(&self, disk: &str) -> Result<Verb> {
        Ok(Verb::Evacuate {
            disk: disk.to_owned(),
            to: self.words("to"),
            use_reserve: self.either("reserve", RESERVE)?.unwrap_or(false),
            rate: self.rate()?,
        })
    }
}
