//! Descriptions of pools, as users write them in RON: the wanted objects, by name. Unknown fields are refused.
//!
//! ```text
//! (
//!     extent_size: "1MiB",
//!     disks: [
//!         (name: "fast", path: "fast.img", create: "8GiB", tags: ["ssd"]),
//!         (name: "big", path: "/dev/disk/by-id/…"),
//!     ],
//!     volumes: [
//!         (name: "root", size: "4GiB", on: ["@ssd"], mode: "0660", owner: "1000:1000"),
//!     ],
//!     apparatuses: [
//!         (name: "a", mount: "a"),
//!     ],
//! )
//! ```
//!
//! Relative paths start at the description's own directory.

use super::apparatus::ApparatusView;
use super::view::PoolView;
use crate::frontend::fuse::allows_others;
use crate::model::alloc::Policy;
use crate::model::error::{Error, Result};
use crate::model::names::Name;
use crate::model::options::Options;
use crate::model::records::{DiskAccess, NewPool, PoolHeader};
use crate::model::size::{self, Exact, HumanSize};
use crate::model::units::{ByteCount, ExtentSize};
use ron::extensions::Extensions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A size as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub ByteCount);

impl Size {
    fn is_zero(&self) -> bool {
        self.0.0 == 0
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        size::parse(&text).map(Self).map_err(|error| error.to_string())
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        Exact(size.0).to_string()
    }
}

/// The wanted state of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Unit of allocation of a pool that is to be created. If absent, it is 1 MiB, or stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extent_size: Option<Size>,
    /// How the disks of a pool that is to be created are read and written. If absent, through the page cache, or it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<DiskAccess>,
    /// The default order in which disks are filled; unchanged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Percentage of use from which the pool is nearly full; unchanged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearfull: Option<u8>,
    /// Percentage of use from which the pool is full; unchanged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<u8>,
    /// Its disks.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// The apparatuses that serve it.
    #[serde(default)]
    pub apparatuses: Vec<Apparatus>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name.
    pub name: Name,
    /// The block device or image file.
    pub path: PathBuf,
    /// Size of the image that is created where there is no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Size>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeSet<Name>,
    /// Whether new data may be placed on it.
    #[serde(default = "yes")]
    pub allocate: bool,
    /// How many bytes of it stay free.
    #[serde(default = "nothing", skip_serializing_if = "Size::is_zero")]
    pub reserve: Size,
}

fn nothing() -> Size {
    Size(ByteCount(0))
}

fn yes() -> bool {
    true
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its file name.
    pub name: Name,
    /// Its size.
    pub size: Size,
    /// The disks on which it may lie (`DISK`, `@TAG`); all if empty.
    #[serde(default)]
    pub on: Vec<String>,
    /// Permissions in octal.
    #[serde(default = "usual_mode")]
    pub mode: Mode,
    /// `USER:GROUP`, as numbers; the user that applies the description if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// Permission bits, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u16);

fn usual_mode() -> Mode {
    Mode(0o600)
}

impl TryFrom<String> for Mode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let octal = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let bits = u16::from_str_radix(&text, 8)
            .ok()
            .filter(|bits| octal && *bits <= 0o777);
        bits.map(Self)
            .ok_or_else(|| format!("mode {text:?} is no octal number from 0 to 0777"))
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner {
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
}

impl TryFrom<String> for Owner {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(user, group)| {
            // The largest number means "none" to the system.
            let number = |text: &str| text.parse().ok().filter(|number| *number != u32::MAX);
            Some(Self {
                user: number(user)?,
                group: number(group)?,
            })
        });
        numbers.ok_or_else(|| format!("owner {text:?} is no USER:GROUP in numbers"))
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        format!("{}:{}", owner.user, owner.group)
    }
}

/// An apparatus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apparatus {
    /// Its name.
    pub name: Name,
    /// Where it mounts.
    pub mount: PathBuf,
    /// The upper limit of its FUSE reader threads; the default applies if absent, and one that was given may stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u16>,
    /// Whether other users may use the mount.
    #[serde(default)]
    pub allow_other: bool,
    /// Whether a second process holds the mount and starts the server again when it crashes. If absent, there is none, and one that runs may stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<bool>,
}

