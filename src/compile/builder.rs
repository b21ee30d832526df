//! How a program is built: by cargo, or by replay where that gives the same; and what is prepared for the next time.
//! Never lives here: when to build (`cycle`).

mod ahead;
mod misfit;

use super::build::{Built, Cargo, CargoOutcome, CargoRun, CargoSink};
use super::last::Last;
use super::link::Linker;
use super::output::Told;
use super::repair::Repair;
use super::replay::{CrateSpan, Lesson, NotReplayable, Plan, Replay, ReplayOutcome, ReplayRun, RustcSink};
use super::{BuildSaid, BuildSink, reason};
use crate::config;
use crate::error::{Error, Result};
use crate::report::{Note, Notice, short};
use ahead::Ahead;
use cargo_metadata::Metadata;
use misfit::{Misfit, Without};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub struct Builder {
    pub cargo: Cargo,
    replay: Replay,
    runs: Runs,
    work: Option<(u64, Work)>,
    /// A replay is run again, as a source was written meanwhile.
    again: bool,
    /// When cargo was last started.
    cargo_began: Option<SystemTime>,
    /// What cargo's last build that succeeded was like.
    last: Last,
    repair: Repair,
    ahead: Ahead,
    misfit: Misfit,
    provenance: Provenance,
    notices: Vec<Notice>,
}

enum Work {
    Cargo(Box<CargoRun>),
    Replay(Box<ReplayRun>),
}

/// Each run has a number, by which what is heard of an older one is told from what the newest says.
struct Runs {
    newest: u64,
    sink: BuildSink,
}

/// How a program came to be, for `--timings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    pub began: Instant,
    pub by_replay: bool,
    pub why_cargo: Option<String>,
    /// What it took to choose.
    pub decide: Duration,
    pub crates: Vec<CrateSpan>,
    pub link: Option<(Duration, String)>,
}

/// What came of a build.
pub enum BuildResult {
    /// With its inputs, where cargo does not write them down.
    Built(Box<Built>, Provenance, Option<Vec<PathBuf>>),
    Failed {
        errors: usize,
        messages: Vec<Told>,
    },
}

impl Builder {
    pub fn new(cargo: Cargo, replay: Replay, folders: [PathBuf; 2], sink: BuildSink, now: Instant) -> Builder {
        Builder {
            cargo,
            replay,
            runs: Runs { newest: 0, sink },
            work: None,
            again: false,
            cargo_began: None,
            last: Last::default(),
            repair: Repair::new(folders),
            ahead: Ahead::default(),
            misfit: Misfit::default(),
            provenance: Provenance::at(now),
            notices: Vec::new(),
        }
    }

    pub fn runs_cargo(&self) -> bool {
        matches!(self.work, Some((_, Work::Cargo(_))))
    }

    /// Why the last build went through cargo, if it did.
    pub fn why_cargo(&self) -> Option<String> {
        self.provenance.why_cargo.clone()
    }

    /// When cargo last began to look at files.
    pub fn cargo_began(&self) -> Option<SystemTime> {
        self.cargo_began
    }

    /// What is built from the next start on, and of which packages it is made.
    pub fn follow(&mut self, build: config::Build, metadata: &Metadata) {
        if build != self.cargo.build {
            self.misfit = Misfit::default();
        }
        self.replay.follow(&build, metadata);
        self.cargo.build = build;
    }

    /// Starts a build, now that those files have changed; by cargo in any case if there is a reason.
    pub fn start(&mut self, now: Instant, changed: &BTreeSet<PathBuf>, why_cargo: Option<&str>) -> Result<()> {
        self.ahead.build_begins();
        self.again = false;
        let decided = match why_cargo {
            Some(why) => Err(why.to_owned()),
            None => self.replay.decide(changed).map_err(|why| why.to_string()),
        };
        self.provenance = Provenance { decide: elapsed(now), ..Provenance::at(now) };
        match decided {
            Ok(work) => {
                self.provenance.by_replay = true;
                let (number, sink) = self.runs.replay();
                let run = self.replay.start(now, work, sink).ok_or_else(gone)?;
                self.work = Some((number, Work::Replay(Box::new(run))));
                Ok(())
            }
            Err(why) => self.start_cargo(why),
        }
    }

    /// Asks the running build to end. Why it goes through cargo, if it does.
    pub fn cancel(&mut self) -> Option<String> {
        match &mut self.work {
            Some((_, Work::Cargo(run))) => {
                run.cancel();
                return self.provenance.why_cargo.clone();
            }
            Some((_, Work::Replay(run))) => run.cancel(),
            None => {}
        }
        None
    }

    pub fn kill(&mut self) {
        match &mut self.work {
            Some((_, Work::Cargo(run))) => run.kill(),
            Some((_, Work::Replay(run))) => run.cancel(),
            None => {}
        }
    }

    /// Ends what is done before it is needed.
    pub fn let_go(&mut self, why: &str) {
        self.ahead.let_go();
        self.last.unlearnt = None;
        self.replay.forget(why);
    }

    /// Ends all that runs, at once.
    pub fn close(&mut self) {
        self.work = None;
        self.let_go("the session ends");
    }

