//! The effect of each key.

use super::dialog::Dialog;
use super::{Effect, Model, Tab, form};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Lines that a page key moves.
const PAGE: isize = 10;
/// Limit of the lines by which a zoomed object may be scrolled.
const MOST_SCROLLED: usize = 10_000;

impl Model {
    /// Handles a key.
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
            (_, None) if self.typing.is_some() => {
                self.filter_key(key);
                Vec::new()
            }
            (_, None) => self.main(key.code),
            (_, Some(dialog)) => self.dialog_key(key, dialog),
        }
    }

    /// Handles a key of the filter, which takes effect as it is typed.
    fn filter_key(&mut self, key: KeyEvent) {
        let Some(mut input) = self.typing.take() else {
            return;
        };
        match key.code {
            KeyCode::Enter => return self.choice_mut().keep(),
            KeyCode::Esc => input.reset(),
            KeyCode::Up => return self.go(-1),
            KeyCode::Down => return self.go(1),
            _ => form::edit(&mut input, key),
        }
        self.choice_mut().filter = input.value().to_owned();
        if key.code != KeyCode::Esc {
            self.typing = Some(input);
        }
    }

    /// Leaves the console. Running verbs would end with it, so the operator has to confirm that.
    fn leave(&mut self) -> Vec<Effect> {
        if self.under_way.is_empty() {
            return vec![Effect::Quit];
        }
        self.show(Some(Dialog::Leave));
        Vec::new()
    }

    fn main(&mut self, code: KeyCode) -> Vec<Effect> {
        match code {
            KeyCode::Char('q') => return self.leave(),
            KeyCode::Char('?') | KeyCode::F(1) => self.show(Some(Dialog::Help)),
            KeyCode::Char('x') if self.holding() => return vec![Effect::Release],
            KeyCode::Char(digit @ '1'..='6') => {
                let at = usize::from(u8::try_from(digit).unwrap_or(b'1') - b'1');
                self.turn_to(Tab::ALL[at]);
            }
            KeyCode::Tab | KeyCode::Right => self.turn_to(self.tab.after(1)),
            KeyCode::BackTab | KeyCode::Left => self.turn_to(self.tab.after(Tab::ALL.len() - 1)),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.page(-PAGE),
            KeyCode::PageDown => self.page(PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN / 2),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX / 2),
            KeyCode::Esc => self.give_up(),
            code if Tab::LISTS.contains(&self.tab) => return self.in_list(code),
            _ => {}
        }
        Vec::new()
    }

    /// Handles keys that only lists have.
    fn in_list(&mut self, code: KeyCode) -> Vec<Effect> {
        let tab = self.tab;
        match code {
            KeyCode::Enter => (self.zoomed, self.back) = (!self.zoomed, 0),
            KeyCode::Char('/') => {
                self.zoomed = false;
                self.typing = Some(self.choice(tab).filter.clone().into());
            }
            KeyCode::Char('<' | ',') => self.choice_mut().sort_by_next(tab, false),
            KeyCode::Char('>' | '.') => self.choice_mut().sort_by_next(tab, true),
            KeyCode::Char('i') => self.choice_mut().turn_around(),
            KeyCode::Char(letter) => return self.act(letter),
            _ => {}
        }
        Vec::new()
    }

    fn turn_to(&mut self, tab: Tab) {
        (self.tab, self.zoomed, self.back) = (tab, false, 0);
    }

    /// Undoes the last of: zoom, filter, notice.
    fn give_up(&mut self) {
        if self.zoomed {
            (self.zoomed, self.back) = (false, 0);
        } else if !self.choice(self.tab).filter.is_empty() {
            self.choice_mut().filter.clear();
        } else {
            self.notice = None;
        }
    }

    /// Scrolls a zoomed object by a page; otherwise moves the selection by a page.
    fn page(&mut self, by: isize) {
        if self.zoomed {
            self.back = self.back.saturating_add_signed(by).min(MOST_SCROLLED);
        } else {
            self.go(by);
        }
    }

    /// Moves down for a positive number: events are scrolled, in lists the selection moves.
    fn go(&mut self, by: isize) {
        if self.tab == Tab::Events {
            let most = self.events.len().saturating_sub(1);
            self.back = self.back.saturating_add_signed(by.saturating_neg()).min(most);
        } else {
            self.choice_mut().go(by);
        }
    }
}
