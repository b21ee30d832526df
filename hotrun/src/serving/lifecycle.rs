//! Where this process stands between serving and gone, whether it may accept connections (`Lifecycle::admit`), and those that are live: what
//! the listeners, the connections and the control thread share.
//! Never lives here: why a phase begins (`control`).

use crate::sys::lock;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Waker};

/// The phases of a serving process, in order; only `Paused` is ever left for an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Nothing is accepted, connections go on; the successor is on probation.
    Paused,
    /// Nothing is accepted any more; a client that had just been accepted may still send its request.
    Lingering,
    /// Idle connections end, busy ones finish.
    Draining,
    /// The deadline has passed: the connections that were left have been shut down.
    Forced,
}

/// Why accepting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Upgraded,
    Stopped,
}

/// Why [`Upgrader::drained`](crate::Upgrader::drained) returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// Another process serves now, and every connection here is finished.
    Upgraded,
    /// A stop was asked for, and every connection is finished.
    Stopped,
    /// `live` connections were shut down, as the drain timeout had passed.
    #[non_exhaustive]
    DeadlineExceeded {
        /// Connections, and other guards, that were not finished.
        live: usize,
    },
    /// `live` connections were shut down, as a second stop signal came, or there were too many generations
    /// ([`Builder::max_generations`](crate::Builder::max_generations)).
    #[non_exhaustive]
    Forced {
        /// Connections, and other guards, that were not finished.
        live: usize,
    },
}

/// Whether a server may accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accepting {
    /// It serves.
    Open,
    /// Not now: a successor is on probation.
    Paused,
    /// Never again: finish what is live, and leave.
    Ended,
}

/// One listener among those of the process, as the admission of the process sees it.
#[derive(Debug, Default)]
pub(crate) struct ListenerGate {
    /// It goes on accepting when the others stop: no other process will accept what is in its queue.
    exempt: AtomicBool,
}

impl ListenerGate {
    fn is_exempt(&self) -> bool {
        self.exempt.load(Ordering::Acquire)
    }
}

/// Which listeners may accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    All,
    /// Those that no other process stands in for.
    Exempt,
    None,
}

#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// Held for reading across one accept, and for writing while `Inner::admission` changes: from then on no accept is under way
    /// that it forbids. Always taken before `inner`.
    barrier: RwLock<()>,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Readable while nothing may be accepted but by exempt listeners.
    stop: EventFd,
    /// Readable once they may not either.
    shut: EventFd,
    /// Readable from `Draining` on.
    drain: EventFd,
    /// Readable when, since accepting ended, a connection has come or gone, or somebody waits for the last one.
    news: EventFd,
    /// Processes of this server that are there, this one among them.
    generations: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) phase: Phase,
    why: Why,
    admission: Admission,
    /// The process must not leave, though everything is finished.
    held: bool,
    /// Whether anybody waits for everything to be finished.
    awaited: bool,
    live: HashMap<u64, Option<RawFd>>,
    next: u64,
    /// Connections that were still live when the deadline passed.
    forced: usize,
    /// Whether the deadline came by itself, or a second signal was in a hurry.
    hurried: bool,
    /// How often new configuration was asked for.
    pub(crate) reloads: u64,
    /// Tasks that wait for a change, by the number of their `Waiter`.
    wakers: HashMap<u64, Waker>,
}

impl Lifecycle {
    pub(crate) fn new() -> io::Result<Arc<Lifecycle>> {
        let event = || EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        Ok(Arc::new(Lifecycle {
            barrier: RwLock::new(()),
            inner: Mutex::new(Inner {
                phase: Phase::Serving,
                why: Why::Stopped,
                admission: Admission::All,
                held: false,
                awaited: false,
                live: HashMap::new(),
                next: 0,
                forced: 0,
                hurried: false,
                reloads: 0,
                wakers: HashMap::new(),
            }),
            changed: Condvar::new(),
            stop: event()?,
            shut: event()?,
            drain: event()?,
            news: event()?,
            generations: AtomicUsize::new(1),
        }))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Where that listener may accept now; while the guard is held, that cannot be forbidden.
    pub(crate) fn admit(&self, gate: &ListenerGate) -> Option<RwLockReadGuard<'_, ()>> {
        let passage = self.barrier.read().unwrap_or_else(PoisonError::into_inner);
        let admits = self.lock().admits(gate);
        admits.then_some(passage)
    }

