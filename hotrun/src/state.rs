//! Where this process stands between serving and gone, and its live connections: the state that the listeners, the
//! connections and the control thread share.
//! Never lives here: why a phase begins (`control`).

use crate::ExitReason;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
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

#[derive(Debug)]
pub(crate) struct State {
    /// Held for reading across one accept, for writing while it closes: once it is closed no accept is under way.
    gate: RwLock<bool>,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Readable while nothing may be accepted.
    stop: EventFd,
    /// Readable from `Draining` on.
    drain: EventFd,
    /// Readable when a connection has ended since accepting did.
    ended: EventFd,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    why: Why,
    live: HashMap<u64, Option<RawFd>>,
    next: u64,
    /// Connections that were still live when the deadline passed.
    forced: usize,
    /// Whether the deadline came by itself, or a second signal was in a hurry.
    hurried: bool,
    /// Tasks that wait for a change, by the number of their `Waiter`.
    wakers: HashMap<u64, Waker>,
}

impl State {
    pub(crate) fn new() -> io::Result<Arc<State>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Arc::new(State {
            gate: RwLock::new(true),
            inner: Mutex::new(Inner {
                phase: Phase::Serving,
                why: Why::Stopped,
                live: HashMap::new(),
                next: 0,
                forced: 0,
                hurried: false,
                wakers: HashMap::new(),
            }),
            changed: Condvar::new(),
            stop: EventFd::from_value_and_flags(0, flags)?,
            drain: EventFd::from_value_and_flags(0, flags)?,
            ended: EventFd::from_value_and_flags(0, flags)?,
        }))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// While this guard says `true`, accepting is allowed, and cannot be forbidden before it is dropped.
    pub(crate) fn gate(&self) -> RwLockReadGuard<'_, bool> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable while nothing may be accepted.
    pub(crate) fn stop_event(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Readable once idle connections should end.
    pub(crate) fn drain_event(&self) -> BorrowedFd<'_> {
        self.drain.as_fd()
    }

    /// Readable when a connection has ended since accepting did.
    pub(crate) fn live_event(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// How many connections are left, as news.
    pub(crate) fn take_live_event(&self) -> usize {
        // Nothing to read: somebody else took the news, and the number is right all the same.
        let _ = self.ended.read();
        self.live()
    }

    pub(crate) fn pause(&self) {
        self.close_gate();
        self.enter(|inner| {
            if inner.phase == Phase::Serving {
                inner.phase = Phase::Paused;
            }
        });
    }

    pub(crate) fn resume(&self) {
        let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.enter(|inner| {
            if inner.phase == Phase::Paused {
                inner.phase = Phase::Serving;
                *gate = true;
                // Nothing to read is the only error an eventfd knows here, and then it is as it should be.
                let _ = self.stop.read();
            }
        });
    }

    /// Stops accepting for good; the first reason stays.
    pub(crate) fn stop_accepting(&self, why: Why) {
        self.close_gate();
        self.enter(|inner| {
            if inner.phase < Phase::Lingering {
                inner.phase = Phase::Lingering;
                inner.why = why;
            }
        });
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
        DrainGuard { state: Arc::clone(self), id }
    }

    /// Blocks until the phase is at least that.
    pub(crate) fn wait_for(&self, phase: Phase) {
        let mut inner = self.lock();
        while inner.phase < phase {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks while paused.
    pub(crate) fn wait_while_paused(&self) -> Phase {
        let mut inner = self.lock();
        while inner.phase == Phase::Paused {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.phase
    }

    /// Blocks until accepting has ended and every connection has, or the deadline has passed.
    pub(crate) fn wait_drained(&self) -> ExitReason {
        let mut inner = self.lock();
        loop {
            match inner.exit_reason() {
                Some(reason) => return reason,
                None => inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// A place among those who wait for a change without blocking.
    pub(crate) fn waiter(self: &Arc<Self>) -> Waiter {
        let mut inner = self.lock();
        inner.next += 1;
        Waiter { state: Arc::clone(self), id: inner.next }
    }

    /// Nothing is accepted from here on, though nobody knows it yet.
    pub(crate) fn close_gate(&self) {
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = false;
        signal(&self.stop);
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

    /// A thread that panicked with the lock held has left nothing half done: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn exit_reason(&self) -> Option<ExitReason> {
        match self.phase {
            Phase::Forced if self.hurried => Some(ExitReason::Forced { live: self.forced }),
            Phase::Forced => Some(ExitReason::DeadlineExceeded { live: self.forced }),
            Phase::Lingering | Phase::Draining if self.live.is_empty() => match self.why {
                Why::Upgraded => Some(ExitReason::Upgraded),
                Why::Stopped => Some(ExitReason::Stopped),
            },
            Phase::Serving | Phase::Paused | Phase::Lingering | Phase::Draining => None,
        }
    }
}

/// A task's place among those who wait; given up when it is dropped, so that a task which has ended leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Waiter {
    state: Arc<State>,
    id: u64,
}

impl Waiter {
    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Pending until the phase is at least that; the task is woken at every change.
    pub(crate) fn poll_phase(&self, context: &Context<'_>, phase: Phase) -> Poll<()> {
        self.poll(context, |inner| (inner.phase >= phase).then_some(()))
    }

    /// As `State::wait_drained`, without blocking.
    pub(crate) fn poll_drained(&self, context: &Context<'_>) -> Poll<ExitReason> {
        self.poll(context, Inner::exit_reason)
    }

    fn poll<T>(&self, context: &Context<'_>, wanted: impl Fn(&Inner) -> Option<T>) -> Poll<T> {
        let mut inner = self.state.lock();
        match wanted(&inner) {
            Some(result) => Poll::Ready(result),
            None => {
                inner.wakers.insert(self.id, context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.state.lock().wakers.remove(&self.id);
    }
}

/// Counts one piece of work that must be finished before this process leaves; dropped when it is.
///
/// Connections that were accepted through this crate carry one. Take one with [`Upgrader::guard`](crate::Upgrader::guard)
/// for work that has no connection.
#[derive(Debug)]
pub struct DrainGuard {
    state: Arc<State>,
    id: u64,
}

impl DrainGuard {
    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }
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
            signal(&self.state.ended);
        }
    }
}

/// An eventfd whose counter is at its limit is as readable as it gets.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

    fn readable(event: BorrowedFd<'_>) -> bool {
        poll(&mut [PollFd::new(event, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn the_phases_go_forward_and_only_a_pause_goes_back() {
        let state = State::new().unwrap();
        assert!(*state.gate() && !readable(state.stop_event()));
        state.pause();
        state.pause();
        assert!(!*state.gate() && readable(state.stop_event()));
        state.resume();
        assert!(*state.gate() && !readable(state.stop_event()));
        assert_eq!(state.phase(), Phase::Serving);
        state.stop_accepting(Why::Upgraded);
        state.stop_accepting(Why::Stopped);
        state.resume();
        assert!(!*state.gate() && readable(state.stop_event()) && !readable(state.drain_event()));
        state.drain();
        assert!(readable(state.drain_event()));
        assert_eq!(state.wait_drained(), ExitReason::Upgraded, "the first reason stays");
    }

    #[test]
    fn drained_waits_for_the_last_guard() {
        let state = State::new().unwrap();
        let guard = state.guard(None);
        state.stop_accepting(Why::Stopped);
        let waiting = std::thread::spawn({
            let state = Arc::clone(&state);
            move || state.wait_drained()
        });
        assert_eq!(state.live(), 1);
        drop(guard);
        assert_eq!(waiting.join().unwrap(), ExitReason::Stopped);
        assert_eq!(state.live(), 0);
    }

    #[test]
    fn tasks_that_have_ended_leave_nothing_behind() {
        let state = State::new().unwrap();
        let context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let waiter = state.waiter();
            assert!(waiter.poll_phase(&context, Phase::Draining).is_pending());
            assert!(waiter.poll_drained(&context).is_pending());
            assert_eq!(state.lock().wakers.len(), 1);
        }
        assert!(state.lock().wakers.is_empty());
    }

    #[test]
    fn the_deadline_shuts_down_what_is_left_and_counts_it() {
        use std::io::Read;
        use std::os::fd::AsRawFd;
        let (mut ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let state = State::new().unwrap();
        let _guard = state.guard(Some(ours.as_raw_fd()));
        state.stop_accepting(Why::Upgraded);
        state.force(false);
        assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0, "a reader comes back");
        assert_eq!(state.wait_drained(), ExitReason::DeadlineExceeded { live: 1 });
    }
}
