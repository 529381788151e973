//! The verbs that the console can run.

mod command;

use crate::arguments::NewSize;
use apparatus::admin::{hold, moving};
use apparatus::model::alloc::Policy;
use apparatus::model::names::Name;
use apparatus::model::units::{ByteCount, JobId};
use std::time::Duration;

/// One action, complete with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Creates a volume.
    CreateVolume(NewVolume),
    /// Changes the size of a volume.
    ResizeVolume {
        /// The volume.
        volume: String,
        /// The new size.
        size: NewSize,
        /// Disks and tags for new space; any disk if empty.
        on: Vec<String>,
        /// The placement policy.
        policy: Option<Policy>,
        /// Whether users of the part that is removed are cut off.
        cut_off: bool,
    },
    /// Changes the name of a volume.
    RenameVolume {
        /// Its present name.
        volume: String,
        /// Its new name.
        new: Name,
    },
    /// Changes permissions, owner or access of a volume's file.
    SetVolume {
        /// The volume.
        volume: String,
        /// Permissions.
        mode: Option<u16>,
        /// Owner, as entered.
        owner: Option<String>,
        /// Whether writes are refused.
        read_only: Option<bool>,
        /// Whether writers are cut off.
        cut_off: bool,
    },
    /// Removes a volume and its data.
    RemoveVolume {
        /// The volume.
        volume: String,
        /// Whether users are cut off.
        cut_off: bool,
    },
    /// Creates a loop device on a volume.
    Attach {
        /// The volume.
        volume: String,
        /// The apparatus whose mount is used.
        apparatus: Option<String>,
        /// Whether the device refuses writes.
        read_only: bool,
        /// Whether the kernel scans for partitions.
        partitions: bool,
    },
    /// Removes the loop devices of a volume.
    Detach(String),
    /// Moves (part of) a volume.
    Move {
        /// Source and destination.
        request: moving::MoveRequest,
        /// The limit in bytes per second.
        rate: Option<ByteCount>,
    },
    /// Holds the requests of a volume.
    Hold {
        /// The volumes and ranges.
        request: hold::HoldRequest,
        /// The longest duration.
        time: Duration,
    },
    /// Adds a disk.
    AddDisk(NewDisk),
    /// Changes the record of a disk.
    SetDisk(DiskRequest),
    /// Changes the size of a disk that is used.
    ResizeDisk {
        /// The disk.
        disk: String,
        /// The new size; by default the size of the file or device.
        size: Option<ByteCount>,
    },
    /// Moves everything from a disk.
    Evacuate {
        /// The disk.
        disk: String,
        /// Destinations; any disk if empty.
        to: Vec<String>,
        /// Whether the reserve of the destinations is used.
        use_reserve: bool,
        /// The limit in bytes per second.
        rate: Option<ByteCount>,
    },
    /// Removes an empty disk from the pool.
    RemoveDisk(String),
    /// Stops a job until it is resumed.
    Pause(JobId),
    /// Continues a job.
    Resume(JobId),
    /// Ends a job.
    Cancel {
        /// The job.
        job: JobId,
        /// Whether it moves back what it moved.
        back: bool,
    },
    /// Changes the rate limit of a job.
    Rate {
        /// The job.
        job: JobId,
        /// The limit in bytes per second.
        rate: Option<ByteCount>,
    },
    /// Starts an apparatus.
    Start(NewApparatus),
    /// Asks an apparatus to unmount and end.
    Stop {
        /// Its name.
        name: String,
        /// Whether users of its mount are cut off.
        cut_off: bool,
        /// Disks whose last copy may be lost.
        lose: Vec<String>,
    },
    /// Fences an apparatus by force.
    Fence {
        /// Its name.
        name: String,
        /// Whether users of its mount are cut off, though it answers.
        cut_off: bool,
        /// Disks whose last copy may be lost.
        lose: Vec<String>,
    },
    /// Waits for a fenced apparatus to rejoin.
    Rejoin(String),
}

/// The properties of a new volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: Name,
    /// Its size.
    pub size: ByteCount,
    /// Disks and tags for its space; any disk if empty.
    pub on: Vec<String>,
    /// The placement policy.
    pub policy: Option<Policy>,
    /// Permissions.
    pub mode: u16,
    /// Owner, as entered; by default the user of the console.
    pub owner: Option<String>,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// The properties of a new disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// The block device or image file, as entered.
    pub path: String,
    /// Its name.
    pub name: Option<Name>,
    /// The size of the image to create first.
    pub create: Option<ByteCount>,
    /// Whether the image gets all its space at once.
    pub preallocate: bool,
    /// Its tags.
    pub tags: Vec<Name>,
    /// Whether new data is placed on it.
    pub allocate: bool,
    /// The space that stays free.
    pub reserve: Option<ByteCount>,
}

/// A request to change the record of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskRequest {
    /// The disk.
    pub disk: String,
    /// Its new name.
    pub name: Option<Name>,
    /// Tags to add.
    pub tag: Vec<Name>,
    /// Tags to remove.
    pub untag: Vec<Name>,
    /// Whether new data is placed on it.
    pub allocate: Option<bool>,
    /// The space that stays free.
    pub reserve: Option<ByteCount>,
    /// Its path, as entered.
    pub path: Option<String>,
}

/// The properties of a new apparatus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApparatus {
    /// Its name.
    pub name: Name,
    /// Its mount point, as entered.
    pub mount: String,
    /// The maximum number of threads.
    pub threads: Option<u16>,
    /// Whether other users may use the mount.
    pub allow_other: bool,
}

impl Verb {
    /// Returns the same verb with users cut off; `None` if it takes nothing from users, or does so already.
    pub fn regardless_of_users(&self) -> Option<Self> {
        let mut verb = self.clone();
        match &mut verb {
            Self::ResizeVolume { cut_off, .. }
            | Self::SetVolume { cut_off, .. }
            | Self::RemoveVolume { cut_off, .. }
            | Self::Stop { cut_off, .. }
            | Self::Fence { cut_off, .. }
                if !*cut_off =>
            {
                *cut_off = true;
            }
            _ => return None,
        }
        Some(verb)
    }

    /// Returns the same verb, which gives up the last copy of this disk; `None` if no disk is lost by it, or it does so already.
    pub fn losing(&self, disk: &str) -> Option<Self> {
        let mut verb = self.clone();
        match &mut verb {
            Self::Stop { lose, .. } | Self::Fence { lose, .. } if !lose.iter().any(|each| each == disk) => {
                lose.push(disk.to_owned());
            }
            _ => return None,
        }
        Some(verb)
    }

    /// Returns whether users of what it takes away are cut off.
    pub fn cuts_off_users(&self) -> bool {
        match self {
            Self::ResizeVolume { cut_off, .. }
            | Self::SetVolume { cut_off, .. }
            | Self::RemoveVolume { cut_off, .. }
            | Self::Stop { cut_off, .. }
            | Self::Fence { cut_off, .. } => *cut_off,
            _ => false,
        }
    }
}
