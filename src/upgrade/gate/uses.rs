//! Which of the held sockets a program has, and what it is doing with each.
//! Never lives here: how it comes by one (`binds`), and connections (`accepts`).

use super::Seen;
use super::keeper::Keeper;
use super::listener::Listener;
use crate::upgrade::proc;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

#[derive(Debug)]
pub struct Use {
    pub listener: Arc<Listener>,
    /// It has it from the start, and may know nothing of it.
    pub handed: bool,
    /// It has asked for its address by itself.
    pub bound: bool,
    pub listens: bool,
    pub accepts: bool,
    /// Its address is within another's that is open to the successor, where clients are to go: no connection begins here any more. For
    /// how many looks its queue has been empty, and one.
    pub retiring: u32,
    /// And nothing is left in its queue.
    pub retired: bool,
    /// No process had it at the last look.
    pub missed: bool,
}

impl Use {
    pub fn new(listener: &Arc<Listener>) -> Use {
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
    pub fn is_spare(&self) -> bool {
        self.handed && !self.bound && !self.accepts
    }

    /// Told by the thread that would give it to the program again.
    fn closes(&self) -> Seen {
        Seen::Closes { listener: Arc::clone(&self.listener), given: self.listener.times_given() }
    }
}

impl Keeper {
    pub(super) fn look_at_listeners(&mut self) {
        // Without any descriptor, its end is about to be heard.
        if self.uses.is_empty() || !proc::has_descriptors(self.process) {
            return;
        }
        let sockets: io::Result<Vec<Vec<(RawFd, u64)>>> = self.all_processes().into_iter().map(proc::sockets).collect();
        // At another time.
        let Ok(sockets) = sockets else { return };
        for used in &mut self.uses {
            let there = sockets.iter().flatten().any(|(_, inode)| *inode == used.listener.inode);
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
    pub(super) fn forget_closed(&mut self, there: &Listener) {
        if !self.uses.iter().any(|used| used.listens && !used.accepts) {
            return;
        }
        let sockets: io::Result<Vec<Vec<(RawFd, u64)>>> = self.all_processes().into_iter().map(proc::sockets).collect();
        let sockets: BTreeSet<u64> = sockets.into_iter().flatten().flatten().map(|(_, inode)| inode).collect();
        if !sockets.contains(&there.inode) {
            // It may not be looked into.
            return;
        }
        let tell = &self.tell;
        self.uses.retain(|used| {
            let closed = used.listens && !used.accepts && !sockets.contains(&used.listener.inode);
            if closed {
                tell(used.closes());
            }
            !closed
        });
    }
}
