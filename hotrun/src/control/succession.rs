//! What becomes of a request for a successor: a state machine that takes what happens and the time, and says what to do.
//! Never lives here: doing it (`perform`), and what this process does between its last accept and its end (`retirement`).

use crate::{PidMode, Probation};
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
    /// The successor serves.
    Handed(Then),
    Stopping,
}

/// What becomes of this process when it has finished what it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Leaves,
    /// It becomes the new program under its own number, and serves again.
    Returns,
    /// It could not return: whoever watches it knows the service by its number, so it stays as long as the successor does.
    Stays,
    /// The successor has been told that the service is to stop.
    Stops,
}

impl Then {
    /// Whether what the successor asks for is its own at once: this process does not return to it.
    pub(crate) fn is_for_good(self) -> bool {
        matches!(self, Then::Leaves | Then::Stops)
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// An upgrade is wanted. A signal is remembered; a call gets an answer, so it asks for a `refusal` first.
    Wanted,
    /// The process before has handed over for good, or is gone; or the interim one is.
    Confirmed,
    /// The process before serves, and this one is to finish what it has.
    Dismissed,
    /// The successor wants to leave.
    Leaves,
    /// The successor could not be started.
    NotStarted,
    Ready,
    /// The successor has ended.
    Ended,
    /// The successor said what nobody understands.
    Garbled,
    /// An operator is content with the successor, or is not.
    Confirm,
    Back,
    /// A stop was asked for here, by a signal or a call.
    StopWanted(Asker),
    /// The process before, or a holder, says that this one is to stop for the whole service.
    StopPassedOn,
    /// This process could not become the new program.
    CannotReturn,
    Time,
}

/// Who most likely asks for a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Anybody,
    /// It holds the sockets, and sends the signal to a process that it has told to drain when its patience is over.
    Holder,
    /// A service manager that knows another process as the main one. It signals all processes when it stops the service, and
    /// those that are left once more when the main one has ended (systemd.kill(5), `SendSIGKILL=`): that is no hurry, as it
    /// has its own way when its patience is over.
    Manager,
}

/// What to do about it, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a successor, and say at once if that failed.
    Start,
    /// Accept nothing that the successor accepts.
    Pause,
    /// Hand over for good. `again`: somebody wants one more upgrade, which is the successor's to do.
    Commit { again: bool },
    /// Have the successor serve until this process returns under its number.
    Lend,
    /// Accept again.
    Resume,
    /// The successor must not go on.
    Kill,
    /// The successor serves no more, but finishes what it has begun.
    Dismiss,
    /// What the caller, or whoever reads the log, must know.
    Report(UpgradeOutcome),
    /// Stop serving, for good.
    Stop,
    /// Stop serving, for good, and have the successor do so: it has the sockets alone then.
    StopBoth,
    /// Tell whoever serves for this process to stop, and to hurry where it has been told before.
    PassStopOn,
    /// What the successor has asked for is its own for good.
    ReleaseTaken,
    /// End the connections that are left.
    Force,
    /// Ask the process before what becomes of the sockets.
    AskToLeave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpgradeOutcome {
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
    Orphaned {
        expected: bool,
    },
    Refused(Refusal),
    /// It will be done when the present upgrade has come to its end.
    Remembered,
    /// A stop was asked for, and connections are being finished already.
    Finishing,
}

/// Why there is no upgrade now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The sockets are somebody else's.
    Held,
    OnProbation,
    /// One is on its way, to the successor or, where this process has returned, to itself.
    InProgress,
    Returning,
    /// The successor has the sockets.
    HandedOver,
    Stopping,
}

#[derive(Debug)]
pub(crate) struct Succession {
    stage: Stage,
    /// One more upgrade was asked for by signals, however many there were.
    wanted: bool,
    ready_timeout: Duration,
    probation: Probation,
    pid_mode: PidMode,
    /// The last successor was lost then, and no word of an operator has come since.
    lost_at: Option<Instant>,
    /// A stop was asked for here: the next one is in a hurry.
    stop_asked: bool,
}

impl Succession {
    pub(crate) fn new(stage: Stage, ready_timeout: Duration, probation: Probation, pid_mode: PidMode) -> Self {
        Succession { stage, wanted: false, ready_timeout, probation, pid_mode, lost_at: None, stop_asked: false }
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

    /// Whether this process has stopped serving, for whatever reason.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Handed(_) | Stage::Stopping)
    }

