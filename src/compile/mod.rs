//! Room 1, hot compile: watches what the program is made of, builds, and ends in an `Artifact`.
//! Never lives here: what becomes of it. This room does not know that programs are run.

mod advice;
mod again;
mod allowance;
mod asked;
mod build;
mod builder;
mod cycle;
mod dep_info;
mod failure;
mod found;
mod gone;
mod last;
mod launch;
mod link;
mod lock;
mod manifests;
mod named;
mod outbox;
mod output;
mod packages;
mod places;
mod progress;
mod project;
mod reason;
mod replay;
mod rewritten;
mod scripts;
mod seen;
mod sources;
mod spare;
mod stamp;
mod survey;
mod surveys;
mod trouble;
mod walk;
mod watch;

use crate::config::{Choice, Config};
use crate::error::Result;
use crate::process::Launcher;
use crate::report::{Notice, short};
use build::Cargo;
use builder::{Builder, Outcome};
use cargo_metadata::Metadata;
use cycle::{Action, Cycle};
use failure::Failure;
use found::Found;
use manifests::Manifests;
use progress::Pace;
use project::{cargo_program, own_settings, unit_estimate};
use replay::Replay;
use sources::Sources;
use spare::Underway;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use surveys::Surveys;
use watch::Lookout;

pub use builder::How;
pub use outbox::{Artifact, Outbox};
pub use project::{depends_on, metadata};
pub use watch::FileEvent;

/// What is said in the course of builds.
#[derive(Debug)]
pub enum BuildSaid {
    Cargo(build::Said),
    /// A compiler of a crate, by the crate's number.
    Rustc(usize, replay::Said),
    /// What cargo's last build has taught.
    Learnt(Box<std::result::Result<replay::Plan, String>>),
    /// What `cargo metadata` says now; the number is that of the question.
    Metadata(Box<Result<Metadata>>),
}

/// Where it goes; the number is that of the run.
pub type BuildSink = Arc<dyn Fn(u64, BuildSaid) + Send + Sync>;

/// Runs as the wrapper of rustc or as the linker, when this process was started as one.
pub fn hidden_entry(args: impl Fn() -> Vec<OsString>) -> Option<i32> {
    link::hidden_entry(args().into_iter()).or_else(|| replay::call::hidden_entry(args().into_iter()))
}

/// Where this room's threads send what they see and hear.
pub struct Sinks {
    pub files: watch::Sink,
    pub build: BuildSink,
}

pub struct Room {
    cycle: Cycle,
    sources: Sources,
    lookout: Lookout,
    builder: Builder,
    package: String,
    cause: String,
    /// The next build goes through cargo, for this reason.
    why_cargo: Option<String>,
    /// The next build is only for a doubt about the last one; the running one is.
    confirms_next: bool,
    confirms: bool,
    saved: Option<Instant>,
    /// Whether a file was, or the build was asked for.
    was_saved: bool,
    build_began: Instant,
    settings_changed: bool,
    /// Inputs that have changed since a build last came to its end.
    changed: BTreeSet<PathBuf>,
    /// Those of them that came while a build went on that was not ended for them.
    meanwhile: BTreeSet<PathBuf>,
    start_anyway: bool,
    /// What there is of the program that was built last, until it is found to be gone.
    built: Vec<PathBuf>,
    manifests: Manifests,
    pace: Pace,
    underway: Underway,
    choice: Choice,
    /// The settings of this command in the manifests, as they were read.
    own_settings: serde_json::Value,
    /// The program that was built last, until its list of inputs is read.
    unread: Option<Unread>,
    /// The inputs that cargo has named, until it has been said what the settings are.
    to_learn: Option<Vec<PathBuf>>,
    /// How many units there are: guessed from the graph at first, then counted.
    units: usize,
    sinks: Sinks,
    said_path_dependencies: Option<usize>,
    surveys: Surveys,
    out: Vec<Outbox>,
}

struct Unread {
    executable: PathBuf,
    /// Folders of packages without a list of inputs.
    whole_packages: Vec<PathBuf>,
    /// As replay knows them; cargo writes them into a file.
    inputs: Option<Vec<PathBuf>>,
    /// What rustc has made of local packages: beside it stands what cargo does not tell of, the links by which files are named.
    compiled: Vec<PathBuf>,
}

