//! The other processes of this server, seen from this one: a successor or an interim process, ancestors, children on their way out.
//! Never lives here: what becomes of them (`perform`).

use crate::holder::{Holder, Said};
use crate::{Signal, sys};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// A process that this one holds sockets for.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) holder: Holder,
    pidfd: OwnedFd,
    pub(crate) pid: u32,
    pub(crate) generation: u32,
    /// Its end of the channel is open.
    open: bool,
    pub(crate) said_hello: bool,
    /// Why it could not be understood.
    pub(crate) garbled: Option<String>,
    /// Sockets it bound that were not there before.
    pub(crate) offered: Vec<(String, OwnedFd)>,
    /// It was told to leave, and has until then.
    pub(crate) kill_at: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(holder: Holder, pidfd: OwnedFd, pid: u32, generation: u32) -> Self {
        Peer {
            holder,
            pidfd,
            pid,
            generation,
            open: true,
            said_hello: false,
            garbled: None,
            offered: Vec::new(),
            kill_at: None,
        }
    }

    /// The one that this process started when it was another program.
    pub(crate) fn adopted(channel: OwnedFd, pid: u32) -> io::Result<Self> {
        Ok(Peer::new(Holder::adopted(channel), sys::pidfd(pid)?, pid, 0))
    }

    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.open.then_some(self.holder.as_fd())
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn receive(&self) -> io::Result<Said> {
        self.holder.receive()
    }

    /// It says nothing more, or nothing that would be believed.
    pub(crate) fn close(&mut self) {
        self.open = false;
    }

    pub(crate) fn kill(&self) {
        // It has ended already, at worst.
        let _ = sys::signal_process(self.pidfd.as_fd(), Signal::SIGKILL);
    }
}

/// A process of an earlier generation.
#[derive(Debug)]
pub(crate) struct Ancestor {
    pub(crate) generation: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) hurry: OwnedFd,
}

impl Ancestor {
    /// Its time is over.
    pub(crate) fn hurry(&self) {
        // An eventfd takes eight bytes; one whose counter is at its limit is as readable as it gets.
        let _ = nix::unistd::write(&self.hurry, &1u64.to_ne_bytes());
    }
}
