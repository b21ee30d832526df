//! Room 1, hot compile: watches what the program is made of, builds, and ends in an `Artifact`.
//! Never lives here: what becomes of it. This room does not know that programs are run.

mod advice;
mod build;
mod builder;
mod cycle;
mod dep_info;
mod last;
mod launch;
mod link;
mod outbox;
mod output;
mod project;
mod replay;
mod seen;
mod sources;
mod stamp;
mod watch;

use crate::config::Config;
use crate::error::Result;
use crate::process::Launcher;
use crate::report::{Notice, short};
use build::{Cargo, Told};
use builder::{Builder, Outcome};
use cargo_metadata::{Metadata, PackageId};
use cycle::{Action, Cycle};
use project::{cargo_program, own_settings, unit_estimate};
use replay::Replay;
use sources::{Found, Sources};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub use builder::How;
pub use outbox::{Artifact, Outbox};
pub use project::{MetadataFlags, depends_on, metadata};
pub use watch::FileEvent;

/// How often to look at the files where watching cannot be had.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What is said in the course of builds.
#[derive(Debug)]
pub enum BuildSaid {
    Cargo(build::Said),
    /// A compiler of a crate, by the crate's number.
    Rustc(usize, replay::Said),
    /// What cargo's last build has taught.
    Learnt(Box<std::result::Result<replay::Plan, String>>),
    /// What `cargo metadata` says now; this belongs to no run.
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
    eyes: Option<watch::Eyes>,
    look_at: Option<Instant>,
    builder: Builder,
    package: String,
    cause: String,
    /// The next build goes through cargo, for this reason.
    why_cargo: Option<String>,
    /// The next build is only for a doubt about the last one; the running one is.
    confirms_next: bool,
    confirms: bool,
    saved: Option<Instant>,
    build_began: Instant,
    settings_changed: bool,
    /// Inputs that have changed since a build last came to its end.
    changed: BTreeSet<PathBuf>,
    start_anyway: bool,
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
    out: Vec<Outbox>,
}

struct Unread {
    executable: PathBuf,
    /// Packages without a list of inputs.
    whole_packages: Vec<PackageId>,
    /// As replay knows them; cargo writes them into a file.
    inputs: Option<Vec<PathBuf>>,
}

impl Room {
    pub fn open(config: &Config, metadata: &Metadata, color: bool, sinks: Sinks, now: Instant) -> Result<Room> {
        let sources = Sources::new(config, metadata)?;
        let cargo = Cargo { program: cargo_program(), build: config.build.clone(), color };
        let replay = Replay::open(&config.build, metadata, sources.target_dir());
        let builder = Builder::new(cargo, replay, Arc::clone(&sinks.build), now);
        let mut room = Room {
            cycle: Cycle::default(),
            sources,
            eyes: None,
            look_at: None,
            builder,
            package: config.build.package.clone(),
            cause: String::new(),
            why_cargo: None,
            confirms_next: false,
            confirms: false,
            saved: None,
            build_began: now,
            settings_changed: false,
            changed: BTreeSet::new(),
            start_anyway: false,
            own_settings: own_settings(metadata, &config.build.package_id),
            unread: None,
            to_learn: None,
            units: unit_estimate(metadata, config),
            sinks,
            said_path_dependencies: None,
            out: Vec::new(),
        };
        match watch::Eyes::open(&room.sinks.files) {
            Ok(eyes) => room.eyes = Some(eyes),
            Err(error) => room.look_from_time_to_time(&watch::describe(&error), now),
        }
        let advice = std::env::current_dir().ok().and_then(|folder| advice::dotenv(config, metadata, &folder));
        advice.into_iter().for_each(|text| room.note(text));
        room.watch(now);
        Ok(room)
    }

    pub fn deadline(&self) -> Option<Instant> {
        if self.unread.is_some() {
            // At once, when the program has been handed on.
            return Some(self.build_began);
        }
        self.cycle.deadline().into_iter().chain(self.builder.deadline()).chain(self.look_at).min()
    }

