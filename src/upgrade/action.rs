//! What the core of hot upgrade is told once, and what it wants done.
//! Never lives here: when (`handover`).

use crate::report::{Generation, Notice};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub ready: Duration,
    pub probation: Duration,
    pub drain: Duration,
    /// Both count from the last progress, up to here from the beginning.
    pub limit: Duration,
    pub kill: Duration,
}

/// Whether two generations may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The new one is ready before the old one stops accepting.
    Overlap,
    /// The old one leaves before the new one starts.
    StopFirst,
}

/// What the loop has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum Action<P> {
    Start {
        generation: Generation,
        program: P,
    },
    Commit(Generation),
    /// Accept nothing for now.
    Pause(Generation),
    Resume(Generation),
    /// Accept nothing more, finish the connections, leave.
    Drain(Generation),
    /// SIGTERM to its group.
    Terminate(Generation),
    /// SIGKILL to its group.
    Kill(Generation),
    /// From now on every new connection is this generation's.
    Live(Generation),
    Tell(Notice),
}
