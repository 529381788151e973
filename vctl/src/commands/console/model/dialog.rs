//! What stands over the rest of the screen and takes the keys.

use super::form::Form;
use super::{Told, Verb};
use apparatus::ops::moving::Outline;
use apparatus::pool::model::Segment;

/// A volume before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layouts {
    /// The volume.
    pub volume: String,
    /// Where it lies.
    pub before: Vec<Segment>,
    /// Where it will lie.
    pub after: Vec<Segment>,
}

/// What a verb would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// In words.
    pub summary: Vec<String>,
    /// Volumes that change their place.
    pub layouts: Vec<Layouts>,
    /// The difference that would be sent, as it is written down.
    pub difference: Vec<String>,
    /// What the plan comes to: it must be the same when it is sent.
    pub outline: Option<Outline>,
}

/// What stands over the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialog {
    /// Keys and letters explained.
    Help,
    /// Something is asked.
    Form(Form),
    /// What would be done is being found out.
    Planning(Verb),
    /// What would be done; waits for yes or no.
    Confirm {
        /// To be done.
        verb: Verb,
        /// What it would do.
        preview: Box<Preview>,
        /// Lines scrolled down.
        scroll: usize,
    },
    /// Something went wrong.
    Failed(String, Told),
    /// What is under way ends with the console.
    Leave,
}
