//! Lists who has volumes open when the apparatus is asked to stop, for its log.

use crate::admin::usage;
use crate::datapath::{Apparatus, Role, Runtime};
use crate::model::names::Name;
use crate::model::units::VolumeId;
use std::collections::BTreeMap;
use std::path::Path;

/// Describes the users of each open volume; `None` where none is open. It is called before the mount is detached, because the users
/// cannot be found afterwards.
pub(super) fn describe(apparatus: &Apparatus, mount: &Path) -> Option<String> {
    let opens = apparatus.control().opens();
    if opens.volumes.is_empty() {
        return None;
    }
    let volumes = apparatus
        .io_context(Role::Reader)
        .map(|mut context| apparatus.volumes(&mut context));
    let volumes = volumes.unwrap_or_default().into_iter();
    let names: BTreeMap<VolumeId, Name> = volumes.map(|volume| (volume.id, volume.name)).collect();
    let handles: u64 = opens.volumes.values().map(|open| open.handles).sum();
    let users = usage::through(apparatus.name(), mount, opens, &names);
    Some(match users.is_empty() {
        true => format!("{handles} open handles of processes that cannot be seen from here"),
        false => users.join("; "),
    })
}
