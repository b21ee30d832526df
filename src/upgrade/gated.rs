//! What a gate sees, and what becomes of the sockets that a program binds at one.
//! Never lives here: the gate itself (`gate`).

use super::gate::{Blind, Gate, Order, Patience, Seen, Which};
use super::generation::Started;
use super::ready::ALIVE;
use super::sockets::Endpoint;
use super::{Generation, Room, Takes};
use crate::config::Ready;
use crate::process::descriptors;
use crate::report::{HandOver, Notice};
use std::time::Instant;

impl Started {
    /// Whether another can take over from it while it runs: its sockets are known, and its gate can be closed.
    pub(super) fn hands_over_at_gate(&self) -> bool {
        self.gate.is_some() && !self.blind && !self.listens.is_empty()
    }
}

impl Room {
    pub(super) fn gate_saw(&mut self, now: Instant, generation: Generation, seen: Seen) {
        let Some(started) = self.generations.get_mut(&generation) else { return };
        match seen {
            Seen::Listens { listener, bound } => {
                if !started.listens.contains(&listener.inode) {
                    started.listens.push(listener.inode);
                }
                let name = self.held.name_of(&listener);
                started.own.saw(bound, name.is_some());
                match name {
                    Some(name) => drop(started.taken.insert(name)),
                    // Closed and asked for again before that was heard.
                    None if started.offered.iter().any(|(_, end)| end.is(&listener)) => {}
                    None => started.offered.push((listener.address.to_string(), Endpoint::Tcp(listener))),
                }
                self.pass_on();
                self.probe_what_is_bound(generation);
            }
            // It has asked for it again meanwhile.
            Seen::Closes { listener, given } if listener.times_given() != given => {}
            Seen::Closes { listener, given } => {
                started.listens.retain(|inode| *inode != listener.inode);
                started.offered.retain(|(_, end)| !end.is(&listener));
                if let Some(name) = self.held.name_of(&listener) {
                    started.taken.remove(&name);
                }
                let starts = self.handover.starting() == Some(generation);
                if starts && self.generations.get(&generation).is_some_and(|started| self.is_looked_at(started)) {
                    // It was only tried.
                    self.alive_at.insert(generation, now);
                }
                // Another generation may have it, and be about to serve.
                let is_used = self.generations.values().any(|started| started.listens.contains(&listener.inode));
                let current = self.handover.current() == Some(generation);
                if current && !is_used && self.held.close(&listener) && listener.shut_down_unless_given(given) {
                    self.note(format!("{} was closed by the program: let go", listener.address));
                }
            }
            Seen::Accepts { all } => {
                let first = !std::mem::replace(&mut started.accepts, true);
                let address = |room: &Room| room.addresses().join(", ");
                let before = address(self);
                self.adopt(generation);
                if self.handover.current() == Some(generation) {
                    self.socketless = false;
                    // It was taken for one without sockets, or has opened one more.
                    if address(self) != before {
                        let (name, address) = (self.start.package().to_owned(), address(self));
                        self.out.push(Notice::Listening { name, address });
                    }
                }
                self.accepts(now, generation, all, first);
            }
            Seen::Closed => self.stopped_accepting(now, generation),
            Seen::Live { live, busy } => {
                self.handover.live(generation, busy);
                if !std::mem::replace(&mut started.said_draining, true) {
                    self.out.push(Notice::Draining { generation, live, after: 0, limit: None });
                }
            }
            Seen::Drained => {
                let actions = self.handover.drained(now, generation);
                self.perform(now, actions);
            }
            Seen::Ended => self.terminate(now, generation),
            Seen::Occupied { address, by } => {
                started.refused.insert(address);
                let by = by.unwrap_or_else(|| "another process".to_owned());
                self.note(format!(
                    "{address}, which generation {generation} asks for, is taken by {by}: stop that first, or choose another address"
                ));
            }
            Seen::Had { address } => drop(started.refused.remove(&address)),
            Seen::Tied => self.once(
                "tied",
                "the program has given its socket to another process, or to an event loop that cannot be reached, before it binds it, so \
                 that the held one cannot take its place: bind it first, or use `handoff = \"none\"`"
                    .to_owned(),
            ),
            Seen::Blind(why) => self.is_blind(now, generation, why),
            Seen::CannotLook(error) if descriptors::is_out(&error) => {
                // How many there are is not known.
                self.handover.live(generation, None);
                self.once(
                    "descriptors",
                    format!(
                        "the connections of the program cannot be looked at, as this command has no descriptor left ({error}): kept ones \
                         last until `drain-timeout`, and an answer may be cut then. Raise its limit of open files (ulimit -n)"
                    ),
                );
            }
            Seen::CannotLook(error) => self.once(
                "connections",
                format!(
                    "the connections of the program cannot be looked at ({error}), so kept ones last until `drain-timeout` and an \
                     answer may be cut then. Allow pidfd_getfd(2), in a container by the capability SYS_PTRACE"
                ),
            ),
        }
    }