    pub fn deadline(&self) -> Option<Instant> {
        let work = self.work.as_ref().and_then(|(_, work)| match work {
            Work::Cargo(_) => None,
            Work::Replay(run) => run.deadline(),
        });
        work.into_iter().chain(self.ahead.deadline()).min()
    }

    /// The cargo that runs as that build.
    pub fn is_cargo(&self, number: u64) -> bool {
        matches!(self.work, Some((current, Work::Cargo(_))) if current == number)
    }

    pub fn cargo_pid(&self) -> Option<u32> {
        match &self.work {
            Some((_, Work::Cargo(run))) => Some(run.pid()),
            Some((_, Work::Replay(_))) | None => None,
        }
    }

    /// How many units are compiled, where that is news.
    pub fn hear(&mut self, now: Instant, number: u64, said: BuildSaid) -> Option<usize> {
        match (said, &mut self.work) {
            (BuildSaid::Cargo(said), Some((current, Work::Cargo(run)))) if *current == number => {
                let before = run.done();
                run.hear(said);
                return Some(run.done()).filter(|done| *done != before);
            }
            (BuildSaid::Rustc(one, said), Some((current, Work::Replay(run)))) if *current == number => {
                run.hear(now, one, said);
            }
            (BuildSaid::Learnt(plan), None) if number == self.runs.newest => {
                self.replay.learn(*plan);
                if let Some(crates) = self.replay.replays() {
                    self.notices.push(Notice::ReplayReady { crates });
                    self.ahead.schedule(now, None);
                }
            }
            // Of a run that is over, or from one: something newer is being built.
            (BuildSaid::Cargo(_) | BuildSaid::Rustc(..) | BuildSaid::Learnt(_) | BuildSaid::Metadata(_), _) => {}
        }
        None
    }

    /// What came of the build, if it has come to its end; and whatever else is to go on goes on. `newer`: another one follows in any
    /// case.
    pub fn ended(&mut self, now: Instant, newer: bool) -> Option<BuildResult> {
        self.ahead.go_on(now, &mut self.replay);
        match &mut self.work.as_mut()?.1 {
            Work::Cargo(run) => {
                let outcome = run.ended()?;
                self.notices.extend(run.allowance.left_out().note().map(Notice::Note));
                self.work = None;
                self.cargo_ended(outcome, newer)
            }
            Work::Replay(run) => {
                let outcome = self.replay.go_on(now, run)?;
                let Some((_, Work::Replay(run))) = self.work.take() else { return None };
                self.replay_ended(now, *run, outcome, newer)
            }
        }
    }

    /// Learns from cargo's last build, in a thread of its own as it looks at many files. `inputs` are all that cargo names.
    pub fn learn(&mut self, inputs: Vec<PathBuf>, settings: Vec<PathBuf>, whole: Vec<PathBuf>) {
        if self.work.is_some() {
            // What there is to learn from is the build that goes on.
            return;
        }
        let Some(build) = self.last.unlearnt.take() else { return };
        if let Some(why) = &self.misfit.for_good {
            return self.replay.learn(Err(why.clone()));
        }
        let workspace = match self.replay.workspace() {
            Ok(workspace) => workspace,
            Err(why) => return self.replay.learn(Err(why)),
        };
        let lesson = Lesson { build, inputs, settings, whole, workspace };
        let (sink, number) = (Arc::clone(&self.runs.sink), self.runs.newest);
        let learning =
            thread::Builder::new().spawn(move || sink(number, BuildSaid::Learnt(Box::new(Plan::learn(lesson)))));
        if let Err(error) = learning {
            let why = format!("what cargo has built could not be looked at ({error})");
            self.replay.learn(Err(NotReplayable::refused(why, &error)));
        }
    }

