//! What becomes of a request for a successor: a state machine that takes what happens and the time, and says what to do.
//! Never lives here: doing it (`perform`), and what this process does between its last accept and its end (`retirement`).

use crate::Probation;
use std::time::{Duration, Instant};

/// So long after a successor has ended by itself, an operator who meant to confirm it may not have heard of that.
const UNHEARD: Duration = Duration::from_secs(1);

/// Where this process stands in the succession.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The sockets are a holder's, which decides about successors.
    Held,
    /// The process before may still come back.
    Unconfirmed,
    /// The sockets are served here until the process before returns under its number.
    Interim,
    /// As the two above, and this process wants to stop: the process before says what becomes of the sockets.
    AskedToLeave,
    /// This process is the one that has returned, and the interim one is still there.
    Relieving,
    Serving,
    /// A successor was started, and must be ready by then.
    Starting {
        by: Instant,
    },
    /// A successor serves; this process could at any moment. `None` is until an operator decides.
    Probation {
        until: Option<Instant>,
    },
    /// The successor serves, and this process leaves.
    Handed,
    Stopping,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// An upgrade is wanted: by a signal, which is remembered, or by a call, which gets an answer.
    Wanted(By),
    /// The process before has handed over for good, or is gone; or the interim one is.
    Confirmed,
    /// The process before serves, and this one is to finish what it has.
    Dismissed,
    /// The successor wants to leave.
    Leaves,
    /// The successor runs, or could not be started.
    Started,
    NotStarted,
    Ready,
    /// The successor has ended.
    Ended,
    /// The successor said what nobody understands.
    Garbled,
    /// An operator is content with the successor, or is not.
    Confirm(By),
    Back(By),
    StopWanted,
    Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Signal,
    Call,
}

/// What to do about it, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a successor, and say at once whether it runs.
    Start,
    /// Accept nothing that the successor accepts.
    Pause,
    /// Hand over for good. `again`: somebody wants one more upgrade, which is the successor's to do.
    Commit { again: bool },
    /// Accept again.
    Resume,
    /// The successor must not go on.
    Kill,
    /// The successor serves no more, but finishes what it has begun.
    Dismiss,
    /// What the caller, or whoever reads the log, must know.
    Report(Outcome),
    /// Stop serving, for good.
    Stop,
    /// Stop serving, for good, and have the successor do so: it has the sockets alone then.
    StopBoth,
    /// Ask the process before what becomes of the sockets.
    AskToLeave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The successor serves.
    Serves,
    /// No successor: it ended, it was not ready in time, it could not be understood.
    Ended,
    NotReady,
    Garbled,
    /// It served and ended, and this process serves again.
    RolledBack,
    /// It was told to leave, or wanted to, and this process serves.
    SentAway,
    /// The successor ended when this process had handed over already.
    Orphaned,
    /// Whatever was asked for cannot be done now.
    Refused(By),
    /// It will be done when the present upgrade has come to its end.
    Remembered,
    /// There is nobody to confirm, or to send away.
    NothingToConfirm(By),
}

#[derive(Debug)]
pub(crate) struct Succession {
    stage: Stage,
    /// One more upgrade was asked for by signals, however many there were.
    wanted: bool,
    ready_timeout: Duration,
    probation: Probation,
    /// The last successor was lost then, and no word of an operator has come since.
    lost_at: Option<Instant>,
}

impl Succession {
    pub(crate) fn new(stage: Stage, ready_timeout: Duration, probation: Probation) -> Self {
        Succession { stage, wanted: false, ready_timeout, probation, lost_at: None }
    }

