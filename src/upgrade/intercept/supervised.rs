//! The program behind a gate: which of the held sockets it has, what it is doing with each, and on which it may take connections.
//! Never lives here: how it comes by a socket (`binds`) or a connection (`accepts`), and those that it has (`drain`).

use super::callers::Callers;
use super::listener::{Listener, Shelf};
use super::{Blind, Seen, Which, address};
use crate::process::seccomp::Calls;
use crate::report::Generation;
use crate::upgrade::proc;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From the moment a program listens to the first knock: one that blocks in accept(2) needs none and is quicker.
const FIRST_KNOCK: Duration = Duration::from_millis(1);
/// The longest time between two.
const SLOWEST_KNOCK: Duration = Duration::from_millis(100);

/// Between two looks at whether the program still has its listeners, which it may close without a word; gone at two of them, they
/// are.
const LISTENERS: Duration = Duration::from_secs(5);

/// At so many looks in a row the queue of a listener on its way out must be empty.
const EMPTY_LOOKS: u32 = 10;

pub struct Supervised {
    /// Those it waits in.
    pub calls: Calls,
    pub generation: Generation,
    pub callers: Callers,
    pub shelf: Arc<Shelf>,
    pub tell: Box<dyn Fn(Seen) + Send>,
    /// The sockets that it has of those that are held.
    pub uses: Vec<Use>,
    closed: Option<Which>,
    /// Whether another generation serves until this one is the current one.
    waits: bool,
    /// Whether it takes connections past the gate.
    is_blind: bool,
    knock: Option<Knock>,
    /// When the listeners are looked at.
    look_at: Instant,
}

struct Knock {
    at: Instant,
    pace: Duration,
}

#[derive(Debug)]
pub struct Use {
    pub listener: Arc<Listener>,
    /// It has it from the start, and may know nothing of it.
    handed: bool,
    /// It has asked for its address by itself.
    pub bound: bool,
    listens: bool,
    accepts: bool,
    /// Its address is within another's that is open to the successor, where clients are to go: no connection begins here any more. For
    /// how many looks its queue has been empty, and one.
    retiring: u32,
    /// And nothing is left in its queue.
    retired: bool,
    /// No process had it at the last look.
    missed: bool,
}

impl Use {
    fn new(listener: &Arc<Listener>) -> Use {
        Use {
            listener: Arc::clone(listener),
            handed: false,
            bound: false,
            listens: false,
            accepts: false,
            retiring: 0,
            retired: false,
            missed: false,
        }
    }

    /// It was handed to the program, which has shown no interest in it: it may take it at its own bind(2) as well.
    fn is_spare(&self) -> bool {
        self.handed && !self.bound && !self.accepts
    }

    /// Told by the thread that would give it to the program again.
    fn closes(&self) -> Seen {
        Seen::Closes { listener: Arc::clone(&self.listener), given: self.listener.times_given() }
    }
}

impl Supervised {
    /// `process` is the first one behind the gate. One that `waits` is given no connection until it is open.
    pub fn new(
        now: Instant,
        calls: Calls,
        generation: Generation,
        process: u32,
        shelf: Arc<Shelf>,
        waits: bool,
        tell: Box<dyn Fn(Seen) + Send>,
    ) -> Supervised {
        Supervised {
            calls,
            generation,
            callers: Callers::new(process),
            shelf,
            tell,
            uses: Vec::new(),
            closed: None,
            waits,
            is_blind: false,
            knock: None,
            look_at: now + LISTENERS,
        }
    }

    /// It has these sockets from the start.
    pub fn is_handed(&mut self, now: Instant, listeners: &[Arc<Listener>]) {
        for listener in listeners {
            self.use_it(listener).handed = true;
        }
        if !listeners.is_empty() {
            self.knock_soon(now);
        }
    }

    pub fn used(&mut self, inode: u64) -> Option<&mut Use> {
        self.uses.iter_mut().find(|used| used.listener.inode == inode)
    }

    pub fn use_it(&mut self, listener: &Arc<Listener>) -> &mut Use {
        if self.is_blind {
            listener.share();
        }
        let known = self.uses.iter().position(|used| used.listener.inode == listener.inode);
        let place = known.unwrap_or_else(|| {
            self.uses.push(Use::new(listener));
            self.uses.len() - 1
        });
        &mut self.uses[place]
    }

    /// Whether a process of it has the socket still.
    pub fn has_open(&self, held: &Listener) -> bool {
        let used = self.uses.iter().any(|used| used.listener.inode == held.inode && !used.is_spare());
        used && self.callers.all().iter().any(|process| proc::holds(*process, held.inode))
    }

    /// One that was configured and that the program has not taken, where clients of the address would come: what is configured counts
    /// more than what the code says.
    pub fn spare(&self, wanted: (SocketAddr, bool)) -> Option<Arc<Listener>> {
        let mut spare = self.uses.iter().filter(|used| used.is_spare()).map(|used| &used.listener);
        spare.find(|held| address::overlap((held.address, held.v6_only), wanted)).map(Arc::clone)
    }

    /// It does something that is not seen here.
    pub fn blind(&mut self, why: Blind) {
        if !std::mem::replace(&mut self.is_blind, true) {
            self.uses.iter().for_each(|used| used.listener.share());
            (self.tell)(Seen::Blind(why));
        }
    }

    pub fn listens(&mut self, now: Instant, listener: &Arc<Listener>) {
        if let Some(used) = self.used(listener.inode).filter(|used| !used.listens) {
            used.listens = true;
            let bound = used.bound;
            (self.tell)(Seen::Listens { listener: Arc::clone(listener), bound });
            self.knock_soon(now);
        }
    }

