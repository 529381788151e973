//! The users of a volume, in words.

use crate::model::error::{Error, ErrorKind};
use crate::model::names::Name;
use crate::model::words::count;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// The option that overrides a refusal.
pub const OVERRIDE: &str = "--cut-off-users";

/// A user of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum User {
    /// A loop device on its file.
    LoopDevice {
        /// The device.
        device: PathBuf,
        /// The apparatus whose mount it is on; `None` when that mount is gone.
        apparatus: Option<Name>,
        /// The users of the device, described.
        used_by: Vec<String>,
    },
    /// A process that has its file open.
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// The apparatus whose mount it uses.
        apparatus: Name,
    },
    /// A job that has not ended.
    Job {
        /// Its number and state, described.
        job: String,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoopDevice {
                device,
                apparatus,
                used_by,
            } => {
                write!(f, "loop device {}", device.display())?;
                if !used_by.is_empty() {
                    write!(f, " ({})", used_by.join(", "))?;
                }
                match apparatus {
                    Some(name) => write!(f, " through {name}"),
                    None => write!(f, " through a mount that is gone"),
                }
            }
            Self::Process { pid, name, apparatus } => write!(f, "process {pid} ({name}) through {apparatus}"),
            Self::Job { job } => write!(f, "job {job}"),
        }
    }
}

/// The use of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Open handles, through all apparatuses.
    pub open: u64,
    /// Those of them that may write.
    pub writers: u64,
    /// The processes that have them, as far as they can be seen, and the loop devices.
    pub users: Vec<User>,
    /// Apparatuses that are alive and do not answer.
    pub unknown: Vec<Name>,
}

impl Usage {
    pub(super) fn matters(&self, writers_only: bool) -> bool {
        let open = if writers_only { self.writers } else { self.open };
        open > 0 || !self.unknown.is_empty() || (!writers_only && !self.users.is_empty())
    }

    /// Returns the error that refuses to take something away from the users of `noun name`.
    pub(super) fn refusal(&self, noun: &str, name: &Name) -> Error {
        const NAMED: usize = 8;
        let mut why: Vec<String> = self.users.iter().take(NAMED).map(ToString::to_string).collect();
        if self.users.len() > NAMED {
            why.push(format!("{} more", self.users.len() - NAMED));
        }
        if self.users.is_empty() && self.open > 0 {
            let whose = match rustix::process::geteuid().is_root() {
                true => "processes that cannot be seen from here",
                false => "processes that only root can see",
            };
            why.push(format!("{} of {whose}", count(self.open, "open handle")));
        }
        let why = match (why.is_empty(), self.unknown.is_empty()) {
            (false, _) => format!("is in use by {}", why.join(", ")),
            (true, _) => {
                let names: Vec<&str> = self.unknown.iter().map(Name::as_str).collect();
                format!("may be in use: apparatus {} does not answer", names.join(", "))
            }
        };
        let detach = match (noun, &self.users[..]) {
            ("volume", [User::LoopDevice { .. }, ..]) => format!(" (vctl volume detach {name})"),
            _ => String::new(),
        };
        Error::new(ErrorKind::Busy, format!("{noun} {name}"), why)
            .hint(format!("end that use first{detach}, or override it: {OVERRIDE}"))
    }
}
