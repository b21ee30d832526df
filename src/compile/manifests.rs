//! What follows when the manifests have changed: cargo is asked which packages there are now, the package and its target are
//! found again under whatever name and wherever they are, and a failure is told only when that does not mend it.
//! Never lives here: how they are found (`config`), cargo's builds (`build`), and how a failure is told (`failure`).

use super::failure::Failure;
use super::project::{metadata, own_settings};
use super::{BuildSaid, Outbox, Room, reason};
use crate::config;
use crate::error::Result;
use crate::process::refused;
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
    pub held: Option<Failure>,
    /// The last build has failed: what cargo cannot read was told by it.
    pub failed: bool,
    /// Said once.
    said: String,
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
                BuildSaid::Metadata(Box::new(Err(refused("start a thread that asks cargo for the packages", &error)))),
            );
        }
    }

    pub(super) fn hear_metadata(&mut self, now: Instant, number: u64, metadata: Result<Metadata>) {
        if number != self.manifests.asked {
            // A newer question is open.
            return;
        }
        self.manifests.until = None;
        let held = self.manifests.held.take();
        match metadata {
            Ok(metadata) => self.choose_again(now, &metadata, held),
            Err(error) => {
                // Where a build has told it, or will, it is asked again when something is built next.
                self.settings_changed |= self.manifests.failed || !self.cycle.is_idle();
                let is_told = self.settings_changed;
                // And so it is where the reason may have passed by then.
                self.settings_changed |= error.passes();
                match held {
                    Some(failure) => self.tell_failure(now, failure),
                    None if is_told => {}
                    None => self.note_once(format!("{error}; the packages watched are those from before")),
                }
            }
        }
    }

    /// What is waited for has not come in time.
    pub(super) fn tick_manifests(&mut self, now: Instant) {
        if self.manifests.until.take_if(|until| *until <= now).is_some()
            && let Some(failure) = self.manifests.held.take()
        {
            self.tell_failure(now, failure);
        }
    }

    fn choose_again(&mut self, now: Instant, metadata: &Metadata, held: Option<Failure>) {
        let before = self.builder.cargo.build.clone();
        let (build, trouble) = match self.choice.again(metadata, &before) {
            Ok(again) => (again.build, again.trouble),
            Err(error) => {
                self.tell_trouble(now, &error.to_string(), held);
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
            self.ask_cargo(now, cause);
        } else if let Some(error) = trouble {
            self.tell_trouble(now, &error.to_string(), held);
        } else if let Some(failure) = held {
            self.tell_failure(now, failure);
        }
        self.say_what_is_watched();
        if let Some(inputs) = self.to_learn.take() {
            self.learn(inputs);
        }
    }

    /// What is to be built cannot be found; where cargo has only said as much, in its place.
    fn tell_trouble(&mut self, now: Instant, error: &str, held: Option<Failure>) {
        match held {
            Some(failure) if failure.errors == 0 => {
                let messages = vec![reason::unsaid(error)];
                self.tell_failure(now, Failure { messages, ..failure });
            }
            Some(failure) => {
                self.tell_failure(now, failure);
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
