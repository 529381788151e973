//! Threads that run production code: of controllers, and of the data paths of apparatuses. A baton, which is the world itself, decides whose turn
//! it is: the thread that has it is the only one that runs. Each seam (`seams/`) that takes time hands the baton on until the scheduler comes to
//! the moment at which the thread goes on. So a run depends on its seed alone.

use super::{Delay, ProcId, Task, World, request};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// Longest real time that a phase of a run takes. A thread that never gives the baton back is found by it.
const STUCK: Duration = Duration::from_secs(600);
/// Stack of a thread of the system.
const STACK: usize = 1 << 20;

/// A thread, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId(pub u64);

/// What a thread runs.
pub type Body = Box<dyn FnOnce() + Send>;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This thread goes on.
    Thread(ThreadId),
    /// The phase of the run is over.
    Over,
}

/// The scheduler's side of a thread.
#[derive(Debug)]
pub struct Thread {
    proc: ProcId,
    baton: Sender<Box<World>>,
    /// Times that it has paused; earlier reasons to go on have lost their meaning.
    epoch: u64,
    /// It waits until something wakes it.
    waits: bool,
}

/// The scheduler's end of the baton.
#[derive(Debug)]
pub struct Scheduler {
    back: Receiver<Box<World>>,
}

/// A thread's ends of the baton: to get it, and to give it back to the scheduler.
type Ends = (Receiver<Box<World>>, Sender<Box<World>>);

/// A thread of a run, as a thread of the system is given it.
type Life = Box<dyn FnOnce() + Send>;

/// Threads of the system that have nothing to do: runs have many short threads, and each is dear to start.
static IDLE: Mutex<Vec<Sender<Life>>> = Mutex::new(Vec::new());

/// Payload of the unwinding that ends a thread of a killed process.
struct Killed;

thread_local! {
    static WORLD: RefCell<Option<Box<World>>> = const { RefCell::new(None) };
    static ME: Cell<(ProcId, ThreadId)> = const { Cell::new((ProcId(0), ThreadId(0))) };
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

/// The process that this thread belongs to.
pub fn me() -> ProcId {
    ME.get().0
}

/// This thread.
pub fn this() -> ThreadId {
    ME.get().1
}

/// Uses the world, if this process has not been killed: then its destructors change nothing any more. A task of the scheduler has the world
/// itself, so production code that it calls finds none.
pub fn world<T>(job: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with(|world| world.try_borrow_mut().ok()?.as_deref_mut().map(job))
}

/// Lets other things happen for this long. A process may be killed meanwhile, or right before, and then never goes on.
pub fn pause(delay: Delay) {
    halt(|world, epoch| {
        let (me, this) = ME.get();
        world.after(Some(me), delay, Task::Resume(this, epoch));
    });
}

/// Waits until something wakes this thread.
pub fn suspend() {
    halt(|world, _| world.set_waits(this()));
}

/// Waits until something wakes this thread, for at most this many microseconds.
pub fn listen(us: u64) {
    halt(|world, epoch| {
        let (me, this) = ME.get();
        world.set_waits(this);
        world.after(Some(me), Delay::Exactly(us), Task::Resume(this, epoch));
    });
}

fn halt(arrange: impl FnOnce(&mut World, u64)) {
    if thread::panicking() {
        return;
    }
    let (me, this) = ME.get();
    let halted = world(|world| {
        world.maybe_kill_driver(me);
        if let Some(epoch) = world.thread_pauses(this) {
            arrange(world, epoch);
        }
    });
    match halted {
        Some(()) => go_on(),
        None => die(),
    }
}

fn die() -> ! {
    resume_unwind(Box::new(Killed))
}

/// Has other things happen until this thread goes on.
fn go_on() {
    let turn = world(World::turn).unwrap_or(Turn::Over);
    if turn == Turn::Thread(this()) {
        return;
    }
    let Some(world) = WORLD.take() else { die() };
    let back = ENDS.with_borrow(|ends| {
        let (baton, back) = ends.as_ref()?;
        hand_on(world, turn, back)?;
        baton.recv().ok()
    });
    match back {
        Some(world) => WORLD.set(Some(world)),
        None => die(),
    }
}

/// Gives the world to the thread whose turn it is, or back to the scheduler.
fn hand_on(mut world: Box<World>, turn: Turn, back: &Sender<Box<World>>) -> Option<()> {
    let next = match turn {
        Turn::Thread(id) => world.threads.get(&id).map(|thread| thread.baton.clone()),
        Turn::Over => None,
    };
    match next {
        Some(baton) => baton.send(world).ok(),
        None => {
            world.next = Some(turn);
            back.send(world).ok()
        }
    }
}

/// Has a thread of the system, an idle one if there is any, do this.
fn employ(life: Life) {
    let idle = || IDLE.lock().map_or(None, |mut idle| idle.pop());
    let mut life = life;
    while let Some(one) = idle() {
        match one.send(life) {
            Ok(()) => return,
            Err(back) => life = back.0,
        }
    }
    let (me, lives) = channel::<Life>();
    let work = move || {
        life();
        loop {
            if let Ok(mut idle) = IDLE.lock() {
                idle.push(me.clone());
            }
            match lives.recv() {
                Ok(life) => life(),
                Err(_) => return,
            }
        }
    };
    let started = thread::Builder::new().stack_size(STACK).spawn(work);
    drop(started.expect("a thread can be started"));
}

fn live(me: (ProcId, ThreadId), body: Body, baton: Receiver<Box<World>>, back: Sender<Box<World>>) {
    let Ok(world) = baton.recv() else { return };
    request::begin_thread();
    WORLD.set(Some(world));
    ME.set(me);
    ENDS.set(Some((baton, back.clone())));
    let lived = catch_unwind(AssertUnwindSafe(body));
    let Some(mut world) = WORLD.take() else { return };
    if let Err(why) = lived {
        world.fail(panicked(&*why));
    }
    world.threads.remove(&me.1);
    world.driver_ended(me.0);
    ENDS.take();
    let turn = world.turn();
    // Nobody waits for it if the run has failed.
    _ = hand_on(world, turn, &back);
}

fn panicked(why: &(dyn Any + Send)) -> String {
    let text = why.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| why.downcast_ref::<&str>().copied());
    text.map_or_else(
        || "a thread panics".into(),
        |text| format!("a thread panics: {text}"),
    )
}