    /// What there is to tell.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn start_cargo(&mut self, why: String) -> Result<()> {
        self.provenance.by_replay = false;
        self.provenance.why_cargo = Some(why);
        self.last.unlearnt = None;
        self.ahead.cargo_begins();
        let (number, sink) = self.runs.cargo();
        self.cargo_began = Some(SystemTime::now());
        let mut run = self.cargo.start(&sink, |command| self.replay.wrap(command))?;
        if let Some(why) = run.unknown.take() {
            self.notices.push(Note::NoSetting { why }.into());
        }
        self.work = Some((number, Work::Cargo(Box::new(run))));
        Ok(())
    }

    fn cargo_ended(&mut self, outcome: CargoOutcome, newer: bool) -> Option<BuildResult> {
        let (errors, mut messages) = match outcome {
            CargoOutcome::Built(mut built) => {
                self.repair.succeeded();
                match self.misfit.cargo_built() {
                    Some(Without::Linker(why)) => {
                        self.replay.own_linker = false;
                        self.notices.push(Note::LinkerFails { why: why.to_string() }.into());
                    }
                    Some(Without::Replay(why)) => self.notices.push(Note::NoReplay { why: why.to_string() }.into()),
                    None => {}
                }
                if let Some(began) = self.cargo_began {
                    self.last = Last::of(&mut built, began);
                }
                return Some(BuildResult::Built(Box::new(built), self.provenance.clone(), None));
            }
            CargoOutcome::Failed { errors, messages } => (errors, messages),
        };
        self.misfit.cargo_failed();
        self.replay.forget("cargo's last build failed");
        if let Some(advice) = self.repair.advice(&messages, &self.cargo.build.manifest_path) {
            messages.push(reason::unsaid(&advice));
        } else if !newer && let Some(damaged) = self.repair.forget_damaged(&messages) {
            self.notices.push(Note::CacheDamaged { crates: damaged.clone() }.into());
            return self.ask_cargo(format!("the incremental data of {damaged} was damaged"));
        }
        Some(BuildResult::Failed { errors, messages })
    }

    fn replay_ended(
        &mut self,
        now: Instant,
        mut run: ReplayRun,
        outcome: ReplayOutcome,
        newer: bool,
    ) -> Option<BuildResult> {
        if matches!(outcome, ReplayOutcome::Gone) {
            return Some(gone_meanwhile());
        }
        if let Some(link) = &run.results.linked {
            self.ahead.wants_merged = link.wants_merged;
            if let Some(why) = link.reason.as_ref().filter(|_| link.linker != Linker::Wild) {
                self.notices.push(Note::LinkerUnused { why: why.clone() }.into());
            }
        }
        self.notices.extend(run.left_out().note().map(Notice::Note));
        if let Some(path) = run.results.written.take().filter(|_| !newer) {
            if self.again {
                // Most likely what is compiled writes it itself.
                return self.ask_cargo(format!("{} is written while it is compiled", short(&path)));
            }
            // It is as it was before, or its save is about to be seen.
            self.provenance.crates.append(&mut run.results.spans);
            return self.replay_again(now);
        }
        self.ahead.schedule(now, run.first());
        let (Some(plan), Some(program)) = (self.replay.plan(), self.replay.program()) else {
            return Some(gone_meanwhile());
        };
        match outcome {
            ReplayOutcome::Built => {
                self.misfit.replay_built();
                let built = self.last.made_again(plan, program);
                let inputs = plan.inputs();
                let mut how = self.provenance.clone();
                how.crates.append(&mut run.results.spans);
                how.link = run.results.linked.map(|link| (link.took, link.linker_name().to_owned()));
                Some(BuildResult::Built(Box::new(built), how, Some(inputs)))
            }
            ReplayOutcome::Failed { errors, messages } => {
                let own = messages.into_iter().map(|words| Told { about: None, words });
                let known = self.last.messages(plan, |number| !run.wants(number));
                Some(BuildResult::Failed { errors, messages: known.into_iter().chain(own).collect() })
            }
            ReplayOutcome::Doubtful(why) => {
                self.misfit.replay_failed(&why, run.own_linker_failed());
                self.ask_cargo(why.to_string())
            }
            ReplayOutcome::Gone => Some(gone_meanwhile()),
        }
    }

    /// Compiles again, without cargo, what is not known to be compiled as it is now.
    fn replay_again(&mut self, now: Instant) -> Option<BuildResult> {
        self.again = true;
        let (number, sink) = self.runs.replay();
        let work = self.replay.plan().map(Plan::work);
        let Some(run) = work.and_then(|work| self.replay.start(now, work, sink)) else {
            return Some(gone_meanwhile());
        };
        self.work = Some((number, Work::Replay(Box::new(run))));
        None
    }

    /// In place of a replay that has come to nothing.
    fn ask_cargo(&mut self, why: String) -> Option<BuildResult> {
        let error = self.start_cargo(why).err()?;
        Some(BuildResult::unbegun(Told::text(error.to_string())))
    }
}

impl Runs {
    fn next(&mut self) -> (u64, BuildSink) {
        self.newest += 1;
        (self.newest, Arc::clone(&self.sink))
    }

    fn cargo(&mut self) -> (u64, CargoSink) {
        let (number, sink) = self.next();
        (number, Arc::new(move |said| sink(number, BuildSaid::Cargo(said))))
    }

    fn replay(&mut self) -> (u64, RustcSink) {
        let (number, sink) = self.next();
        (number, Arc::new(move |one, said| sink(number, BuildSaid::Rustc(one, said))))
    }
}
impl BuildResult {
    fn unbegun(told: Told) -> BuildResult {
        BuildResult::Failed { errors: 0, messages: vec![told] }
    }
}

impl Provenance {
    fn at(began: Instant) -> Provenance {
        let (crates, link) = (Vec::new(), None);
        Provenance { began, by_replay: false, why_cargo: None, decide: Duration::ZERO, crates, link }
    }
}

/// Of a build whose plan was forgotten while it ran.
fn gone() -> Error {
    Error::failure("compile what was saved: what it is compiled from has gone meanwhile")
}

/// As when the project's folder is moved away: whoever waits for the build must hear of its end.
fn gone_meanwhile() -> BuildResult {
    BuildResult::unbegun(reason::unsaid(&gone().to_string()))
}

#[allow(clippy::disallowed_methods)] // An edge: how long something took is measured where it is done.
fn elapsed(since: Instant) -> Duration {
    since.elapsed()
}
