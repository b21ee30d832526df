//! How it is noticed that a generation is ready: it says so, it answers, or it has lived long enough.
//! Never lives here: what follows from it (`handover`).

use super::generation::Started;
use super::probe::Probe;
use super::{Generation, Room, Said, Takes};
use crate::config::Ready;
use crate::process::Launcher;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a program that can tell nothing of itself must have lived to count as ready.
pub(super) const ALIVE: Duration = Duration::from_millis(500);
/// How long the first program of a session may live without binding anything until it counts as one without sockets.
const SOCKETLESS: Duration = Duration::from_secs(2);

impl Room {
    /// The generation has lived long enough to count as ready.
    pub(super) fn still_alive(&mut self, now: Instant, generation: Generation, launcher: &mut Launcher) {
        self.alive_at.remove(&generation);
        let waits = |started: &Started| started.gate.is_some() && !started.blind && !started.accepts;
        let listens = |started: &Started| !started.listens.is_empty();
        // One that has bound a socket, and one whose predecessor had one, will ask for a connection in time.
        let served = !self.held.tcp_addresses().is_empty();
        let is_slow = |started: &Started| waits(started) && (listens(started) || served);
        if self.ready == Ready::Auto && self.generations.get(&generation).is_some_and(is_slow) {
            return;
        }
        self.is_ready(now, generation, launcher);
    }

    /// Sees to it that readiness is noticed, by the first means that this program has.
    pub(super) fn watch_for_ready(&mut self, now: Instant, generation: Generation, launcher: &mut Launcher) {
        let addresses = self.held.tcp_addresses();
        let Some(started) = self.generations.get_mut(&generation) else { return };
        let gated = started.gate.is_some();
        let probe = match (&self.ready, started.takes) {
            (Ready::Notify, _) => return,
            // It is a program without sockets, as the one before, or is not known yet.
            (Ready::Auto, Takes::Bind) if gated && addresses.is_empty() => {
                if self.socketless {
                    return self.is_ready(now, generation, launcher);
                }
                self.alive_at.insert(generation, now + SOCKETLESS);
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
            (Ready::Auto, Takes::Nothing | Takes::Bind) => return self.is_ready(now, generation, launcher),
            (Ready::Auto, Takes::ListenFds) if self.notifies => return,
            (Ready::Delay(delay), _) => {
                self.alive_at.insert(generation, now + *delay);
                return;
            }
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
