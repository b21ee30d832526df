//! How a program is built: by cargo, or by replay where that gives the same; and what is prepared for the next time.
//! Never lives here: when to build (`cycle`).

use super::build::{self, Built, Cargo, Script, Told};
use super::replay::{self, Lesson, Plan, Replay};
use super::{BuildSaid, BuildSink, link};
use crate::error::Result;
use crate::process::Launcher;
use crate::report::Notice;
use cargo_metadata::{Artifact as Unit, Metadata, PackageId};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub struct Builder {
    pub cargo: Cargo,
    replay: Replay,
    runs: u64,
    work: Option<(u64, Work)>,
    /// When cargo was last started.
    cargo_began: Option<SystemTime>,
    /// A replay of what nobody has changed: the next one finds its caches.
    preparing: Option<(u64, replay::Run)>,
    /// What cargo's last build was like, until it is learnt from.
    lesson: Option<Unlearnt>,
    /// The folders of that build's dynamic libraries.
    libraries: Vec<PathBuf>,
    whole_packages: Vec<PackageId>,
    /// Messages of that build about what is in no plan.
    told: Vec<Told>,
    how: How,
    sink: BuildSink,
    notices: Vec<Notice>,
    /// Said once.
    said: BTreeSet<String>,
}

enum Work {
    Cargo(Box<build::Run>),
    Replay(replay::Run),
}

struct Unlearnt {
    run: u64,
    units: Vec<Unit>,
    scripts: Vec<Script>,
    executable: PathBuf,
    began: SystemTime,
}

/// How a program came to be, for `--timings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct How {
    pub began: Instant,
    pub by_replay: bool,
    pub why_cargo: Option<String>,
    /// What it took to choose.
    pub decide: Duration,
    pub crates: Vec<replay::Step>,
    pub link: Option<(Duration, String)>,
}

impl How {
    fn at(began: Instant) -> How {
        let (crates, link) = (Vec::new(), None);
        How { began, by_replay: false, why_cargo: None, decide: Duration::ZERO, crates, link }
    }
}

/// What came of a build.
pub enum Outcome {
    /// With its inputs, where cargo does not write them down.
    Built(Box<Built>, How, Option<Vec<PathBuf>>),
    Failed {
        errors: usize,
        messages: Vec<Told>,
    },
}

/// What was heard of a build that goes on.
#[derive(Default)]
pub struct Heard {
    /// Units that are compiled.
    pub done: Option<usize>,
    pub waiting: Option<String>,
}

impl Builder {
    pub fn new(cargo: Cargo, replay: Replay, sink: BuildSink, now: Instant) -> Builder {
        Builder {
            cargo,
            replay,
            runs: 0,
            work: None,
            cargo_began: None,
            preparing: None,
            lesson: None,
            libraries: Vec::new(),
            whole_packages: Vec::new(),
            told: Vec::new(),
            how: How::at(now),
            sink,
            notices: Vec::new(),
            said: BTreeSet::new(),
        }
    }

    pub fn is_building(&self) -> bool {
        self.work.is_some()
    }

    /// When cargo last began to look at files.
    pub fn cargo_began(&self) -> Option<SystemTime> {
        self.cargo_began
    }

    pub fn set_metadata(&mut self, metadata: &Metadata) {
        self.replay.set_metadata(metadata);
    }

    /// Starts a build, now that those files have changed; by cargo in any case if there is a reason.
    pub fn start(
        &mut self,
        now: Instant,
        changed: &BTreeSet<PathBuf>,
        why_cargo: Option<&str>,
        launcher: &mut Launcher,
    ) -> Result<()> {
        // What the user has just saved comes before what might be needed later.
        self.preparing = None;
        let decided = why_cargo.map_or_else(|| self.replay.decide(changed), |why| Err(why.to_owned()));
        self.how = How { decide: elapsed(now), ..How::at(now) };
        match decided {
            Ok(work) => {
                self.runs += 1;
                self.how.by_replay = true;
                if let Some(run) = self.replay_run(now, &work, false, launcher) {
                    self.work = Some((self.runs, Work::Replay(run)));
                }
                Ok(())
            }
            Err(why) => self.start_cargo(why, launcher),
        }
    }

    /// Asks the running build to end.
    pub fn cancel(&mut self) {
        match &mut self.work {
            Some((_, Work::Cargo(run))) => run.cancel(),
            Some((_, Work::Replay(run))) => run.cancel(),
            None => {}
        }
    }

    pub fn kill(&mut self) {
        match &mut self.work {
            Some((_, Work::Cargo(run))) => run.kill(),
            Some((_, Work::Replay(run))) => run.cancel(),
            None => {}
        }
    }

    /// Ends all that runs, at once.
    pub fn close(&mut self) {
        self.work = None;
        self.preparing = None;
        self.lesson = None;
    }

