//! What comes when between the last accept and the end: linger, close what is idle, wait, force. A schedule that takes the
//! time as an argument.
//! Never lives here: why this process leaves (`succession`), and doing what is due (`control`).

use crate::state::Phase;
use std::time::{Duration, Instant};

/// How long the steps of leaving may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// From the end of accepting until idle connections are closed.
    pub(crate) linger: Duration,
    /// From the end of accepting until the connections that are left are shut down.
    pub(crate) drain_timeout: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The listeners that went on accepting stop.
    Shut,
    /// Idle connections end.
    Drain,
    /// All connections end.
    Force,
}

#[derive(Debug)]
pub(crate) struct Leave {
    pace: Pace,
    since: Option<Instant>,
    /// When the last listener stopped.
    shut_at: Option<Instant>,
}

impl Leave {
    pub(crate) fn new(pace: Pace) -> Self {
        Leave { pace, since: None, shut_at: None }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.since.is_some()
    }

    /// `all`: no listener goes on accepting.
    pub(crate) fn begin(&mut self, now: Instant, all: bool) {
        self.since = Some(now);
        self.shut_at = all.then_some(now);
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.shut_at.is_some()
    }

    /// What is due now; `queued`: somebody waits in the queue of a listener that goes on accepting.
    #[must_use]
    pub(crate) fn due(&mut self, now: Instant, phase: Phase, queued: bool) -> Option<Step> {
        let since = self.since?;
        let forced = now >= since + self.pace.drain_timeout;
        match phase {
            Phase::Lingering | Phase::Draining if forced => {
                self.shut_at.get_or_insert(now);
                Some(Step::Force)
            }
            Phase::Lingering => match self.shut_at {
                Some(shut_at) => (now >= shut_at + self.pace.linger).then_some(Step::Drain),
                None if now >= since + self.pace.linger && !queued => {
                    self.shut_at = Some(now);
                    Some(Step::Shut)
                }
                None => None,
            },
            Phase::Serving | Phase::Paused | Phase::Draining | Phase::Forced => None,
        }
    }

    /// When it wants to be asked again. While somebody is `queued` it is the next accept that is waited for.
    pub(crate) fn deadline(&self, phase: Phase, queued: bool) -> Option<Instant> {
        let since = self.since?;
        let end = since + self.pace.drain_timeout;
        match phase {
            Phase::Lingering => match self.shut_at {
                Some(shut_at) => Some(end.min(shut_at + self.pace.linger)),
                None if queued => Some(end),
                None => Some(end.min(since + self.pace.linger)),
            },
            Phase::Draining => Some(end),
            Phase::Serving | Phase::Paused | Phase::Forced => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn leave() -> (Leave, Instant) {
        // The clock is only where the table starts from.
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        (Leave::new(Pace { linger: 100 * MS, drain_timeout: 1000 * MS }), start)
    }

    #[test]
    fn nothing_is_due_before_it_begins() {
        let (mut leave, start) = leave();
        assert_eq!((leave.due(start, Phase::Serving, false), leave.deadline(Phase::Serving, false)), (None, None));
    }

    #[test]
    fn idle_connections_end_after_the_linger_time_and_all_at_the_deadline() {
        let (mut leave, start) = leave();
        leave.begin(start, true);
        assert_eq!(leave.due(start + 99 * MS, Phase::Lingering, false), None);
        assert_eq!(leave.deadline(Phase::Lingering, false), Some(start + 100 * MS));
        assert_eq!(leave.due(start + 100 * MS, Phase::Lingering, false), Some(Step::Drain));
        assert_eq!(leave.due(start + 999 * MS, Phase::Draining, false), None);
        assert_eq!(leave.deadline(Phase::Draining, false), Some(start + 1000 * MS));
        assert_eq!(leave.due(start + 1000 * MS, Phase::Draining, false), Some(Step::Force));
        assert_eq!(leave.due(start + 2000 * MS, Phase::Forced, false), None);
    }

    #[test]
    fn a_queue_is_emptied_first_and_its_last_client_may_linger_too() {
        let (mut leave, start) = leave();
        leave.begin(start, false);
        assert_eq!(leave.due(start + 100 * MS, Phase::Lingering, true), None);
        assert_eq!(leave.deadline(Phase::Lingering, true), Some(start + 1000 * MS));
        assert_eq!(leave.due(start + 130 * MS, Phase::Lingering, false), Some(Step::Shut));
        assert_eq!(leave.due(start + 131 * MS, Phase::Lingering, false), None);
        assert_eq!(leave.due(start + 230 * MS, Phase::Lingering, false), Some(Step::Drain));
    }

    #[test]
    fn a_queue_that_nobody_empties_holds_nothing_up_for_ever() {
        let (mut leave, start) = leave();
        leave.begin(start, false);
        assert_eq!(leave.due(start + 1000 * MS, Phase::Lingering, true), Some(Step::Force));
    }
}