    /// Whether no build runs or is about to.
    pub fn is_idle(&self) -> bool {
        self.cycle.is_idle()
    }

    pub fn rebuild(&mut self, now: Instant, cause: &str, launcher: &mut Launcher) -> Vec<Outbox> {
        self.saved = Some(now);
        // Whoever asks may know of something that has changed unseen.
        self.ask_cargo(now, cause.to_owned(), launcher);
        self.take()
    }

    pub fn files(&mut self, now: Instant, event: FileEvent, launcher: &mut Launcher) -> Vec<Outbox> {
        let (found, at) = match event {
            FileEvent::Touched(paths, at) => (self.sources.look(&paths), at),
            FileEvent::Quiet(paths) => (self.sources.look(&paths), now),
            FileEvent::Lost => (self.sources.look_again(), now),
            FileEvent::Trouble(text) => {
                self.note(format!("watching files: {text}"));
                return self.take();
            }
        };
        self.found(now, found, at, launcher);
        self.take()
    }

    pub fn build_said(&mut self, now: Instant, number: u64, said: BuildSaid, launcher: &mut Launcher) -> Vec<Outbox> {
        if let BuildSaid::Metadata(metadata) = said {
            self.hear_metadata(now, *metadata);
            return self.take();
        }
        let heard = self.builder.hear(now, number, said, launcher);
        if let Some(done) = heard.done {
            self.units = self.units.max(done);
            self.out.push(Outbox::Tell(Notice::Progress { done, total: self.units, waiting: heard.waiting }));
        }
        self.end_run(now, launcher);
        self.take()
    }