impl Room {
    pub fn open(
        config: &Config,
        metadata: &Metadata,
        color: bool,
        launcher: Launcher,
        sinks: Sinks,
        now: Instant,
    ) -> Result<Room> {
        let sources = Sources::new(config, metadata)?;
        let cargo = Cargo { launcher: launcher.clone(), program: cargo_program(), build: config.build.clone(), color };
        let replay = Replay::open(&config.build, metadata, sources.target_dir(), launcher);
        let folders = [sources.target_dir(), sources.build_dir()].map(std::path::Path::to_path_buf);
        let builder = Builder::new(cargo, replay, folders, Arc::clone(&sinks.build), now);
        let lookout = Lookout::open(&sinks.files);
        let mut room = Room {
            cycle: Cycle::default(),
            sources,
            lookout,
            builder,
            package: config.build.package.clone(),
            cause: String::new(),
            why_cargo: None,
            confirms_next: false,
            confirms: false,
            saved: None,
            was_saved: false,
            build_began: now,
            settings_changed: false,
            changed: BTreeSet::new(),
            meanwhile: BTreeSet::new(),
            start_anyway: false,
            built: Vec::new(),
            manifests: Manifests::default(),
            pace: Pace::default(),
            underway: Underway::default(),
            choice: config.choice.clone(),
            own_settings: own_settings(metadata, &config.build.package_id),
            unread: None,
            to_learn: None,
            units: unit_estimate(metadata, config),
            sinks,
            said_path_dependencies: None,
            surveys: Surveys::default(),
            out: Vec::new(),
        };
        room.underway.set_packages(metadata, &config.build.manifest_path);
        let advice = std::env::current_dir().ok().and_then(|folder| advice::dotenv(config, metadata, &folder));
        advice.into_iter().for_each(|text| room.note(text));
        room.watch(now);
        room.survey(now);
        Ok(room)
    }

    pub fn deadline(&self) -> Option<Instant> {
        if self.unread.is_some() {
            // At once, when the program has been handed on.
            return Some(self.build_began);
        }
        self.cycle
            .deadline()
            .into_iter()
            .chain(self.builder.deadline())
            .chain(self.lookout.deadline())
            .chain(self.others())
            .min()
    }

    fn others(&self) -> impl Iterator<Item = Instant> {
        self.manifests.deadline().into_iter().chain(self.pace.deadline()).chain(self.surveys.deadline())
    }

    /// Whether no build runs or is about to, and none may follow from what is being asked.
    pub fn is_idle(&self) -> bool {
        self.cycle.is_idle() && !self.manifests.is_awaited() && self.unread.is_none() && !self.surveys.is_awaited()
    }

    /// The package that is built; its name may change.
    pub fn package(&self) -> &str {
        &self.package
    }

    pub fn rebuild(&mut self, now: Instant, cause: &str) -> Vec<Outbox> {
        (self.saved, self.was_saved) = (Some(now), false);
        // Whoever asks may know of something that has changed unseen.
        self.ask_cargo(now, cause.to_owned());
        self.take()
    }

    pub fn files(&mut self, now: Instant, event: FileEvent) -> Vec<Outbox> {
        self.sources.cargo_runs(self.builder.cargo_began().filter(|_| self.builder.runs_cargo()));
        let (found, at) = match event {
            FileEvent::Touched(paths, at) => (self.sources.look(&paths), at),
            FileEvent::Quiet(paths) => (self.sources.look(&paths), now),
            FileEvent::Lost => (self.sources.lost(), now),
            FileEvent::Surveyed(survey) => (self.surveyed(now, *survey), now),
            FileEvent::Trouble(text) => {
                self.note(format!("watching files: {text}"));
                return self.take();
            }
        };
        self.found(now, found, at);
        self.take()
    }

