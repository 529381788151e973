//! Controllers as processes: each runs the production driver on a thread of its own. A baton, which is the world itself, decides whose turn it is:
//! the thread that has it is the only one that runs. Each seam (`seams/`) that takes time hands the baton on until the scheduler comes to the
//! moment at which the process goes on. So a run depends on its seed alone.

use super::{Delay, LinkId, ProcId, Task, World, command};
use apparatus::cluster::Role;
use apparatus::model::units::{ChangeId, Slot, Term};
use apparatus::rpc::message::Answer;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longest real time that a driver may keep the baton.
const STUCK: Duration = Duration::from_secs(120);
/// Stack of a driver's thread.
const STACK: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// An apparatus's own: finish what the last controller left.
    Recover,
    /// `vctl`'s, or a background job's.
    Work,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This driver goes on.
    Driver(ProcId),
    /// The phase of the run is over.
    Over,
}

/// A hold that a driver has asked for and not released.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The apparatuses that it has asked, and is still connected with.
    pub slots: BTreeSet<Slot>,
    /// It has sent the delta.
    pub applying: bool,
}

/// A controller's process.
#[derive(Debug)]
pub struct Driver {
    pub id: ProcId,
    pub host: Option<usize>,
    pub goal: Goal,
    baton: Sender<Box<World>>,
    thread: Option<JoinHandle<()>>,
    /// Times that it has paused; earlier reasons to go on have lost their meaning.
    epoch: u64,
    /// It waits for messages.
    listening: bool,
    pub links: BTreeMap<Slot, LinkId>,
    pub inbox: BTreeMap<Slot, Vec<Answer>>,
    /// Connections that it has found broken.
    pub broken: BTreeSet<Slot>,
    pub asked: BTreeMap<ChangeId, Asked>,
    pub term: Term,
    /// It waits for the controller lock.
    pub waits: Option<Role>,
    /// It fences, so that the fence word is not set by a later controller.
    pub fences: bool,
}

/// The scheduler's end of the baton.
#[derive(Debug)]
pub struct Scheduler {
    back: Receiver<Box<World>>,
}

/// A thread's ends of the baton: to get it, and to give it back to the scheduler.
type Ends = (Receiver<Box<World>>, Sender<Box<World>>);

/// Payload of the unwinding that ends a killed process.
struct Killed;

thread_local! {
    static WORLD: RefCell<Option<Box<World>>> = const { RefCell::new(None) };
    static ME: Cell<ProcId> = const { Cell::new(ProcId(0)) };
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

/// The process that runs on this thread.
pub fn me() -> ProcId {
    ME.get()
}

/// Uses the world, if this process has not been killed: then its destructors change nothing any more.
pub fn world<T>(job: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|world| world.as_deref_mut().map(job))
}

/// Lets other things happen for this long. A process may be killed meanwhile, or right before, and then never goes on.
pub fn pause(delay: Delay) {
    if thread::panicking() {
        return;
    }
    let me = me();
    let paused = world(|world| {
        world.maybe_kill_driver(me);
        if let Some(epoch) = world.drivers.get_mut(&me).map(Driver::next_epoch) {
            world.after(Some(me), delay, Task::Resume(me, epoch));
        }
    });
    match paused {
        Some(()) => go_on(),
        None => die(),
    }
}

/// Waits for messages for at most this many microseconds.
pub fn listen(us: u64) {
    if thread::panicking() {
        return;
    }
    let me = me();
    let paused = world(|world| {
        world.maybe_kill_driver(me);
        if let Some(driver) = world.drivers.get_mut(&me) {
            let epoch = driver.next_epoch();
            driver.listening = true;
            world.after(Some(me), Delay::Exactly(us), Task::Resume(me, epoch));
        }
    });
    match paused {
        Some(()) => go_on(),
        None => die(),
    }
}

fn die() -> ! {
    resume_unwind(Box::new(Killed))
}

/// Has other things happen until this process goes on.
fn go_on() {
    let me = me();
    let turn = world(World::turn).unwrap_or(Turn::Over);
    if turn == Turn::Driver(me) {
        return;
    }
    let Some(mut world) = WORLD.take() else { die() };
    world.next = Some(turn);
    let back = ENDS.with_borrow(|ends| {
        let (baton, back) = ends.as_ref()?;
        back.send(world).ok()?;
        baton.recv().ok()
    });
    match back {
        Some(world) => WORLD.set(Some(world)),
        None => die(),
    }
}