impl Scheduler {
    /// Returns the world, to which threads belong from now on, and the scheduler.
    pub fn new(mut world: Box<World>) -> (Box<World>, Self) {
        let (sender, back) = channel();
        world.back = Some(sender);
        (world, Self { back })
    }

    /// Has things happen until the phase is over.
    pub fn run(&self, mut world: Box<World>) -> Box<World> {
        loop {
            let turn = match world.next.take() {
                Some(turn) => turn,
                None => world.turn(),
            };
            let Turn::Thread(id) = turn else { return world };
            let Some(baton) = world.threads.get(&id).map(|thread| thread.baton.clone()) else {
                continue;
            };
            baton.send(world).expect("a thread that lives takes the baton");
            drop(baton);
            world = self
                .back
                .recv_timeout(STUCK)
                .expect("the threads hand the baton on");
        }
    }
}

impl World {
    /// Starts a thread of a process, which begins after this time.
    pub fn start_thread(&mut self, proc: ProcId, delay: Delay, body: Body) -> ThreadId {
        self.last_thread += 1;
        let id = ThreadId(self.last_thread);
        let (baton, begins) = channel();
        let back = self.back.clone().expect("a simulation has a scheduler");
        employ(Box::new(move || live((proc, id), body, begins, back)));
        let thread = Thread {
            proc,
            baton,
            epoch: 0,
            waits: false,
        };
        self.threads.insert(id, thread);
        self.after(Some(proc), delay, Task::Resume(id, 0));
        id
    }

    fn thread_pauses(&mut self, id: ThreadId) -> Option<u64> {
        let thread = self.threads.get_mut(&id)?;
        thread.epoch += 1;
        thread.waits = false;
        Some(thread.epoch)
    }

    fn set_waits(&mut self, id: ThreadId) {
        if let Some(thread) = self.threads.get_mut(&id) {
            thread.waits = true;
        }
    }

    /// A thread goes on, unless it has done so already.
    pub fn resume(&mut self, id: ThreadId, epoch: u64) {
        if self.threads.get(&id).is_some_and(|thread| thread.epoch == epoch) {
            self.resumed = Some(id);
        }
    }

    /// A thread that waits goes on after this time.
    pub fn wake_thread(&mut self, id: ThreadId, delay: Delay) {
        let Some(thread) = self.threads.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut thread.waits) {
            let (proc, epoch) = (thread.proc, thread.epoch);
            self.after(Some(proc), delay, Task::Resume(id, epoch));
        }
    }

    /// The threads of a process that is no more end where they pause next.
    pub fn end_threads(&mut self, proc: ProcId) {
        // A thread ends when its baton is dropped.
        self.threads.retain(|_, thread| thread.proc != proc);
    }
}
