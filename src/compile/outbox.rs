//! What this room tells the loop, and hands on.
//! Never lives here: how it came about.

use super::How;
use crate::config::DataAction;
use crate::process::Setting;
use crate::report::{BuiltBy, CrateTiming, Generation, Notice, Timing, Timings};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What hot compile ends in: a program, and what is known of how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub executable: PathBuf,
    /// How cargo would start it.
    pub setting: Setting,
    /// When the change it contains was saved, or else the build was asked for, and when its build ended.
    pub saved: Instant,
    pub was_saved: bool,
    pub build_ended: Instant,
    /// Something has changed that is for the running program: it is started again even if the bytes are the same.
    pub start_anyway: bool,
    pub how: How,
}

/// What the loop is told.
#[derive(Debug)]
pub enum Outbox {
    Tell(Notice),
    Built(Artifact),
    /// A file that the running program reads by itself has changed.
    Data(PathBuf, DataAction),
}

impl Artifact {
    /// The waterfall of a save, when the program serves.
    pub fn timings(&self, generation: Generation, timing: &Timing) -> Timings {
        let since_save = |at: Instant| at.saturating_duration_since(self.saved).as_secs_f64() * 1000.0;
        let how = &self.how;
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
