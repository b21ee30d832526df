//! Which folders and files are below a folder.
//! Never lives here: which of them matter (`sources`).

use globset::GlobSet;
use ignore::WalkBuilder;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders and files.
#[derive(Debug, Default)]
pub struct Below {
    pub folders: BTreeSet<PathBuf>,
    pub files: BTreeSet<PathBuf>,
}

/// What is passed over in any case.
#[derive(Debug)]
pub struct Passed<'a> {
    /// Folders that cargo fills.
    pub made: [&'a Path; 2],
    /// Packages of this program. A crate that is none of them is another program's.
    pub packages: BTreeSet<PathBuf>,
    pub ignore: &'a GlobSet,
}

/// Folders that hold no file a person would mean, and many others.
const NEVER_MEANT: [&str; 2] = [".git", "node_modules"];

/// What git would not ignore, without hidden ones.
pub fn visible<'r>(roots: impl IntoIterator<Item = &'r PathBuf>, passed: &Passed<'_>) -> Below {
    let mut below = Below::default();
    for root in roots {
        let (root, packages) = (root.clone(), passed.packages.clone());
        let made = passed.made.map(Path::to_path_buf);
        let walk = WalkBuilder::new(&root)
            .require_git(false)
            .filter_entry(move |entry| {
                let path = entry.path();
                let stranger = || path != root && !packages.contains(path) && path.join("Cargo.toml").is_file();
                made.iter().all(|made| path != made) && entry.file_name() != "target" && !stranger()
            })
            .build();
        below.take(walk, passed.ignore);
    }
    below
}

/// Also what git ignores, and what is hidden: for what a person has named.
pub fn all(root: &Path, passed: &Passed<'_>) -> Below {
    let made = passed.made.map(Path::to_path_buf);
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .filter_entry(move |entry| {
            let is_meant = entry.depth() == 0 || !NEVER_MEANT.iter().any(|name| entry.file_name() == *name);
            is_meant && made.iter().all(|made| entry.path() != made)
        })
        .build();
    let mut below = Below::default();
    below.take(walk, passed.ignore);
    below
}

impl Below {
    fn take(&mut self, walk: ignore::Walk, ignore: &GlobSet) {
        // What cannot be read cannot be compiled either; the compiler will say so.
        for entry in walk.filter_map(Result::ok) {
            // A link counts as the folder it leads to where it is the one that was named.
            let is_folder =
                entry.file_type().is_some_and(|kind| kind.is_dir()) || entry.depth() == 0 && entry.path().is_dir();
            if is_folder {
                self.folders.insert(entry.into_path());
            } else if !ignore.is_match(entry.path()) {
                self.files.insert(entry.into_path());
            }
        }
    }

    pub fn extend(&mut self, other: Below) {
        self.folders.extend(other.folders);
        self.files.extend(other.files);
    }
}
