//! Progress of a job on standard error: a bar on a terminal, or one line per second.

use super::cell::{duration, size};
use super::{note, width};
use apparatus::jobs::Observer;
use apparatus::model::job::JobRecord;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The form in which progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A bar if standard error is a terminal, else nothing
    #[default]
    Auto,
    /// One line per second; with --json one object per second
    Plain,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Bar,
    Lines,
    Objects,
    Nothing,
}

/// Shows a running job, and stops the job when `stop` is set.
pub struct Display {
    shape: Shape,
    extent_size: u64,
    stop: Arc<AtomicBool>,
    last: Option<Instant>,
    /// Start time of this display, and the bytes that had been copied by then.
    since: Option<(Instant, u64)>,
    drawn: bool,
}

/// Progress as scripts read it.
#[derive(Serialize)]
struct Event {
    format: u32,
    progress: State,
}

/// The progress of a job at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct State {
    job: u64,
    done: u64,
    total: u64,
    copied: u64,
    rate: u64,
    left_s: Option<u64>,
    held_requests: u64,
    longest_hold_us: u64,
}

impl Display {
    /// Creates a display. `stop` is set when the operator wants the job to stop.
    pub fn new(progress: Progress, json: bool, extent_size: u64, stop: Arc<AtomicBool>) -> Self {
        let shape = match progress {
            Progress::Plain if json => Shape::Objects,
            Progress::Plain => Shape::Lines,
            Progress::Auto if io::stderr().is_terminal() && !json => Shape::Bar,
            Progress::Auto | Progress::None => Shape::Nothing,
        };
        Self {
            shape,
            extent_size,
            stop,
            last: None,
            since: None,
            drawn: false,
        }
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
            self.drawn = false;
        }
    }

    fn due(&mut self, now: Instant) -> bool {
        let every = match self.shape {
            Shape::Nothing => return false,
            Shape::Bar => Duration::from_millis(100),
            Shape::Lines | Shape::Objects => Duration::from_secs(1),
        };
        let due = self.last.is_none_or(|last| now.duration_since(last) >= every);
        if due {
            self.last = Some(now);
        }
        due
    }

    fn state(&mut self, job: &JobRecord, done: u64, total: u64, now: Instant) -> State {
        let bytes = |extents: u64| extents.saturating_mul(self.extent_size);
        let (begun, done_then) = *self.since.get_or_insert((now, done));
        let micros = now.duration_since(begun).as_micros().max(1);
        let moved = u128::from(bytes(done.saturating_sub(done_then)));
        let rate = u64::try_from(moved * 1_000_000 / micros).unwrap_or(u64::MAX);
        State {
            job: job.id.0,
            done: bytes(done),
            total: bytes(total),
            copied: job.copied.0,
            rate,
            left_s: bytes(total.saturating_sub(done)).checked_div(rate),
            held_requests: job.held,
            longest_hold_us: job.longest_hold_us,
        }
    }

    fn show(&mut self, state: State) {
        match self.shape {
            Shape::Nothing => {}
            Shape::Lines => note(&line(state)),
            Shape::Objects => {
                let event = Event {
                    format: super::FORMAT,
                    progress: state,
                };
                note(&serde_json::to_string(&event).unwrap_or_default());
            }
            Shape::Bar => {
                self.drawn = true;
                let _ = write!(io::stderr(), "\r\x1b[K{}", bar(state, width(io::stderr())));
            }
        }
    }
}

impl Observer for Display {
    fn progress(&mut self, job: &JobRecord, done: u64, total: u64) -> bool {
        let now = Instant::now();
        let state = self.state(job, done, total, now);
        if self.due(now) {
            self.show(state);
        }
        !self.stop.load(Ordering::Relaxed)
    }
}

fn percent(state: State) -> u64 {
    (u128::from(state.done) * 100)
        .checked_div(u128::from(state.total))
        .map_or(100, |percent| u64::try_from(percent).unwrap_or(100))
}

fn line(state: State) -> String {
    let parts = parts(state);
    format!("job {}: {}", state.job, parts.join(", "))
}

/// Returns the parts of the line, most important first.
fn parts(state: State) -> Vec<String> {
    let left = state
        .left_s
        .map_or("-".into(), |left| duration(left.saturating_mul(1_000_000)));
    let mut parts = vec![
        format!(
            "{}% {} of {}",
            percent(state),
            size(state.done),
            size(state.total)
        ),
        format!("{}/s", size(state.rate)),
        format!("{left} left"),
        format!("{} held", state.held_requests),
    ];
    if state.longest_hold_us > 0 {
        parts.push(format!("longest hold {}", duration(state.longest_hold_us)));
    }
    parts
}

/// Returns one line for a terminal: the bar takes at least a third of it, the parts as much as fits beside it.
fn bar(state: State, width: usize) -> String {
    let least = width / 3;
    let mut parts = parts(state);
    let text = loop {
        let text = parts.join(", ");
        if parts.len() == 1 || text.chars().count() + 4 + least <= width {
            break text;
        }
        parts.pop();
    };
    let room = width.saturating_sub(text.chars().count() + 4);
    if room < 5 {
        return text.chars().take(width.saturating_sub(1)).collect();
    }
    let filled = usize::try_from(percent(state)).unwrap_or(100) * room / 100;
    format!("[{}{}] {text}", "#".repeat(filled), " ".repeat(room - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: State = State {
        job: 7,
        done: 1 << 29,
        total: 1 << 30,
        copied: 1 << 29,
        rate: 1 << 28,
        left_s: Some(2),
        held_requests: 3,
        longest_hold_us: 800,
    };

    #[test]
    fn a_bar_is_as_wide_as_the_terminal_and_no_wider() {
        for width in [20, 80, 120] {
            assert!(bar(STATE, width).chars().count() < width, "{width}");
        }
        let wide = bar(STATE, 120);
        assert!(wide.starts_with("[#####"), "{wide}");
        assert!(
            wide.ends_with("50% 512M of 1G, 256M/s, 2.0s left, 3 held, longest hold 800us"),
            "{wide}"
        );
        let usual = bar(STATE, 80);
        assert!(
            usual.ends_with("50% 512M of 1G, 256M/s, 2.0s left, 3 held"),
            "{usual}"
        );
    }

    #[test]
    fn a_third_of_the_terminal_shows_how_far_it_is() {
        for width in [40, 60, 80, 100, 200] {
            let cells = |text: &str| text.find(']').unwrap_or(0).saturating_sub(1);
            let bar = bar(STATE, width);
            assert!(cells(&bar) >= width / 3, "{width}: {bar}");
        }
    }

    #[test]
    fn nothing_to_do_is_all_done() {
        assert_eq!(
            percent(State {
                done: 0,
                total: 0,
                ..STATE
            }),
            100
        );
    }
}
