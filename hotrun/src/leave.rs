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

/// Longer than any process lives, and short enough to be added to any time.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nobody new comes to the listeners that go on accepting.
    CloseEntrance,
    /// They stop: their queues are empty.
    Shut,
    /// Idle connections end.
    Drain,
    /// All connections end.
    Force,
}

/// Listeners that nobody else serves, and that go on accepting for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    None,
    /// Nobody new comes to them from now on.
    Closed,
    /// Somebody may still want them, until then.
    OpenFor(Duration),
}

#[derive(Debug)]
pub(crate) struct Leave {
    pace: Pace,
    begun: Option<Begun>,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    since: Instant,
    entrance: Entrance,
}

/// How far the listeners are that go on accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// Until then.
    Open(Instant),
    /// Since then, as below.
    Closed(Instant),
    /// The last one has stopped.
    Shut(Instant),
}

impl Leave {
    pub(crate) fn new(pace: Pace) -> Self {
        Leave { pace, begun: None }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Somebody else knows when connections have had their time.
    pub(crate) fn without_deadline(&mut self) {
        self.pace.drain_timeout = FOR_EVER;
    }

    pub(crate) fn begin(&mut self, now: Instant, left: Left) {
        let entrance = match left {
            Left::None => Entrance::Shut(now),
            Left::Closed => Entrance::Closed(now),
            Left::OpenFor(time) => Entrance::Open(now + time),
        };
        self.begun = Some(Begun { since: now, entrance });
    }

    /// No listener is left that goes on accepting.
    pub(crate) fn shut(&mut self, now: Instant) {
        if let Some(begun) = &mut self.begun {
            begun.entrance = Entrance::Shut(now);
        }
    }

    /// Whether the queues of the listeners that go on accepting are to be watched.
    pub(crate) fn is_emptying(&self) -> bool {
        matches!(self.begun, Some(Begun { entrance: Entrance::Closed(_), .. }))
    }

    /// What is due now; `queued`: somebody waits in the queue of a listener that goes on accepting.
    #[must_use]
    pub(crate) fn due(&mut self, now: Instant, phase: Phase, queued: bool) -> Option<Step> {
        let deadline = self.deadline(phase, queued)?;
        if now < deadline {
            return None;
        }
        let begun = self.begun.as_mut()?;
        let (entrance, step) = match begun.entrance {
            _ if now >= begun.since + self.pace.drain_timeout => (Entrance::Shut(now), Step::Force),
            Entrance::Open(_) => (Entrance::Closed(now), Step::CloseEntrance),
            Entrance::Closed(_) => (Entrance::Shut(now), Step::Shut),
            Entrance::Shut(at) => (Entrance::Shut(at), Step::Drain),
        };
        begun.entrance = entrance;
        Some(step)
    }

    /// When it wants to be asked again. While somebody is `queued` it is the next accept that is waited for.
    pub(crate) fn deadline(&self, phase: Phase, queued: bool) -> Option<Instant> {
        let Begun { since, entrance } = self.begun?;
        let end = since + self.pace.drain_timeout;
        match phase {
            Phase::Lingering => Some(match entrance {
                Entrance::Open(at) => end.min(at),
                Entrance::Closed(_) if queued => end,
                Entrance::Closed(at) | Entrance::Shut(at) => end.min(at + self.pace.linger),
            }),
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
        leave.begin(start, Left::None);
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
        leave.begin(start, Left::Closed);
        assert_eq!(leave.due(start + 100 * MS, Phase::Lingering, true), None);
        assert_eq!(leave.deadline(Phase::Lingering, true), Some(start + 1000 * MS));
        assert_eq!(leave.due(start + 130 * MS, Phase::Lingering, false), Some(Step::Shut));
        assert_eq!(leave.due(start + 131 * MS, Phase::Lingering, false), None);
        assert_eq!(leave.due(start + 230 * MS, Phase::Lingering, false), Some(Step::Drain));
    }

    #[test]
    fn an_entrance_stays_open_for_whoever_may_still_want_it() {
        let (mut leave, start) = leave();
        leave.begin(start, Left::OpenFor(200 * MS));
        assert_eq!(leave.due(start + 199 * MS, Phase::Lingering, true), None);
        assert_eq!(leave.due(start + 200 * MS, Phase::Lingering, true), Some(Step::CloseEntrance));
        assert_eq!(leave.due(start + 299 * MS, Phase::Lingering, false), None);
        assert_eq!(leave.due(start + 300 * MS, Phase::Lingering, false), Some(Step::Shut));

        let (mut leave, start) = self::leave();
        leave.begin(start, Left::OpenFor(200 * MS));
        leave.shut(start + 50 * MS);
        assert_eq!(leave.due(start + 150 * MS, Phase::Lingering, false), Some(Step::Drain));
    }

    #[test]
    fn a_queue_that_nobody_empties_holds_nothing_up_for_ever() {
        let (mut leave, start) = leave();
        leave.begin(start, Left::Closed);
        assert_eq!(leave.due(start + 1000 * MS, Phase::Lingering, true), Some(Step::Force));
    }
}