    pub fn tick(&mut self, now: Instant, launcher: &mut Launcher) -> Vec<Outbox> {
        self.read_inputs(now, launcher);
        self.end_run(now, launcher);
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = Some(now + LOOK_INTERVAL);
            let found = self.sources.look_again();
            self.found(now, found, now, launcher);
        }
        let actions = self.cycle.tick(now);
        self.perform(now, actions, launcher);
        self.take()
    }

    /// Ends the running build; nothing is built any more.
    pub fn close(&mut self) {
        self.builder.close();
        self.eyes = None;
        self.cycle = Cycle::default();
        self.look_at = None;
        self.unread = None;
    }

    fn found(&mut self, now: Instant, mut found: Found, at: Instant, launcher: &mut Launcher) {
        if !found.folders.is_empty() {
            if let Some(eyes) = &mut self.eyes {
                found.folders.iter().for_each(|folder| eyes.forget(folder));
            }
            self.watch(now);
            // What was put into a new folder before it was watched made no event.
            let more = self.sources.look_again();
            found.emptied &= more.changed.is_empty();
            found.changed.extend(more.changed);
            found.settings |= more.settings;
            found.start_anyway |= more.start_anyway;
            found.data.extend(more.data);
        }
        for (path, action) in std::mem::take(&mut found.data) {
            self.out.push(Outbox::Data(path, action));
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
        self.saved = Some(at);
        let actions = self.cycle.changed(now, found.cause(), found.emptied);
        self.perform(now, actions, launcher);
    }

    fn perform(&mut self, now: Instant, actions: Vec<Action>, launcher: &mut Launcher) {
        for action in actions {
            match action {
                Action::Build { cause } => self.start_run(now, cause, launcher),
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

    fn start_run(&mut self, now: Instant, cause: String, launcher: &mut Launcher) {
        self.build_began = now;
        self.to_learn = None;
        self.confirms = std::mem::take(&mut self.confirms_next);
        self.sources.build_began();
        self.out.push(Outbox::Tell(Notice::Building { package: self.package.clone(), cause: cause.clone() }));
        self.cause = cause;
        if let Some(moment) = self.builder.cargo_began() {
            self.sources.date_the_old_anew(&self.changed, moment);
        }
        let why_cargo = self.why_cargo.take();
        if let Err(error) = self.builder.start(now, &self.changed, why_cargo.as_deref(), launcher) {
            self.out.push(Outbox::Tell(Notice::Diagnostic { rendered: error.to_string() }));
            self.failed(0);
            let _ = self.cycle.ended(now, cycle::Outcome::Failed);
        }
    }

    fn end_run(&mut self, now: Instant, launcher: &mut Launcher) {
        let by_cargo = self.builder.runs_cargo();
        let outcome = self.builder.ended(now, self.cycle.has_newer(), launcher);
        self.out.extend(self.builder.notices().into_iter().map(Outbox::Tell));
        let Some(outcome) = outcome else { return };
        if by_cargo {
            self.sources.accept_lock_file();
        }
        let kind = match &outcome {
            Outcome::Built(..) => cycle::Outcome::Built,
            Outcome::Failed { .. } => cycle::Outcome::Failed,
        };
        let actions = self.cycle.ended(now, kind);
        let superseded = !actions.contains(&Action::Deliver) && !actions.contains(&Action::Fail);
        let changed = if superseded { BTreeSet::new() } else { std::mem::take(&mut self.changed) };
        match outcome {
            Outcome::Built(built, how, inputs) if actions.contains(&Action::Deliver) => {
                // Where a build follows anyway, it will see them.
                let last = !actions.iter().any(|action| matches!(action, Action::Build { .. }));
                let overlooked = last && built.fresh && !self.confirms && self.sources.date_anew(&changed);
                self.deliver(now, *built, how, inputs);
                if overlooked {
                    self.ask_cargo(now, format!("{}, which cargo took for old", self.cause), launcher);
                }
            }
            Outcome::Failed { errors, messages } if actions.contains(&Action::Fail) => {
                self.diagnostics(messages);
                self.failed(errors);
                if by_cargo {
                    self.confirm(now, launcher);
                }
            }
            Outcome::Built(..) | Outcome::Failed { .. } => {}
        }
        self.perform(now, actions, launcher);
    }

    fn deliver(&mut self, now: Instant, built: build::Built, how: How, inputs: Option<Vec<PathBuf>>) {
        self.diagnostics(built.messages);
        self.out.push(Outbox::Built(Artifact {
            executable: built.executable.clone(),
            setting: built.setting,
            saved: self.saved.unwrap_or(self.build_began),
            build_ended: now,
            start_anyway: std::mem::take(&mut self.start_anyway),
            how,
        }));
        let (executable, whole_packages) = (built.executable, built.whole_packages);
        self.unread = Some(Unread { executable, whole_packages, inputs });
    }

    /// What the last build says of the program's inputs, read while the program starts.
    fn read_inputs(&mut self, now: Instant, launcher: &mut Launcher) {
        let Some(unread) = self.unread.take() else { return };
        let asked = std::mem::take(&mut self.settings_changed);
        if asked {
            self.ask_for_metadata();
        }
        let by_cargo = unread.inputs.is_none();
        let inputs = unread.inputs.map_or_else(|| dep_info::beside(&unread.executable), Ok);
        match inputs {
            Ok(inputs) => {
                let inputs = self.sources.absolute(inputs);
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
                    self.found(now, Found { changed: missed, ..Found::default() }, now, launcher);
                } else if by_cargo {
                    self.confirm(now, launcher);
                }
            }
            Err(error) => {
                self.sources.failed();
                self.note(format!(
                    "cargo's list of inputs cannot be read ({}: {error}); every file of the packages counts as one",
                    short(&unread.executable.with_extension("d"))
                ));
            }
        }
        self.watch(now);
        self.say_what_is_watched();
    }

    /// Has cargo build again where it may have read what was in a source only for a moment. Replay sees that by itself.
    fn confirm(&mut self, now: Instant, launcher: &mut Launcher) {
        if !self.cycle.is_idle() {
            // Another build reads it as it is.
            return;
        }
        let rewritten = self.sources.rewritten(self.confirms);
        let Some(path) = rewritten.first() else { return };
        let why = format!("{} was written while it was compiled", short(path));
        self.changed.extend(rewritten);
        self.saved = Some(now);
        self.confirms_next = true;
        self.ask_cargo(now, why, launcher);
    }

    fn ask_cargo(&mut self, now: Instant, why: String, launcher: &mut Launcher) {
        self.why_cargo = Some(why.clone());
        let actions = self.cycle.asked(now, why);
        self.perform(now, actions, launcher);
    }

    fn learn(&mut self, inputs: Vec<PathBuf>) {
        self.builder.learn(inputs, self.sources.all_settings(), self.sources.whole_folders());
    }

    fn failed(&mut self, errors: usize) {
        self.sources.failed();
        // What is broken may be a package that has just come.
        if self.settings_changed {
            self.ask_for_metadata();
        }
        let (cause, why_cargo) = (self.cause.clone(), self.builder.why_cargo());
        // Who serves meanwhile is for the loop to say.
        self.out.push(Outbox::Tell(Notice::BuildFailed { errors, cause, why_cargo, serving: None }));
    }

    fn diagnostics(&mut self, messages: Vec<Told>) {
        let rendered = messages.into_iter().map(|told| told.rendered);
        self.out.extend(rendered.map(|rendered| Outbox::Tell(Notice::Diagnostic { rendered })));
    }

    /// Asks cargo which packages there are now. It may have to wait for a lock, or for the network.
    fn ask_for_metadata(&self) {
        let (build, sink) = (self.builder.cargo.build.clone(), Arc::clone(&self.sinks.build));
        thread::spawn(move || {
            let metadata = metadata(Some(&build.manifest_path), &build);
            sink(0, BuildSaid::Metadata(Box::new(metadata)));
        });
    }

    fn hear_metadata(&mut self, now: Instant, metadata: Result<Metadata>) {
        match metadata {
            Ok(metadata) => {
                let package = &self.builder.cargo.build.package_id;
                self.sources.set_packages(&metadata, package);
                self.builder.set_metadata(&metadata);
                let settings = own_settings(&metadata, &self.builder.cargo.build.package_id);
                if settings != self.own_settings {
                    self.own_settings = settings;
                    self.note(
                        "the settings of hotrun in Cargo.toml have changed: start it again to use them".to_owned(),
                    );
                }
                self.watch(now);
                self.say_what_is_watched();
                if let Some(inputs) = self.to_learn.take() {
                    self.learn(inputs);
                }
            }
            Err(error) => self.note(format!("{error}; the packages watched are those from before")),
        }
    }

    fn watch(&mut self, now: Instant) {
        let folders = self.sources.folders();
        let Some(eyes) = &mut self.eyes else { return };
        let mut troubles = eyes.watch(&folders);
        if let Some(trouble) = troubles.pop() {
            self.look_from_time_to_time(&trouble, now);
        }
    }

    fn look_from_time_to_time(&mut self, why: &str, now: Instant) {
        if self.look_at.is_none() {
            self.look_at = Some(now + LOOK_INTERVAL);
            self.note(format!("{why}. Until then the files are looked at every {} ms", LOOK_INTERVAL.as_millis()));
        }
    }

    /// Said when the set of packages has changed, the first time included.
    fn say_what_is_watched(&mut self) {
        let path_dependencies = self.sources.path_dependencies();
        if self.said_path_dependencies.replace(path_dependencies) != Some(path_dependencies) {
            let (files, package) = (self.sources.file_count(), self.package.clone());
            self.out.push(Outbox::Tell(Notice::Watching { files, package, path_dependencies }));
        }
    }

    fn note(&mut self, text: String) {
        self.out.push(Outbox::Tell(Notice::Note { text }));
    }

    fn take(&mut self) -> Vec<Outbox> {
        std::mem::take(&mut self.out)
    }
}
