//! What this room tells the loop, and hands on.
//! Never lives here: how it came about.

use super::How;
use crate::config::DataAction;
use crate::process::Setting;
use crate::report::Notice;
use std::path::PathBuf;
use std::time::Instant;

/// What hot compile ends in: a program, and what is known of how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub executable: PathBuf,
    /// How cargo would start it.
    pub setting: Setting,
    /// When the change it contains was saved, and when its build ended.
    pub saved: Instant,
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
