//! How it is noticed that a generation is ready: it says so, it answers, or it has lived long enough.
//! Never lives here: what follows from it (`handover`).

use super::generation::Started;
use super::probe::Probe;
use super::quiet::FIRST_LOOK;
use super::{Generation, Room, Said, Takes};
use crate::config::Ready;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a program that can tell nothing of itself must have lived to count as ready.
pub(super) const ALIVE: Duration = Duration::from_millis(500);

impl Room {
    /// The generation has lived long enough to count as ready.
    pub(super) fn still_alive(&mut self, now: Instant, generation: Generation) {
        self.alive_at.remove(&generation);
        let waits = |started: &Started| started.gate.is_some() && !started.blind && !started.accepts;
        let listens = |started: &Started| !started.listens.is_empty();
        // One that has bound a socket, and one whose predecessor had one, will ask for a connection in time.
        let served = !self.held.tcp_addresses().is_empty();
        let is_slow = |started: &Started| waits(started) && (listens(started) || served);
        let Some(started) = self.generations.get(&generation) else { return };
        if self.ready == Ready::Auto && is_slow(started) {
            return;
        }
        if self.is_looked_at(started) {
            return self.look(now, generation);
        }
        // What it accepts on is its own, or what it was handed: then it says when it is ready.
        let says_it = self.ready == Ready::Auto && started.takes == Takes::ListenFds && self.notifies;
        if says_it && started.gate.is_some() && !started.blind && !self.binds_instead(started) {
            return;
        }
        self.is_ready(now, generation);
    }

    /// Sees to it that readiness is noticed, by the first means that this program has.
    pub(super) fn watch_for_ready(&mut self, now: Instant, generation: Generation) {
        let addresses = self.held.tcp_addresses();
        let Some(started) = self.generations.get_mut(&generation) else { return };
        let gated = started.gate.is_some();
        let probe = match (&self.ready, started.takes) {
            (Ready::Notify, _) => return,
            // It is a program without sockets, as the one before, or is not known yet.
            (Ready::Auto, Takes::Bind) if gated && addresses.is_empty() => {
                self.alive_at.insert(generation, now + FIRST_LOOK);
                return;
            }
            (Ready::Auto, Takes::ListenFds) if gated && self.notifies => return,
            // Only what listens for TCP is seen to accept.
            (Ready::Auto, Takes::ListenFds) if gated && addresses.is_empty() => {
                self.alive_at.insert(generation, now + ALIVE);
                return;
            }
            (Ready::Auto | Ready::Accept, _) if gated && !started.blind => return,
            // It says so itself.
            (Ready::Auto, Takes::Library) => return,
            (Ready::Auto, Takes::ListenFds) if self.notifies => return,
            (Ready::Delay(delay), _) => {
                self.alive_at.insert(generation, now + *delay);
                return;
            }
            // Its calls are not seen.
            (Ready::Auto | Ready::Accept | Ready::Http(_), Takes::Nothing | Takes::Bind) if !gated => {
                self.alive_at.insert(generation, now + FIRST_LOOK);
                return;
            }
            // Until it has bound an address there is none to ask at.
            (Ready::Http(_), Takes::Bind) if gated && addresses.is_empty() => return,
            (Ready::Auto | Ready::Accept, _) => Probe::Accept,
            (Ready::Http(path), _) => Probe::Http(path.clone()),
        };
        if !addresses.is_empty() {
            self.probe(generation, probe, addresses);
        } else if started.takes != Takes::Library {
            self.alive_at.insert(generation, now + ALIVE);
        }
    }

    /// A first generation has no address to be asked at before it has bound one.
    pub(super) fn probe_what_is_bound(&mut self, generation: Generation) {
        let (Ready::Http(_) | Ready::Accept) = &self.ready else { return };
        let Some(started) = self.generations.get_mut(&generation) else { return };
        if self.ready == Ready::Accept && started.gate.is_some() && !started.blind {
            // Its first accept is seen.
            return;
        }
        let bound = started.offered.iter().filter_map(|(_, end)| Some(end.tcp()?.address));
        // All of them: which one answers what is asked is for the probe to find out.
        let addresses: Vec<_> = bound.chain(self.held.tcp_addresses()).collect();
        if addresses.is_empty() {
            return;
        }
        let probe = match &self.ready {
            Ready::Http(path) => Probe::Http(path.clone()),
            Ready::Auto | Ready::Notify | Ready::Accept | Ready::Delay(_) => Probe::Accept,
        };
        self.probe(generation, probe, addresses);
    }

    fn probe(&mut self, generation: Generation, probe: Probe, addresses: Vec<SocketAddr>) {
        let Some(started) = self.generations.get_mut(&generation) else { return };
        let sink = Arc::clone(&self.sink);
        if let Err(error) = started.probe(probe, addresses, move || sink(generation, Said::Probed)) {
            // Its readiness would never be heard of: its end is.
            started.running.signal_group(Signal::SIGKILL);
            self.note(format!("generation {generation} is ended, as it cannot be asked whether it is ready: {error}"));
        }
    }
}
