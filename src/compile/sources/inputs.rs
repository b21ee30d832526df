//! What is known of a program's inputs, by the manifests and by what builds have said.
//! Never lives here: whether they have changed (`seen`), and the files that the user has named (`named`).

use crate::compile::seen::Seen;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Builds that fail in a row, and are made again each time for what has come meanwhile.
const MOST_IN_A_ROW: u32 = 3;

#[derive(Debug, Default)]
pub struct Inputs {
    /// Manifests, lock file, cargo's configuration, toolchain file: they say what is built and how.
    pub settings: BTreeSet<PathBuf>,
    /// Files that are not there, and would change what is built by their coming.
    pub coming: BTreeSet<PathBuf>,
    /// Named by the compiler's dep-info.
    pub exact: BTreeSet<PathBuf>,
    /// Folders all of whose files are inputs.
    pub whole: BTreeSet<PathBuf>,
    /// What the last failed build has named in its messages, there or not.
    pub asked: BTreeSet<PathBuf>,
    /// Builds that were made again for what had come while the one before failed.
    pub came_in_a_row: u32,
    /// Where links have led when the last build succeeded: where cargo looks.
    pub led: HashMap<PathBuf, PathBuf>,
    /// The last build has succeeded. Before the first one, and after one that failed, any file of the packages may be what is missing.
    pub are_exact: bool,
    /// Whether a build has succeeded: then a file that counts for being one of the package's is a source by its name.
    pub built: bool,
}

impl Inputs {
    /// Takes those that a build has named, which has succeeded. Returns those of before.
    pub fn built(&mut self, exact: BTreeSet<PathBuf>, whole: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let real = |path: &PathBuf| Some((path.clone(), path.canonicalize().ok().filter(|real| real != path)?));
        self.led = exact.iter().filter_map(real).collect();
        self.whole = whole;
        (self.are_exact, self.built, self.came_in_a_row) = (true, true, 0);
        self.asked.clear();
        std::mem::replace(&mut self.exact, exact)
    }

    /// Whether a build is to be made again, after one that has failed: not for ever, as what came may be what it writes itself.
    pub fn may_be_made_again(&mut self, has_come: bool) -> bool {
        self.came_in_a_row += u32::from(has_come);
        self.came_in_a_row <= MOST_IN_A_ROW
    }

    /// All that is meant by its own name, there or not.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.exact.iter().chain(&self.settings).chain(&self.coming).chain(&self.asked)
    }

    /// By its own name.
    pub fn is_known(&self, path: &Path) -> bool {
        self.exact.contains(path) || self.settings.contains(path) || self.coming.contains(path)
    }

    /// Of the compiler, or of a build script.
    pub fn is_input(&self, path: &Path) -> bool {
        self.exact.contains(path) || self.whole.iter().any(|folder| path.starts_with(folder))
    }

    /// Dates inputs to now, so that cargo sees that they have changed: it compares times, and takes a file for old that was
    /// saved within the first milliseconds of a build. Says whether there was one.
    pub fn date_anew(&self, seen: &mut Seen, paths: &BTreeSet<PathBuf>) -> bool {
        // A file that may not be written keeps its date, and cargo its opinion.
        let inputs: Vec<&PathBuf> = paths.iter().filter(|path| self.is_input(path)).collect();
        // Where a link has led is where cargo looks.
        let led = inputs.iter().filter_map(|path| self.led.get(*path)).filter(|place| place.is_file());
        let files: BTreeSet<PathBuf> = inputs.iter().copied().chain(led).cloned().collect();
        files.into_iter().filter(|path| seen.date(path)).count() > 0
    }

    /// As `date_anew`, of inputs that were moved here with a date before that moment, and of those that a link has led to until now:
    /// cargo would never see that they have changed, neither now nor when it builds for another reason.
    pub fn date_the_old_anew(&self, seen: &mut Seen, paths: &BTreeSet<PathBuf>, moment: SystemTime) {
        let is_old = |path: &&PathBuf| {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            let led = self.led.get(*path);
            modified.is_ok_and(|modified| modified < moment)
                || led.is_some() && path.canonicalize().ok().as_ref() != led
        };
        let old = paths.iter().filter(is_old).cloned().collect();
        self.date_anew(seen, &old);
    }
}
