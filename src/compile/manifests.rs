//! What follows when the manifests have changed: cargo is asked which packages there are now, the package and its target are
//! found again under whatever name and wherever they are, and a failure is told only when that does not mend it.
//! Never lives here: how they are found (`config`), cargo's builds (`build`), and what follows (`hot_compile`).

use super::output::Told;
use super::project::{metadata, own_settings};
use super::request::BuildRequest;
use super::{BuildSaid, BuildSink, reason};
use crate::config::{self, Choice, Config};
use crate::error::{Error, Result};
use crate::process::refused;
use crate::report::{Note, short};
use cargo_metadata::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Nothing is held back for longer for cargo's answer, which may have to come over the network.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A build that has failed.
#[derive(Debug)]
pub struct Failure {
    pub request: BuildRequest,
    pub errors: usize,
    pub messages: Vec<Told>,
    pub by_cargo: bool,
    /// Why it went through cargo, if it did.
    pub why_cargo: Option<String>,
}

/// The question which packages there are, and what waits for its answer.
pub struct Manifests {
    choice: Choice,
    /// The settings of this command in the manifests, as they were read.
    own_settings: serde_json::Value,
    sink: BuildSink,
    /// Questions so far: the answer to the last one counts.
    asked: u64,
    /// Until then its answer is waited for, before anybody is told how things stand.
    until: Option<Instant>,
    /// What the build was made for, at whose end it was asked.
    request: Option<BuildRequest>,
    /// Untold until the answer is there.
    held: Option<Failure>,
    /// The inputs that cargo has named, to learn from when it is known what the settings are.
    to_learn: Option<Vec<PathBuf>>,
    /// It is asked once more when something is built next.
    again: bool,
    /// The trouble that was told last, which is not told again while it stands.
    told: Option<Note>,
}

/// What is built from now on, as the answer has it.
pub struct Chosen {
    pub build: config::Build,
    /// Why another build is to be made.
    pub another: Option<String>,
    /// What was to be built is not there; it is built as before.
    pub trouble: Option<String>,
    pub note: Option<Note>,
}

impl Manifests {
    pub fn new(config: &Config, metadata: &Metadata, sink: BuildSink) -> Manifests {
        Manifests {
            choice: config.choice.clone(),
            own_settings: own_settings(metadata, &config.build.package_id),
            sink,
            asked: 0,
            until: None,
            request: None,
            held: None,
            to_learn: None,
            again: false,
            told: None,
        }
    }

    pub fn is_awaited(&self) -> bool {
        self.until.is_some()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// What was held back is out of date.
    pub fn build_began(&mut self) {
        (self.held, self.to_learn) = (None, None);
    }

    /// Nothing is asked, or waited for, any more.
    pub fn close(&mut self) {
        (self.held, self.to_learn, self.until) = (None, None, None);
    }

    /// Asks cargo which packages there are now, where the build has changed that or it is to be asked once more. It may have to wait for a
    /// lock, or for the network. Whether it is asked.
    pub fn ask(&mut self, now: Instant, request: &BuildRequest, build: &config::Build, root: &Path) -> bool {
        if !std::mem::take(&mut self.again) && !request.settings {
            return false;
        }
        self.asked += 1;
        self.until = Some(now + LONGEST_WAIT);
        self.request = Some(request.clone());
        let (build, root, number) = (build.clone(), root.join("Cargo.toml"), self.asked);
        let sink = Arc::clone(&self.sink);
        let asking = thread::Builder::new().spawn(move || {
            // The package may have moved.
            let manifest = if build.manifest_path.is_file() { &build.manifest_path } else { &root };
            sink(number, BuildSaid::Metadata(Box::new(metadata(Some(manifest), &build))));
        });
        if let Err(error) = asking {
            let error = refused("start a thread that asks cargo for the packages", &error);
            (self.sink)(number, BuildSaid::Metadata(Box::new(Err(error))));
        }
        true
    }

    /// Tells of a failure, or learns from those inputs, when the answer is there.
    pub fn hold(&mut self, failure: Failure) {
        self.held = Some(failure);
    }

    pub fn learn_later(&mut self, inputs: Vec<PathBuf>) {
        self.to_learn = Some(inputs);
    }

    /// Whether that is the answer which counts; a newer question may be open.
    pub fn is_answer(&mut self, number: u64) -> bool {
        let counts = number == self.asked;
        if counts {
            self.until = None;
        }
        counts
    }

    /// The failure that has waited for the answer, which has not come in time.
    pub fn tick(&mut self, now: Instant) -> Option<Failure> {
        self.until.take_if(|until| *until <= now)?;
        self.held.take()
    }

    pub fn take_held(&mut self) -> Option<Failure> {
        self.held.take()
    }

    pub fn take_to_learn(&mut self) -> Option<Vec<PathBuf>> {
        self.to_learn.take()
    }

    /// Another build for the save after which it was asked.
    pub fn another(&mut self, now: Instant, cause: String) -> BuildRequest {
        // What was built until now, or could not be, is another program.
        self.to_learn = None;
        self.request.take().unwrap_or_else(|| BuildRequest::asked(now, "")).again(cause)
    }

    /// Cargo cannot say. What there is to tell of it: where a build has told it, or will, nothing, and it is asked once more.
    pub fn unanswered(&mut self, error: &Error, is_told: bool) -> Option<Note> {
        // And so it is where the reason may have passed by then.
        self.again |= is_told || error.passes();
        if is_told { None } else { self.unless_told(Note::PackagesUnknown { error: error.to_string() }) }
    }

    /// The package and its target, found again.
    pub fn choose(&mut self, metadata: &Metadata, before: &config::Build) -> Result<Chosen> {
        let again = self.choice.again(metadata, before)?;
        let settings = own_settings(metadata, &again.build.package_id);
        let note = (settings != self.own_settings).then_some(Note::SettingsChanged);
        self.own_settings = settings;
        let another = what_is_new(before, &again.build);
        Ok(Chosen { build: again.build, another, trouble: again.trouble.map(|error| error.to_string()), note })
    }

    /// What is to be built cannot be found: what there is to note, after a failure that was held. Where cargo has only said as much, this is
    /// told in its place.
    pub fn trouble(&mut self, error: &str, held: Option<Failure>) -> (Option<Note>, Option<Failure>) {
        match held {
            Some(failure) if failure.errors == 0 => {
                let messages = vec![reason::unsaid(error)];
                (None, Some(Failure { messages, ..failure }))
            }
            held => {
                let note = Note::NotFound { error: error.to_owned(), as_before: held.is_none() };
                (self.unless_told(note), held)
            }
        }
    }

    fn unless_told(&mut self, note: Note) -> Option<Note> {
        let is_new = self.told.as_ref() != Some(&note);
        self.told = Some(note.clone());
        is_new.then_some(note)
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
