//! Whether generations that leave go on answering, as is seen from outside, so that one that does is not ended for it.
//! Never lives here: how long one has (`handover`), and what a connection is (`intercept`).

use super::intercept::Flow;
use super::{Generation, proc};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The longest and the shortest time between two looks.
const SELDOM: Duration = Duration::from_millis(500);
const OFTEN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Flows {
    pace: Duration,
    of: BTreeMap<Generation, Flow>,
    next: Option<Instant>,
}

impl Flows {
    /// `time` is what one that stands still has.
    pub fn new(time: Duration) -> Flows {
        Flows { pace: (time / 5).clamp(OFTEN, SELDOM), of: BTreeMap::new(), next: None }
    }

    /// When there is something to look at.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Looks at those that leave, by their processes, if it is time to or if `at_once`. Returns those that have answered something, with
    /// how many connections they have.
    pub fn look(
        &mut self,
        now: Instant,
        leaving: &BTreeMap<Generation, u32>,
        addresses: &[SocketAddr],
        at_once: bool,
    ) -> Vec<(Generation, usize)> {
        self.of.retain(|generation, _| leaving.contains_key(generation));
        if !at_once && self.next.is_some_and(|next| next > now) {
            return Vec::new();
        }
        self.next = (!leaving.is_empty()).then(|| now + self.pace);
        let moved = leaving.iter().filter_map(|(generation, process)| {
            let flow =
                self.of.entry(*generation).or_insert_with(|| Flow::to_ports(addresses.iter().map(SocketAddr::port)));
            let seen = flow.look(&proc::family(*process).into_iter().collect());
            seen.moved.then_some((*generation, seen.live))
        });
        moved.collect()
    }
}
