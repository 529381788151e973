//! What each key does.

use super::dialog::Dialog;
use super::form::Form;
use super::{Effect, Model, Tab, Verb};
use crate::output::Tone;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Lines that a page key goes.
const PAGE: isize = 10;
/// Verbs under way at once; each has a thread.
const MOST: usize = 4;

impl Model {
    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, self.dialog.take()) {
            (KeyCode::Char('c'), Some(Dialog::Leave)) if control => vec![Effect::Quit],
            (KeyCode::Char('c'), _) if control => self.leave(),
            (KeyCode::Char('l'), dialog) if control => {
                self.dialog = dialog;
                vec![Effect::Repaint]
            }
            (_, None) => self.main(key.code),
            (code, Some(dialog)) => self.dialog_key(code, dialog),
        }
    }

    /// What is under way here ends with the console: that has to be wanted.
    fn leave(&mut self) -> Vec<Effect> {
        if self.under_way.is_empty() {
            return vec![Effect::Quit];
        }
        self.dialog = Some(Dialog::Leave);
        Vec::new()
    }

    fn main(&mut self, code: KeyCode) -> Vec<Effect> {
        match code {
            KeyCode::Char('q') => return self.leave(),
            KeyCode::Char('?') | KeyCode::F(1) => self.dialog = Some(Dialog::Help),
            KeyCode::Char('x') if self.holding() => return vec![Effect::Release],
            KeyCode::Char(digit @ '1'..='6') => {
                let at = usize::from(u8::try_from(digit).unwrap_or(b'1') - b'1');
                self.tab = Tab::ALL[at];
            }
            KeyCode::Tab | KeyCode::Right => self.tab = self.tab.after(1),
            KeyCode::BackTab | KeyCode::Left => self.tab = self.tab.after(Tab::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-PAGE),
            KeyCode::PageDown => self.go(PAGE),
            KeyCode::Home => self.go(isize::MIN / 2),
            KeyCode::End => self.go(isize::MAX / 2),
            KeyCode::Char(letter) => return self.act(letter),
            _ => {}
        }
        Vec::new()
    }

    /// Down is later; events are scrolled, in lists something is chosen.
    fn go(&mut self, by: isize) {
        if self.tab == Tab::Events {
            let most = self.events.len().saturating_sub(1);
            self.back = self.back.saturating_add_signed(by.saturating_neg()).min(most);
        } else {
            self.choose(by);
        }
    }

    fn act(&mut self, letter: char) -> Vec<Effect> {
        self.notice = None;
        let verb = match (self.tab, letter) {
            (Tab::Apparatuses, 'f') => self
                .apparatus()
                .map(|view| Verb::Fence(view.member.name.to_string())),
            (Tab::Apparatuses, 'r') => self
                .apparatus()
                .map(|view| Verb::Rejoin(view.member.name.to_string())),
            (Tab::Disks, 'r') => self.disk().map(|disk| Verb::Remove(disk.record.name.to_string())),
            (Tab::Jobs, 'p') => self.job().map(|job| Verb::Pause(job.view.record.id)),
            (Tab::Jobs, 'r') => self.job().map(|job| Verb::Resume(job.view.record.id)),
            (Tab::Jobs, 'c' | 'b') => self.job().map(|job| Verb::Cancel {
                job: job.view.record.id,
                back: letter == 'b',
            }),
            _ => {
                self.ask(letter);
                None
            }
        };
        verb.map_or(Vec::new(), |verb| self.preview(verb))
    }

    /// Verbs that need to know more.
    fn ask(&mut self, letter: char) {
        let form = match (self.tab, letter) {
            (Tab::Volumes, 'm') => {
                let volume = self.volume().map(|volume| volume.record.name.to_string());
                volume.map(|volume| Form::of_move(self, &volume))
            }
            (Tab::Volumes, 'h') => {
                let volume = self.volume().map(|volume| volume.record.name.to_string());
                volume.map(|volume| Form::of_hold(&volume))
            }
            (Tab::Disks, 'e') => {
                let disk = self.disk().map(|disk| disk.record.name.to_string());
                disk.map(|disk| Form::of_evacuation(self, &disk))
            }
            (Tab::Jobs, 'l') => {
                let job = self.job().map(|job| &job.view.record);
                job.map(|job| Form::of_rate(job.id, job.limits.rate))
            }
            _ => None,
        };
        self.dialog = form.map(Dialog::Form);
    }

    fn preview(&mut self, verb: Verb) -> Vec<Effect> {
        self.dialog = Some(Dialog::Planning(verb.clone()));
        vec![Effect::Preview(verb)]
    }

    fn dialog_key(&mut self, code: KeyCode, dialog: Dialog) -> Vec<Effect> {
        match (dialog, code) {
            // Any key takes these away.
            (Dialog::Help | Dialog::Failed(..), _) | (_, KeyCode::Esc) => Vec::new(),
            (Dialog::Form(form), code) => self.form_key(form, code),
            (Dialog::Confirm { verb, preview, .. }, KeyCode::Char('y' | 'Y')) => {
                if self.under_way.len() >= MOST {
                    self.notice = Some((Tone::Warning, "too much is under way: try again later".into()));
                    return Vec::new();
                }
                self.under_way.push(verb.clone());
                vec![Effect::Send(verb, preview.outline)]
            }
            (Dialog::Confirm { .. } | Dialog::Leave, KeyCode::Char('n' | 'N' | 'q')) => Vec::new(),
            (
                Dialog::Confirm {
                    verb,
                    preview,
                    scroll,
                },
                code,
            ) => {
                let most = preview.difference.len();
                let scroll = match code {
                    KeyCode::Down | KeyCode::Char('j') => scroll + 1,
                    KeyCode::PageDown => scroll + PAGE.unsigned_abs(),
                    KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
                    KeyCode::PageUp => scroll.saturating_sub(PAGE.unsigned_abs()),
                    _ => scroll,
                };
                self.dialog = Some(Dialog::Confirm {
                    verb,
                    preview,
                    scroll: scroll.min(most),
                });
                Vec::new()
            }
            (Dialog::Leave, KeyCode::Char('y' | 'Y')) => vec![Effect::Quit],
            (dialog @ (Dialog::Planning(_) | Dialog::Leave), _) => {
                self.dialog = Some(dialog);
                Vec::new()
            }
        }
    }

    fn form_key(&mut self, mut form: Form, code: KeyCode) -> Vec<Effect> {
        match code {
            KeyCode::Enter => match form.verb() {
                Ok(verb) => return self.preview(verb),
                Err(error) => form.complaint = Some(error.to_string()),
            },
            KeyCode::Tab => form.step(true),
            KeyCode::BackTab => form.step(false),
            KeyCode::Down => form.offer(true),
            KeyCode::Up => form.offer(false),
            KeyCode::Backspace => form.erase(),
            KeyCode::Delete => form.clear(),
            KeyCode::Char(letter) => form.put(letter),
            _ => {}
        }
        self.dialog = Some(Dialog::Form(form));
        Vec::new()
    }
}
