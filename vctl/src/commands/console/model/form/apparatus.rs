//! Forms for apparatuses.

use super::{Field, Form, Subject};
use crate::commands::console::model::Model;
use crate::commands::console::verb::{NewApparatus, Verb};
use apparatus::admin::apparatus::State;
use apparatus::model::error::{Error, Result};
use apparatus::model::names::Name;

const NO_YES: [&str; 2] = ["no", "yes"];
/// The permitted numbers of FUSE reader threads.
const THREADS: std::ops::RangeInclusive<u16> = 1..=64;

impl Form {
    /// Returns the form for a new apparatus; an apparatus that has died is preset.
    pub fn of_start(model: &Model) -> Self {
        let dead = model.apparatus().filter(|view| view.state == State::Dead);
        let (name, mount) = dead.map_or_else(Default::default, |view| {
            let mount = view.member.mount.to_string_lossy().into_owned();
            (view.member.name.to_string(), mount)
        });
        let fields = vec![
            Field::new("name", "its name").with(name),
            Field::new("mount", "the directory to mount on; created if missing").with(mount),
            Field::new(
                "threads",
                "maximum number of reader threads, 1 to 64; may stay empty",
            ),
            Field::choice("others", "yes: other users may use the mount", NO_YES),
        ];
        Self::new(Subject::Start, fields)
    }

    pub(super) fn started(&self) -> Result<Verb> {
        let threads = self.text("threads").map(|text| {
            let number = text.parse::<u16>().ok().filter(|number| THREADS.contains(number));
            number.ok_or_else(|| Error::usage(format!("threads {text:?}"), "is no whole number from 1 to 64"))
        });
        Ok(Verb::Start(NewApparatus {
            name: Name::new("apparatus", self.needed("name")?)?,
            mount: self.needed("mount")?.to_owned(),
            threads: threads.transpose()?,
            allow_other: self.either("others", NO_YES)?.unwrap_or(false),
        }))
    }
}
