//! A build by replay, from one event to the next, and its end.
//! Never lives here: what may be replayed (`replay`), and what is tried instead (`by_cargo`).

use super::{BREATHER, BuildResult, Builder, Work, rustc_sink};
use crate::compile::output::Told;
use crate::compile::output::Words;
use crate::compile::replay;
use crate::error::Error;
use crate::report::short;
use std::time::Instant;

/// Of a build whose plan was forgotten while it ran.
pub(super) fn gone() -> Error {
    Error::failure("compile what was saved: what it is compiled from has gone meanwhile")
}

impl Builder {
    pub(super) fn go_on_replaying(
        &mut self,
        now: Instant,
        run: (u64, Box<replay::Run>),
        newer: bool,
    ) -> Option<BuildResult> {
        let outcome = self.replay_went_on(now, run, newer);
        if outcome.is_none() && self.work.is_none() {
            // As when the project's folder is moved away: whoever waits for the build must hear of its end.
            let words = Words::text(format!("error: {}", gone()));
            return Some(BuildResult::Failed { errors: 0, messages: vec![Told { about: None, words }] });
        }
        outcome
    }

    fn replay_went_on(
        &mut self,
        now: Instant,
        (number, mut run): (u64, Box<replay::Run>),
        newer: bool,
    ) -> Option<BuildResult> {
        let sink = rustc_sink(&self.sink, number);
        let (plan, folder) = self.replay.parts()?;
        let Some(outcome) = run.ended(plan, folder) else {
            run.go_on(now, plan, folder, &sink);
            self.work = Some((number, Work::Replay(run)));
            return None;
        };
        self.replay_ended(now, *run, outcome, newer)
    }

    fn replay_ended(
        &mut self,
        now: Instant,
        mut run: replay::Run,
        outcome: replay::Outcome,
        newer: bool,
    ) -> Option<BuildResult> {
        self.note_link(&run);
        self.note_left_out(&run.allowance);
        self.ready_at = Some((now + BREATHER, run.first));
        if let Some(path) = run.written.take().filter(|_| !newer) {
            if self.again {
                // Most likely what is compiled writes it itself.
                return self.ask_cargo(format!("{} is written while it is compiled", short(&path)));
            }
            // It is as it was before, or its save is about to be seen.
            self.provenance.crates.append(&mut run.steps);
            return self.replay_again(now);
        }
        match outcome {
            replay::Outcome::Built => {
                let (plan, folder) = self.replay.parts()?;
                let built = self.last.made_again(plan, folder)?;
                let inputs = plan.inputs();
                let mut how = self.provenance.clone();
                how.crates.append(&mut run.steps);
                how.link = run.linked.map(|link| (link.took, link.linker_name().to_owned()));
                Some(BuildResult::Built(Box::new(built), how, Some(inputs)))
            }
            replay::Outcome::Failed { errors, messages } => {
                let (plan, _) = self.replay.parts()?;
                let own = messages.into_iter().map(|words| Told { about: None, words });
                let known = self.last.messages(plan, |number| !run.wants(number));
                Some(BuildResult::Failed { errors, messages: known.into_iter().chain(own).collect() })
            }
            replay::Outcome::Doubtful(doubt) => self.ask_cargo(doubt.why),
        }
    }

    /// Compiles again, without cargo, what is not known to be compiled as it is now.
    fn replay_again(&mut self, now: Instant) -> Option<BuildResult> {
        let work = self.replay.parts()?.0.work();
        self.again = true;
        self.ready_at = None;
        self.runs += 1;
        let run = self.replay_run(now, &work, false)?;
        self.work = Some((self.runs, Work::Replay(Box::new(run))));
        None
    }
}
