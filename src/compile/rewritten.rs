//! Files that were written while a build ran and are as they were: for a moment they may have been others, which the build has read.
//! Never lives here: whether a file is as it was (`seen`), and what is built again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, Default)]
pub struct Rewritten {
    /// Since the running build began.
    files: BTreeSet<PathBuf>,
    /// Those for which a build is made again.
    doubted: BTreeSet<PathBuf>,
    /// Those that builds themselves write, as some build scripts do, until there is something new in them.
    by_builds: BTreeSet<PathBuf>,
}

impl Rewritten {
    pub fn build_began(&mut self) {
        self.files.clear();
    }

    pub fn add(&mut self, path: &Path) {
        if !self.by_builds.contains(path) {
            self.files.insert(path.to_path_buf());
        }
    }

    /// There is something new in it.
    pub fn is_another(&mut self, path: &Path) {
        self.by_builds.remove(path);
    }

    /// Those for which a build is to be made again. `again`: the one that has ended was made for what the one before it gave here; what was
    /// written in both is written by builds.
    pub fn doubtful(&mut self, again: bool, matters: impl Fn(&PathBuf) -> bool) -> BTreeSet<PathBuf> {
        if !again {
            self.doubted.clear();
        }
        let files = std::mem::take(&mut self.files).into_iter().filter(matters);
        let (twice, new): (BTreeSet<PathBuf>, _) = files.partition(|path| self.doubted.contains(path));
        self.by_builds.extend(twice);
        self.doubted.extend(BTreeSet::clone(&new));
        new
    }
}
