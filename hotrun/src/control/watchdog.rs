//! The service manager's watchdog: WATCHDOG=1 in time, while the server says that it is well.
//! Never lives here: what a manager is told besides (`upstream`).

use crate::settings::{Healthy, Hook};
use crate::upstream::Upstream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Watchdog {
    every: Option<Duration>,
    healthy: Option<Hook<Healthy>>,
    next: Option<Instant>,
}

impl Watchdog {
    pub(crate) fn new(every: Option<Duration>, healthy: Option<Hook<Healthy>>) -> Self {
        Watchdog { every, healthy, next: None }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(crate) fn ping_if_due(&mut self, now: Instant, upstream: &Upstream) {
        if self.next.is_none_or(|next| now >= next) {
            self.ping(now, upstream);
        }
    }

    /// Now, whenever the last one was; whoever is not the main process says nothing.
    pub(crate) fn ping(&mut self, now: Instant, upstream: &Upstream) {
        let Some(every) = self.every.filter(|_| upstream.is_announced()) else { return };
        // It is the user's, and runs on the thread that hears the signals.
        let is_well = |healthy: &Hook<Healthy>| catch_unwind(AssertUnwindSafe(|| healthy.0()));
        if self.healthy.as_ref().is_none_or(|healthy| is_well(healthy).unwrap_or(false)) {
            upstream.is_alive();
        }
        // Half of it, as sd_watchdog_enabled(3) advises.
        self.next = Some(now + every / 2);
    }

    /// Another process is the main one from now on.
    pub(crate) fn rest(&mut self) {
        self.next = None;
    }
}
