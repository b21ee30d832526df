//! What is done before it is needed, while nobody waits: crates are compiled that nobody has changed, so that the next run finds its caches;
//! compilers are started that wait for the next save; the dependencies become one object for the next link.
//! Never lives here: the build that somebody waits for (`builder`), and how each is done (`replay`).

use super::Runs;
use crate::compile::link::{Linker, Report};
use crate::compile::replay::{Replay, ReplayOutcome, ReplayRun, RustcSaid};
use crate::process::Leaving;
use crate::report::{Note, Notice};
use std::time::{Duration, Instant};

/// The new program starts within this time, most of the times; what is not urgent waits as long.
const BREATHER: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct Ahead {
    preparing: Option<(u64, ReplayRun)>,
    /// When compilers are started that wait for the next save, and for which crate besides the program.
    ready_at: Option<(Instant, Option<usize>)>,
    /// Whether the last link has asked for an object of the dependencies.
    wants_merged: bool,
    /// What makes one.
    merging: Option<Leaving>,
}

impl Ahead {
    pub fn deadline(&self) -> Option<Instant> {
        let preparing = self.preparing.as_ref().and_then(|(_, run)| run.deadline());
        preparing.into_iter().chain(self.ready_at.as_ref().map(|(at, _)| *at)).min()
    }

    /// What the user has just saved comes before what might be needed later.
    pub fn build_begins(&mut self) {
        self.preparing = None;
        self.ready_at = None;
        // One that has come to nothing is made when there is time again.
        self.wants_merged |= self.merging.take().is_some_and(|merging| !merging.has_ended());
    }

    /// The program of the last replay is about to be another one.
    pub fn cargo_begins(&mut self) {
        self.ready_at = None;
        self.wants_merged = false;
    }

    /// A replay has ended, of which that crate came first.
    pub fn replayed(&mut self, now: Instant, first: Option<usize>) {
        self.ready_at = Some((now + BREATHER, first));
    }

    pub fn let_go(&mut self) {
        self.preparing = None;
        self.ready_at = None;
        self.merging = None;
    }

    pub fn hear(&mut self, now: Instant, number: u64, one: usize, said: RustcSaid) {
        if let Some((current, run)) = &mut self.preparing
            && *current == number
        {
            run.hear(now, one, said);
        }
    }

    /// Minds what the last link has said.
    pub fn linked(&mut self, report: Option<&Report>, notices: &mut Vec<Notice>) {
        let Some(report) = report else { return };
        self.wants_merged = report.wants_merged;
        if let Some(why) = report.reason.as_ref().filter(|_| report.linker != Linker::Wild) {
            notices.push(Note::LinkerUnused { why: why.clone() }.into());
        }
    }

    /// Replay has become possible.
    pub fn prepare(&mut self, now: Instant, replay: &mut Replay, runs: &mut Runs) {
        let Some(work) = replay.preparation() else { return };
        let (number, sink) = runs.replay();
        self.preparing = replay.start(now, work, sink, true).map(|run| (number, run));
    }

    pub fn go_on(&mut self, now: Instant, replay: &mut Replay, runs: &mut Runs, notices: &mut Vec<Notice>) {
        self.go_on_preparing(now, replay, runs, notices);
        if let Some((_, edited)) = self.ready_at.take_if(|(at, _)| *at <= now) {
            replay.ready(edited);
            if std::mem::take(&mut self.wants_merged) {
                self.merging = replay.merge();
            }
        }
    }

    fn go_on_preparing(&mut self, now: Instant, replay: &mut Replay, runs: &mut Runs, notices: &mut Vec<Notice>) {
        let Some((number, mut run)) = self.preparing.take() else { return };
        let Some(outcome) = replay.go_on(now, &mut run) else {
            self.preparing = Some((number, run));
            return;
        };
        match outcome {
            ReplayOutcome::Built => {
                let crates = replay.plan().map_or(0, |plan| plan.crates.len());
                notices.push(Notice::ReplayReady { crates });
                self.ready_at = Some((now, None));
                self.linked(run.results.linked.as_ref(), notices);
            }
            ReplayOutcome::Failed { .. } => replay.forget("a source has changed while replay was prepared"),
            ReplayOutcome::Doubtful(_) if replay.plan().is_some_and(|plan| plan.lacks_a_source()) => {
                replay.forget("a source has gone while replay was prepared");
            }
            // It is prepared again when cargo has built next; until then the reason is shown with the build, and not for good.
            ReplayOutcome::Doubtful(why) if why.passes() => replay.learn(Err(why)),
            ReplayOutcome::Doubtful(why) if run.own_linker_failed() => {
                // Once more, with the linker that cargo uses.
                replay.own_linker = false;
                notices.push(Note::LinkerFails { why: why.to_string() }.into());
                self.prepare(now, replay, runs);
            }
            ReplayOutcome::Doubtful(why) => {
                notices.push(Note::NoReplay { why: why.to_string() }.into());
                replay.learn(Err(why));
            }
            ReplayOutcome::Gone => {}
        }
    }
}
