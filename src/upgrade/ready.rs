//! How it is noticed that a generation is ready: it says so, it answers, or it has lived long enough.
//! Never lives here: what follows from it (`handover`).

use super::generation::Started;
use super::probe::Probe;
use super::{Generation, Room, Said, Takes, sockets};
use crate::config::{HandOff, Ready};
use crate::process::Launcher;
use crate::report::HandOver;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a program that can tell nothing of itself must have lived to count as ready, and how long one that was expected to
/// say hello may be silent before it is looked at.
const ALIVE: Duration = Duration::from_millis(500);

impl Room {
    /// The generation has lived long enough to count as ready, or for its silence to be doubted.
    pub(super) fn still_alive(&mut self, now: Instant, generation: Generation, launcher: &mut Launcher) {
        self.alive_at.remove(&generation);
        if self.ready != Ready::Auto || self.takes != Takes::Library {
            return self.is_ready(now, generation, launcher);
        }
        let Some(mut started) = self.generations.remove(&generation) else { return };
        let is_other = self.doubt_library(&mut started);
        self.generations.insert(generation, started);
        if is_other {
            self.watch_for_ready(now, generation, launcher);
        }
    }

    /// A package that depends on the library may have programs that do not use it. Says whether this is one, now that it has
    /// had the time to say hello.
    pub(super) fn doubt_library(&mut self, started: &mut Started) -> bool {
        let expected = self.takes == Takes::Library && self.start.handoff == HandOff::Auto;
        if !expected || started.said_hello || started.program.uses_library() {
            return false;
        }
        (self.takes, started.by) = if self.listens {
            (Takes::ListenFds, HandOver::ListenFds)
        } else {
            (Takes::Nothing, HandOver::StopAndStart)
        };
        true
    }

    /// Sees to it that readiness is noticed, by the first means that this program has.
    pub(super) fn watch_for_ready(&mut self, now: Instant, generation: Generation, launcher: &mut Launcher) {
        let addresses = self.held.tcp_addresses();
        let Some(started) = self.generations.get_mut(&generation) else { return };
        let probe = match (&self.ready, self.takes) {
            (Ready::Notify, _) => return,
            (Ready::Auto, Takes::Library) => {
                self.alive_at.insert(generation, now + ALIVE);
                return;
            }
            (Ready::Auto, Takes::Nothing) => return self.is_ready(now, generation, launcher),
            (Ready::Auto, Takes::ListenFds) if self.notifies => return,
            (Ready::Delay(delay), _) => {
                self.alive_at.insert(generation, now + *delay);
                return;
            }
            (Ready::Auto | Ready::Accept, _) => Probe::Accept,
            (Ready::Http(path), _) => Probe::Http(path.clone()),
        };
        if !addresses.is_empty() {
            let sink = Arc::clone(&self.sink);
            started.probe(probe, addresses, move || sink(generation, Said::Probed));
        } else if self.takes != Takes::Library {
            self.alive_at.insert(generation, now + ALIVE);
        }
    }

    /// A first generation has no address to be asked at before it has bound one.
    pub(super) fn probe_what_is_bound(&mut self, generation: Generation) {
        let (Ready::Http(_) | Ready::Accept) = &self.ready else { return };
        let Some(started) = self.generations.get_mut(&generation) else { return };
        let bound = started.offered.iter().filter_map(|(_, fd)| sockets::tcp_address(fd));
        // All of them: which one answers what is asked is for the probe to find out.
        let addresses: Vec<_> = bound.chain(self.held.tcp_addresses()).collect();
        if addresses.is_empty() {
            return;
        }
        let probe = match &self.ready {
            Ready::Http(path) => Probe::Http(path.clone()),
            Ready::Auto | Ready::Notify | Ready::Accept | Ready::Delay(_) => Probe::Accept,
        };
        let sink = Arc::clone(&self.sink);
        started.probe(probe, addresses, move || sink(generation, Said::Probed));
    }
}
