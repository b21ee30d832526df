//! What comes when between the last accept and the end: linger, close what is idle, wait, force. A schedule that takes the
//! time as an argument.
//! Never lives here: why this process leaves (`succession`), and doing what is due (`control`).

use crate::serving::lifecycle::Phase;
use crate::settings::Pace;
use std::time::{Duration, Instant};

/// Longer than any process lives, and short enough to be added to any time.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nobody new comes to the listeners that go on accepting.
    CloseIntake,
    /// They stop: their queues are empty.
    Shut,
    /// Idle connections end.
    Drain,
    /// All connections end.
    Force,
}

#[derive(Debug)]
pub(crate) struct Retirement {
    pace: Pace,
    begun: Option<Begun>,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    since: Instant,
    intake: Intake,
}

/// How far the listeners are that nobody else serves, and that go on accepting for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intake {
    /// Somebody may still want them, until then.
    Open(Instant),
    /// Nobody new comes to them, since then.
    Closed(Instant),
    /// The last one has stopped, since then; or there was none.
    Shut(Instant),
}

impl Retirement {
    pub(crate) fn new(pace: Pace) -> Self {
        Retirement { pace, begun: None }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Somebody else knows when connections have had their time.
    pub(crate) fn without_deadline(&mut self) {
        self.pace.drain_timeout = FOR_EVER;
    }

    pub(crate) fn begin(&mut self, now: Instant, intake: Intake) {
        self.begun = Some(Begun { since: now, intake });
    }

    /// No listener is left that goes on accepting.
    pub(crate) fn shut(&mut self, now: Instant) {
        if let Some(begun) = &mut self.begun {
            begun.intake = Intake::Shut(now);
        }
    }

    /// Whether the queues of the listeners that go on accepting are to be watched.
    pub(crate) fn is_emptying(&self) -> bool {
        matches!(self.begun, Some(Begun { intake: Intake::Closed(_), .. }))
    }

    /// What is due now; `queued`: somebody waits in the queue of a listener that goes on accepting.
    #[must_use]
    pub(crate) fn due(&mut self, now: Instant, phase: Phase, queued: bool) -> Option<Due> {
        let deadline = self.deadline(phase, queued)?;
        if now < deadline {
            return None;
        }
        let begun = self.begun.as_mut()?;
        let (intake, step) = match begun.intake {
            _ if now >= begun.since + self.pace.drain_timeout => (Intake::Shut(now), Due::Force),
            Intake::Open(_) => (Intake::Closed(now), Due::CloseIntake),
            Intake::Closed(_) => (Intake::Shut(now), Due::Shut),
            Intake::Shut(at) => (Intake::Shut(at), Due::Drain),
        };
        begun.intake = intake;
        Some(step)
    }

    /// When it wants to be asked again. While somebody is `queued` it is the next accept that is waited for.
    pub(crate) fn deadline(&self, phase: Phase, queued: bool) -> Option<Instant> {
        let Begun { since, intake } = self.begun?;
        let end = since + self.pace.drain_timeout;
        match phase {
            Phase::Lingering => Some(match intake {
                Intake::Open(at) => end.min(at),
                Intake::Closed(_) if queued => end,
                Intake::Closed(at) | Intake::Shut(at) => end.min(at + self.pace.linger),
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

    fn retirement() -> (Retirement, Instant) {
        // The clock is only where the table starts from.
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        (Retirement::new(Pace { linger: 100 * MS, drain_timeout: 1000 * MS }), start)
    }

    #[test]
    fn nothing_is_due_before_it_begins() {
        let (mut retirement, start) = retirement();
        assert_eq!(
            (retirement.due(start, Phase::Serving, false), retirement.deadline(Phase::Serving, false)),
            (None, None)
        );
    }

    #[test]
    fn idle_connections_end_after_the_linger_time_and_all_at_the_deadline() {
        let (mut retirement, start) = retirement();
        retirement.begin(start, Intake::Shut(start));
        assert_eq!(retirement.due(start + 99 * MS, Phase::Lingering, false), None);
        assert_eq!(retirement.deadline(Phase::Lingering, false), Some(start + 100 * MS));
        assert_eq!(retirement.due(start + 100 * MS, Phase::Lingering, false), Some(Due::Drain));
        assert_eq!(retirement.due(start + 999 * MS, Phase::Draining, false), None);
        assert_eq!(retirement.deadline(Phase::Draining, false), Some(start + 1000 * MS));
        assert_eq!(retirement.due(start + 1000 * MS, Phase::Draining, false), Some(Due::Force));
        assert_eq!(retirement.due(start + 2000 * MS, Phase::Forced, false), None);
    }

    #[test]
    fn a_queue_is_emptied_first_and_its_last_client_may_linger_too() {
        let (mut retirement, start) = retirement();
        retirement.begin(start, Intake::Closed(start));
        assert_eq!(retirement.due(start + 100 * MS, Phase::Lingering, true), None);
        assert_eq!(retirement.deadline(Phase::Lingering, true), Some(start + 1000 * MS));
        assert_eq!(retirement.due(start + 130 * MS, Phase::Lingering, false), Some(Due::Shut));
        assert_eq!(retirement.due(start + 131 * MS, Phase::Lingering, false), None);
        assert_eq!(retirement.due(start + 230 * MS, Phase::Lingering, false), Some(Due::Drain));
    }

    #[test]
    fn an_intake_stays_open_for_whoever_may_still_want_it() {
        let (mut retirement, start) = retirement();
        retirement.begin(start, Intake::Open(start + 200 * MS));
        assert_eq!(retirement.due(start + 199 * MS, Phase::Lingering, true), None);
        assert_eq!(retirement.due(start + 200 * MS, Phase::Lingering, true), Some(Due::CloseIntake));
        assert_eq!(retirement.due(start + 299 * MS, Phase::Lingering, false), None);
        assert_eq!(retirement.due(start + 300 * MS, Phase::Lingering, false), Some(Due::Shut));

        let (mut retirement, start) = self::retirement();
        retirement.begin(start, Intake::Open(start + 200 * MS));
        retirement.shut(start + 50 * MS);
        assert_eq!(retirement.due(start + 150 * MS, Phase::Lingering, false), Some(Due::Drain));
    }

    #[test]
    fn a_queue_that_nobody_empties_holds_nothing_up_for_ever() {
        let (mut retirement, start) = retirement();
        retirement.begin(start, Intake::Closed(start));
        assert_eq!(retirement.due(start + 1000 * MS, Phase::Lingering, true), Some(Due::Force));
    }
}