    pub fn deadline(&self) -> Option<Instant> {
        let work = self.work.as_ref().and_then(|(_, work)| match work {
            Work::Cargo(run) => run.deadline(),
            Work::Replay(run) => run.deadline(),
        });
        let preparing = self.preparing.as_ref().and_then(|(_, run)| run.deadline());
        work.into_iter().chain(preparing).min()
    }

    pub fn hear(&mut self, now: Instant, number: u64, said: BuildSaid, launcher: &mut Launcher) -> Heard {
        let mut heard = Heard::default();
        match (said, &mut self.work, &mut self.preparing) {
            (BuildSaid::Cargo(said), Some((current, Work::Cargo(run))), _) if *current == number => {
                let before = run.done();
                heard.waiting = run.hear(now, said);
                let done = run.done();
                heard.done = (done != before || heard.waiting.is_some()).then_some(done);
            }
            (BuildSaid::Rustc(one, said), Some((current, Work::Replay(run))), _) if *current == number => {
                run.hear(now, one, said);
            }
            (BuildSaid::Rustc(one, said), _, Some((current, run))) if *current == number => run.hear(now, one, said),
            (BuildSaid::Learnt(plan), _, _) => self.learnt(now, number, *plan, launcher),
            // Of a run that is over.
            (BuildSaid::Cargo(_) | BuildSaid::Rustc(..) | BuildSaid::Metadata(_), _, _) => {}
        }
        heard
    }

    /// What came of the build, if it has come to its end; and whatever else is to go on goes on.
    pub fn ended(&mut self, now: Instant, launcher: &mut Launcher) -> Option<Outcome> {
        self.go_on_preparing(now, launcher);
        match self.work.take()? {
            (number, Work::Cargo(mut run)) => {
                let Some(outcome) = run.ended(now) else {
                    self.work = Some((number, Work::Cargo(run)));
                    return None;
                };
                Some(self.cargo_ended(number, outcome))
            }
            (number, Work::Replay(mut run)) => {
                let (plan, folder) = self.replay.parts()?;
                let sink = rustc_sink(&self.sink, number);
                let outcome = run.ended(now, plan, folder);
                let Some(outcome) = outcome else {
                    run.go_on(now, plan, folder, launcher, &sink);
                    self.work = Some((number, Work::Replay(run)));
                    return None;
                };
                self.replay_ended(run, outcome, launcher)
            }
        }
    }

    /// Learns from cargo's last build, in a thread of its own as it looks at many files. `inputs` are all that cargo names.
    pub fn learn(&mut self, inputs: Vec<PathBuf>, settings: Vec<PathBuf>, whole: Vec<PathBuf>) {
        if self.is_building() {
            // What there is to learn from is the build that goes on.
            return;
        }
        let Some(last) = self.lesson.take() else { return };
        let (members, calls, folder, line_tables) = match self.replay.lesson() {
            Ok(known) => known,
            Err(why) => {
                self.replay.forget(&why);
                return;
            }
        };
        let lesson = Lesson {
            units: last.units,
            scripts: last.scripts,
            executable: last.executable,
            inputs,
            settings,
            whole,
            members,
            began: last.began,
            calls,
            folder,
            line_tables,
        };
        let sink = Arc::clone(&self.sink);
        thread::spawn(move || sink(last.run, BuildSaid::Learnt(Box::new(Plan::learn(lesson)))));
    }

