//! The other processes of this server, seen from this one.
//! Never lives here: what becomes of them (`perform`).

use crate::holder::Holder;
use crate::wire::ToServer;
use crate::{Signal, sys};
use nix::sys::eventfd::EventFd;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// All of them.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Is being started, or serves in this process's place.
    pub(crate) successor: Option<Peer>,
    /// Keeps the sockets served until this process does, which has returned under its number.
    pub(crate) interim: Option<Peer>,
    /// Earlier generations that are still there.
    pub(crate) ancestors: Vec<Ancestor>,
    /// Successors that were given up, on their way out.
    pub(crate) leaving: Vec<Peer>,
    /// Readable when a later generation is in a hurry for this one to end.
    pub(crate) hurry: EventFd,
}

impl Peers {
    pub(crate) fn new(interim: Option<Peer>, hurry: EventFd) -> Self {
        Peers { successor: None, interim, ancestors: Vec::new(), leaving: Vec::new(), hurry }
    }

    /// Processes of this server, this one among them.
    pub(crate) fn count(&self) -> usize {
        1 + self.ancestors.len() + usize::from(self.successor.is_some()) + usize::from(self.interim.is_some())
    }

    pub(crate) fn leaver_ended(&mut self, index: usize) {
        // A sibling is not this process's to wait for.
        let _ = sys::reap(self.leaving.remove(index).pidfd());
    }

    pub(crate) fn interim_ended(&mut self) {
        if let Some(interim) = self.interim.take() {
            let _ = sys::reap(interim.pidfd());
        }
    }

    /// So many generations may be there at once; the oldest have had their time.
    pub(crate) fn make_room(&mut self, most: usize) {
        // This process and the next one.
        let room = most.saturating_sub(2);
        self.ancestors.sort_by_key(|ancestor| ancestor.generation);
        let too_many = self.ancestors.len().saturating_sub(room);
        self.ancestors.iter().take(too_many).for_each(Ancestor::hurry);
    }

    /// One that has just ended hears none of it; its end is seen by its pidfd.
    pub(crate) fn tell_successor(&self, message: &ToServer) {
        if let Some(successor) = &self.successor {
            let _ = successor.holder.tell(message);
        }
    }

    /// Tells the successor of every earlier generation, which this process, of that generation, is one of from now on.
    pub(crate) fn introduce_to_successor(&self, generation: u32) {
        let Some(Peer { holder, .. }) = &self.successor else { return };
        // As above.
        for ancestor in &self.ancestors {
            let _ = holder.introduce(ancestor.generation, ancestor.pidfd.as_fd(), ancestor.hurry.as_fd());
        }
        if let Ok(own) = sys::pidfd(std::process::id()) {
            let _ = holder.introduce(generation, own.as_fd(), self.hurry.as_fd());
        }
    }

    /// Says stop to whoever serves for this process; for the second time, it is in a hurry.
    pub(crate) fn tell_to_stop(&self) {
        for peer in self.successor.iter().chain(&self.interim) {
            // One that is gone has left already.
            let _ = peer.holder.tell(&ToServer::Stop);
        }
    }

    /// The successor is only watched until it is gone; says whether there was one.
    pub(crate) fn give_up_successor(&mut self, kill_at: Option<Instant>) -> bool {
        let Some(mut successor) = self.successor.take() else { return false };
        successor.kill_at = kill_at;
        successor.offered.clear();
        self.leaving.push(successor);
        true
    }

    pub(crate) fn next_kill(&self) -> Option<Instant> {
        self.leaving.iter().chain(&self.interim).filter_map(|peer| peer.kill_at).min()
    }

    pub(crate) fn kill_who_is_late(&mut self, now: Instant) {
        for peer in self.leaving.iter_mut().chain(&mut self.interim) {
            if peer.kill_at.take_if(|kill_at| now >= *kill_at).is_some() {
                peer.kill();
            }
        }
    }
}

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
    fn hurry(&self) {
        // An eventfd takes eight bytes; one whose counter is at its limit is as readable as it gets.
        let _ = nix::unistd::write(&self.hurry, &1u64.to_ne_bytes());
    }
}
