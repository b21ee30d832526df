//! Which folders and files are below a folder.
//! Never lives here: which of them matter (`sources`).

use crate::process::descriptors;
use globset::GlobSet;
use ignore::{DirEntry, WalkBuilder};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// As many are watched below a path that somebody has named. One who names more means something else: a folder costs a watch of the
/// system's, of which a user has some ten thousand, and each file memory.
pub const MOST_FOLDERS: usize = 20_000;
pub const MOST_FILES: usize = 200_000;

/// Folders and files.
#[derive(Debug, Default)]
pub struct Below {
    pub folders: BTreeSet<PathBuf>,
    pub files: BTreeSet<PathBuf>,
    /// Those of the files that are links.
    pub links: BTreeSet<PathBuf>,
    /// There are more than may be, and some are missing.
    pub is_too_much: bool,
    /// Some are missing that could not be looked at, for a reason that passes.
    pub is_partial: bool,
}

/// What is passed over in any case.
#[derive(Debug)]
pub struct Passed<'a> {
    /// Folders that cargo fills.
    pub made: [&'a Path; 2],
    /// Packages of this program. A crate that is none of them is another program's.
    pub packages: BTreeSet<PathBuf>,
    pub ignore: &'a GlobSet,
    /// Paths that are looked at apart from the packages in which they are.
    pub apart: &'a [PathBuf],
}

/// Folders that hold no file a person would mean, and many others.
const NEVER_MEANT: [&str; 2] = [".git", "node_modules"];

/// What git would not ignore, without hidden ones.
pub fn visible<'r>(roots: impl IntoIterator<Item = &'r PathBuf>, passed: &Passed<'_>) -> Below {
    let mut below = Below::default();
    roots.into_iter().for_each(|root| below.take(visibly(root, passed), passed.ignore, None));
    below
}

/// The same, of what a person has named, which may be too much.
pub fn visible_of_named(root: &Path, passed: &Passed<'_>) -> Below {
    let mut below = Below::default();
    below.take(visibly(root, passed), passed.ignore, Some((MOST_FOLDERS, MOST_FILES)));
    below
}

fn visibly(root: &Path, passed: &Passed<'_>) -> ignore::Walk {
    let (packages, made) = (passed.packages.clone(), passed.made.map(Path::to_path_buf));
    let (apart, ignore, of) = (passed.apart.to_vec(), passed.ignore.clone(), root.to_path_buf());
    let mut walk = WalkBuilder::new(root);
    walk.require_git(false).filter_entry(move |entry| {
        let path = entry.path();
        let is_other = made.iter().any(|made| path == made) || entry.file_name() == "target";
        let stranger = || path != of && !packages.contains(path) && path.join("Cargo.toml").is_file();
        let is_apart = || path != of && apart.iter().any(|apart| path == apart);
        !(is_other || is_apart() || is_folder(entry) && (stranger() || is_ignored(path, &ignore)))
    });
    walk.build()
}

/// Also what git ignores, and what is hidden: for what a person has named. No deeper than that.
pub fn all(root: &Path, depth: Option<usize>, passed: &Passed<'_>) -> Below {
    let made = passed.made.map(Path::to_path_buf);
    let ignore = passed.ignore.clone();
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .max_depth(depth)
        .filter_entry(move |entry| {
            let is_meant = entry.depth() == 0 || !NEVER_MEANT.iter().any(|name| entry.file_name() == *name);
            let is_made = made.iter().any(|made| entry.path() == made);
            is_meant && !is_made && !(is_folder(entry) && is_ignored(entry.path(), &ignore))
        })
        .build();
    let mut below = Below::default();
    below.take(walk, passed.ignore, Some((MOST_FOLDERS, MOST_FILES)));
    below
}

fn is_folder(entry: &DirEntry) -> bool {
    entry.file_type().is_some_and(|kind| kind.is_dir())
}

/// Whether it is this process that lacks something. A remote disk that does not answer may do so for ever.
fn is_ours(error: &ignore::Error) -> bool {
    match error {
        ignore::Error::Partial(errors) => errors.iter().any(is_ours),
        error => error
            .io_error()
            .is_some_and(|error| descriptors::is_out(error) || error.kind() == io::ErrorKind::OutOfMemory),
    }
}

/// Whether all that can be in a folder is passed over: a name that nobody gives, and one in a folder of such a name.
fn is_ignored(folder: &Path, ignore: &GlobSet) -> bool {
    let inside = folder.join("\u{1}");
    ignore.is_match(&inside) && ignore.is_match(inside.join("\u{1}"))
}

impl Below {
    /// `most`: folders, and files.
    fn take(
        &mut self,
        walk: impl Iterator<Item = Result<DirEntry, ignore::Error>>,
        ignore: &GlobSet,
        most: Option<(usize, usize)>,
    ) {
        for entry in walk {
            let unread = entry.as_ref().map_or_else(Some, |entry| entry.error());
            self.is_partial |= unread.is_some_and(is_ours);
            // What cannot be read cannot be compiled either; the compiler will say so.
            let Ok(entry) = entry else { continue };
            if most.is_some_and(|(folders, files)| self.folders.len() > folders || self.files.len() > files) {
                self.is_too_much = true;
                return;
            }
            // A link counts as the folder it leads to where it is the one that was named.
            if is_folder(&entry) || entry.depth() == 0 && entry.path().is_dir() {
                self.folders.insert(entry.into_path());
            } else if !ignore.is_match(entry.path()) {
                if entry.path_is_symlink() {
                    self.links.insert(entry.path().to_path_buf());
                }
                self.files.insert(entry.into_path());
            }
        }
    }

    pub fn extend(&mut self, other: Below) {
        self.folders.extend(other.folders);
        self.files.extend(other.files);
        self.links.extend(other.links);
        self.is_partial |= other.is_partial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn a_walk_that_lacked_something_of_this_process_is_partial() {
        let of = |errno: Errno| ignore::Error::Io(errno.into());
        // As `walkdir` gives it to `ignore`.
        let wrapped = |errno: Errno| {
            let error: io::Error = errno.into();
            let within = io::Error::new(error.kind(), error);
            ignore::Error::WithDepth { depth: 0, err: Box::new(ignore::Error::Io(within)) }
        };
        for (error, is_partial) in [
            (of(Errno::EMFILE), true),
            (wrapped(Errno::ENFILE), true),
            (wrapped(Errno::ENOMEM), true),
            (ignore::Error::Partial(vec![of(Errno::EACCES), wrapped(Errno::EMFILE)]), true),
            (ignore::Error::Partial(vec![of(Errno::EACCES), of(Errno::ENOENT)]), false),
            (wrapped(Errno::EACCES), false),
            (wrapped(Errno::EIO), false),
        ] {
            let mut below = Below::default();
            let text = error.to_string();
            below.take([Err(error)].into_iter(), &GlobSet::empty(), None);
            assert_eq!(below.is_partial, is_partial, "{text}");
        }
    }
}
