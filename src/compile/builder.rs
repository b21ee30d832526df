//! How a program is built: by cargo, or by replay where that gives the same; and what is prepared for the next time.
//! Never lives here: when to build (`cycle`).

mod by_cargo;
mod by_replay;

use super::allowance::Allowance;
use super::build::{self, Built, Cargo};
use super::last::Last;
use super::output::Told;
use super::output::Words;
use super::replay::{self, Doubt, Plan, Replay};
use super::{BuildSaid, BuildSink, link};
use crate::config;
use crate::error::Result;
use crate::process::Leaving;
use crate::report::{Note, Notice};
use cargo_metadata::Metadata;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The new program starts within this time, most of the times; what is not urgent waits as long.
const BREATHER: Duration = Duration::from_millis(100);

pub struct Builder {
    pub cargo: Cargo,
    replay: Replay,
    runs: u64,
    work: Option<(u64, Work)>,
    /// A replay is run again, as a source was written meanwhile.
    again: bool,
    /// When cargo was last started.
    cargo_began: Option<SystemTime>,
    /// A replay of what nobody has changed: the next one finds its caches.
    preparing: Option<(u64, replay::Run)>,
    /// When compilers are started that wait for the next save, and for which crate besides the program.
    ready_at: Option<(Instant, Option<usize>)>,
    /// Whether the last link has asked for an object of the dependencies.
    wants_merged: bool,
    /// What makes one.
    merging: Option<Leaving>,
    /// What cargo's last build that succeeded was like.
    last: Last,
    /// Where cargo builds: its target folder, and that in which it keeps what it needs itself.
    folders: [PathBuf; 2],
    /// Caches were removed, and it has not succeeded since.
    repaired: bool,
    provenance: Provenance,
    sink: BuildSink,
    notices: Vec<Notice>,
}

enum Work {
    Cargo(Box<build::Run>),
    Replay(Box<replay::Run>),
}

/// How a program came to be, for `--timings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    pub began: Instant,
    pub by_replay: bool,
    pub why_cargo: Option<String>,
    /// What it took to choose.
    pub decide: Duration,
    pub crates: Vec<replay::Step>,
    pub link: Option<(Duration, String)>,
}

