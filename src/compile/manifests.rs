//! What follows when the manifests have changed: cargo is asked which packages there are now, the package and its target are
//! found again under whatever name and wherever they are, and a failure is told only when that does not mend it.
//! Never lives here: how they are found (`config`), and cargo's builds (`build`).

use super::build::Told;
use super::found::Found;
use super::output::Words;
use super::project::{metadata, own_settings};
use super::{BuildSaid, Outbox, Room, reason};
use crate::config;
use crate::error::{Result, Tried};
use crate::process::Launcher;
use crate::report::clean::plain;
use crate::report::{Notice, short};
use cargo_metadata::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing is held back for longer for cargo's answer, which may have to come over the network.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is known of the question which packages there are.
#[derive(Default)]
pub(super) struct Manifests {
    /// Questions so far: the answer to the last one counts.
    asked: u64,
    /// Until then its answer is waited for, before anybody is told how things stand.
    until: Option<Instant>,
    /// Untold until the answer is there.
    held: Option<Failure>,
    /// The last build has failed: what cargo cannot read was told by it.
    failed: bool,
    /// Said once.
    said: String,
}

/// A build that has failed.
pub(super) struct Failure {
    pub errors: usize,
    pub messages: Vec<Told>,
    pub by_cargo: bool,
}

impl Manifests {
    pub fn is_awaited(&self) -> bool {
        self.until.is_some()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// What was held back is out of date.
    pub fn build_began(&mut self) {
        self.held = None;
        self.failed = false;
    }
}

impl Room {
    /// Tells of a build that has failed; where the manifests have changed, when it is known what that means.
    pub(super) fn fail(&mut self, now: Instant, failure: Failure, launcher: &mut Launcher) {
        self.manifests.failed = true;
        let texts: Vec<String> = failure.messages.iter().map(|told| plain(&told.words.rendered)).collect();
        self.sources.failed(texts.iter().map(String::as_str));
        // Before it is asked what is there: what comes later makes an event.
        self.watch(now);
        if std::mem::take(&mut self.settings_changed) {
            self.ask_for_metadata(now);
            self.manifests.held = Some(failure);
        } else {
            self.tell_failure(now, failure, launcher);
        }
    }

    fn tell_failure(&mut self, now: Instant, failure: Failure, launcher: &mut Launcher) {
        self.diagnostics(failure.messages);
        self.failed(failure.errors);
        let changed = self.sources.came_meanwhile();
        if !changed.is_empty() {
            self.found(now, Found { changed, ..Found::default() }, now, launcher);
        } else if failure.by_cargo {
            self.confirm(now, launcher);
        }
    }

    pub(super) fn failed(&mut self, errors: usize) {
        let why_cargo = self.builder.why_cargo().filter(|_| self.is_gone().is_none());
        let cause = self.cause.clone();
        // Who serves meanwhile is for the loop to say.
        self.out.push(Outbox::Tell(Notice::BuildFailed { errors, cause, why_cargo, serving: None }));
    }

    pub(super) fn diagnostics(&mut self, messages: Vec<Told>) {
        let words = messages.into_iter().map(|told| told.words);
        self.out
            .extend(words.map(|Words { rendered, message }| Outbox::Tell(Notice::Diagnostic { rendered, message })));
    }

    /// Asks cargo which packages there are now. It may have to wait for a lock, or for the network.
    pub(super) fn ask_for_metadata(&mut self, now: Instant) {
        let manifests = &mut self.manifests;
        manifests.asked += 1;
        manifests.until = Some(now + LONGEST_WAIT);
        let (build, sink, number) = (self.builder.cargo.build.clone(), Arc::clone(&self.sinks.build), manifests.asked);
        let root = self.sources.root().join("Cargo.toml");
        let tell = Arc::clone(&sink);
        let asking = thread::Builder::new().spawn(move || {
            // The package may have moved.
            let manifest = if build.manifest_path.is_file() { &build.manifest_path } else { &root };
            let metadata = metadata(Some(manifest), &build);
            sink(number, BuildSaid::Metadata(Box::new(metadata)));
        });
        if let Err(error) = asking {
            tell(
                number,
                BuildSaid::Metadata(Box::new(Err(error).tried("start a thread that asks cargo for the packages"))),
            );
        }
    }

