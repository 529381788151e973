//! Dialogs, which cover the screen and receive the keys.

use super::form::Form;
use super::{FailureText, Tab, Verb};
use crate::exit::Done;
use crate::output::Tone;
use apparatus::admin::open_images::LOSE_DISK;
use apparatus::admin::usage::OVERRIDE;
use apparatus::model::job::Step;
use apparatus::model::names::Name;
use apparatus::model::records::{Edit, Segment};
use tui_input::Input;

/// The placement of a volume before and after a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layouts {
    /// The volume.
    pub volume: String,
    /// The placement now.
    pub before: Vec<Segment>,
    /// The placement afterwards.
    pub after: Vec<Segment>,
}

/// What a verb would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// A description.
    pub summary: Vec<String>,
    /// Data that would be lost, or users that would be cut off; the operator has to confirm it.
    pub danger: Option<String>,
    /// Volumes whose placement changes.
    pub layouts: Vec<Layouts>,
    /// The changes, one per line.
    pub changes: Vec<String>,
    /// The result of planning, which must be the same when the verb is sent.
    pub expected: Option<PlanOutcome>,
}

/// The result of planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanOutcome {
    /// The steps of a job.
    Steps(Vec<Step>),
    /// Edits of the table.
    Edits(Vec<Edit>),
    /// The content of a disk that is added.
    Content(Option<String>),
}

/// The result of a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A description.
    pub text: String,
    /// The tone of the description.
    pub tone: Tone,
    /// An object that was created, to be selected in its list.
    pub made: Option<(Tab, String)>,
    /// How a command with the same effect ends.
    pub done: Done,
}

impl From<String> for Outcome {
    fn from(text: String) -> Self {
        Self {
            text,
            tone: Tone::Good,
            made: None,
            done: Done::Plainly,
        }
    }
}

impl Outcome {
    /// Adds the apparatuses that were fenced.
    #[must_use]
    pub fn fencing(mut self, names: &[Name]) -> Self {
        if !names.is_empty() {
            let words: Vec<&str> = names.iter().map(Name::as_str).collect();
            self.text.push_str(&format!("; fenced: {}", words.join(", ")));
            self.tone = Tone::Warning;
        }
        self.done = Done::WithFenced(names.to_vec());
        self
    }

    /// Sets the object that was created.
    #[must_use]
    pub fn making(self, tab: Tab, name: impl ToString) -> Self {
        Self {
            made: Some((tab, name.to_string())),
            ..self
        }
    }
}

/// A dialog.
#[derive(Clone, Debug)]
pub enum Dialog {
    /// Explains the keys.
    Help,
    /// Asks for input.
    Form(Form),
    /// Waits for a preview.
    Planning(Verb),
    /// Shows a preview and waits for the confirmation.
    Confirm {
        /// The verb to confirm.
        verb: Verb,
        /// Its preview.
        preview: Box<Preview>,
        /// What has been typed to confirm it.
        typed: Input,
    },
    /// Shows a failure.
    Failed {
        /// The command that failed.
        command: String,
        /// The reason.
        reason: FailureText,
        /// The verb that overrides the refusal, if that is an option.
        forced: Option<Box<Verb>>,
        /// The form in which the verb was entered.
        form: Option<Box<Form>>,
    },
    /// Asks whether to leave although verbs are running.
    Leave,
}

impl Dialog {
    /// Returns the dialog for a failed verb, which was entered in this form. One that was refused because of users, or of a disk that would be lost, can be
    /// repeated regardless of them.
    pub fn failed(verb: &Verb, reason: FailureText, form: Option<Form>) -> Self {
        let hint = reason.hint.as_deref().unwrap_or_default();
        let lost = hint.split_once(LOSE_DISK).map(|(_, disk)| disk.trim());
        let forced = match lost {
            Some(disk) => verb.losing(disk),
            None => verb.regardless_of_users().filter(|_| hint.contains(OVERRIDE)),
        };
        Self::Failed {
            command: verb.command(),
            forced: forced.map(Box::new),
            reason,
            form: form.map(Box::new),
        }
    }
}
