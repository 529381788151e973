//! Actions on the selected object: the verb or form of each key, the preview, the confirmation.

use super::dialog::{Dialog, Preview};
use super::form::{self, Form};
use super::{Effect, Model, Tab, Verb};
use crate::output::Tone;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use tui_input::Input;

/// Limit of verbs that run at once; each has a thread.
const MOST: usize = 4;
/// Lines that a page key scrolls in a dialog.
const PAGE: usize = 10;
/// The word that confirms a verb which destroys data or cuts users off.
pub const YES: &str = "yes";

impl Model {
    /// Executes the action of a letter on this page.
    pub(super) fn act(&mut self, letter: char) -> Vec<Effect> {
        self.notice = None;
        if let Some(verb) = self.verb_of(letter) {
            return self.preview(verb);
        }
        let form = self.form_of(letter);
        self.show(form.map(Dialog::Form));
        Vec::new()
    }

    /// Returns the verb of a letter that needs no further input.
    fn verb_of(&self, letter: char) -> Option<Verb> {
        match self.tab {
            Tab::Apparatuses => {
                let name = self.apparatus()?.member.name.to_string();
                match letter {
                    's' => Some(Verb::Stop {
                        name,
                        cut_off: false,
                        lose: Vec::new(),
                    }),
                    'f' => Some(Verb::Fence {
                        name,
                        cut_off: false,
                        lose: Vec::new(),
                    }),
                    'r' => Some(Verb::Rejoin(name)),
                    _ => None,
                }
            }
            Tab::Volumes => {
                let volume = self.volume()?.record.name.to_string();
                match letter {
                    'd' => Some(Verb::Detach(volume)),
                    'r' => Some(Verb::RemoveVolume {
                        volume,
                        cut_off: false,
                    }),
                    _ => None,
                }
            }
            Tab::Disks => {
                let disk = self.disk()?.record.name.to_string();
                (letter == 'r').then_some(Verb::RemoveDisk(disk))
            }
            Tab::Jobs => {
                let job = self.job()?.view.record.id;
                match letter {
                    'p' => Some(Verb::Pause(job)),
                    'r' => Some(Verb::Resume(job)),
                    'c' | 'b' => Some(Verb::Cancel {
                        job,
                        back: letter == 'b',
                    }),
                    _ => None,
                }
            }
            Tab::Overview | Tab::Events => None,
        }
    }

    /// Returns the form of a letter whose verb needs input.
    fn form_of(&self, letter: char) -> Option<Form> {
        match (self.tab, letter) {
            (Tab::Apparatuses, 'n') => Some(Form::of_start(self)),
            (Tab::Volumes, 'n') => Some(Form::of_new_volume(self)),
            (Tab::Volumes, _) => {
                let view = self.volume()?;
                let name = view.record.name.as_str();
                match letter {
                    'z' => Some(Form::of_resize(self, view)),
                    'R' => Some(Form::of_rename(name)),
                    't' => Some(Form::of_volume_settings(view)),
                    'a' => Some(Form::of_attachment(self, name)),
                    'm' => Some(Form::of_move(self, view)),
                    'h' => Some(Form::of_hold(name)),
                    _ => None,
                }
            }
            (Tab::Disks, 'n') => Some(Form::of_new_disk()),
            (Tab::Disks, _) => {
                let view = self.disk()?;
                let name = view.record.name.as_str();
                match letter {
                    'z' => Some(Form::of_disk_resize(name)),
                    't' => Some(Form::of_disk_settings(self, view)),
                    'e' => Some(Form::of_evacuation(self, name)),
                    _ => None,
                }
            }
            (Tab::Jobs, 'l') => {
                let job = &self.job()?.view.record;
                Some(Form::of_rate(job.id, job.limits.rate))
            }
            _ => None,
        }
    }

    fn preview(&mut self, verb: Verb) -> Vec<Effect> {
        self.show(Some(Dialog::Planning(verb.clone())));
        vec![Effect::Preview(verb)]
    }

    /// Opens a dialog at its first line; `None` closes the open one, and shows a failure that occurred meanwhile.
    pub(super) fn show(&mut self, dialog: Option<Dialog>) {
        self.scroll = 0;
        self.dialog = dialog.or_else(|| self.failures.pop_front());
    }

    /// Handles a key in a dialog.
    pub(super) fn dialog_key(&mut self, key: KeyEvent, dialog: Dialog) -> Vec<Effect> {
        match (dialog, key.code) {
            (_, KeyCode::Esc) => self.show(None),
            (Dialog::Form(form), _) => return self.form_key(form, key),
            (dialog, code) if self.scrolls(code) => self.dialog = Some(dialog),
            (
                Dialog::Failed {
                    forced: Some(verb), ..
                },
                KeyCode::Char('o'),
            ) => return self.preview(*verb),
            (Dialog::Failed { form: Some(form), .. }, KeyCode::Char('e')) => {
                self.show(Some(Dialog::Form(*form)));
            }
            // Any other key closes these.
            (Dialog::Help | Dialog::Failed { .. }, _) => self.show(None),
            (Dialog::Confirm { verb, preview, typed }, _) => {
                return self.confirm_key(verb, preview, typed, key);
            }
            (Dialog::Leave, KeyCode::Char('y' | 'Y')) => return vec![Effect::Quit],
            (Dialog::Leave, KeyCode::Char('n' | 'N' | 'q')) => self.show(None),
            (dialog @ (Dialog::Planning(_) | Dialog::Leave), _) => self.dialog = Some(dialog),
        }
        Vec::new()
    }

    /// Handles keys that scroll a dialog; returns whether it was one.
    fn scrolls(&mut self, code: KeyCode) -> bool {
        self.scroll = match code {
            KeyCode::Down => self.scroll + 1,
            KeyCode::PageDown => self.scroll + PAGE,
            KeyCode::Up => self.scroll.saturating_sub(1),
            KeyCode::PageUp => self.scroll.saturating_sub(PAGE),
            _ => return false,
        };
        true
    }

    /// Handles a key of the confirmation: `y` confirms; what destroys data or cuts users off has to be typed.
    fn confirm_key(
        &mut self,
        verb: Verb,
        preview: Box<Preview>,
        mut typed: Input,
        key: KeyEvent,
    ) -> Vec<Effect> {
        let wanted = match (&preview.danger, key.code) {
            (Some(_), KeyCode::Enter) => typed.value().trim() == YES,
            (Some(_), _) => {
                form::edit(&mut typed, key);
                false
            }
            (None, KeyCode::Char('y' | 'Y')) => true,
            (None, KeyCode::Char('n' | 'N' | 'q')) => {
                self.show(None);
                return Vec::new();
            }
            (None, _) => false,
        };
        if !wanted {
            self.dialog = Some(Dialog::Confirm { verb, preview, typed });
            return Vec::new();
        }
        self.show(None);
        if self.under_way.len() >= MOST {
            self.notice = Some((
                Tone::Warning,
                "too many verbs are running: try again later".into(),
            ));
            return Vec::new();
        }
        self.under_way.push(verb.clone());
        vec![Effect::Send(verb, preview.expected)]
    }

    fn form_key(&mut self, mut form: Form, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Enter => match form.verb() {
                Ok(verb) => {
                    self.entered = Some(form);
                    return self.preview(verb);
                }
                Err(error) => form.complaint = Some(error.to_string()),
            },
            KeyCode::Tab => form.step(true),
            KeyCode::BackTab => form.step(false),
            KeyCode::Down => form.offer(true),
            KeyCode::Up => form.offer(false),
            _ => form.edit(key),
        }
        self.dialog = Some(Dialog::Form(form));
        Vec::new()
    }
}
