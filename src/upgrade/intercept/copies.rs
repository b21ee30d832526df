//! What else of a program leads to a socket that is about to be replaced, because it was copied or given to an event loop before it was
//! bound: every number that it has, and every epoll set that watches it.
//! Never lives here: whether it is replaced (`binds`).

use super::kernel::{self, Watch};
use super::listener::Listener;
use crate::process::kin::Process;
use crate::process::seccomp::{Call, Calls};
use crate::upgrade::proc;
use nix::errno::Errno;
use nix::libc;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, RawFd};
use std::time::Duration;

/// A child that is about to become another program has for a moment what its parent has: it is looked at so often, with a moment between.
const LOOKS: u32 = 20;
const MOMENT: Duration = Duration::from_millis(5);

pub struct Copies {
    numbers: Vec<RawFd>,
    watches: Vec<Watch>,
}

impl Copies {
    /// # Errors
    /// EADDRINUSE, which is what a program understands.
    pub fn of(process: u32, inode: u64, all: &BTreeSet<u32>) -> Result<Copies, Errno> {
        // Descriptors are put into the process that calls, and into no other.
        let elsewhere = || all.iter().find(|other| **other != process && proc::holds(**other, inode));
        let mut looks = 0;
        while let Some(other) = elsewhere() {
            if looks == LOOKS {
                return Err(Errno::EADDRINUSE);
            }
            looks += 1;
            // Or for its end, if that comes first.
            if let Some(other) = Process::of(*other) {
                other.ends_within(MOMENT);
            }
        }
        let sockets = proc::sockets(process).map_err(|_| Errno::EADDRINUSE)?.into_iter();
        let numbers: Vec<RawFd> = sockets.filter(|(_, socket)| *socket == inode).map(|(number, _)| number).collect();
        let watched = numbers.first().map_or_else(Vec::new, |number| proc::watched(process, *number));
        let watches = watched.into_iter().map(|entry| {
            let set = proc::copy(process, entry.set).map_err(|_| Errno::EADDRINUSE)?;
            Ok(Watch { set, number: entry.number, events: entry.events, data: entry.data })
        });
        Ok(Copies { watches: watches.collect::<Result<_, Errno>>()?, numbers })
    }

    /// All lead to the held socket from now on. `number` is the one that the program calls by.
    pub fn replace(&self, calls: &Calls, call: &Call, number: RawFd, held: &Listener) -> Result<(), Errno> {
        // That one last: a call that is interrupted comes again, and finds what is left to be done by its own socket.
        for number in self.numbers.iter().copied().filter(|other| *other != number).chain([number]) {
            let flags = proc::flags_at(call.thread, number);
            let close_on_exec = flags.is_none_or(|flags| flags & libc::O_CLOEXEC != 0);
            calls.place(call.id, held.as_fd(), number, close_on_exec)?;
        }
        kernel::watch(held.as_fd(), &self.watches).map_err(|_| Errno::EADDRINUSE)
    }
}
