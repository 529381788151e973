//! Threads, channels, signals, terminal: brings events to the model, carries its effects out, draws.

use super::model::{Effect, Event, Model, Told};
use super::poll;
use super::screen::Screen;
use super::verb::Verb;
use super::view::{self, Theme};
use super::work::{Hand, Leash};
use crate::exit::{Done, status_of};
use apparatus::error::{Error, Kind, Result};
use apparatus::ops::history::Deed;
use apparatus::ops::moving::Outline;
use apparatus::pool::dir::PoolDir;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Events that wait to be taken in; whoever has more waits.
const EVENTS: usize = 64;
/// Verbs that are done at the same time. One holds the arbitration; the others wait for an apparatus or write a wish down.
const HANDS: usize = 4;
/// Verbs that wait for a hand.
const TASKS: usize = 8;
/// Ages are drawn anew this often.
const BEAT: Duration = Duration::from_secs(1);
/// How long what is under way may take to end.
const LEAVING: Duration = Duration::from_secs(15);

enum Task {
    Preview(Verb),
    Send(Verb, Option<Outline>),
}

/// Runs the console until the operator leaves.
///
/// # Errors
/// The terminal's; when a thread cannot be started.
pub fn run(pool: &PoolDir, every: Duration) -> Result<Done> {
    let (tell, told) = bounded(EVENTS);
    // Signals first: one that comes while the terminal is being taken over is not lost.
    let signals =
        Signals::new([SIGTERM, SIGHUP, SIGINT, SIGCONT]).map_err(|error| Error::because("signals", error))?;
    let mut screen = Screen::take()?;
    let (ending, ended) = bounded(0);
    spawn("console-signals", &tell, move |tell| watch_signals(signals, tell))?;
    spawn("console-keys", &tell, read_keys)?;
    let (dir, until) = (pool.clone(), ended.clone());
    spawn("console-store", &tell, move |tell| {
        poll::store(&dir, tell, &until)
    })?;
    let dir = pool.clone();
    spawn("console-pulse", &tell, move |tell| {
        poll::pulse(&dir, every, tell, &ended)
    })?;
    let crew = Crew::hire(pool, &tell)?;
    let mut model = Model::new(pool.path().display().to_string());
    let end = attend(&mut screen, &mut model, &told, &crew);
    drop(ending);
    crew.dismiss(&told);
    drop(screen);
    end
}

/// Draws, waits for something to happen, does what follows, and so on.
fn attend(screen: &mut Screen, model: &mut Model, told: &Receiver<Event>, crew: &Crew) -> Result<Done> {
    let theme = Theme::of_environment();
    loop {
        screen.draw(|frame| view::render(model, theme, frame))?;
        if model.look.is_some() {
            provoke("console");
        }
        let first = match told.recv_timeout(BEAT) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(died("events")),
        };
        for event in first.into_iter().chain(told.try_iter().take(EVENTS)) {
            match event {
                Event::Broken(thread) => return Err(died(thread)),
                Event::Signal => return Ok(Done::Badly(Kind::Cancelled)),
                event => {
                    if carry_out(model.update(event), screen, model, crew)? {
                        return Ok(Done::Plainly);
                    }
                }
            }
        }
    }
}

fn died(thread: &str) -> Error {
    Error::failed("console", format!("its thread {thread} has died"))
        .hint("nothing was harmed: start it again")
}

/// True when it is time to leave.
fn carry_out(effects: Vec<Effect>, screen: &mut Screen, model: &mut Model, crew: &Crew) -> Result<bool> {
    for effect in effects {
        let task = match effect {
            Effect::Quit => return Ok(true),
            Effect::Repaint => {
                screen.retake()?;
                continue;
            }
            Effect::Release => {
                crew.leash.release();
                continue;
            }
            Effect::Preview(verb) => Task::Preview(verb),
            Effect::Send(verb, outline) => Task::Send(verb, outline),
        };
        if let Some(refused) = crew.give(task) {
            model.update(refused);
        }
    }
    Ok(false)
}

/// Those who do what the operator wants.
struct Crew {
    leash: Arc<Leash>,
    tasks: Sender<Task>,
    /// Nobody sends on it: it closes when the last hand has ended.
    working: Receiver<()>,
}