    /// What becomes of this process, where the successor serves for good.
    pub(crate) fn handed(&self) -> Option<Then> {
        let Stage::Handed(then) = self.stage else { return None };
        Some(then)
    }

    /// Why an upgrade that is asked for now cannot be.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.stage {
            Stage::Serving => None,
            Stage::Held | Stage::Interim => Some(Refusal::Held),
            Stage::Unconfirmed => Some(Refusal::OnProbation),
            // It is a part of an upgrade that is not over.
            Stage::Relieving => Some(Refusal::Returning),
            Stage::Starting { .. } | Stage::Probation { .. } => Some(Refusal::InProgress),
            Stage::Handed(_) if self.pid_mode == PidMode::KeepPid => Some(Refusal::InProgress),
            Stage::Handed(_) => Some(Refusal::HandedOver),
            Stage::Stopping | Stage::AskedToLeave => Some(Refusal::Stopping),
        }
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
            | Stage::Handed(_)
            | Stage::Stopping => None,
        }
    }

    #[must_use]
    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        match input {
            Input::Wanted => self.wanted(now),
            Input::Confirmed => match self.stage {
                Stage::Held | Stage::Unconfirmed | Stage::Relieving => self.serve(now),
                // Whoever was to return has gone: the service is at its end, as whoever started it sees it.
                Stage::Interim | Stage::AskedToLeave => {
                    self.stage = Stage::Stopping;
                    vec![Action::Stop]
                }
                Stage::Serving
                | Stage::Starting { .. }
                | Stage::Probation { .. }
                | Stage::Handed(_)
                | Stage::Stopping => vec![],
            },
            Input::Dismissed => {
                self.stage = Stage::Stopping;
                self.wanted = false;
                vec![]
            }
            Input::Leaves if self.on_probation() => self.send_away(now),
            // It has no clients yet, and need not be waited for.
            Input::Leaves if self.has_successor() => self.lost(now, UpgradeOutcome::SentAway),
            // It was asked to stop, and is the whole service.
            Input::Leaves => self.pass_stop_on(),
            // A second try of the same would end the same way, and the caller has its answer.
            Input::NotStarted => {
                self.stage = Stage::Serving;
                self.wanted = false;
                vec![]
            }
            Input::Ready => self.ready(now),
            Input::Ended => self.lost(now, UpgradeOutcome::Ended),
            Input::Garbled => self.lost(now, UpgradeOutcome::Garbled),
            Input::Confirm if self.on_probation() => self.commit(),
            Input::Back if self.on_probation() => self.send_away(now),
            Input::Back if self.has_successor() => self.lost(now, UpgradeOutcome::SentAway),
            // There is nobody.
            Input::Confirm | Input::Back => vec![],
            Input::StopWanted(asker) => self.stop_wanted(asker),
            // Said again: there is a hurry.
            Input::StopPassedOn if self.stage == Stage::Stopping => vec![Action::Force],
            Input::StopPassedOn => {
                if matches!(self.stage, Stage::Unconfirmed | Stage::Interim) {
                    self.stage = Stage::AskedToLeave;
                }
                self.stop()
            }
            Input::CannotReturn => {
                self.stage = Stage::Handed(Then::Stays);
                vec![]
            }
            Input::Time if self.deadline().is_none_or(|deadline| now < deadline) => vec![],
            Input::Time if self.on_probation() => self.commit(),
            Input::Time => self.lost(now, UpgradeOutcome::NotReady),
        }
    }

    fn on_probation(&self) -> bool {
        matches!(self.stage, Stage::Probation { .. })
    }

    /// One that has not been handed over to.
    fn has_successor(&self) -> bool {
        self.on_probation() || matches!(self.stage, Stage::Starting { .. })
    }

    fn wanted(&mut self, now: Instant) -> Vec<Action> {
        match self.stage {
            Stage::Serving => {
                self.stage = Stage::Starting { by: now + self.ready_timeout };
                vec![Action::Start]
            }
            Stage::Unconfirmed | Stage::Relieving | Stage::Starting { .. } | Stage::Probation { .. } => {
                let first = !std::mem::replace(&mut self.wanted, true);
                first.then_some(Action::Report(UpgradeOutcome::Remembered)).into_iter().collect()
            }
            Stage::Held | Stage::Interim | Stage::AskedToLeave | Stage::Handed(_) | Stage::Stopping => {
                self.refusal().map(|why| Action::Report(UpgradeOutcome::Refused(why))).into_iter().collect()
            }
        }
    }

    /// This process serves, and does what was asked of it meanwhile.
    fn serve(&mut self, now: Instant) -> Vec<Action> {
        self.stage = Stage::Serving;
        if std::mem::take(&mut self.wanted) {
            return self.wanted(now);
        }
        vec![]
    }

    fn ready(&mut self, now: Instant) -> Vec<Action> {
        if !matches!(self.stage, Stage::Starting { .. }) {
            return vec![];
        }
        let until = match self.probation {
            Probation::For(window) if window.is_zero() => {
                let mut actions = vec![Action::Report(UpgradeOutcome::Serves)];
                actions.extend(self.commit());
                return actions;
            }
            Probation::For(window) => Some(now + window),
            Probation::Manual => None,
        };
        self.stage = Stage::Probation { until };
        vec![Action::Pause, Action::Report(UpgradeOutcome::Serves)]
    }

    fn commit(&mut self) -> Vec<Action> {
        let again = std::mem::take(&mut self.wanted);
        let (then, action) = match self.pid_mode {
            PidMode::Handoff => (Then::Leaves, Action::Commit { again }),
            PidMode::KeepPid => (Then::Returns, Action::Lend),
        };
        self.stage = Stage::Handed(then);
        vec![action]
    }

    /// The successor finishes what it has, and this process serves.
    fn send_away(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = vec![Action::Dismiss, Action::Resume, Action::Report(UpgradeOutcome::SentAway)];
        actions.extend(self.serve(now));
        actions
    }

    /// The successor is not there any more, or must not be.
    fn lost(&mut self, now: Instant, outcome: UpgradeOutcome) -> Vec<Action> {
        let mut actions = match self.stage {
            Stage::Starting { .. } => vec![Action::Kill, Action::Report(outcome)],
            Stage::Probation { .. } => {
                let outcome = if outcome == UpgradeOutcome::Ended { UpgradeOutcome::RolledBack } else { outcome };
                vec![Action::Kill, Action::Resume, Action::Report(outcome)]
            }
            Stage::Handed(then) if outcome == UpgradeOutcome::Ended => {
                // It was to stop, too; this process has only waited for it.
                let expected = self.stop_asked || matches!(then, Then::Stays | Then::Stops);
                return vec![Action::Report(UpgradeOutcome::Orphaned { expected })];
            }
            Stage::Held
            | Stage::Unconfirmed
            | Stage::Interim
            | Stage::AskedToLeave
            | Stage::Relieving
            | Stage::Serving
            | Stage::Handed(_)
            | Stage::Stopping => return vec![],
        };
        if outcome != UpgradeOutcome::SentAway {
            self.lost_at = Some(now);
        }
        actions.extend(self.serve(now));
        actions
    }

    /// A process that was only draining for its successor has not been asked before; one that drains for a holder has.
    fn stop_wanted(&mut self, asker: Asker) -> Vec<Action> {
        let repeated = std::mem::replace(&mut self.stop_asked, true);
        if !self.is_over() {
            let mut actions = self.stop();
            actions.extend(repeated.then_some(Action::Force));
            return actions;
        }
        match asker {
            Asker::Manager if repeated => vec![],
            Asker::Anybody | Asker::Manager if !repeated => {
                let mut actions = vec![Action::Report(UpgradeOutcome::Finishing)];
                actions.extend(self.pass_stop_on());
                actions
            }
            Asker::Anybody | Asker::Holder | Asker::Manager => match self.pid_mode {
                PidMode::Handoff => vec![Action::Force],
                PidMode::KeepPid => vec![Action::Force, Action::PassStopOn],
            },
        }
    }

    /// A stop that comes while this process waits to return is for the whole service, which the successor is.
    fn pass_stop_on(&mut self) -> Vec<Action> {
        if !matches!(self.stage, Stage::Handed(Then::Returns | Then::Stays)) {
            return vec![];
        }
        self.stage = Stage::Handed(Then::Stops);
        vec![Action::ReleaseTaken, Action::PassStopOn]
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
                self.stage = Stage::Handed(Then::Stops);
                return vec![Action::StopBoth];
            }
            Stage::Handed(_) | Stage::Stopping => return vec![],
        };
        self.stage = Stage::Stopping;
        actions
    }
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
