//! Programs of which no call tells whether they serve: those without a gate, and those that have bound nothing that is held. They are
//! looked at until they listen, or have long enough not done so to have no sockets at all.
//! Never lives here: what is seen at a gate (`gated`).

use super::generation::Started;
use super::ready::ALIVE;
use super::{Generation, Room, Takes, proc};
use crate::config::Ready;
use std::time::{Duration, Instant};

/// From the start to the first look; what listens at two in a row is no port that was only tried.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(25);
/// How long a program that cannot listen, by what it is linked with, lives until it counts as ready.
const SOCKETLESS: Duration = Duration::from_secs(2);

impl Room {
    pub(super) fn is_looked_at(&self, started: &Started) -> bool {
        let binds =
            matches!(started.takes, Takes::Nothing | Takes::Bind) && started.listens.is_empty() && !started.blind;
        let by_socket = matches!(self.ready, Ready::Auto | Ready::Accept | Ready::Http(_));
        binds && (self.ready == Ready::Auto || by_socket && started.gate.is_none())
    }

    pub(super) fn look(&mut self, now: Instant, generation: Generation) {
        if self.handover.starting() != Some(generation) {
            return;
        }
        let Some(started) = self.generations.get_mut(&generation) else { return };
        let seen = proc::listening(started.running.pid());
        // What is held is told of by its gate, which may be behind what is seen here.
        let is_held =
            |socket: &u64| started.gate.is_some() && self.held.shelf.find(|held| held.inode == *socket).is_some();
        let stays = seen.intersection(&started.seen).any(|socket| !is_held(socket));
        started.seen = seen;
        let age = now.saturating_duration_since(started.at);
        if stays || self.has_no_sockets(generation, age) {
            return self.is_ready(now, generation);
        }
        self.alive_at.insert(generation, now + (age / 4).clamp(FIRST_LOOK, ALIVE));
    }

    /// A server that reads a database before it binds is not ready, while a worker has to be some time.
    fn has_no_sockets(&mut self, generation: Generation, age: Duration) -> bool {
        let Some(started) = self.generations.get_mut(&generation) else { return false };
        if self.ready != Ready::Auto || !started.seen.is_empty() || !started.refused.is_empty() {
            return false;
        }
        // As the one before it.
        if self.socketless {
            return age >= ALIVE;
        }
        if age < SOCKETLESS.min(self.patience) {
            return false;
        }
        if !started.can_listen() {
            return true;
        }
        if age < self.patience {
            return false;
        }
        let patience = self.patience.as_secs_f64();
        self.once(
            "no sockets",
            format!(
                "generation {generation} has bound nothing within {patience} s (half of `ready-timeout`), though it could: it is taken \
                 for a program without sockets"
            ),
        );
        true
    }
}
