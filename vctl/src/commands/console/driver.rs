//! Threads, channels, signals and the terminal: passes events to the model, executes its effects, draws.

use super::model::dialog::PlanOutcome;
use super::model::{Effect, Event, FailureText, Model};
use super::poll;
use super::screen::Screen;
use super::verb::Verb;
use super::view::{self, Theme};
use super::work::{Background, Operator};
use crate::exit::{Done, status_of};
use apparatus::controller::history::Operation;
use apparatus::model::dir::PoolDir;
use apparatus::model::error::{Error, ErrorKind, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Capacity of the queue of events; a full queue blocks its senders.
const EVENTS: usize = 64;
/// Number of verbs that run at the same time. One holds the controller lock; the others wait for an apparatus or record a request.
const VERBS: usize = 4;
/// Capacity of the queue of verbs that wait for a thread.
const TASKS: usize = 8;
/// Interval at which ages are drawn again.
const BEAT: Duration = Duration::from_secs(1);
/// The longest time that running verbs may take to end when the console ends.
const LEAVING: Duration = Duration::from_secs(15);

enum Task {
    Preview(Verb),
    Send(Verb, Option<PlanOutcome>),
}

/// Runs the console until the operator leaves.
///
/// # Errors
/// Fails when the terminal fails, or when a thread cannot be started.
pub fn run(pool: &PoolDir, every: Duration) -> Result<Done> {
    let (sender, events) = bounded(EVENTS);
    // Signals are handled first, so that one that arrives while the terminal is set up is not lost.
    let signals =
        Signals::new([SIGTERM, SIGHUP, SIGINT, SIGCONT]).map_err(|error| Error::because("signals", error))?;
    let mut screen = Screen::take()?;
    let (ending, ended) = bounded(0);
    spawn("console-signals", &sender, move |sender| {
        watch_signals(signals, sender)
    })?;
    spawn("console-keys", &sender, read_keys)?;
    let (dir, until) = (pool.clone(), ended.clone());
    spawn("console-store", &sender, move |sender| {
        poll::store(&dir, sender, &until)
    })?;
    let background = Arc::new(Background::default());
    let (dir, collected) = (pool.clone(), Arc::clone(&background));
    spawn("console-pulse", &sender, move |sender| {
        poll::pulse(&dir, every, sender, (&ended, &collected))
    })?;
    let threads = Threads::start(pool, &background, &sender)?;
    let mut model = Model::new(pool.path().display().to_string());
    let end = main_loop(&mut screen, &mut model, &events, &threads);
    drop(ending);
    threads.stop(&events);
    drop(screen);
    end
}

/// The main loop: draws, waits for an event, updates the model, executes the effects.
fn main_loop(
    screen: &mut Screen,
    model: &mut Model,
    events: &Receiver<Event>,
    threads: &Threads,
) -> Result<Done> {
    let theme = Theme::of_environment();
    loop {
        screen.draw(|frame| view::render(model, theme, frame))?;
        if model.look.is_some() {
            provoke("console");
        }
        let first = match events.recv_timeout(BEAT) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(died("events")),
        };
        for event in first.into_iter().chain(events.try_iter().take(EVENTS)) {
            match event {
                Event::Broken(thread) => return Err(died(thread)),
                Event::Signal => return Ok(Done::Badly(ErrorKind::Cancelled)),
                event => {
                    if execute(model.update(event), screen, model, threads)? {
                        return Ok(Done::Plainly);
                    }
                }
            }
        }
    }
}

fn died(thread: &str) -> Error {
    Error::failed("console", format!("its thread {thread} has died"))
        .hint("the pool is not affected: start the console again")
}

/// Executes effects. Returns true when the console has to end.
fn execute(effects: Vec<Effect>, screen: &mut Screen, model: &mut Model, threads: &Threads) -> Result<bool> {
    for effect in effects {
        let task = match effect {
            Effect::Quit => return Ok(true),
            Effect::Repaint => {
                screen.retake()?;
                continue;
            }
            Effect::Release => {
                threads.background.release();
                continue;
            }
            Effect::Preview(verb) => Task::Preview(verb),
            Effect::Send(verb, expected) => Task::Send(verb, expected),
        };
        if let Some(refused) = threads.submit(task) {
            model.update(refused);
        }
    }
    Ok(false)
}

/// The threads that poll the pool and run verbs.
struct Threads {
    background: Arc<Background>,
    tasks: Sender<Task>,
    /// Carries no messages: it closes when the last worker has ended.
    working: Receiver<()>,
}