fn live(id: ProcId, goal: Goal, baton: Receiver<Box<World>>, back: Sender<Box<World>>) {
    let Ok(world) = baton.recv() else { return };
    WORLD.set(Some(world));
    ME.set(id);
    ENDS.set(Some((baton, back.clone())));
    let lived = catch_unwind(AssertUnwindSafe(|| command::run(goal)));
    let Some(mut world) = WORLD.take() else { return };
    if let Err(why) = lived {
        world.fail(panicked(&*why));
    }
    world.quit_driver(id);
    // Nobody waits for it if the run has failed.
    let _ = back.send(world);
}

fn panicked(why: &(dyn Any + Send)) -> String {
    let text = why.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| why.downcast_ref::<&str>().copied());
    text.map_or_else(
        || "a driver panics".into(),
        |text| format!("a driver panics: {text}"),
    )
}

impl Driver {
    fn next_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.listening = false;
        self.epoch
    }

    /// Whether it has a hold in place somewhere, as far as it knows.
    pub fn holds(&self) -> bool {
        self.asked.values().any(|asked| !asked.slots.is_empty())
    }

    /// The connection of this slot is no more.
    pub fn unlink(&mut self, slot: Slot) -> Option<LinkId> {
        self.asked
            .values_mut()
            .for_each(|asked| _ = asked.slots.remove(&slot));
        self.inbox.remove(&slot);
        self.broken.remove(&slot);
        self.links.remove(&slot)
    }
}

impl Scheduler {
    /// Returns the world, to which drivers belong from now on, and the scheduler.
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
            let Turn::Driver(id) = turn else { return world };
            let Some(baton) = world.drivers.get(&id).map(|driver| driver.baton.clone()) else {
                continue;
            };
            baton.send(world).expect("a driver that lives takes the baton");
            drop(baton);
            world = self
                .back
                .recv_timeout(STUCK)
                .expect("a driver hands the baton on");
        }
    }

    /// Ends all drivers, and waits for their threads.
    pub fn end(mut world: Box<World>) {
        let threads = world
            .drivers
            .values_mut()
            .filter_map(|driver| driver.thread.take());
        let mut threads: Vec<JoinHandle<()>> = threads.collect();
        threads.append(&mut world.graves);
        drop(world);
        for thread in threads {
            // A panic has been reported as the run's failure.
            let _ = thread.join();
        }
    }
}

impl World {
    /// Starts a controller's process.
    pub fn new_driver(&mut self, goal: Goal, host: Option<usize>) -> ProcId {
        let id = self.new_proc(host, true);
        let (baton, begins) = channel();
        let back = self.back.clone().expect("a simulation has a scheduler");
        let thread = thread::Builder::new()
            .name(format!("driver {}", id.0))
            .stack_size(STACK)
            .spawn(move || live(id, goal, begins, back))
            .expect("a thread can be started");
        let driver = Driver {
            id,
            host,
            goal,
            baton,
            thread: Some(thread),
            epoch: 0,
            listening: false,
            links: BTreeMap::new(),
            inbox: BTreeMap::new(),
            broken: BTreeSet::new(),
            asked: BTreeMap::new(),
            term: Term(0),
            waits: None,
            fences: false,
        };
        self.drivers.insert(id, driver);
        self.after(Some(id), Delay::Store, Task::Resume(id, 0));
        id
    }

    /// A driver goes on, unless it has done so already.
    pub fn resume(&mut self, id: ProcId, epoch: u64) {
        if self.drivers.get(&id).is_some_and(|driver| driver.epoch == epoch) {
            self.resumed = Some(id);
        }
    }

    /// A driver that waits for messages has one.
    pub fn wake_driver(&mut self, id: ProcId) {
        let Some(driver) = self.drivers.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut driver.listening) {
            let epoch = driver.epoch;
            self.after(Some(id), Delay::Step, Task::Resume(id, epoch));
        }
    }

    /// The process has ended by itself.
    fn quit_driver(&mut self, id: ProcId) {
        self.remove_driver(id);
        self.alive.remove(&id);
        self.hang_up(id);
        if self.lock == Some(id) {
            self.lock = None;
        }
    }

    /// Takes the driver out: its thread ends where it pauses next.
    pub fn remove_driver(&mut self, id: ProcId) -> Option<Driver> {
        let mut driver = self.drivers.remove(&id)?;
        self.graves.extend(driver.thread.take());
        Some(driver)
    }

    fn maybe_kill_driver(&mut self, id: ProcId) {
        let crash = self.options.chaos.crash_points;
        if self.drivers.contains_key(&id) && self.rng.permille(crash) {
            self.count("controllers killed at a step");
            self.kill_ctl(id);
        }
    }
}