    pub fn accepts(&mut self, now: Instant, listener: &Arc<Listener>) {
        if let Some(used) = self.used(listener.inode).filter(|used| !used.accepts) {
            used.accepts = true;
            self.listens(now, listener);
            self.forget_closed(listener);
            let all = self.uses.iter().filter(|used| used.listens).all(|used| used.accepts);
            (self.tell)(Seen::Accepts { all });
        }
    }

    pub fn is_open(&self, listener: &Listener) -> bool {
        let retired = |used: &Use| used.retired && used.listener.inode == listener.inode;
        match &self.closed {
            _ if self.uses.iter().any(retired) => false,
            None => !self.waits,
            Some(Which::All) => false,
            Some(Which::These(inodes)) => !inodes.contains(&listener.inode),
        }
    }

    pub fn is_shut(&self) -> bool {
        self.closed == Some(Which::All)
    }

    pub fn open(&mut self) {
        self.closed = None;
        self.waits = false;
        for used in self.uses.iter().filter(|_| !self.is_blind) {
            // Its event loop was told of what waits there while it could not have it.
            used.listener.wake();
        }
    }

    pub fn shut(&mut self, which: Which) {
        self.closed = Some(which);
        for used in &self.uses {
            // What was taken for a thread that has gone is the next one's, who must be told. A knock at a listener that is shut would
            // come to another one of a wider address, as a client.
            if !used.retired && !self.is_open(&used.listener) && used.listener.has_waiting() {
                used.listener.wake();
            }
        }
    }

    pub fn shut_also(&mut self, taken: Vec<u64>) {
        if let Some(Which::These(inodes)) = &mut self.closed {
            inodes.extend(taken);
        }
    }

    /// What is left of it is given nothing more. The addresses are others' now, or nobody's.
    pub fn is_over(&mut self) {
        self.closed = Some(Which::All);
        self.uses.clear();
    }

    /// Somebody else answers from now on.
    pub fn leave(&self) {
        for used in &self.uses {
            used.listener.share();
            // A generation that has failed since may have left it as it wanted it.
            used.listener.hand_back(self.generation);
        }
    }

    /// Connections could not be taken for a while: event loops were told that nobody has come.
    pub fn wake_all_open(&self) {
        let open = self.uses.iter().filter(|used| self.is_open(&used.listener) && !self.is_blind);
        open.for_each(|used| used.listener.wake());
    }

    pub fn deadline(&self) -> Option<Instant> {
        let looks = (!self.uses.is_empty()).then_some(self.look_at);
        self.knock.as_ref().map(|knock| knock.at).into_iter().chain(looks).min()
    }

    /// No knock where somebody else answers, `away`.
    pub fn tick(&mut self, now: Instant, away: bool) {
        if self.knock.as_ref().is_some_and(|knock| knock.at <= now) {
            self.knock_now(now, away);
        }
        if self.look_at <= now {
            self.look_at_listeners();
            self.look_at = now + LISTENERS;
        }
    }

    pub fn knock_soon(&mut self, now: Instant) {
        self.knock = Some(Knock { at: now + FIRST_KNOCK, pace: FIRST_KNOCK });
    }

    /// At sockets on which nothing has been asked for yet.
    pub fn knock_now(&mut self, now: Instant, away: bool) {
        let Some(knock) = self.knock.take() else { return };
        let mute: Vec<&Use> = self.uses.iter().filter(|used| (used.listens || used.handed) && !used.accepts).collect();
        if mute.is_empty() || self.closed.is_some() || self.is_blind || away {
            return;
        }
        mute.iter().for_each(|used| used.listener.knock());
        let pace = (knock.pace * 2).min(SLOWEST_KNOCK);
        self.knock = Some(Knock { at: now + pace, pace });
    }

    /// Sockets that stand before one of the successor's, as 127.0.0.1 does before 0.0.0.0: once their queue is empty they are shut, so
    /// that clients reach the other. Says whether there is one whose queue is not.
    pub fn retire(&mut self) -> bool {
        if let Some(Which::These(taken)) = &self.closed {
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
        self.uses.iter().any(|used| used.retiring > 0 && !used.retired)
    }

    fn look_at_listeners(&mut self) {
        if self.uses.is_empty() || self.callers.is_about_to_end() {
            return;
        }
        // At another time.
        let Ok(sockets) = self.sockets() else { return };
        for used in &mut self.uses {
            let there = sockets.contains(&used.listener.inode);
            let gone = !there && used.missed;
            used.missed = !there;
            if gone && std::mem::take(&mut used.listens) {
                (self.tell)(used.closes());
            }
        }
        self.uses.retain(|used| used.listens || !used.missed);
    }

    /// What it listened on for a moment only, as to see whether the port is free, is not waited for, and not its own. `there` is one
    /// that it does have.
    fn forget_closed(&mut self, there: &Listener) {
        if !self.uses.iter().any(|used| used.listens && !used.accepts) {
            return;
        }
        // It may not be looked into.
        let Some(sockets) = self.sockets().ok().filter(|sockets| sockets.contains(&there.inode)) else { return };
        let tell = &self.tell;
        self.uses.retain(|used| {
            let closed = used.listens && !used.accepts && !sockets.contains(&used.listener.inode);
            if closed {
                tell(used.closes());
            }
            !closed
        });
    }

    fn sockets(&self) -> io::Result<BTreeSet<u64>> {
        let sockets: Vec<Vec<(RawFd, u64)>> =
            self.callers.all().into_iter().map(proc::sockets).collect::<Result<_, _>>()?;
        Ok(sockets.into_iter().flatten().map(|(_, inode)| inode).collect())
    }
}
