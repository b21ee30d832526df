//! What a look at files has found.
//! Never lives here: looking (`sources`), and what follows from it.

use crate::config::DataAction;
use crate::report::{Note, short};
use std::path::PathBuf;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files of the program that have changed.
    pub changed: Vec<PathBuf>,
    /// All of those have just become empty.
    pub emptied: bool,
    /// One of those says what is built or how.
    pub settings: bool,
    /// One of those is for the program that runs, not for the compiler: it is started again whatever comes of the build.
    pub start_anyway: bool,
    pub data: Vec<(PathBuf, DataAction)>,
    /// Places of folders that came or went, and of links that lead elsewhere.
    pub folders: Vec<PathBuf>,
    /// How many of the changes are most likely a build script's.
    pub most_likely_scripts: usize,
    /// What the user is told of the look itself.
    pub notes: Vec<Note>,
}

impl Found {
    /// With what another look has found.
    pub fn merge(&mut self, other: Found) {
        let emptied = |found: &Found| found.emptied || found.changed.is_empty();
        self.emptied = emptied(self) && emptied(&other);
        self.changed.extend(other.changed);
        self.settings |= other.settings;
        self.start_anyway |= other.start_anyway;
        self.data.extend(other.data);
        self.folders.extend(other.folders);
        self.most_likely_scripts += other.most_likely_scripts;
        self.notes.extend(other.notes);
    }

    /// `src/routes.rs changed`, `3 files changed (src/a.rs and others)`.
    pub fn cause(&self) -> String {
        match self.changed.as_slice() {
            [one] => format!("{} changed", short(one)),
            [first, ..] => format!("{} files changed ({} and others)", self.changed.len(), short(first)),
            [] => "nothing changed".to_owned(),
        }
    }
}
