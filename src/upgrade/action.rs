//! What the core of hot upgrade is told, and what it wants done.
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

/// Which generation new connections reach, and which one is being started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub current: Option<Generation>,
    pub starting: Option<Generation>,
}

/// What was found out of a generation, for the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// It has an address that nobody else holds yet.
    Bound,
    Ready,
    StoppedAccepting,
    /// So many of its connections would be cut by an end, where that is known.
    Live(Option<usize>),
    /// It stops accepting though nobody here has asked it to, and has so many connections.
    Leaves(usize),
    /// It has nothing left to finish.
    Drained,
    Exited,
}

/// How a generation has ended, and what that says of its program.
#[derive(Debug)]
pub struct Ended {
    pub text: String,
    /// It has done what it was for, and had no sockets.
    pub is_done: bool,
    /// It is a server, whose sockets are held.
    pub serves: bool,
}

/// What the loop has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum Action<P> {
    Start {
        generation: Generation,
        program: P,
    },
    /// From now on it may accept.
    Admit(Generation),
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
