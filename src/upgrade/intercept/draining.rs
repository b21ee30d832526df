//! Leads the connections of a program to their end: when they are looked at, and what is told of them.
//! Never lives here: what becomes of one connection (`drain`).

use super::Seen;
use super::connections::{Connections, Count};
use super::drain::Patience;
use super::supervised::Supervised;
use std::time::{Duration, Instant};

/// Between two looks at connections: the kernel has no event for an answer that is over.
const LOOK: Duration = Duration::from_millis(5);
const SLOWEST_LOOK: Duration = Duration::from_millis(50);

pub struct Draining {
    connections: Connections,
    patience: Patience,
    /// When they are looked at.
    pub next: Instant,
    last: Option<Count>,
    said_cannot_look: bool,
}

/// What was found at a look.
#[derive(Debug)]
pub enum Looked {
    /// No connection.
    Nothing,
    News(Seen),
    NoNews,
}

impl Draining {
    /// What was done to connections `before` is known, where they are only hurried now.
    pub fn begin(now: Instant, before: Option<Draining>, program: &Supervised, patience: Patience) -> Draining {
        let ports = || program.uses.iter().map(|used| used.listener.address.port());
        let mut connections = before.map_or_else(|| Connections::to_ports(ports()), |before| before.connections);
        // At once: a client that asks again after `Closed` is told is not answered by this generation. What is found is found again at the
        // next look.
        connections.look(&program.callers.all(), patience).ok();
        Draining { connections, patience, next: now, last: None, said_cannot_look: false }
    }

    pub fn look(&mut self, program: &Supervised) -> Looked {
        match self.connections.look(&program.callers.all(), self.patience) {
            Ok(Count { live: 0, .. }) => Looked::Nothing,
            Ok(look) if self.last == Some(look) => Looked::NoNews,
            Ok(look) => {
                self.last = Some(look);
                Looked::News(Seen::Live { live: look.live, busy: look.busy })
            }
            Err(error) if !self.said_cannot_look => {
                self.said_cannot_look = true;
                // What is seen later is news again.
                self.last = None;
                Looked::News(Seen::CannotLook(error))
            }
            Err(_) => Looked::NoNews,
        }
    }

    /// However many there are, two thirds of the time are for the calls; but on a machine that is busy with something else a look takes
    /// long for another reason, and `drain-timeout` is of that time, too.
    pub fn rest_since(&mut self, began: Instant, now: Instant) {
        self.next = now + (now.saturating_duration_since(began) * 2).clamp(LOOK, SLOWEST_LOOK);
    }

    /// What is between two answers is ended. Says what there was.
    pub fn end(mut self, program: &Supervised) -> Seen {
        match self.connections.end_all(&program.callers.all()) {
            Ok(Count { live, busy }) => Seen::Live { live, busy },
            Err(error) => Seen::CannotLook(error),
        }
    }
}