impl Apparatus {
    fn of(view: &ApparatusView) -> Self {
        Self {
            name: view.member.name.clone(),
            mount: view.member.mount.clone(),
            threads: view.figures.as_ref().and_then(|figures| figures.thread_limit),
            allow_other: allows_others(&view.member.mount).unwrap_or(false),
            supervisor: view.supervisor.map(|_| true),
        }
    }
}

fn ron_options() -> ron::Options {
    ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME)
}

/// Reads a description.
///
/// # Errors
/// Fails with the file and the place in it that is invalid.
pub fn read(file: &Path) -> Result<Description> {
    let what = format!("description {}", file.display());
    let text = crate::sys::text::read_text(file, &what)?;
    let mut found = parse(&text, &what)?;
    let file = super::place::absolute(file)?;
    let dir = file.parent().unwrap_or(Path::new("/"));
    found
        .disks
        .iter_mut()
        .for_each(|disk| disk.path = dir.join(&disk.path));
    found
        .apparatuses
        .iter_mut()
        .for_each(|apparatus| apparatus.mount = dir.join(&apparatus.mount));
    Ok(found)
}

/// Parses the text of a description, and checks it.
pub(crate) fn parse(text: &str, what: &str) -> Result<Description> {
    let found: Description = ron_options()
        .from_str(text)
        .map_err(|error| Error::usage(what, error.to_string()))?;
    found.check(what)?;
    Ok(found)
}

impl Description {
    /// Checks that names are unique and sizes are valid.
    fn check(&self, what: &str) -> Result<()> {
        once(what, "disk", self.disks.iter().map(|disk| &disk.name))?;
        once(what, "volume", self.volumes.iter().map(|volume| &volume.name))?;
        once(
            what,
            "apparatus",
            self.apparatuses.iter().map(|apparatus| &apparatus.name),
        )?;
        if let Some(volume) = self.volumes.iter().find(|volume| volume.name.is_hidden()) {
            Name::new("volume", volume.name.as_str())?;
        }
        self.extent_size()?;
        self.volumes
            .iter()
            .try_for_each(|volume| super::plan::check_size(volume.size.0))
    }

    /// Returns the unit of allocation of a pool that is to be created.
    ///
    /// # Errors
    /// Fails when the value is not a valid unit.
    pub fn extent_size(&self) -> Result<ExtentSize> {
        let Some(Size(bytes)) = self.extent_size else {
            return Ok(ExtentSize::DEFAULT);
        };
        ExtentSize::try_from(bytes.0).map_err(|why| Error::usage(format!("extent_size {bytes}"), why))
    }

    /// Returns what is fixed when the pool is created.
    ///
    /// # Errors
    /// Fails when a value is not valid.
    pub fn new_pool(&self) -> Result<NewPool> {
        Ok(NewPool {
            extent_size: self.extent_size()?,
            access: self.access.unwrap_or_default(),
        })
    }

    /// Refuses another extent size or access than that with which the pool was created.
    ///
    /// # Errors
    /// Fails with `Usage` and both values.
    pub fn check_fixed(&self, header: &PoolHeader) -> Result<()> {
        let is = header.extent_size.bytes();
        if let Some(size) = self.extent_size.filter(|size| size.0.0 != is) {
            let (is, size) = (HumanSize(ByteCount(is)), HumanSize(size.0));
            let why =
                format!("is described as {size}, and this pool has extents of {is}: that cannot be changed");
            return Err(
                Error::usage("extent_size", why).hint(format!("describe it as {is}, or leave it out"))
            );
        }
        let is = header.access;
        match self.access.filter(|access| *access != is) {
            None => Ok(()),
            Some(access) => {
                let (is, access) = (is.word(), access.word());
                let why = format!("is described as {access}, and this pool is {is}: that cannot be changed");
                Err(Error::usage("access", why).hint(format!("describe it as {is}, or leave it out")))
            }
        }
    }

