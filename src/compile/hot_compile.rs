//! Hot compile: from what is seen of files, heard from compilers and asked for to programs, failures and what is told of them.
//! Never lives here: when to build (`cycle`), which files count (`sources`), how it is built (`builder`).

use super::build::Cargo;
use super::builder::{BuildResult, Builder};
use super::cycle::{Action, Cycle};
use super::found::Found;
use super::gone::{self, LastBuilt};
use super::lock::{self, Look};
use super::manifests::{Failure, Manifests};
use super::outbox::{Artifact, Outbox, Outgoing, Unread};
use super::output::Told;
use super::progress::Pace;
use super::project::{cargo_program, unit_estimate};
use super::replay::{self, Replay};
use super::request::BuildRequest;
use super::sources::Sources;
use super::underway::Underway;
use super::watch::FileEvent;
use super::watching::Watching;
use super::{BuildSaid, Sinks, advice};
use crate::config::Config;
use crate::error::Result;
use crate::process::{Ground, Launcher};
use crate::report::clean::plain;
use crate::report::{Note, Notice, ServiceId, short};
use cargo_metadata::Metadata;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

pub struct HotCompile {
    /// Whose program is built.
    service: ServiceId,
    cycle: Cycle,
    sources: Sources,
    watching: Watching,
    manifests: Manifests,
    builder: Builder,
    /// What the running cargo has under way, and what is told of it.
    underway: Underway,
    pace: Pace,
    last_built: LastBuilt,
    /// The last build has failed, and no other has begun since.
    failed: bool,
    /// The number of path dependencies that were said to be watched.
    said_path_dependencies: Option<usize>,
    out: Outgoing,
}

impl HotCompile {
    pub fn open(
        config: &Config,
        metadata: &Metadata,
        color: bool,
        launcher: Launcher,
        sinks: Sinks,
        now: Instant,
    ) -> Result<HotCompile> {
        let sources = Sources::new(config, metadata)?;
        let cargo = Cargo { launcher: launcher.clone(), program: cargo_program(), build: config.build.clone(), color };
        let replay = Replay::open(&config.build, metadata, &sources.layout.target_dir, launcher);
        let folders = [&sources.layout.target_dir, &sources.layout.build_dir].map(PathBuf::clone);
        let mut hot = HotCompile {
            service: config.service.clone(),
            cycle: Cycle::default(),
            sources,
            watching: Watching::open(sinks.files),
            manifests: Manifests::new(config, metadata, Arc::clone(&sinks.build)),
            builder: Builder::new(cargo, replay, folders, sinks.build, now),
            underway: Underway::default(),
            pace: Pace::new(unit_estimate(metadata, config)),
            last_built: LastBuilt::default(),
            failed: false,
            said_path_dependencies: None,
            out: Outgoing::default(),
        };
        hot.underway.set_packages(metadata, &config.build.manifest_path);
        let folder = std::env::current_dir().ok();
        hot.out.note(folder.and_then(|folder| advice::dotenv(config, metadata, &folder)));
        hot.watch(now);
        hot.out.note(hot.watching.survey(now, &hot.sources));
        Ok(hot)
    }

    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.cycle.deadline(),
            self.builder.deadline(),
            self.watching.deadline(),
            self.manifests.deadline(),
            self.pace.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether no build runs or is about to, and none may follow from what is being asked.
    pub fn is_idle(&self) -> bool {
        self.cycle.is_idle() && !self.manifests.is_awaited() && !self.watching.is_awaited()
    }