    pub(super) fn hear_metadata(
        &mut self,
        now: Instant,
        number: u64,
        metadata: Result<Metadata>,
        launcher: &mut Launcher,
    ) {
        if number != self.manifests.asked {
            // A newer question is open.
            return;
        }
        self.manifests.until = None;
        let held = self.manifests.held.take();
        match metadata {
            Ok(metadata) => self.choose_again(now, &metadata, held, launcher),
            Err(error) => {
                // Where a build has told it, or will, it is asked again when something is built next.
                self.settings_changed |= self.manifests.failed || !self.cycle.is_idle();
                match held {
                    Some(failure) => self.tell_failure(now, failure, launcher),
                    None if self.settings_changed => {}
                    None => self.note_once(format!("{error}; the packages watched are those from before")),
                }
            }
        }
    }

    /// What is waited for has not come in time.
    pub(super) fn tick_manifests(&mut self, now: Instant, launcher: &mut Launcher) {
        if self.manifests.until.take_if(|until| *until <= now).is_some()
            && let Some(failure) = self.manifests.held.take()
        {
            self.tell_failure(now, failure, launcher);
        }
    }

    fn choose_again(&mut self, now: Instant, metadata: &Metadata, held: Option<Failure>, launcher: &mut Launcher) {
        let before = self.builder.cargo.build.clone();
        let (build, trouble) = match self.choice.again(metadata, &before) {
            Ok(again) => (again.build, again.trouble),
            Err(error) => {
                self.tell_trouble(now, &error.to_string(), held, launcher);
                return;
            }
        };
        self.sources.set_packages(metadata, &build.package_id);
        let settings = own_settings(metadata, &build.package_id);
        if settings != self.own_settings {
            self.own_settings = settings;
            self.note("the settings of hotrun in Cargo.toml have changed: start it again to use them".to_owned());
        }
        self.underway.set_packages(metadata, &build.manifest_path);
        self.package.clone_from(&build.package);
        let another = what_is_new(&before, &build);
        self.builder.follow(build, metadata);
        self.watch(now);
        if let Some(cause) = another {
            // What was built until now, or could not be, is another program.
            self.to_learn = None;
            self.ask_cargo(now, cause, launcher);
        } else if let Some(error) = trouble {
            self.tell_trouble(now, &error.to_string(), held, launcher);
        } else if let Some(failure) = held {
            self.tell_failure(now, failure, launcher);
        }
        self.say_what_is_watched();
        if let Some(inputs) = self.to_learn.take() {
            self.learn(inputs);
        }
    }

    /// What is to be built cannot be found; where cargo has only said as much, in its place.
    fn tell_trouble(&mut self, now: Instant, error: &str, held: Option<Failure>, launcher: &mut Launcher) {
        match held {
            Some(failure) if failure.errors == 0 => {
                let messages = vec![reason::unsaid(error)];
                self.tell_failure(now, Failure { messages, ..failure }, launcher);
            }
            Some(failure) => {
                self.tell_failure(now, failure, launcher);
                self.note_once(error.to_owned());
            }
            None => self.note_once(format!("{error}; what is built is the same as before")),
        }
    }

    pub(super) fn learn(&mut self, inputs: Vec<PathBuf>) {
        self.builder.learn(inputs, self.sources.all_settings(), self.sources.whole_folders());
    }

    /// Said when the set of packages has changed, the first time included.
    pub(super) fn say_what_is_watched(&mut self) {
        let path_dependencies = self.sources.path_dependencies();
        if self.said_path_dependencies.replace(path_dependencies) != Some(path_dependencies) {
            let (files, package) = (self.sources.file_count(), self.package.clone());
            self.out.push(Outbox::Tell(Notice::Watching { files, package, path_dependencies }));
        }
    }

    fn note_once(&mut self, text: String) {
        if self.manifests.said != text {
            self.manifests.said.clone_from(&text);
            self.note(text);
        }
    }
}

/// What makes another build necessary, if anything does: a new version of the package was built under its new number.
fn what_is_new(before: &config::Build, now: &config::Build) -> Option<String> {
    let folder = |build: &config::Build| short(build.manifest_path.parent().unwrap_or(Path::new("/")));
    let target = |build: &config::Build| format!("{} `{}`", build.target.kind(), build.target.name());
    if before.manifest_path != now.manifest_path {
        Some(format!("{} is in {} now", now.package, folder(now)))
    } else if before.target != now.target {
        Some(format!("{} in place of {}", target(now), target(before)))
    } else {
        None
    }
}