    /// The first accept(2) is readiness, where nothing better was promised.
    fn accepts(&mut self, now: Instant, generation: Generation, all: bool, first: bool) {
        match self.ready {
            Ready::Accept | Ready::Auto => {}
            Ready::Notify | Ready::Http(_) | Ready::Delay(_) => return,
        }
        let says_it = self.notifies && self.ready == Ready::Auto;
        let Some(started) = self.generations.get(&generation) else { return };
        let instead = self.binds_instead(started);
        match started.takes {
            Takes::ListenFds if says_it && !instead => {}
            // It need not say so when nobody else has asked it to.
            Takes::Bind | Takes::ListenFds if says_it && self.handover.starting() == Some(generation) => {
                if first {
                    self.alive_at.insert(generation, now + ALIVE);
                }
            }
            Takes::Library | Takes::ListenFds | Takes::Bind | Takes::Nothing if all && self.has_all(generation) => {
                self.is_ready(now, generation);
            }
            // The others are about to follow; one on which nobody ever accepts is not waited for.
            Takes::Library | Takes::ListenFds | Takes::Bind | Takes::Nothing => {
                if first && self.handover.starting() == Some(generation) {
                    self.alive_at.insert(generation, now + ALIVE);
                }
            }
        }
    }

    /// Whether it listens wherever the one before it did: if not, it may be about to.
    fn has_all(&self, generation: Generation) -> bool {
        let Some(started) = self.generations.get(&generation) else { return true };
        self.held
            .iter()
            .filter(|socket| socket.wanted)
            .filter_map(|socket| socket.end.tcp())
            .all(|held| started.listens.contains(&held.inode))
    }

    fn is_blind(&mut self, now: Instant, generation: Generation, why: Blind) {
        let Some(started) = self.generations.get_mut(&generation) else { return };
        started.blind = true;
        if self.handover.starting() == Some(generation) && matches!(self.ready, Ready::Auto | Ready::Accept) {
            self.alive_at.insert(generation, now + ALIVE);
        }
        let what = match why {
            Blind::IoUring => "the program takes its connections by io_uring, where no gate can be closed".to_owned(),
            Blind::Memory(error) => {
                format!("the program does not let its memory and descriptors be looked at ({error})")
            }
        };
        self.once(
            "blind",
            format!(
                "{what}: it is stopped before the new one starts. Use the hotrun library, and it will serve meanwhile"
            ),
        );
    }

    /// There is no filter on this program: it is as if it had been started without.
    pub(super) fn gate_refused(&mut self, started: &mut Started, error: &std::io::Error) {
        self.gates = false;
        self.handover.without_probation();
        let lost = if started.takes == Takes::Bind {
            (started.takes, started.by) = (Takes::Nothing, HandOver::StopAndStart);
            if self.takes == Takes::Bind {
                self.takes = Takes::Nothing;
            }
            // It says all that the other note would.
            self.said_binds_for_itself = true;
            "the program is stopped before the new one starts, and clients are refused meanwhile"
        } else {
            "answers that the old program has begun are its own to finish after SIGTERM"
        };
        self.once(
            "gate",
            format!(
                "this system refuses what the zero-change hand-over needs (seccomp user notification, Linux 5.14: {error}), so {lost}. \
                 Allow seccomp(2), or use the hotrun library"
            ),
        );
    }

