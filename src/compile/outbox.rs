//! What this room tells the loop, and hands on.
//! Never lives here: how it came about.

use super::build::Built;
use super::builder::Provenance;
use super::output::{Told, Words};
use super::request::BuildRequest;
use super::sources::Sources;
use super::{dep_info, places};
use crate::config::DataAction;
use crate::process::Setting;
use crate::report::{BuiltBy, CrateTiming, Generation, Note, Notice, ServiceId, Timing, Timings};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What hot compile ends in: a program, and what is known of how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Whose program it is.
    pub service: ServiceId,
    pub executable: PathBuf,
    /// How cargo would start it.
    pub setting: Setting,
    /// When the change it contains was saved, or else the build was asked for, and when its build ended.
    pub saved: Instant,
    pub was_saved: bool,
    pub build_ended: Instant,
    /// Something has changed that is for the running program: it is started again even if the bytes are the same.
    pub start_anyway: bool,
    pub provenance: Provenance,
}

/// What a build says of its program's inputs, which is read while the program starts.
#[derive(Debug)]
pub struct Unread {
    pub(super) request: BuildRequest,
    pub(super) executable: PathBuf,
    /// Folders of packages without a list of inputs.
    pub(super) whole_packages: Vec<PathBuf>,
    /// As replay knows them; cargo writes them into a file.
    pub(super) inputs: Option<Vec<PathBuf>>,
    /// What rustc has made of local packages: beside it stands what cargo does not tell of, the links by which files are named.
    pub(super) compiled: Vec<PathBuf>,
}

/// What the loop is told.
#[derive(Debug)]
pub enum Outbox {
    Tell(Notice),
    /// A build begins, of what is newer than all programs.
    Building {
        cause: String,
    },
    /// A program, and what is to be given back (`HotCompile::read_inputs`) once it is on its way.
    Built(Artifact, Box<Unread>),
    /// The build of the newest sources has failed, and nothing newer is on its way.
    Failed {
        service: ServiceId,
        errors: usize,
        cause: String,
        /// Why it went through cargo, if it did.
        why_cargo: Option<String>,
    },
    /// A file that the running program reads by itself has changed.
    Data(PathBuf, DataAction),
}

/// What has gathered until the loop takes it.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Vec<Outbox>);

impl Outgoing {
    pub fn push(&mut self, one: Outbox) {
        self.0.push(one);
    }

    pub fn tell(&mut self, notices: impl IntoIterator<Item = Notice>) {
        self.0.extend(notices.into_iter().map(Outbox::Tell));
    }

    pub fn note(&mut self, notes: impl IntoIterator<Item = Note>) {
        self.tell(notes.into_iter().map(Notice::Note));
    }

    /// What compilers have said.
    pub fn say(&mut self, messages: Vec<Told>) {
        let words = messages.into_iter().map(|told| told.words);
        self.tell(words.map(|Words { rendered, message }| Notice::Diagnostic { rendered, message }));
    }

    pub fn take(&mut self) -> Vec<Outbox> {
        std::mem::take(&mut self.0)
    }
}

impl Unread {
    pub(super) fn read(&self, sources: &Sources) -> io::Result<Vec<PathBuf>> {
        let inputs = self.inputs.clone().map_or_else(|| dep_info::beside(&self.executable), Ok)?;
        let by_rustc = self.compiled.iter().filter_map(|path| dep_info::of_rustc(path)).flatten();
        let folders = sources.compiled_in();
        let found = by_rustc.filter_map(|path| folders.iter().map(|folder| folder.join(&path)).find(|it| it.exists()));
        let found = found.map(places::plain);
        Ok(sources.layout.absolute(inputs).into_iter().chain(found).collect())
    }
}

impl Artifact {
    /// Out of a build for that request, whose messages are left in it.
    pub(super) fn of(
        service: ServiceId,
        request: BuildRequest,
        built: &mut Built,
        provenance: Provenance,
        inputs: Option<Vec<PathBuf>>,
        now: Instant,
    ) -> (Artifact, Box<Unread>) {
        let artifact = Artifact {
            service,
            executable: built.executable.clone(),
            setting: std::mem::take(&mut built.setting),
            saved: request.saved,
            was_saved: request.was_saved,
            build_ended: now,
            start_anyway: request.start_anyway,
            provenance,
        };
        let whole_packages = std::mem::take(&mut built.whole_packages);
        let compiled = std::mem::take(&mut built.compiled);
        let unread = Unread { request, executable: built.executable.clone(), whole_packages, inputs, compiled };
        (artifact, Box::new(unread))
    }

    /// The waterfall of a save, when the program serves.
    pub fn timings(&self, generation: Generation, timing: &Timing) -> Timings {
        let since_save = |at: Instant| at.saturating_duration_since(self.saved).as_secs_f64() * 1000.0;
        let how = &self.provenance;
        let millis = |span: Duration| span.as_secs_f64() * 1000.0;
        let (detect, decide) = (since_save(how.began), millis(how.decide));
        let crates = how.crates.iter().map(|step| CrateTiming {
            name: step.name.clone(),
            began: since_save(step.began),
            ended: since_save(step.ended),
        });
        Timings {
            generation,
            built_by: if how.by_replay { BuiltBy::Replay } else { BuiltBy::Cargo },
            why_cargo: how.why_cargo.clone(),
            saved: self.was_saved,
            total: timing.saved_to_live,
            detect,
            decide,
            compile: (timing.compile - detect - decide).max(0.0),
            link: how.link.as_ref().map(|(took, _)| millis(*took)),
            linker: how.link.as_ref().map(|(_, linker)| linker.clone()),
            start: timing.start,
            ready: timing.ready,
            switch: timing.switch,
            crates: crates.collect(),
        }
    }
}