    pub fn build_said(&mut self, now: Instant, number: u64, said: BuildSaid) -> Vec<Outbox> {
        if let BuildSaid::Metadata(metadata) = said {
            self.hear_metadata(now, number, *metadata);
            return self.take();
        }
        if let BuildSaid::Cargo(said) = &said
            && self.builder.is_cargo(number)
        {
            self.hear_progress(now, said);
            self.underway.hear(now, said);
        }
        if let Some(done) = self.builder.hear(now, number, said) {
            self.progressed(done);
        }
        self.end_run(now);
        self.take()
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Outbox> {
        self.read_inputs(now);
        self.end_run(now);
        self.tick_manifests(now);
        self.tick_progress(now);
        let found = self.tick_surveys(now);
        self.found(now, found, now);
        if self.lookout.is_time(now) {
            let found = self.sources.look_again();
            self.found(now, found, now);
            if !self.surveys.runs {
                self.survey(now);
            }
        }
        let actions = self.cycle.tick(now);
        self.perform(now, actions);
        self.take()
    }

    /// Ends the running build; nothing is built any more.
    pub fn close(&mut self) {
        self.builder.close();
        self.lookout.close();
        self.cycle = Cycle::default();
        self.unread = None;
        self.manifests = Manifests::default();
        self.pace.ended();
    }

    fn found(&mut self, now: Instant, mut found: Found, at: Instant) {
        self.mind_what_was_missed(now);
        if !found.folders.is_empty() {
            found.folders.iter().for_each(|folder| self.lookout.forget(folder));
            if self.sources.is_near_named(&found.folders) {
                self.survey(now);
            }
            self.sources.follow();
            self.watch(now);
            // What was put into a new folder before it was watched made no event.
            found.merge(self.sources.look_again());
            self.mind_the_root();
        }
        for (path, action) in std::mem::take(&mut found.data) {
            self.out.push(Outbox::Data(path, action));
        }
        for (path, package) in std::mem::take(&mut found.by_script) {
            self.note(scripts::advice(&path, &package));
        }
        // Cargo itself writes the lock file.
        if self.builder.runs_cargo() {
            found.changed.retain(|path| !path.ends_with("Cargo.lock"));
        }
        if found.changed.is_empty() {
            return;
        }
        self.settings_changed |= found.settings;
        self.start_anyway |= found.start_anyway;
        self.changed.extend(found.changed.iter().cloned());
        (self.saved, self.was_saved) = (Some(at), true);
        let (kind, cause) = self.kind_of(&found, at);
        let actions = self.cycle.changed(now, cause, kind);
        if self.cycle.has_newer() {
            self.meanwhile.extend(found.changed);
        }
        self.perform(now, actions);
    }

    fn perform(&mut self, now: Instant, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Build { cause } => self.start_run(now, cause),
                Action::Cancel { cause } => {
                    self.builder.cancel();
                    self.out.push(Outbox::Tell(Notice::Superseded { cause }));
                }
                Action::Kill => self.builder.kill(),
                // Performed by `end_run`, which has what it needs.
                Action::Deliver | Action::Fail => {}
            }
        }
    }

    fn start_run(&mut self, now: Instant, cause: String) {
        self.build_began = now;
        self.to_learn = None;
        self.confirms = std::mem::take(&mut self.confirms_next);
        self.sources.build_began(SystemTime::now());
        self.manifests.build_began();
        self.pace.began(now);
        self.underway.build_began();
        self.meanwhile.clear();
        self.out.push(Outbox::Tell(Notice::Building { package: self.package.clone(), cause: cause.clone() }));
        self.cause = cause;
        if let Some(moment) = self.builder.cargo_began() {
            self.sources.date_the_old_anew(&self.underway.unsettled(&self.changed), moment);
        }
        let why_cargo = self.why_cargo.take();
        let started = match self.is_gone() {
            Some(gone) => Err(gone),
            None => self.builder.start(now, &self.changed, why_cargo.as_deref()).map_err(|e| e.to_string()),
        };
        if let Err(rendered) = started {
            self.out.push(Outbox::Tell(Notice::Diagnostic { rendered, message: None }));
            self.sources.failed([]);
            self.pace.ended();
            self.failed(0);
            let _ = self.cycle.ended(now, cycle::Outcome::Failed);
        }
    }

    fn end_run(&mut self, now: Instant) {
        let by_cargo = self.builder.runs_cargo();
        let outcome = self.builder.ended(now, self.cycle.has_newer());
        self.out.extend(self.builder.notices().into_iter().map(Outbox::Tell));
        let Some(outcome) = outcome else { return };
        self.pace.ended();
        if by_cargo {
            self.sources.accept_lock_file();
        }
        // What was surely compiled while the build before went on is not overlooked.
        let changed = self.underway.unsettled(&self.changed);
        let kind = self.kind_of_end(matches!(outcome, Outcome::Built(..)));
        let actions = self.cycle.ended(now, kind);
        let superseded = !actions.contains(&Action::Deliver) && !actions.contains(&Action::Fail);
        let meanwhile = std::mem::take(&mut self.meanwhile);
        if !superseded {
            self.changed = meanwhile;
            if by_cargo {
                self.sources.cargo_ended();
            }
        }
        match outcome {
            Outcome::Built(built, how, inputs) if actions.contains(&Action::Deliver) => {
                // Where a build follows anyway, it will see them.
                let last = !actions.iter().any(|action| matches!(action, Action::Build { .. }));
                let overlooked = last && built.fresh && !self.confirms && self.sources.date_anew(&changed);
                self.deliver(now, *built, how, inputs);
                if overlooked {
                    self.ask_cargo(now, format!("{}, which cargo took for old", self.cause));
                }
            }
            Outcome::Failed { errors, messages } if actions.contains(&Action::Fail) => {
                self.fail(now, Failure { errors, messages, by_cargo });
            }
            Outcome::Built(..) | Outcome::Failed { .. } => {}
        }
        self.perform(now, actions);
    }

    fn deliver(&mut self, now: Instant, built: build::Built, how: How, inputs: Option<Vec<PathBuf>>) {
        self.diagnostics(built.messages);
        self.remember_built(built.executable.clone(), &built.setting.env);
        self.out.push(Outbox::Built(Artifact {
            executable: built.executable.clone(),
            setting: built.setting,
            saved: self.saved.unwrap_or(self.build_began),
            was_saved: self.was_saved,
            build_ended: now,
            start_anyway: std::mem::take(&mut self.start_anyway),
            how,
        }));
        let (executable, whole_packages, compiled) = (built.executable, built.whole_packages, built.compiled);
        self.unread = Some(Unread { executable, whole_packages, inputs, compiled });
    }

    /// What the last build says of the program's inputs, read while the program starts.
    fn read_inputs(&mut self, now: Instant) {
        let Some(unread) = self.unread.take() else { return };
        let asked = std::mem::take(&mut self.settings_changed);
        if asked {
            self.ask_for_metadata(now);
        }
        let by_cargo = unread.inputs.is_none();
        let inputs = unread.inputs.map_or_else(|| dep_info::beside(&unread.executable), Ok);
        match inputs {
            Ok(inputs) => {
                let mut inputs = self.sources.absolute(inputs);
                let by_rustc = unread.compiled.iter().filter_map(|path| dep_info::of_rustc(path)).flatten();
                inputs.extend(self.sources.as_compiled(by_rustc.collect()));
                let missed = self.sources.built(inputs.clone(), &unread.whole_packages);
                match by_cargo {
                    // It says which settings there are.
                    true if asked => self.to_learn = Some(inputs),
                    true => self.learn(inputs),
                    false => {}
                }
                if !missed.is_empty() {
                    // Saved while they were compiled for the first time: nobody knows which half was compiled.
                    self.why_cargo = Some("a new source was saved while it was compiled".to_owned());
                    self.found(now, Found { changed: missed, ..Found::default() }, now);
                } else if by_cargo {
                    self.confirm(now);
                }
            }
            Err(error) => {
                self.sources.failed([]);
                self.note(format!(
                    "cargo's list of inputs cannot be read ({}: {error}); every file of the packages counts as one",
                    short(&unread.executable.with_extension("d"))
                ));
            }
        }
        self.watch(now);
        self.say_what_is_watched();
    }

    fn note(&mut self, text: String) {
        self.out.push(Outbox::Tell(Notice::Note { text }));
    }

    fn take(&mut self) -> Vec<Outbox> {
        std::mem::take(&mut self.out)
    }
}