impl Crew {
    fn hire(pool: &PoolDir, tell: &Sender<Event>) -> Result<Self> {
        let leash = Arc::new(Leash::default());
        let (tasks, given) = bounded::<Task>(TASKS);
        let (at_work, working) = bounded(0);
        for _ in 0..HANDS {
            let (pool, leash, given) = (pool.clone(), Arc::clone(&leash), given.clone());
            let at_work: Sender<()> = at_work.clone();
            spawn("console-hand", tell, move |tell| {
                let hand = Hand {
                    pool: &pool,
                    leash: &leash,
                };
                provoke("console-hand");
                for task in given {
                    if tell.send(do_task(&hand, task)).is_err() {
                        break;
                    }
                }
                drop(at_work);
            })?;
        }
        Ok(Self {
            leash,
            tasks,
            working,
        })
    }

    /// The event that stands for a task that nobody takes.
    fn give(&self, task: Task) -> Option<Event> {
        let told = Told {
            text: "too much is under way".into(),
            hint: Some("wait for what was begun to end".into()),
        };
        let refused = self.tasks.try_send(task).err()?;
        Some(match refused.into_inner() {
            Task::Preview(verb) => Event::Previewed(verb, Err(told)),
            Task::Send(verb, _) => Event::Ended(verb, Err(told)),
        })
    }

    /// Ends what goes on, and waits for it: a hold is released, a job that is worked on here stops at the end of a chunk.
    fn dismiss(self, told: &Receiver<Event>) {
        self.leash.leave();
        drop(self.tasks);
        let deadline = std::time::Instant::now() + LEAVING;
        loop {
            // Whoever has something to say must not wait for a listener.
            told.try_iter().for_each(drop);
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.working.recv_timeout(left.min(Duration::from_millis(50))) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                _ => return,
            }
        }
    }
}

fn do_task(hand: &Hand<'_>, task: Task) -> Event {
    match task {
        Task::Preview(verb) => {
            let preview = hand
                .preview(&verb)
                .map(Box::new)
                .map_err(|error| Told::from(&error));
            Event::Previewed(verb, preview)
        }
        Task::Send(verb, outline) => {
            let words = verb.command();
            let deed = Deed::begin(hand.pool, "console", words.split(' ').map(str::to_owned));
            let sent = hand.send(&verb, outline.as_ref());
            match &sent {
                Ok(_) => deed.end(0, ""),
                Err(error) => deed.end(status_of(error.kind()), &error.to_string()),
            }
            Event::Ended(verb, sent.map_err(|error| Told::from(&error)))
        }
    }
}

/// Tells of a thread that panics.
struct Bell<'a>(&'static str, &'a Sender<Event>);

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.1.send(Event::Broken(self.0));
        }
    }
}

fn spawn(
    name: &'static str,
    tell: &Sender<Event>,
    work: impl FnOnce(&Sender<Event>) + Send + 'static,
) -> Result<()> {
    let tell = tell.clone();
    let run = move || {
        let _bell = Bell(name, &tell);
        work(&tell);
    };
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map(drop).map_err(|error| Error::because("console", error))
}

/// For tests, in builds with debug assertions only: the thread that `VCTL_CONSOLE_PANIC` names panics.
fn provoke(name: &str) {
    let wanted =
        cfg!(debug_assertions) && std::env::var("VCTL_CONSOLE_PANIC").is_ok_and(|wanted| wanted == name);
    assert!(!wanted, "provoked in {name}");
}

fn watch_signals(mut signals: Signals, tell: &Sender<Event>) {
    for signal in signals.forever() {
        let event = if signal == SIGCONT {
            Event::Continued
        } else {
            Event::Signal
        };
        if tell.send(event).is_err() {
            return;
        }
    }
}

/// Ends with the terminal.
fn read_keys(tell: &Sender<Event>) {
    use ratatui::crossterm::event::{self, Event as Input};
    loop {
        let event = match event::read() {
            Ok(Input::Key(key)) => Event::Key(key),
            Ok(Input::Resize(..)) => Event::Resized,
            Ok(_) => continue,
            Err(_) => Event::Signal,
        };
        let last = matches!(event, Event::Signal);
        if tell.send(event).is_err() || last {
            return;
        }
    }
}