impl Provenance {
    fn at(began: Instant) -> Provenance {
        let (crates, link) = (Vec::new(), None);
        Provenance { began, by_replay: false, why_cargo: None, decide: Duration::ZERO, crates, link }
    }
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
            runs: 0,
            work: None,
            again: false,
            cargo_began: None,
            preparing: None,
            ready_at: None,
            wants_merged: false,
            merging: None,
            last: Last::default(),
            folders,
            repaired: false,
            provenance: Provenance::at(now),
            sink,
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
        self.replay.set_metadata(metadata);
        self.replay.set_build(&build);
        self.cargo.build = build;
    }

    /// Starts a build, now that those files have changed; by cargo in any case if there is a reason.
    pub fn start(&mut self, now: Instant, changed: &BTreeSet<PathBuf>, why_cargo: Option<&str>) -> Result<()> {
        // What the user has just saved comes before what might be needed later.
        self.preparing = None;
        self.ready_at = None;
        self.again = false;
        // One that has come to nothing is made when there is time again.
        self.wants_merged |= self.merging.take().is_some_and(|merging| !merging.has_ended());
        let decided = why_cargo.map_or_else(|| self.replay.decide(changed), |why| Err(why.to_owned()));
        self.provenance = Provenance { decide: elapsed(now), ..Provenance::at(now) };
        match decided {
            Ok(work) => {
                self.runs += 1;
                self.provenance.by_replay = true;
                let run = self.replay_run(now, &work, false).ok_or_else(by_replay::gone)?;
                self.work = Some((self.runs, Work::Replay(Box::new(run))));
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
        self.preparing = None;
        self.ready_at = None;
        self.merging = None;
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
        let preparing = self.preparing.as_ref().and_then(|(_, run)| run.deadline());
        let ready = self.ready_at.as_ref().map(|(at, _)| *at);
        work.into_iter().chain(preparing).chain(ready).min()
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
        match (said, &mut self.work, &mut self.preparing) {
            (BuildSaid::Cargo(said), Some((current, Work::Cargo(run))), _) if *current == number => {
                let before = run.done();
                run.hear(said);
                return Some(run.done()).filter(|done| *done != before);
            }
            (BuildSaid::Rustc(one, said), Some((current, Work::Replay(run))), _) if *current == number => {
                run.hear(now, one, said);
            }
            (BuildSaid::Rustc(one, said), _, Some((current, run))) if *current == number => run.hear(now, one, said),
            (BuildSaid::Learnt(plan), _, _) => self.learnt(now, number, *plan),
            // Of a run that is over.
            (BuildSaid::Cargo(_) | BuildSaid::Rustc(..) | BuildSaid::Metadata(_), _, _) => {}
        }
        None
    }

    /// What came of the build, if it has come to its end; and whatever else is to go on goes on. `newer`: another one follows in any
    /// case.
    pub fn ended(&mut self, now: Instant, newer: bool) -> Option<BuildResult> {
        self.go_on_preparing(now);
        if let Some((_, edited)) = self.ready_at.take_if(|(at, _)| *at <= now) {
            self.replay.ready(edited);
            if std::mem::take(&mut self.wants_merged) {
                self.merging = self.replay.merge();
            }
        }
        match self.work.take()? {
            (number, Work::Cargo(mut run)) => {
                let Some(outcome) = run.ended() else {
                    self.work = Some((number, Work::Cargo(run)));
                    return None;
                };
                self.note_left_out(&run.allowance);
                self.cargo_ended(outcome, newer)
            }
            (number, Work::Replay(run)) => self.go_on_replaying(now, (number, run), newer),
        }
    }

    /// Learns from cargo's last build, in a thread of its own as it looks at many files. `inputs` are all that cargo names.
    pub fn learn(&mut self, inputs: Vec<PathBuf>, settings: Vec<PathBuf>, whole: Vec<PathBuf>) {
        if self.work.is_some() {
            // What there is to learn from is the build that goes on.
            return;
        }
        let Some(unlearnt) = self.last.unlearnt.take() else { return };
        let workspace = match self.replay.workspace() {
            Ok(workspace) => workspace,
            Err(why) => {
                self.replay.forget(&why);
                return;
            }
        };
        let lesson = unlearnt.lesson(workspace, inputs, settings, whole);
        let (sink, number) = (Arc::clone(&self.sink), self.runs);
        let learning =
            thread::Builder::new().spawn(move || sink(number, BuildSaid::Learnt(Box::new(Plan::learn(lesson)))));
        if let Err(error) = learning {
            self.replay.forget(&format!("what cargo has built could not be looked at ({error})"));
        }
    }

    /// What there is to tell.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn start_cargo(&mut self, why: String) -> Result<()> {
        self.runs += 1;
        self.provenance.by_replay = false;
        self.provenance.why_cargo = Some(why);
        self.last.unlearnt = None;
        // The program of the last replay is about to be another one.
        self.ready_at = None;
        self.wants_merged = false;
        let (sink, number) = (Arc::clone(&self.sink), self.runs);
        let sink: build::Sink = Arc::new(move |said| sink(number, BuildSaid::Cargo(said)));
        self.cargo_began = Some(SystemTime::now());
        let mut run = self.cargo.start(&sink, |command| self.replay.wrap(command))?;
        if let Some(why) = run.unknown.take() {
            self.notices.push(Note::NoSetting { why }.into());
        }
        self.work = Some((number, Work::Cargo(Box::new(run))));
        Ok(())
    }

    fn replay_run(&mut self, now: Instant, work: &replay::Work, in_background: bool) -> Option<replay::Run> {
        self.replay.clear();
        let own_linker = self.replay.own_linker;
        let sink = rustc_sink(&self.sink, self.runs);
        let (at_once, launcher) = (self.at_once(), self.replay.launcher.clone());
        let (plan, folder) = self.replay.parts()?;
        let mut run = replay::Run::new(now, plan, work, at_once, own_linker, in_background, launcher);
        run.go_on(now, plan, folder, &sink);
        Some(run)
    }

    /// In place of a replay that has come to nothing.
    fn ask_cargo(&mut self, why: String) -> Option<BuildResult> {
        let error = self.start_cargo(why).err()?;
        let told = Told { about: None, words: Words::text(error.to_string()) };
        Some(BuildResult::Failed { errors: 0, messages: vec![told] })
    }

    fn learnt(&mut self, now: Instant, number: u64, plan: Result<Plan, String>) {
        if number != self.runs || self.work.is_some() {
            // Something newer is being built.
            return;
        }
        self.replay.learn(plan);
        self.prepare(now);
    }

    fn prepare(&mut self, now: Instant) {
        let Some(work) = self.replay.preparation() else { return };
        self.runs += 1;
        let run = self.replay_run(now, &work, true);
        self.preparing = run.map(|run| (self.runs, run));
    }

    fn go_on_preparing(&mut self, now: Instant) {
        let Some((number, mut run)) = self.preparing.take() else { return };
        let sink = rustc_sink(&self.sink, number);
        let Some((plan, folder)) = self.replay.parts() else { return };
        match run.ended(plan, folder) {
            None => {
                run.go_on(now, plan, folder, &sink);
                self.preparing = Some((number, run));
            }
            Some(replay::Outcome::Built) => {
                let crates = plan.crates.len();
                self.notices.push(Notice::ReplayReady { crates });
                self.ready_at = Some((now, None));
                self.note_link(&run);
            }
            Some(replay::Outcome::Failed { .. }) => {
                self.replay.forget("a source has changed while replay was prepared");
            }
            Some(replay::Outcome::Doubtful(_)) if plan.lacks_a_source() => {
                self.replay.forget("a source has gone while replay was prepared");
            }
            // It is prepared again when cargo has built next; until then the reason is shown with the build, and not for good.
            Some(replay::Outcome::Doubtful(doubt)) if doubt.passes => self.replay.forget(&doubt.why),
            Some(replay::Outcome::Doubtful(Doubt { why, .. })) => {
                if run.own_linker_failed() {
                    // Once more, with the linker that cargo uses.
                    self.replay.own_linker = false;
                    self.notices.push(Note::LinkerFails { why }.into());
                    self.prepare(now);
                } else {
                    self.replay.forget(&why);
                    self.notices.push(Note::NoReplay { why }.into());
                }
            }
        }
    }

    fn note_link(&mut self, run: &replay::Run) {
        let report = run.linked.as_ref();
        if let Some(report) = report {
            self.wants_merged = report.wants_merged;
        }
        if let Some(why) =
            report.and_then(|report| report.reason.as_ref().filter(|_| report.linker != link::Linker::Wild))
        {
            self.notices.push(Note::LinkerUnused { why: why.clone() }.into());
        }
    }

    fn note_left_out(&mut self, allowance: &Allowance) {
        self.notices.extend(allowance.left_out().note().map(Notice::Note));
    }

    /// How many compilers run at once, as cargo would have it.
    fn at_once(&self) -> usize {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let asked = self.cargo.build.jobs.as_ref().and_then(|jobs| jobs.parse().ok());
        asked.unwrap_or(processors)
    }
}

fn rustc_sink(sink: &BuildSink, number: u64) -> replay::run::Sink {
    let sink = Arc::clone(sink);
    Arc::new(move |one, said| sink(number, BuildSaid::Rustc(one, said)))
}

#[allow(clippy::disallowed_methods)] // An edge: how long something took is measured where it is done.
fn elapsed(since: Instant) -> Duration {
    since.elapsed()
}