    /// Describes an existing pool. A missing image is to be created again; a device cannot be.
    #[must_use]
    pub fn of(view: &PoolView, options: Options, serving: &[ApparatusView]) -> Self {
        let disk = |disk: &super::view::DiskView| Disk {
            name: disk.record.name.clone(),
            path: disk.record.path.clone(),
            create: disk.record.path.is_file().then_some(Size(disk.usage.size)),
            tags: disk.record.tags.clone(),
            allocate: disk.record.allocate,
            reserve: Size(ByteCount(
                disk.record
                    .reserve
                    .saturating_mul(view.header.extent_size.bytes()),
            )),
        };
        let volume = |volume: &super::view::VolumeView| Volume {
            name: volume.record.name.clone(),
            size: Size(volume.record.size),
            on: volume.on.iter().map(|(disk, _)| disk.to_string()).collect(),
            mode: Mode(volume.record.mode),
            owner: Some(Owner {
                user: volume.record.uid,
                group: volume.record.gid,
            }),
            read_only: volume.record.read_only,
        };
        Self {
            extent_size: Some(Size(ByteCount(view.header.extent_size.bytes()))),
            access: (!view.header.access.is_cached()).then_some(view.header.access),
            policy: Some(options.policy),
            nearfull: Some(options.thresholds.nearfull()),
            full: Some(options.thresholds.full()),
            disks: view.disks.iter().map(disk).collect(),
            volumes: view.volumes.iter().map(volume).collect(),
            apparatuses: serving.iter().map(Apparatus::of).collect(),
        }
    }

    /// Returns the description as RON text.
    ///
    /// # Errors
    /// Fails when it cannot be serialised.
    pub fn as_ron(&self) -> Result<String> {
        let pretty = ron::ser::PrettyConfig::new().depth_limit(2);
        ron_options()
            .to_string_pretty(self, pretty)
            .map_err(|error| Error::because("description", error))
    }
}

fn once<'a>(what: &str, noun: &str, names: impl Iterator<Item = &'a Name>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::usage(what, format!("names {noun} {name} twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn parse(text: &str) -> Result<Description> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pool.ron");
        fs::write(&file, text).unwrap();
        read(&file)
    }

    #[test]
    fn defaults_and_relative_paths() {
        let found = parse(
            r#"(disks: [(name: "d", path: "d.img", create: "64M")],
                volumes: [(name: "v", size: "1.5MiB", owner: "7:8")],
                apparatuses: [(name: "a", mount: "/m")])"#,
        )
        .unwrap();
        assert_eq!(found.extent_size().unwrap(), ExtentSize::DEFAULT);
        assert!(found.disks[0].path.is_absolute() && found.disks[0].path.ends_with("d.img"));
        assert!(found.disks[0].allocate);
        assert_eq!(found.volumes[0].size.0, ByteCount(3 << 19));
        assert_eq!(
            (found.volumes[0].mode, found.volumes[0].owner),
            (Mode(0o600), Some(Owner { user: 7, group: 8 }))
        );
        assert_eq!(found.apparatuses[0].mount, Path::new("/m"));
        let again = parse(&found.as_ron().unwrap()).unwrap();
        assert_eq!(again, found);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        for (text, why) in [
            ("(disk: [])", "disk"),
            (r#"(volumes: [(name: "v", size: "1M", sise: "1M")])"#, "sise"),
            (r#"(volumes: [(name: "a/b", size: "1M")])"#, "'/'"),
            (r#"(volumes: [(name: "v", size: "1X")])"#, "suffix"),
            (r#"(volumes: [(name: "v", size: "1000")])"#, "512"),
            (r#"(volumes: [(name: "v", size: "1M", mode: "888")])"#, "octal"),
            (
                r#"(volumes: [(name: "v", size: "1M", owner: "me")])"#,
                "USER:GROUP",
            ),
            (
                r#"(volumes: [(name: "v", size: "1M", owner: "4294967295:0")])"#,
                "USER:GROUP",
            ),
            (
                r#"(volumes: [(name: "v", size: "1M"), (name: "v", size: "1M")])"#,
                "twice",
            ),
            (r#"(extent_size: "3M")"#, "power of two"),
            ("(", "1:2"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
