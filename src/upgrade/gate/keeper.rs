//! The keeper of a gate: a thread that answers the calls of one generation, in the order in which they come, and leads its
//! connections to their end when it is told to.
//! Never lives here: what is done with a call (`binds`, `accepts`).

use super::accepts::Parked;
use super::connections::{Connections, Look};
use super::drain::Patience;
use super::listener::{Listener, Shelf};
use super::uses::Use;
use super::{Order, Seen, Which, address};
use crate::process::seccomp::{Call, Calls, What};
use crate::report::Generation;
use crate::upgrade::proc;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{PipeReader, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// From the moment a program listens to the first knock: one that blocks in accept(2) needs none and is quicker.
const FIRST_KNOCK: Duration = Duration::from_millis(1);
/// The longest time between two.
const SLOWEST_KNOCK: Duration = Duration::from_millis(100);
/// Between two looks at connections: the kernel has no event for an answer that is over.
const LOOK: Duration = Duration::from_millis(5);
const SLOWEST_LOOK: Duration = Duration::from_millis(50);

/// Between two looks at whether the program still has its listeners, which it may close without a word; gone at two of them, they
/// are.
const LISTENERS: Duration = Duration::from_secs(5);

/// After connections could not be taken for want of a descriptor, of which no event tells when there is one.
const REST: Duration = Duration::from_millis(50);

/// At so many looks in a row the queue of a listener on its way out must be empty.
const EMPTY_LOOKS: u32 = 10;

/// How many threads are remembered.
const THREADS: usize = 1024;

pub struct Keeper {
    pub(super) calls: Calls,
    pub(super) generation: Generation,
    pub(super) process: u32,
    pub(super) shelf: Arc<Shelf>,
    pub(super) tell: Box<dyn Fn(Seen) + Send>,
    /// The sockets that the program has of those that are held.
    pub(super) uses: Vec<Use>,
    /// Sockets for which it has asked for an address of its own choice, and which do not listen yet.
    pub(super) asked: BTreeSet<u64>,
    /// Threads whose bind(2) was done for them, and that did not hear of it, and the socket: they ask again (signal(7)).
    pub(super) unheard: BTreeMap<i32, u64>,
    /// Addresses that it has asked for in vain.
    pub(super) occupied: BTreeSet<SocketAddr>,
    /// Threads that wait for a connection, as they would in the kernel.
    pub(super) parked: BTreeMap<i32, Parked>,
    /// Processes that have called, and by which of their threads of late.
    processes: BTreeSet<u32>,
    threads: BTreeMap<i32, u32>,
    closed: Option<Which>,
    /// Whether another generation serves until this one is the current one.
    waits: bool,
    /// Whether somebody else answers.
    away: bool,
    /// Whether nobody is left to take orders from.
    alone: bool,
    knock: Option<Knock>,
    /// No connection is taken for threads that wait until then.
    rest: Option<Instant>,
    drain: Option<Drain>,
    /// When the listeners are looked at.
    listeners: Instant,
    pub(super) said_blind: bool,
    pub(super) said_tied: bool,
}

struct Knock {
    at: Instant,
    pace: Duration,
}

struct Drain {
    connections: Connections,
    patience: Patience,
    next: Instant,
    last: Option<Look>,
    said_cannot_look: bool,
}

impl Keeper {
    pub fn new(
        calls: Calls,
        generation: Generation,
        process: u32,
        shelf: Arc<Shelf>,
        waits: bool,
        tell: Box<dyn Fn(Seen) + Send>,
    ) -> Keeper {
        Keeper {
            calls,
            generation,
            process,
            shelf,
            tell,
            uses: Vec::new(),
            asked: BTreeSet::new(),
            unheard: BTreeMap::new(),
            occupied: BTreeSet::new(),
            parked: BTreeMap::new(),
            processes: BTreeSet::new(),
            threads: BTreeMap::new(),
            closed: None,
            waits,
            away: false,
            alone: false,
            knock: None,
            rest: None,
            drain: None,
            listeners: now() + LISTENERS,
            said_blind: false,
            said_tied: false,
        }
    }

    /// Sockets that it has from the start.
    pub fn handed(mut self, listeners: &[Arc<Listener>]) -> Keeper {
        for listener in listeners {
            self.use_it(listener).handed = true;
        }
        if !listeners.is_empty() {
            self.knock_soon();
        }
        self
    }

    /// Until the last process behind the gate has ended.
    pub fn run(mut self, inbox: &Receiver<Order>, mut woken: PipeReader) {
        while self.turn(inbox, &mut woken) {}
    }

    /// Waits for what comes next, and does what it asks for. Says whether any process is left behind the gate.
    fn turn(&mut self, inbox: &Receiver<Order>, woken: &mut PipeReader) -> bool {
        let waiting: Vec<Arc<Listener>> = self.waited_for();
        let wanted = if self.away { PollFlags::empty() } else { PollFlags::POLLIN };
        let calls = || PollFd::new(self.calls.as_fd(), wanted);
        // The end of a closed pipe is told again and again, whatever is wanted: the calls stand in its place then.
        let orders = if self.alone { calls() } else { PollFd::new(woken.as_fd(), PollFlags::POLLIN) };
        let mut fds = vec![calls(), orders];
        fds.extend(waiting.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        // An interrupted call is repeated; no other error is possible for descriptors that are open.
        poll(&mut fds, self.timeout()).ok();
        let events: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(fds);
        // Orders first: a gate that is closed lets nothing more through.
        if !self.alone && !events[1].is_empty() {
            // A byte an order: what is left of them wakes once more, for nothing.
            drop(woken.read(&mut [0; 64]));
            self.alone = self.take_orders(inbox);
        }
        if events[0].contains(PollFlags::POLLIN) {
            // From an order to leave on it is the guard's to answer: here it would wait until this process goes on.
            if !self.away
                && let Ok(Some(call)) = self.calls.next()
            {
                self.answer(&call);
            }
        } else if events[0].contains(PollFlags::POLLHUP) {
            return false;
        }
        for (listener, events) in waiting.iter().zip(&events[2..]) {
            if !events.is_empty() {
                self.serve_parked(listener);
            }
        }
        self.tick();
        true
    }

    /// Whether there is nobody left who could give any.
    fn take_orders(&mut self, inbox: &Receiver<Order>) -> bool {
        loop {
            match inbox.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    // The generation has ended. What it has left behind is given nothing more, and looked at no more.
                    self.closed = Some(Which::All);
                    self.drain = None;
                    // The addresses are others' now, or nobody's.
                    self.uses.clear();
                    return true;
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Close(which) => self.close(which),
            Order::Also(taken) => {
                if let Some(Which::These(inodes)) = &mut self.closed {
                    inodes.extend(taken);
                }
            }
            Order::Open => {
                self.closed = None;
                self.waits = false;
                self.drain = None;
                for used in self.uses.iter().filter(|_| !self.said_blind) {
                    // Its event loop was told of what waits there while it could not have it.
                    used.listener.wake();
                }
            }
            Order::Drain(which, patience) => {
                self.shut(which);
                // Before it is told: a client that comes after that is none of this generation's at any of its sockets.
                self.retire();
                // What was done to them before is known, where they are only hurried now.
                let before = self.drain.take().map(|drain| drain.connections);
                let ports = || self.uses.iter().map(|used| used.listener.address.port());
                let mut connections = before.unwrap_or_else(|| Connections::to_ports(ports()));
                // Once before it is told: a client that asks again after that is not answered by this generation. What is found
                // is found again at the next look.
                connections.look(&self.all_processes(), patience).ok();
                self.drain = Some(Drain { connections, patience, next: now(), last: None, said_cannot_look: false });
                (self.tell)(Seen::Closed);
            }
            Order::End => {
                self.close(Which::All);
                if let Some(mut drain) = self.drain.take() {
                    match drain.connections.end_all(&self.all_processes()) {
                        Ok(Look { live, busy }) => (self.tell)(Seen::Live { live, busy }),
                        Err(error) => (self.tell)(Seen::CannotLook(error)),
                    }
                }
                (self.tell)(Seen::Ended);
            }
            // Dropped, the pipe tells that it is done.
            Order::Leave(_done) => {
                self.away = true;
                for used in &self.uses {
                    used.listener.share();
                    // A generation that has failed since may have left it as it wanted it.
                    used.listener.hand_back(self.generation);
                }
                for parked in std::mem::take(&mut self.parked).into_values() {
                    self.calls.proceed(parked.id);
                }
            }
            Order::Return => {
                self.away = false;
                self.knock_soon();
            }
        }
    }

    fn close(&mut self, which: Which) {
        self.shut(which);
        (self.tell)(Seen::Closed);
    }

    fn shut(&mut self, which: Which) {
        self.closed = Some(which);
        for used in &self.uses {
            // What was taken for a thread that has gone is the next one's, who must be told. A knock at a listener that is shut would
            // come to another one of a wider address, as a client.
            if !used.retired && !self.is_open(&used.listener) && used.listener.has_waiting() {
                used.listener.wake();
            }
        }
    }

    pub(super) fn is_open(&self, listener: &Listener) -> bool {
        let retired = |used: &Use| used.retired && used.listener.inode == listener.inode;
        match &self.closed {
            _ if self.uses.iter().any(retired) => false,
            None => !self.waits,
            Some(Which::All) => false,
            Some(Which::These(inodes)) => !inodes.contains(&listener.inode),
        }
    }

    fn answer(&mut self, call: &Call) {
        match call.what {
            What::Bind { fd, address, length } => self.bind(call, fd, address, length),
            What::Listen { fd, backlog } => self.listen(call, fd, backlog),
            What::Accept { fd, address, length, flags } => self.accept(call, fd, (address, length), flags),
            What::IoUring => {
                self.calls.proceed(call.id);
                self.blind(super::Blind::IoUring);
            }
            What::Other => self.calls.proceed(call.id),
        }
    }

    pub(super) fn blind(&mut self, why: super::Blind) {
        if !self.said_blind {
            self.said_blind = true;
            self.uses.iter().for_each(|used| used.listener.share());
            (self.tell)(Seen::Blind(why));
        }
    }

    pub(super) fn used(&mut self, inode: u64) -> Option<&mut Use> {
        self.uses.iter_mut().find(|used| used.listener.inode == inode)
    }

    pub(super) fn use_it(&mut self, listener: &Arc<Listener>) -> &mut Use {
        if self.said_blind {
            listener.share();
        }
        let known = self.uses.iter().position(|used| used.listener.inode == listener.inode);
        let place = known.unwrap_or_else(|| {
            self.uses.push(Use::new(listener));
            self.uses.len() - 1
        });
        &mut self.uses[place]
    }

    pub(super) fn listens(&mut self, listener: &Arc<Listener>) {
        if let Some(used) = self.used(listener.inode).filter(|used| !used.listens) {
            used.listens = true;
            let bound = used.bound;
            (self.tell)(Seen::Listens { listener: Arc::clone(listener), bound });
            self.knock_soon();
        }
    }

    fn knock_soon(&mut self) {
        self.knock = Some(Knock { at: now() + FIRST_KNOCK, pace: FIRST_KNOCK });
    }

    /// The process of a thread that calls.
    pub(super) fn process(&mut self, thread: i32) -> Option<u32> {
        if let Some(process) = self.threads.get(&thread) {
            return Some(*process);
        }
        let process = proc::process_of(thread)?;
        if self.threads.len() == THREADS {
            // They may be gone, and their numbers others'.
            self.threads.clear();
            self.processes.retain(|process| proc::is_there(*process));
        }
        self.threads.insert(thread, process);
        self.processes.insert(process);
        Some(process)
    }

    pub(super) fn all_processes(&self) -> BTreeSet<u32> {
        proc::family(self.process).into_iter().chain(self.processes.iter().copied()).collect()
    }

    /// Sockets whose next connection somebody waits for.
    fn waited_for(&self) -> Vec<Arc<Listener>> {
        if self.rest.is_some() {
            return Vec::new();
        }
        let waited = |used: &&Use| self.parked.values().any(|parked| parked.socket == used.listener.inode);
        let open = |used: &&Use| self.is_open(&used.listener);
        self.uses.iter().filter(waited).filter(open).map(|used| Arc::clone(&used.listener)).collect()
    }

    fn timeout(&self) -> PollTimeout {
        let knock = self.knock.as_ref().map(|knock| knock.at);
        let drain = self.drain.as_ref().map(|drain| drain.next);
        let listeners = (!self.uses.is_empty()).then_some(self.listeners);
        let parked = self.parked.values().filter_map(|parked| parked.until).chain(listeners);
        let Some(first) = parked.chain(knock).chain(drain).chain(self.rest).min() else { return PollTimeout::NONE };
        // A part of a millisecond is waited for whole, not in circles.
        let millis = first.saturating_duration_since(now()).as_micros().div_ceil(1000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }

    fn tick(&mut self) {
        let now = now();
        self.release_late(now);
        if self.rest.take_if(|rest| *rest <= now).is_some() {
            // Event loops were told that nobody has come.
            let open = self.uses.iter().filter(|used| self.is_open(&used.listener) && !self.said_blind);
            open.for_each(|used| used.listener.wake());
        }
        if self.knock.as_ref().is_some_and(|knock| knock.at <= now) {
            self.knock_now(now);
        }
        if self.drain.as_ref().is_some_and(|drain| drain.next <= now) {
            self.look();
        }
        if self.listeners <= now {
            self.look_at_listeners();
            self.listeners = now + LISTENERS;
        }
    }

    /// There is no descriptor for a connection. It stays in the queue.
    pub(super) fn rest_a_while(&mut self) {
        self.rest = Some(now() + REST);
    }

    /// At sockets on which nothing has been asked for yet.
    fn knock_now(&mut self, now: Instant) {
        let Some(knock) = self.knock.take() else { return };
        let mute: Vec<&Use> = self.uses.iter().filter(|used| (used.listens || used.handed) && !used.accepts).collect();
        if mute.is_empty() || self.closed.is_some() || self.said_blind || self.away {
            return;
        }
        mute.iter().for_each(|used| used.listener.knock());
        let pace = (knock.pace * 2).min(SLOWEST_KNOCK);
        self.knock = Some(Knock { at: now + pace, pace });
    }

    /// Sockets that stand before one of the successor's, as 127.0.0.1 does before 0.0.0.0: once their queue is empty they are shut, so
    /// that clients reach the other.
    fn retire(&mut self) {
        let Some(Which::These(taken)) = &self.closed else { return };
        let theirs = self.shelf.filter(|held| taken.contains(&held.inode));
        let meaning = |listener: &Listener| (listener.address, listener.v6_only);
        for used in self.uses.iter_mut().filter(|used| !taken.contains(&used.listener.inode) && !used.retired) {
            let overlaps = theirs.iter().any(|other| address::overlap(meaning(other), meaning(&used.listener)));
            if !overlaps {
                continue;
            }
            if used.retiring == 0 {
                used.listener.leave();
            }
            // What had begun comes into the queue within a few looks, however busy the machine is.
            used.retiring = if used.listener.has_waiting() { 1 } else { used.retiring + 1 };
            if used.retiring > EMPTY_LOOKS {
                used.listener.shut_down();
                used.retired = true;
            }
        }
    }

    fn look(&mut self) {
        self.retire();
        let retiring = self.uses.iter().any(|used| used.retiring > 0 && !used.retired);
        let processes = self.all_processes();
        let Some(drain) = &mut self.drain else { return };
        let began = now();
        let look = drain.connections.look(&processes, drain.patience);
        // However many there are, two thirds of the time are for the calls; but on a machine that is busy with something else a look
        // takes long for another reason, and `drain-timeout` is of that time, too.
        drain.next = now() + (began.elapsed() * 2).clamp(LOOK, SLOWEST_LOOK);
        match look {
            // Somebody may stand in a queue that is about to be shut.
            Ok(Look { live: 0, .. }) if retiring => {}
            Ok(Look { live: 0, .. }) if self.closed != Some(Which::All) => self.shut(Which::All),
            Ok(Look { live: 0, .. }) => {
                self.drain = None;
                (self.tell)(Seen::Drained);
            }
            Ok(look) if drain.last != Some(look) => {
                drain.last = Some(look);
                (self.tell)(Seen::Live { live: look.live, busy: look.busy });
            }
            Ok(_) => {}
            Err(error) if !drain.said_cannot_look => {
                drain.said_cannot_look = true;
                // What is seen later is news again.
                drain.last = None;
                (self.tell)(Seen::CannotLook(error));
            }
            Err(_) => {}
        }
    }
}

/// What the kernel says of a process that may not be looked into.
pub(super) fn forbidden(error: Errno) -> bool {
    matches!(error, Errno::EPERM | Errno::EACCES | Errno::ENOSYS)
}

#[allow(clippy::disallowed_methods)] // An edge: polls for the kernel, which tells when it has something.
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