    /// Readable while that listener may not accept.
    pub(crate) fn stop_event(&self, gate: &ListenerGate) -> BorrowedFd<'_> {
        if gate.is_exempt() { self.shut.as_fd() } else { self.stop.as_fd() }
    }

    /// Readable once idle connections should end.
    pub(crate) fn drain_event(&self) -> BorrowedFd<'_> {
        self.drain.as_fd()
    }

    /// Readable when, since accepting ended, a connection has come or gone, or somebody waits for the last one.
    pub(crate) fn news_event(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// The news have been read.
    pub(crate) fn take_news(&self) {
        // Nothing to read is the only error an eventfd knows here: somebody else took them.
        let _ = self.news.read();
    }

    /// Only these listeners go on accepting, until `resume`.
    pub(crate) fn pause(&self, exempt: &[&ListenerGate]) {
        self.admit_only(exempt);
        self.enter(|inner| {
            if inner.phase == Phase::Serving {
                inner.phase = Phase::Paused;
            }
        });
    }

    /// That listener is as the others from now on.
    pub(crate) fn no_longer_exempt(&self, gate: &ListenerGate) {
        let _closed = self.close_barrier();
        gate.exempt.store(false, Ordering::Release);
    }

    /// Every listener accepts again, and none of these is exempt any more.
    pub(crate) fn resume(&self, exempt: &[&ListenerGate]) {
        if self.phase() != Phase::Paused {
            return;
        }
        let closed = self.close_barrier();
        for gate in exempt {
            gate.exempt.store(false, Ordering::Release);
        }
        self.lock().admission = Admission::All;
        let _ = self.stop.read();
        // Before anybody is woken, who may want to look through it at once.
        drop(closed);
        self.enter(|inner| inner.phase = Phase::Serving);
    }

    /// Stops accepting for good but for these listeners, which go on until `shut`; the first reason stays.
    pub(crate) fn stop_accepting(&self, why: Why, exempt: &[&ListenerGate]) {
        self.admit_only(exempt);
        self.enter(|inner| {
            if inner.phase < Phase::Lingering {
                inner.phase = Phase::Lingering;
                inner.why = why;
            }
        });
    }

    /// Now nobody accepts any more.
    pub(crate) fn shut(&self) {
        let closed = self.close_barrier();
        self.lock().admission = Admission::None;
        drop(closed);
        signal(&self.shut);
        self.enter(|_| {});
    }

    /// The process stays, whatever is finished, until it is said otherwise.
    pub(crate) fn hold(&self, held: bool) {
        self.enter(|inner| inner.held = held);
    }

    /// Everything is finished, and somebody waits to hear it, but for what holds the process.
    pub(crate) fn is_finished(&self) -> bool {
        let inner = self.lock();
        inner.awaited && inner.finished().is_some()
    }

    pub(crate) fn set_generations(&self, count: usize) {
        self.generations.store(count, Ordering::Relaxed);
    }

    pub(crate) fn generations(&self) -> usize {
        self.generations.load(Ordering::Relaxed)
    }

    /// New configuration is wanted.
    pub(crate) fn ask_for_reload(&self) {
        self.enter(|inner| inner.reloads += 1);
    }

    /// Idle connections end from now on.
    pub(crate) fn drain(&self) {
        self.enter(|inner| {
            if inner.phase == Phase::Lingering {
                inner.phase = Phase::Draining;
                signal(&self.drain);
            }
        });
    }

    /// Shuts down what is left, so that everybody who reads from or writes to it comes back.
    pub(crate) fn force(&self, hurried: bool) {
        self.shut();
        self.drain();
        self.enter(|inner| {
            if inner.phase == Phase::Draining {
                inner.phase = Phase::Forced;
                inner.forced = inner.live.len();
                inner.hurried = hurried;
                for fd in inner.live.values().flatten() {
                    // The guard of a connection leaves the table before its descriptor is closed, and it takes this lock
                    // to do so: the number is still that connection's. One that is no longer connected needs no more.
                    let _ = nix::sys::socket::shutdown(*fd, nix::sys::socket::Shutdown::Both);
                }
            }
        });
    }

    pub(crate) fn live(&self) -> usize {
        self.lock().live.len()
    }

    /// Counts a connection until the guard is dropped; `fd` is shut down when the deadline passes.
    pub(crate) fn guard(self: &Arc<Self>, fd: Option<RawFd>) -> DrainGuard {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.live.insert(id, fd);
        if inner.phase >= Phase::Lingering {
            signal(&self.news);
        }
        DrainGuard { state: Arc::clone(self), id }
    }

    /// Blocks until the phase is at least that.
    pub(crate) fn wait_for(&self, phase: Phase) {
        self.wait(|inner| (inner.phase >= phase).then_some(()));
    }

    /// Blocks while that listener is paused.
    pub(crate) fn wait_while_paused(&self, gate: &ListenerGate) -> Accepting {
        self.wait(|inner| Some(inner.accepting(gate)).filter(|accepting| *accepting != Accepting::Paused))
    }

    /// Blocks until accepting has ended and every connection has, or the deadline has passed.
    pub(crate) fn wait_drained(&self) -> ExitReason {
        self.wait(|inner| self.awaited(inner))
    }

    /// Blocks until there is something.
    pub(crate) fn wait<T>(&self, wanted: impl Fn(&mut Inner) -> Option<T>) -> T {
        let mut inner = self.lock();
        loop {
            match wanted(&mut inner) {
                Some(result) => return result,
                None => inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn awaited(&self, inner: &mut Inner) -> Option<ExitReason> {
        if !inner.awaited {
            inner.awaited = true;
            signal(&self.news);
            self.changed.notify_all();
        }
        inner.exit_reason()
    }

    /// A place among those who wait for a change without blocking.
    pub(crate) fn waiter(self: &Arc<Self>) -> Waiter {
        let mut inner = self.lock();
        inner.next += 1;
        Waiter { state: Arc::clone(self), id: inner.next }
    }

    /// Only these are admitted from here on, though nobody is told yet.
    pub(crate) fn admit_only(&self, exempt: &[&ListenerGate]) {
        let _closed = self.close_barrier();
        for gate in exempt {
            gate.exempt.store(true, Ordering::Release);
        }
        let mut inner = self.lock();
        if inner.admission == Admission::All {
            inner.admission = Admission::Exempt;
        }
        signal(&self.stop);
    }

    fn close_barrier(&self) -> RwLockWriteGuard<'_, ()> {
        self.barrier.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        self.changed.notify_all();
        wakers.into_values().for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    fn admits(&self, gate: &ListenerGate) -> bool {
        match self.admission {
            Admission::All => true,
            Admission::Exempt => gate.is_exempt(),
            Admission::None => false,
        }
    }

    /// What that listener is told. In `Serving` it is told nothing yet, though it may not be admitted any more: admission closes a
    /// moment before the phase says why.
    pub(crate) fn accepting(&self, gate: &ListenerGate) -> Accepting {
        match self.phase {
            Phase::Serving => Accepting::Open,
            _ if self.admits(gate) => Accepting::Open,
            Phase::Paused => Accepting::Paused,
            Phase::Lingering | Phase::Draining | Phase::Forced => Accepting::Ended,
        }
    }

    fn exit_reason(&self) -> Option<ExitReason> {
        self.finished().filter(|_| !self.held)
    }

    fn finished(&self) -> Option<ExitReason> {
        match self.phase {
            Phase::Forced if self.hurried => Some(ExitReason::Forced { live: self.forced }),
            Phase::Forced => Some(ExitReason::DeadlineExceeded { live: self.forced }),
            Phase::Lingering | Phase::Draining if self.live.is_empty() && self.is_shut() => match self.why {
                Why::Upgraded => Some(ExitReason::Upgraded),
                Why::Stopped => Some(ExitReason::Stopped),
            },
            Phase::Serving | Phase::Paused | Phase::Lingering | Phase::Draining => None,
        }
    }

    /// Nobody accepts any more.
    pub(crate) fn is_shut(&self) -> bool {
        self.phase >= Phase::Lingering && self.admission == Admission::None
    }
}

/// A task's place among those who wait; given up when it is dropped, so that a task which has ended leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) state: Arc<Lifecycle>,
    id: u64,
}

impl Waiter {
    /// Pending until the phase is at least that; the task is woken at every change.
    pub(crate) fn poll_phase(&self, context: &Context<'_>, phase: Phase) -> Poll<()> {
        self.poll(context, |inner| (inner.phase >= phase).then_some(()))
    }

    /// As `Lifecycle::wait_drained`, without blocking.
    pub(crate) fn poll_drained(&self, context: &Context<'_>) -> Poll<ExitReason> {
        self.poll(context, |inner| self.state.awaited(inner))
    }

    /// As `Lifecycle::wait`, without blocking.
    pub(crate) fn poll<T>(&self, context: &Context<'_>, wanted: impl Fn(&mut Inner) -> Option<T>) -> Poll<T> {
        let mut inner = self.state.lock();
        match wanted(&mut inner) {
            Some(result) => Poll::Ready(result),
            None => {
                let replaced = inner.wakers.insert(self.id, context.waker().clone());
                // A waker may own a task, whose end may come back here.
                drop(inner);
                drop(replaced);
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // As above.
        let waker = self.state.lock().wakers.remove(&self.id);
        drop(waker);
    }
}

/// Counts one piece of work that must be finished before this process leaves; dropped when it is.
///
/// Connections that were accepted through this crate carry one. Take one with [`Upgrader::guard`](crate::Upgrader::guard)
/// for work that has no connection.
#[derive(Debug)]
pub struct DrainGuard {
    pub(crate) state: Arc<Lifecycle>,
    id: u64,
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        inner.live.remove(&self.id);
        let draining = inner.phase >= Phase::Lingering;
        let wakers = if draining { std::mem::take(&mut inner.wakers) } else { HashMap::new() };
        drop(inner);
        wakers.into_values().for_each(Waker::wake);
        if draining {
            self.state.changed.notify_all();
            signal(&self.state.news);
        }
    }
}

/// An eventfd whose counter is at its limit is as readable as it gets.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
