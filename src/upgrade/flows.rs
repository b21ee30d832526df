//! Whether generations that leave go on answering, as is seen from outside, so that one that does is not ended for it.
//! Never lives here: how long one has (`handover`), and what a connection is (`gate`).

use super::gate::Flow;
use super::{Generation, Room, proc};
use std::collections::{BTreeMap, BTreeSet};
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
}

impl Room {
    /// Also in the moment in which one would be ended.
    pub(super) fn look_at_flows(&mut self, now: Instant) {
        let leaving: BTreeSet<Generation> = self.handover.leaving().collect();
        self.flows.of.retain(|generation, _| leaving.contains(generation));
        let is_due = self.flows.next.is_none_or(|next| next <= now);
        if !is_due && self.handover.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        for generation in &leaving {
            let Some(started) = self.generations.get(generation) else { continue };
            let held = self.held.tcp_addresses();
            let flow =
                self.flows.of.entry(*generation).or_insert_with(|| Flow::to_ports(held.iter().map(|at| at.port())));
            let seen = flow.look(&proc::family(started.running.pid()).into_iter().collect());
            if seen.moved {
                self.handover.progress(now, *generation, seen.live);
            }
        }
        self.flows.next = (!leaving.is_empty()).then(|| now + self.flows.pace);
    }
}