    /// Whether a word to confirm was most likely meant for a successor that is not there any more; one word may be.
    #[must_use]
    pub(crate) fn comes_too_late(&mut self, now: Instant) -> bool {
        let lost_at = self.lost_at.take();
        lost_at.is_some_and(|lost_at| now.saturating_duration_since(lost_at) < UNHEARD)
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// When it wants to hear of the time again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Starting { by } => Some(by),
            Stage::Probation { until } => until,
            Stage::Held
            | Stage::Unconfirmed
            | Stage::Interim
            | Stage::AskedToLeave
            | Stage::Relieving
            | Stage::Serving
            | Stage::Handed
            | Stage::Stopping => None,
        }
    }

    #[must_use]
    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        match input {
            Input::Wanted(by) => self.wanted(now, by),
            Input::Confirmed => match self.stage {
                Stage::Held | Stage::Unconfirmed | Stage::Relieving => self.serve(now),
                // Whoever was to return has gone: the service is at its end, as whoever started it sees it.
                Stage::Interim | Stage::AskedToLeave => {
                    self.stage = Stage::Stopping;
                    vec![Action::Stop]
                }
                Stage::Serving | Stage::Starting { .. } | Stage::Probation { .. } | Stage::Handed | Stage::Stopping => {
                    vec![]
                }
            },
            Input::Dismissed => {
                self.stage = Stage::Stopping;
                self.wanted = false;
                vec![]
            }
            Input::Leaves if self.on_probation() => self.send_away(now),
            // It has no clients yet, and need not be waited for.
            Input::Leaves if self.has_successor() => self.lost(now, Outcome::SentAway),
            Input::Leaves => vec![],
            // `Start` was answered at once: nothing else can have happened in between.
            Input::Started => vec![],
            // A second try of the same would end the same way, and the caller has its answer.
            Input::NotStarted => {
                self.stage = Stage::Serving;
                self.wanted = false;
                vec![]
            }
            Input::Ready => self.ready(now),
            Input::Ended => self.lost(now, Outcome::Ended),
            Input::Garbled => self.lost(now, Outcome::Garbled),
            Input::Confirm(_) if self.on_probation() => self.commit(),
            Input::Back(_) if self.on_probation() => self.send_away(now),
            Input::Back(_) if self.has_successor() => self.lost(now, Outcome::SentAway),
            Input::Confirm(by) | Input::Back(by) => vec![Action::Report(Outcome::NothingToConfirm(by))],
            Input::StopWanted => self.stop(),
            Input::Time if self.deadline().is_none_or(|deadline| now < deadline) => vec![],
            Input::Time if self.on_probation() => self.commit(),
            Input::Time => self.lost(now, Outcome::NotReady),
        }
    }

    fn on_probation(&self) -> bool {
        matches!(self.stage, Stage::Probation { .. })
    }

    /// One that has not been handed over to.
    fn has_successor(&self) -> bool {
        self.on_probation() || matches!(self.stage, Stage::Starting { .. })
    }

    fn wanted(&mut self, now: Instant, by: By) -> Vec<Action> {
        match (self.stage, by) {
            (Stage::Serving, _) => {
                self.stage = Stage::Starting { by: now + self.ready_timeout };
                vec![Action::Start]
            }
            (Stage::Unconfirmed | Stage::Relieving | Stage::Starting { .. } | Stage::Probation { .. }, By::Signal) => {
                let first = !std::mem::replace(&mut self.wanted, true);
                first.then_some(Action::Report(Outcome::Remembered)).into_iter().collect()
            }
            (_, by) => vec![Action::Report(Outcome::Refused(by))],
        }
    }

    /// This process serves, and does what was asked of it meanwhile.
    fn serve(&mut self, now: Instant) -> Vec<Action> {
        self.stage = Stage::Serving;
        if std::mem::take(&mut self.wanted) {
            return self.wanted(now, By::Signal);
        }
        vec![]
    }

    fn ready(&mut self, now: Instant) -> Vec<Action> {
        if !matches!(self.stage, Stage::Starting { .. }) {
            return vec![];
        }
        let until = match self.probation {
            Probation::For(window) if window.is_zero() => {
                let mut actions = vec![Action::Report(Outcome::Serves)];
                actions.extend(self.commit());
                return actions;
            }
            Probation::For(window) => Some(now + window),
            Probation::Manual => None,
        };
        self.stage = Stage::Probation { until };
        vec![Action::Pause, Action::Report(Outcome::Serves)]
    }

    fn commit(&mut self) -> Vec<Action> {
        self.stage = Stage::Handed;
        vec![Action::Commit { again: std::mem::take(&mut self.wanted) }]
    }

    /// The successor finishes what it has, and this process serves.
    fn send_away(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = vec![Action::Dismiss, Action::Resume, Action::Report(Outcome::SentAway)];
        actions.extend(self.serve(now));
        actions
    }

    /// The successor is not there any more, or must not be.
    fn lost(&mut self, now: Instant, outcome: Outcome) -> Vec<Action> {
        let mut actions = match self.stage {
            Stage::Starting { .. } => vec![Action::Kill, Action::Report(outcome)],
            Stage::Probation { .. } => {
                let outcome = if outcome == Outcome::Ended { Outcome::RolledBack } else { outcome };
                vec![Action::Kill, Action::Resume, Action::Report(outcome)]
            }
            Stage::Handed if outcome == Outcome::Ended => return vec![Action::Report(Outcome::Orphaned)],
            Stage::Handed => return vec![],
            Stage::Held
            | Stage::Unconfirmed
            | Stage::Interim
            | Stage::AskedToLeave
            | Stage::Relieving
            | Stage::Serving
            | Stage::Stopping => return vec![],
        };
        if outcome != Outcome::SentAway {
            self.lost_at = Some(now);
        }
        actions.extend(self.serve(now));
        actions
    }

    fn stop(&mut self) -> Vec<Action> {
        let actions = match self.stage {
            Stage::Held | Stage::AskedToLeave | Stage::Relieving | Stage::Serving => vec![Action::Stop],
            Stage::Unconfirmed | Stage::Interim => {
                self.stage = Stage::AskedToLeave;
                return vec![Action::AskToLeave];
            }
            Stage::Starting { .. } => vec![Action::Kill, Action::Stop],
            // The service is to stop, whoever of the two is asked.
            Stage::Probation { .. } => {
                self.stage = Stage::Handed;
                return vec![Action::StopBoth];
            }
            Stage::Handed | Stage::Stopping => return vec![],
        };
        self.stage = Stage::Stopping;
        actions
    }
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
