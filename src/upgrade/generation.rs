//! What is known of one generation, whose process runs.
//! Never lives here: how it is started (`start`), and what becomes of it (`handover`).

use super::channel::Channel;
use super::gated::Gated;
use super::intercept::{Listener, Patience, Which};
use super::processes::Processes;
use super::sockets::{Endpoint, Held};
use super::store::Published;
use crate::report::HandOver;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// Any program may turn out to have the library, and one that was handed its sockets has a gate, too: so the channel and the gate stand
/// beside the way, and not within it.
#[derive(Debug)]
pub struct Started {
    pub program: Published,
    pub way: HandOver,
    pub processes: Processes,
    pub channel: Channel,
    /// Where it has one, which is not where the calls of the program were let through unseen.
    pub gate: Option<Gated>,
    pub sockets: OwnSockets,
    /// Whether it was handed sockets, and has bound its own instead.
    pub has_bound_instead: bool,
    /// When its program began to run.
    pub at: Instant,
    /// When it was first known to be ready.
    pub ready_at: Option<Instant>,
    /// When it is looked at whether it is ready, as no word of it is expected.
    pub look_at: Option<Instant>,
    pub told_draining: bool,
    /// Dropped to end the probe.
    pub probing: Option<Sender<()>>,
}

/// The sockets that a generation has.
#[derive(Debug, Default)]
pub struct OwnSockets {
    /// Those it has bound, which are held once it serves.
    pub offered: Vec<(String, Endpoint)>,
    /// The names of those it has asked for.
    pub taken: BTreeSet<String>,
    /// Those on which it was seen to listen at its gate, by inode.
    pub listens: Vec<u64>,
    /// And those on which it was where that is no call that is seen.
    pub seen: BTreeSet<u64>,
    /// It has said READY, or asked for a connection, so that it has its sockets.
    pub accepts: bool,
    can_listen: Option<bool>,
}

impl Started {
    pub fn new(
        at: Instant,
        program: Published,
        way: HandOver,
        processes: Processes,
        channel: Channel,
        gate: Option<Gated>,
    ) -> Started {
        Started {
            program,
            way,
            processes,
            channel,
            gate,
            sockets: OwnSockets::default(),
            has_bound_instead: false,
            at,
            ready_at: None,
            look_at: None,
            told_draining: false,
            probing: None,
        }
    }

    /// Whether it takes no connection that is not seen at its gate.
    pub fn is_seen(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| !gate.blind)
    }

    /// Whether it takes connections past its gate.
    pub fn is_blind(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.blind)
    }

    /// Whether another can take over from it while it runs.
    pub fn hands_over(&self) -> bool {
        match self.way {
            HandOver::Library => true,
            // One that takes connections unseen cannot be told to stop, nor can one be without a gate that has bound for itself.
            HandOver::ListenFds => !self.is_blind(),
            HandOver::Bind => self.hands_over_at_gate(),
            HandOver::StopAndStart => false,
        }
    }

    /// Whether its sockets are known, and its gate can be closed.
    pub fn hands_over_at_gate(&self) -> bool {
        self.is_seen() && !self.sockets.listens.is_empty()
    }

    /// Whether it takes none of what it was handed.
    pub fn binds_instead(&self, says_ready: bool) -> bool {
        let is_handed = self.way == HandOver::ListenFds && !self.has_bound_instead;
        is_handed && self.gate.as_ref().is_some_and(|gate| gate.binds_instead(says_ready))
    }

    /// It is ready: what it was handed and has not taken by now is nobody's. Says whether it is found to have bound its own instead.
    pub fn settle_handed(&mut self, says_ready: bool, held: &Held) -> bool {
        let instead = self.binds_instead(says_ready);
        let is_seen = self.is_seen() && self.sockets.accepts && !says_ready;
        self.sockets.accepts |= self.gate.is_some();
        self.has_bound_instead |= instead;
        if self.way == HandOver::ListenFds && !instead && !is_seen {
            // It has given its word, and not yet asked.
            for socket in held.iter() {
                self.sockets.taken.insert(socket.name.clone());
                self.sockets.listens.extend(socket.end.tcp().map(|listener| listener.inode));
            }
        }
        instead
    }

    /// Whether its connections are led to their end at its gate. What comes by a socket that is not of TCP is not seen: the program has to
    /// finish it, and its whole time to do so.
    pub fn drain_at_gate(&mut self, which: Which, patience: Patience, all_tcp: bool) -> bool {
        if !self.hands_over_at_gate() {
            return false;
        }
        let all_seen = self.way == HandOver::Bind || all_tcp;
        if let Some(gate) = &mut self.gate {
            gate.drain(which, patience, all_seen);
        }
        all_seen
    }

    /// It was seen to listen nowhere.
    pub fn has_no_listener(&self) -> bool {
        self.sockets.listens.is_empty() && self.sockets.seen.is_empty()
    }

    /// How it has come by its sockets, as it turned out.
    pub fn came_by(&self) -> HandOver {
        match self.way {
            HandOver::ListenFds if self.has_bound_instead => self.bound(),
            HandOver::Bind => self.bound(),
            way => way,
        }
    }

    fn bound(&self) -> HandOver {
        // There was nothing to hand over.
        if self.sockets.listens.is_empty() { HandOver::StopAndStart } else { HandOver::Bind }
    }

    /// By what it is linked with; read once, and only when it matters.
    pub fn can_listen(&mut self) -> bool {
        *self.sockets.can_listen.get_or_insert_with(|| self.program.can_listen())
    }
}

impl OwnSockets {
    /// It listens on a socket, which is held under that name already, or is not.
    pub fn listens_on(&mut self, listener: Arc<Listener>, name: Option<String>) {
        if !self.listens.contains(&listener.inode) {
            self.listens.push(listener.inode);
        }
        match name {
            Some(name) => drop(self.taken.insert(name)),
            // Closed and asked for again before that was heard.
            None if self.offered.iter().any(|(_, end)| end.is(&listener)) => {}
            None => self.offered.push((listener.address.to_string(), Endpoint::Tcp(listener))),
        }
    }

    pub fn closes(&mut self, listener: &Listener, name: Option<&str>) {
        self.listens.retain(|inode| *inode != listener.inode);
        self.offered.retain(|(_, end)| !end.is(listener));
        if let Some(name) = name {
            self.taken.remove(name);
        }
    }
}