    /// What there is to tell.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn start_cargo(&mut self, why: String, launcher: &mut Launcher) -> Result<()> {
        self.runs += 1;
        self.how.by_replay = false;
        self.how.why_cargo = Some(why);
        // What it builds is not known until it is learnt from.
        self.replay.forget("what cargo has built is still being looked at");
        self.replay.renew();
        let (sink, number) = (Arc::clone(&self.sink), self.runs);
        let sink: build::Sink = Arc::new(move |said| sink(number, BuildSaid::Cargo(said)));
        let began = SystemTime::now();
        self.cargo_began = Some(began);
        let run = self.cargo.start(launcher, &sink, |command| self.replay.wrap(command))?;
        self.work = Some((number, Work::Cargo(Box::new(run))));
        self.lesson =
            Some(Unlearnt { run: number, units: Vec::new(), scripts: Vec::new(), executable: PathBuf::new(), began });
        Ok(())
    }

    fn cargo_ended(&mut self, number: u64, outcome: build::Outcome) -> Outcome {
        match outcome {
            build::Outcome::Built(mut built) => {
                if let Some(lesson) = self.lesson.as_mut().filter(|lesson| lesson.run == number) {
                    lesson.units = std::mem::take(&mut built.units);
                    lesson.scripts = std::mem::take(&mut built.scripts);
                    lesson.executable.clone_from(&built.executable);
                }
                self.libraries.clone_from(&built.libraries);
                self.whole_packages.clone_from(&built.whole_packages);
                self.told.clone_from(&built.messages);
                Outcome::Built(Box::new(built), self.how.clone(), None)
            }
            build::Outcome::Failed { errors, messages } => {
                self.lesson = None;
                self.replay.forget("cargo's last build failed");
                Outcome::Failed { errors, messages }
            }
        }
    }

    fn replay_run(
        &mut self,
        now: Instant,
        work: &replay::Work,
        in_background: bool,
        launcher: &mut Launcher,
    ) -> Option<replay::Run> {
        self.replay.clear();
        let own_linker = self.replay.own_linker;
        let sink = rustc_sink(&self.sink, self.runs);
        let at_once = self.at_once();
        let (plan, folder) = self.replay.parts()?;
        let mut run = replay::Run::new(plan, work, at_once, own_linker, in_background);
        run.go_on(now, plan, folder, launcher, &sink);
        Some(run)
    }

    fn replay_ended(
        &mut self,
        mut run: replay::Run,
        outcome: replay::Outcome,
        launcher: &mut Launcher,
    ) -> Option<Outcome> {
        self.note_link(&run);
        match outcome {
            replay::Outcome::Built => {
                let (plan, folder) = self.replay.parts()?;
                let program = plan.crates.last()?;
                let records = plan.crates.iter().filter_map(|one| Some((one, one.record.as_ref()?)));
                let own = records.flat_map(|(one, record)| {
                    let about = (one.package.clone(), one.target.clone());
                    let told = record.messages.iter().cloned();
                    told.map(move |rendered| Told { about: Some(about.clone()), rendered })
                });
                let about_others =
                    |told: &&Told| told.about.as_ref().is_none_or(|(package, target)| !plan.has(package, target));
                let built = Built {
                    executable: program.facts.outputs(&folder.deps()).remove(0),
                    libraries: self.libraries.clone(),
                    whole_packages: self.whole_packages.clone(),
                    fresh: false,
                    messages: self.told.iter().filter(about_others).cloned().chain(own).collect(),
                    units: Vec::new(),
                    scripts: Vec::new(),
                };
                let inputs = plan.inputs();
                let mut how = self.how.clone();
                how.crates = std::mem::take(&mut run.steps);
                how.link = run.linked.map(|link| (link.took, link.linker.to_string()));
                Some(Outcome::Built(Box::new(built), how, Some(inputs)))
            }
            replay::Outcome::Failed { errors, messages } => {
                let messages = messages.into_iter().map(|rendered| Told { about: None, rendered });
                Some(Outcome::Failed { errors, messages: messages.collect() })
            }
            replay::Outcome::Doubtful(why) => match self.start_cargo(why, launcher) {
                Ok(()) => None,
                Err(error) => {
                    let told = Told { about: None, rendered: error.to_string() };
                    Some(Outcome::Failed { errors: 0, messages: vec![told] })
                }
            },
        }
    }

    fn learnt(&mut self, now: Instant, number: u64, plan: Result<Plan, String>, launcher: &mut Launcher) {
        if number != self.runs || self.work.is_some() {
            // Something newer is being built.
            return;
        }
        self.replay.learn(plan);
        self.prepare(now, launcher);
    }

    fn prepare(&mut self, now: Instant, launcher: &mut Launcher) {
        let Some(work) = self.replay.preparation() else { return };
        self.runs += 1;
        let run = self.replay_run(now, &work, true, launcher);
        self.preparing = run.map(|run| (self.runs, run));
    }

    fn go_on_preparing(&mut self, now: Instant, launcher: &mut Launcher) {
        let Some((number, mut run)) = self.preparing.take() else { return };
        let sink = rustc_sink(&self.sink, number);
        let Some((plan, folder)) = self.replay.parts() else { return };
        match run.ended(now, plan, folder) {
            None => {
                run.go_on(now, plan, folder, launcher, &sink);
                self.preparing = Some((number, run));
            }
            Some(replay::Outcome::Built) => {
                let crates = plan.crates.len();
                self.notices.push(Notice::ReplayReady { crates });
                self.note_link(&run);
            }
            Some(replay::Outcome::Failed { .. }) => {
                self.replay.forget("a source has changed while replay was prepared");
            }
            Some(replay::Outcome::Doubtful(why)) => {
                if self.replay.own_linker && run.links() {
                    // Once more, with the linker that cargo uses.
                    self.replay.own_linker = false;
                    self.once(format!("the fast linker fails here ({why}): saves are linked as cargo does it"));
                    self.prepare(now, launcher);
                } else {
                    self.once(format!("saves go through cargo, as replay is not possible here: {why}"));
                    self.replay.forget(&why);
                }
            }
        }
    }

    fn note_link(&mut self, run: &replay::Run) {
        let report = run.linked.as_ref();
        if let Some(why) =
            report.and_then(|report| report.reason.as_ref().filter(|_| report.linker != link::Linker::Wild))
        {
            self.once(format!("the fast linker was not used: {why}"));
        }
    }

    fn once(&mut self, text: String) {
        if self.said.insert(text.clone()) {
            self.notices.push(Notice::Note { text });
        }
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