impl Threads {
    fn start(pool: &PoolDir, background: &Arc<Background>, sender: &Sender<Event>) -> Result<Self> {
        let (tasks, queued) = bounded::<Task>(TASKS);
        let (at_work, working) = bounded(0);
        for _ in 0..VERBS {
            let (pool, background, queued) = (pool.clone(), Arc::clone(background), queued.clone());
            let at_work: Sender<()> = at_work.clone();
            spawn("console-hand", sender, move |sender| {
                let operator = Operator {
                    pool: &pool,
                    background: &background,
                };
                provoke("console-hand");
                for task in queued {
                    if sender.send(run_task(&operator, task)).is_err() {
                        break;
                    }
                }
                drop(at_work);
            })?;
        }
        Ok(Self {
            background: Arc::clone(background),
            tasks,
            working,
        })
    }

    /// Passes a task to the workers. Returns the event that reports a task which no worker can take.
    fn submit(&self, task: Task) -> Option<Event> {
        let reason = FailureText {
            text: "too many verbs are running".into(),
            hint: Some("wait until one of them has ended".into()),
        };
        let refused = self.tasks.try_send(task).err()?;
        Some(match refused.into_inner() {
            Task::Preview(verb) => Event::Previewed(verb, Err(reason)),
            Task::Send(verb, _) => Event::Ended(verb, Err(reason)),
        })
    }

    /// Stops everything that is running and waits for it: a hold is released, and a job that this process works on stops at the end of a
    /// chunk.
    fn stop(self, events: &Receiver<Event>) {
        self.background.leave();
        drop(self.tasks);
        let deadline = std::time::Instant::now() + LEAVING;
        loop {
            // Drains the queue, so that no thread blocks while it sends an event.
            events.try_iter().for_each(drop);
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.working.recv_timeout(left.min(Duration::from_millis(50))) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                _ => return,
            }
        }
    }
}

fn run_task(operator: &Operator<'_>, task: Task) -> Event {
    match task {
        Task::Preview(verb) => {
            let preview = operator
                .preview(&verb)
                .map(Box::new)
                .map_err(|error| FailureText::from(&error));
            Event::Previewed(verb, preview)
        }
        Task::Send(verb, expected) => {
            let operation = Operation::begin(operator.pool, "console", verb.words());
            let sent = operator.send(&verb, expected.as_ref());
            match &sent {
                Ok(outcome) => operation.end(outcome.done.status(), ""),
                Err(error) => operation.end(status_of(error.kind()), &error.to_string()),
            }
            Event::Ended(verb, sent.map_err(|error| FailureText::from(&error)))
        }
    }
}

/// Sends an event when its thread panics.
struct PanicNotice<'a>(&'static str, &'a Sender<Event>);

impl Drop for PanicNotice<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.1.send(Event::Broken(self.0));
        }
    }
}

fn spawn(
    name: &'static str,
    sender: &Sender<Event>,
    work: impl FnOnce(&Sender<Event>) + Send + 'static,
) -> Result<()> {
    let sender = sender.clone();
    let run = move || {
        let _notice = PanicNotice(name, &sender);
        work(&sender);
    };
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map(drop).map_err(|error| Error::because("console", error))
}

/// For tests, in builds with debug assertions only: panics in the thread that `VCTL_CONSOLE_PANIC` names.
fn provoke(name: &str) {
    let wanted =
        cfg!(debug_assertions) && std::env::var("VCTL_CONSOLE_PANIC").is_ok_and(|wanted| wanted == name);
    assert!(!wanted, "provoked in {name}");
}

fn watch_signals(mut signals: Signals, sender: &Sender<Event>) {
    for signal in signals.forever() {
        let event = if signal == SIGCONT {
            Event::Continued
        } else {
            Event::Signal
        };
        if sender.send(event).is_err() {
            return;
        }
    }
}

/// Sends keys until the terminal closes.
fn read_keys(sender: &Sender<Event>) {
    use ratatui::crossterm::event::{self, Event as Input};
    loop {
        let event = match event::read() {
            Ok(Input::Key(key)) => Event::Key(key),
            Ok(Input::Resize(..)) => Event::Resized,
            Ok(_) => continue,
            Err(_) => Event::Signal,
        };
        let last = matches!(event, Event::Signal);
        if sender.send(event).is_err() || last {
            return;
        }
    }
}