    /// Why the newest sources were not built.
    pub fn trouble(&self) -> Option<&'static str> {
        self.failed.then_some("the build of the newest sources has failed")
    }

    /// The package that is built; its name may change.
    pub fn package(&self) -> &str {
        &self.builder.cargo.build.package
    }

    pub fn rebuild(&mut self, now: Instant, cause: &str) -> Vec<Outbox> {
        // Whoever asks may know of something that has changed unseen.
        self.request(now, BuildRequest::asked(now, cause).by_cargo());
        self.out.take()
    }

    /// The program has died, or cannot be started. Where what was built is gone, as after `cargo clean`, it is built again at once; and
    /// only once, should that not be possible.
    pub fn died(&mut self, now: Instant) -> Vec<Outbox> {
        // A build that is under way makes it, too.
        if gone::project(&self.sources.layout.root).is_none() && self.last_built.has_gone() && self.cycle.is_idle() {
            self.request(now, BuildRequest::asked(now, "what was built is gone").by_cargo());
        }
        self.out.take()
    }

    pub fn files(&mut self, now: Instant, event: FileEvent) -> Vec<Outbox> {
        self.sources.build.cargo_runs = self.builder.cargo_began().filter(|_| self.builder.runs_cargo());
        let (found, at) = match event {
            FileEvent::Touched(paths, at) => (self.sources.look(&paths), at),
            FileEvent::Quiet(paths) => (self.sources.look(&paths), now),
            FileEvent::Lost => (self.sources.lost(), now),
            FileEvent::Surveyed(survey) => (self.watching.surveyed(now, &mut self.sources, *survey), now),
            FileEvent::Trouble(error) => {
                self.out.note([Note::WatchingFails { error }]);
                return self.out.take();
            }
        };
        self.found(now, found, at);
        self.out.take()
    }

    pub fn build_said(&mut self, now: Instant, number: u64, said: BuildSaid) -> Vec<Outbox> {
        if let BuildSaid::Metadata(metadata) = said {
            self.hear_metadata(now, number, *metadata);
            return self.out.take();
        }
        if let BuildSaid::Cargo(said) = &said
            && self.builder.is_cargo(number)
        {
            self.out.tell(self.pace.said(now, said));
            self.underway.hear(now, said);
        }
        if let Some(done) = self.builder.hear(now, number, said) {
            self.out.tell([self.pace.counted(done)]);
        }
        self.end_run(now);
        self.out.take()
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Outbox> {
        self.end_run(now);
        let late = self.manifests.tick(now);
        late.into_iter().for_each(|failure| self.tell_failure(now, failure));
        let look = || self.builder.cargo_pid().map_or(Look::Nothing, lock::look);
        self.out.tell(self.pace.tick(now, look));
        let found = self.watching.tick(now, &mut self.sources);
        self.found(now, found, now);
        let actions = self.cycle.tick(now);
        self.perform(now, actions);
        self.out.take()
    }

    /// Ends the running build; nothing is built any more.
    pub fn close(&mut self) {
        self.builder.close();
        self.watching.close();
        self.cycle = Cycle::default();
        self.manifests.close();
        self.pace.ended();
    }

    fn found(&mut self, now: Instant, mut found: Found, at: Instant) {
        self.watching.mind_what_was_missed(now, &self.sources);
        if !found.folders.is_empty() {
            found.merge(self.watching.folders_changed(now, &mut self.sources, &found.folders));
            self.mind_the_root();
        }
        self.out.note(std::mem::take(&mut found.notes));
        found.data.drain(..).for_each(|(path, action)| self.out.push(Outbox::Data(path, action)));
        self.changed(now, found, at, None);
    }

    /// A build follows, by cargo in any case if there is a reason.
    fn changed(&mut self, now: Instant, mut found: Found, at: Instant, why_cargo: Option<String>) {
        let runs_cargo = self.builder.runs_cargo();
        // Cargo itself writes the lock file.
        found.changed.retain(|path| !(runs_cargo && path.ends_with("Cargo.lock")));
        if found.changed.is_empty() {
            return;
        }
        let cargo = runs_cargo.then_some(&self.pace);
        let (kind, cause) = self.underway.kind_of(&found, at, self.cycle.is_building(), cargo);
        let request = BuildRequest { why_cargo, ..BuildRequest::of(found, at, cause) };
        let actions = self.cycle.changed(now, request, kind);
        self.perform(now, actions);
    }

    fn request(&mut self, now: Instant, request: BuildRequest) {
        let actions = self.cycle.asked(now, request);
        self.perform(now, actions);
    }

    fn perform(&mut self, now: Instant, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Build(request) => self.start_run(now, &request),
                Action::Cancel { cause } => {
                    if let Some(why) = self.builder.cancel() {
                        self.cycle.cancelled_by_cargo(why);
                    }
                    self.out.tell([Notice::Superseded { cause }]);
                }
                Action::Kill => self.builder.kill(),
            }
        }
    }

    fn start_run(&mut self, now: Instant, request: &BuildRequest) {
        self.failed = false;
        self.sources.build.began(SystemTime::now());
        self.manifests.build_began();
        self.pace.began(now);
        self.underway.build_began();
        self.out.push(Outbox::Building { cause: request.cause.clone() });
        if let Some(moment) = self.builder.cargo_began() {
            self.sources.date_the_old_anew(&self.underway.unsettled(&request.changed), moment);
        }
        let started = match gone::project(&self.sources.layout.root) {
            Some(gone) => Err(gone),
            None => {
                let why_cargo = request.why_cargo.as_deref();
                self.builder.start(now, &request.changed, why_cargo).map_err(|error| error.to_string())
            }
        };
        if let Err(text) = started {
            self.cycle.not_begun();
            self.sources.failed([]);
            self.pace.ended();
            let messages = vec![Told::text(text)];
            let failure = self.failure(request.clone(), 0, messages, false);
            self.say_failure(failure);
        }
    }

    fn end_run(&mut self, now: Instant) {
        let by_cargo = self.builder.runs_cargo();
        let result = self.builder.ended(now, self.cycle.has_newer());
        self.out.tell(self.builder.notices());
        let Some(result) = result else { return };
        self.pace.ended();
        if by_cargo {
            self.sources.accept_lock_file();
        }
        let has_built = matches!(result, BuildResult::Built(..));
        let ended = self.cycle.ended(now, self.underway.end(has_built));
        // Where a build follows at once, it will see what this one has overlooked. What was surely compiled while the build before went on
        // is not overlooked.
        let counts = ended.counts.as_ref().filter(|_| ended.next.is_empty());
        let doubtful = counts.map(|request| self.underway.unsettled(&request.changed)).unwrap_or_default();
        self.underway.settle(has_built);
        if let Some(request) = ended.counts {
            if by_cargo {
                self.sources.build.cargo_ended();
            }
            match result {
                BuildResult::Built(mut built, provenance, inputs) => {
                    let is_overlooked = built.fresh && !request.confirms && self.sources.date_anew(&doubtful);
                    let why = format!("{}, which cargo took for old", request.cause);
                    let again = is_overlooked.then(|| request.again(why));
                    self.last_built = LastBuilt::of(&built);
                    let (artifact, unread) =
                        Artifact::of(self.service.clone(), request, &mut built, provenance, inputs, now);
                    self.out.say(built.messages);
                    self.out.push(Outbox::Built(artifact, unread));
                    again.into_iter().for_each(|request| self.request(now, request));
                }
                BuildResult::Failed { errors, messages } => {
                    let failure = self.failure(request, errors, messages, by_cargo);
                    self.fail(now, failure);
                }
            }
        }
        self.perform(now, ended.next);
    }

    /// What a build says of its program's inputs: the program is on its way.
    pub fn read_inputs(&mut self, now: Instant, unread: &Unread) -> Vec<Outbox> {
        let asked = self.ask_for_metadata(now, &unread.request);
        let by_cargo = unread.inputs.is_none();
        match unread.read(&self.sources) {
            Ok(inputs) => {
                let missed = self.sources.built(inputs.clone(), &unread.whole_packages);
                match by_cargo {
                    // The answer says which settings there are.
                    true if asked => self.manifests.learn_later(inputs),
                    true => self.learn(inputs),
                    false => {}
                }
                if !missed.is_empty() {
                    // Saved while they were compiled for the first time: nobody knows which half was compiled.
                    let why = "a new source was saved while it was compiled".to_owned();
                    self.changed(now, Found { changed: missed, ..Found::default() }, now, Some(why));
                } else if by_cargo {
                    self.confirm(now, &unread.request);
                }
            }
            Err(error) => {
                self.sources.failed([]);
                let file = short(&unread.executable.with_extension("d"));
                self.out.note([Note::InputsUnreadable { file, error: error.to_string() }]);
            }
        }
        self.watch(now);
        self.say_what_is_watched();
        self.out.take()
    }

    fn failure(&self, request: BuildRequest, errors: usize, messages: Vec<Told>, by_cargo: bool) -> Failure {
        let is_there = gone::project(&self.sources.layout.root).is_none();
        let why_cargo = self.builder.why_cargo().filter(|_| is_there);
        Failure { request, errors, messages, by_cargo, why_cargo }
    }

    /// Tells of a build that has failed; where the manifests have changed, when it is known what that means.
    fn fail(&mut self, now: Instant, failure: Failure) {
        self.failed = true;
        let texts: Vec<String> = failure.messages.iter().map(|told| plain(&told.words.rendered)).collect();
        self.sources.failed(texts.iter().map(String::as_str));
        // Before it is asked what is there: what comes later makes an event.
        self.watch(now);
        if self.ask_for_metadata(now, &failure.request) {
            self.manifests.hold(failure);
        } else {
            self.tell_failure(now, failure);
        }
    }

    fn tell_failure(&mut self, now: Instant, failure: Failure) {
        let (by_cargo, request) = (failure.by_cargo, failure.request.clone());
        self.say_failure(failure);
        let changed = self.sources.came_meanwhile();
        if !changed.is_empty() {
            self.changed(now, Found { changed, ..Found::default() }, now, None);
        } else if by_cargo {
            self.confirm(now, &request);
        }
    }

    fn say_failure(&mut self, failure: Failure) {
        let Failure { request, errors, messages, why_cargo, by_cargo: _ } = failure;
        self.failed = true;
        self.out.say(messages);
        self.out.push(Outbox::Failed { service: self.service.clone(), errors, cause: request.cause, why_cargo });
    }

    /// Has cargo build again where it may have read what was in a source only for a moment. Replay sees that by itself.
    fn confirm(&mut self, now: Instant, request: &BuildRequest) {
        if !self.cycle.is_idle() {
            // Another build reads it as it is.
            return;
        }
        let changed = self.sources.rewritten(request.confirms);
        let Some(path) = changed.first() else { return };
        let again = request.again(format!("{} was written while it was compiled", short(path)));
        self.request(now, BuildRequest { saved: now, confirms: true, changed, ..again });
    }

    /// Where the build, or one before it, has changed which packages there are. Whether cargo is asked.
    fn ask_for_metadata(&mut self, now: Instant, request: &BuildRequest) -> bool {
        self.manifests.ask(now, request, &self.builder.cargo.build, &self.sources.layout.root)
    }

    fn hear_metadata(&mut self, now: Instant, number: u64, metadata: Result<Metadata>) {
        if !self.manifests.is_answer(number) {
            return;
        }
        let held = self.manifests.take_held();
        match metadata {
            Ok(metadata) => self.choose_again(now, &metadata, held),
            Err(error) => {
                self.out.note(self.manifests.unanswered(&error, self.failed || !self.cycle.is_idle()));
                held.into_iter().for_each(|failure| self.tell_failure(now, failure));
            }
        }
    }

    fn choose_again(&mut self, now: Instant, metadata: &Metadata, held: Option<Failure>) {
        let chosen = match self.manifests.choose(metadata, &self.builder.cargo.build) {
            Ok(chosen) => chosen,
            Err(error) => return self.tell_trouble(now, &error.to_string(), held),
        };
        self.sources.set_packages(metadata, &chosen.build.package_id);
        self.out.note(chosen.note);
        self.underway.set_packages(metadata, &chosen.build.manifest_path);
        self.builder.follow(chosen.build, metadata);
        self.watch(now);
        if let Some(cause) = chosen.another {
            let request = self.manifests.another(now, cause);
            self.request(now, request);
        } else if let Some(error) = chosen.trouble {
            self.tell_trouble(now, &error, held);
        } else if let Some(failure) = held {
            self.tell_failure(now, failure);
        }
        self.say_what_is_watched();
        if let Some(inputs) = self.manifests.take_to_learn() {
            self.learn(inputs);
        }
    }

    /// What is to be built cannot be found.
    fn tell_trouble(&mut self, now: Instant, error: &str, held: Option<Failure>) {
        let (note, held) = self.manifests.trouble(error, held);
        held.into_iter().for_each(|failure| self.tell_failure(now, failure));
        self.out.note(note);
    }

    fn learn(&mut self, inputs: Vec<PathBuf>) {
        self.builder.learn(inputs, self.sources.all_settings(), self.sources.inputs.whole.iter().cloned().collect());
    }

    /// Folders have come or gone. Where the project's is not there, what is done before it is needed would make another one in its place.
    fn mind_the_root(&mut self) {
        let root = &self.sources.layout.root;
        if !root.join("Cargo.toml").exists() {
            self.builder.let_go("the project was gone");
            Ground::new(root).sweep(&self.sources.layout.target_dir, replay::OURS);
        }
    }

    fn watch(&mut self, now: Instant) {
        self.out.note(self.watching.watch(now, &self.sources));
    }

    /// Said when the set of packages has changed, the first time included.
    fn say_what_is_watched(&mut self) {
        let (files, path_dependencies) = self.sources.watched();
        if self.said_path_dependencies.replace(path_dependencies) != Some(path_dependencies) {
            let package = self.package().to_owned();
            self.out.tell([Notice::Watching { files, package, path_dependencies }]);
        }
    }
}
