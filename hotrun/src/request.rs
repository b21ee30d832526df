//! What is asked of the control thread, and how it is woken.
//! Never lives here: what it answers (`control`).

use crate::UpgradeError;
use nix::sys::eventfd::EventFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// The name of the thread.
pub(crate) const CONTROL_THREAD: &str = "hotrun-control";

/// The process that serves in this one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Successor {
    /// Its process number.
    pub pid: u32,
    /// Its [`Upgrader::generation`](crate::Upgrader::generation).
    pub generation: u32,
}

/// Where a call waits for what has come of it.
pub(crate) type Answer<T> = Sender<Result<T, UpgradeError>>;

/// What a call asks of the thread.
#[derive(Debug)]
pub(crate) enum Request {
    Upgrade(Answer<Successor>),
    Confirm(Answer<()>),
    RollBack(Answer<()>),
    Stop,
    /// This process has said READY.
    Ready,
    /// The configuration has been read.
    Reloaded,
}

/// Wakes the thread with a request. The event counts them (eventfd(2), EFD_SEMAPHORE): the thread takes one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Bell {
    pub(crate) event: Arc<EventFd>,
    pub(crate) requests: Sender<Request>,
}

impl Bell {
    pub(crate) fn ring(&self, request: Request) {
        // The thread lives as long as the process; an eventfd whose counter is at its limit is as readable as it gets.
        let _ = self.requests.send(request);
        let _ = self.event.write(1);
    }
}