    /// Whether there is one that has been told to close, which will say when it has.
    pub(super) fn close_gate(&mut self, generation: Generation) -> bool {
        let which = self.which();
        let started = self.generations.get(&generation).filter(|started| started.hands_over_at_gate());
        let gate = started.and_then(|started| started.gate.as_ref());
        gate.inspect(|gate| gate.order(Order::Close(which))).is_some()
    }

    pub(super) fn open_gate(&mut self, generation: Generation) {
        if let Some(gate) = self.generations.get(&generation).and_then(|started| started.gate.as_ref()) {
            gate.order(Order::Open);
        }
    }

    /// Whether its connections are led to their end at its gate.
    pub(super) fn drain_at_gate(&mut self, generation: Generation) -> bool {
        let which = self.which();
        let patience = if self.handover.current().is_none() { Patience::Short } else { Patience::Whole };
        // What comes by a socket of another kind is not seen: the program has to finish it, and its whole time to do so.
        let all_tcp = self.held.iter().all(|socket| socket.end.tcp().is_some());
        let Some(started) = self.generations.get_mut(&generation).filter(|started| started.hands_over_at_gate()) else {
            return false;
        };
        let all_seen = started.takes == Takes::Bind || all_tcp;
        started.drains_at_gate = all_seen;
        if let Some(gate) = &started.gate {
            gate.order(if all_seen { Order::Drain(which, patience) } else { Order::Close(which) });
        }
        all_seen
    }

    /// What the current one listens on is no other's any more.
    pub(super) fn pass_on(&self) {
        if let Which::These(taken) = self.which() {
            let leaving = self.generations.values().filter(|started| started.drains_at_gate);
            for gate in leaving.filter_map(|started| started.gate.as_ref()) {
                gate.order(Order::Also(taken.clone()));
            }
        }
    }

    /// Those that leave are not waited for by clients of their own any more.
    pub(super) fn hurry_drains(&mut self) {
        for started in self.generations.values().filter(|started| started.drains_at_gate) {
            if let Some(gate) = &started.gate {
                gate.order(Order::Drain(Which::All, Patience::Short));
            }
        }
    }

    /// Whether what is left of its connections is being ended: it says when that is done.
    pub(super) fn end_at_gate(&mut self, generation: Generation) -> bool {
        let Some(started) = self.generations.get_mut(&generation) else { return false };
        let drains = std::mem::take(&mut started.drains_at_gate);
        if let Some(gate) = &started.gate {
            // One that was started in vain is given no connection on its way out.
            gate.order(if drains { Order::End } else { Order::Close(Which::All) });
        }
        drains
    }

    /// This process is about to be stopped: servers go on, and take their connections themselves meanwhile.
    pub fn suspend(&mut self) {
        // What one that is starting asks for must be answered here, and waits.
        self.left = self.handover.current().into_iter().collect();
        self.start.launcher.mind(&self.left_gates().filter_map(|(_, gate)| gate.leave().ok()).collect::<Vec<_>>());
    }

    /// This process goes on, if it was stopped after `suspend`.
    pub fn resume(&mut self) {
        if self.left.is_empty() {
            return;
        }
        self.start.launcher.relieve();
        for (started, gate) in self.left_gates() {
            gate.order(Order::Return);
            started.running.recall();
        }
        self.left.clear();
    }

    fn left_gates(&self) -> impl Iterator<Item = (&Started, &Gate)> {
        let started = self.left.iter().filter_map(|generation| self.generations.get(generation));
        started.filter_map(|started| Some((started, started.gate.as_ref()?)))
    }

    /// The sockets on which somebody else accepts from now on: all, where nobody does.
    fn which(&self) -> Which {
        match self.handover.current().and_then(|current| self.generations.get(&current)) {
            Some(current) if current.gate.is_some() => Which::These(current.listens.clone()),
            Some(_) | None => Which::All,
        }
    }

    pub(super) fn once(&mut self, what: &'static str, text: String) {
        if self.said.insert(what) {
            self.note(text);
        }
    }
}
