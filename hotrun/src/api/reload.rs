//! New configuration without a new process, and news for frameworks that accept by themselves: two kinds of moments in the life
//! of a server, to wait for with or without blocking.
//! Never lives here: why they come (`control`).

use crate::request::{Bell, Request};
use crate::serving::lifecycle::{Accepting, Inner, Lifecycle, ListenerGate, Phase, Waiter};
use std::future::poll_fn;
use std::sync::Arc;

/// Requests for new configuration, from [`Upgrader::reloads`](crate::Upgrader::reloads). Those that come while one is being
/// dealt with are one more.
#[derive(Debug)]
pub struct Reloads {
    waiter: Waiter,
    bell: Bell,
    seen: u64,
}

/// One request. The service manager is told that the reload is over when this is dropped (sd_notify(3), `RELOADING=1`).
#[derive(Debug)]
pub struct Reload {
    bell: Bell,
}

impl Reloads {
    pub(crate) fn new(state: &Arc<Lifecycle>, bell: Bell) -> Self {
        Reloads { waiter: state.waiter(), bell, seen: 0 }
    }

    /// Blocks until the next one; `None` when this process has stopped accepting, as it has no more use for configuration.
    pub fn wait(&mut self) -> Option<Reload> {
        let seen = self.seen;
        let next = self.waiter.state.wait(|inner| next(inner, seen));
        self.take(next)
    }

    /// As [`wait`](Reloads::wait), without blocking, with any runtime. Cancel safe.
    pub async fn recv(&mut self) -> Option<Reload> {
        let seen = self.seen;
        let next = poll_fn(|context| self.waiter.poll(context, |inner| next(inner, seen))).await;
        self.take(next)
    }

    fn take(&mut self, next: Option<u64>) -> Option<Reload> {
        self.seen = next?;
        Some(Reload { bell: self.bell.clone() })
    }
}

fn next(inner: &mut Inner, seen: u64) -> Option<Option<u64>> {
    if inner.reloads > seen {
        return Some(Some(inner.reloads));
    }
    (inner.phase >= Phase::Lingering).then_some(None)
}

/// All requests, each when the one before has been dropped: a callback is a `for_each` on a thread of its own.
impl Iterator for Reloads {
    type Item = Reload;

    fn next(&mut self) -> Option<Reload> {
        self.wait()
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        self.bell.ring(Request::Reloaded);
    }
}

/// Changes of [`Accepting`], from [`Upgrader::accepting`](crate::Upgrader::accepting), for frameworks with an accept loop of
/// their own.
#[derive(Debug)]
pub struct AcceptingChanges {
    waiter: Waiter,
    last: Accepting,
}

impl AcceptingChanges {
    pub(crate) fn new(state: &Arc<Lifecycle>) -> Self {
        AcceptingChanges { waiter: state.waiter(), last: Accepting::Open }
    }

    /// Blocks until it is another than it was when this was last asked, `Open` at first; does not return after `Ended`.
    pub fn wait(&mut self) -> Accepting {
        let last = self.last;
        self.last = self.waiter.state.wait(|inner| changed(inner, last));
        self.last
    }

    /// As [`wait`](AcceptingChanges::wait), without blocking, with any runtime. Cancel safe.
    pub async fn changed(&mut self) -> Accepting {
        let last = self.last;
        self.last = poll_fn(|context| self.waiter.poll(context, |inner| changed(inner, last))).await;
        self.last
    }
}

fn changed(inner: &mut Inner, last: Accepting) -> Option<Accepting> {
    // A framework's listeners are not told apart: they stop when the last one does, so that no queue is left behind.
    let now = match inner.accepting(&ListenerGate::default()) {
        Accepting::Ended if !inner.is_shut() => last,
        now => now,
    };
    (now != last).then_some(now)
}
