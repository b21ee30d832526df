//! What the user has named beside the program's own files: what is watched, too, what is passed over, and what is data.
//! Never lives here: what counts as changed (`sources`).

use super::walk::{self, Below, Passed};
use crate::config::{self, DataAction};
use crate::error::{Result, Tried};
use crate::report::{Note, one_line};
use globset::GlobSet;
use std::path::{Component, Path, PathBuf};

/// In which more than one folder may be, or of which it is not plain how many.
const DEEP: [&str; 2] = ["**", "{"];

/// Files an editor makes beside the one it saves.
const EDITORS: [&str; 6] = ["**/*~", "**/.#*", "**/#*#", "**/*.sw?", "**/4913", "**/*.tmp"];

#[derive(Debug, Clone)]
pub struct Named {
    /// Read by the program when it starts.
    pub extra: Vec<PathBuf>,
    /// Those, and what of them was refused: nobody meets it by way of a package either.
    pub apart: Vec<PathBuf>,
    pub ignore: GlobSet,
    data: Vec<Data>,
    /// Where the paths to watch were named, for who has named too much.
    origin: String,
}

/// Files that the running program reads.
#[derive(Debug, Clone)]
struct Data {
    glob: GlobSet,
    action: DataAction,
    /// Before the first sign in the glob that is a pattern.
    base: PathBuf,
    /// How far below it what fits can be, where that is known.
    depth: Option<usize>,
}

/// A path that is not watched, as too much is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub path: PathBuf,
    pub is_data: bool,
    /// That were met until it was given up.
    pub files: usize,
    pub folders: usize,
}

impl Named {
    pub fn new(watch: &config::Watch) -> Result<Named> {
        let ignore = watch.ignore.iter().map(String::as_str).chain(EDITORS);
        let data = watch.data.iter().map(|data| {
            let glob = config::glob_set([data.glob.as_str()]).tried("read the globs of `data`")?;
            let base = literal(&data.glob);
            let is_deep = DEEP.iter().any(|sign| data.glob.contains(sign));
            let depth = Path::new(&data.glob).components().count() - base.components().count();
            Ok(Data { glob, action: data.action, base, depth: (!is_deep).then_some(depth) })
        });
        Ok(Named {
            extra: watch.extra.clone(),
            apart: watch.extra.clone(),
            ignore: config::glob_set(ignore).tried("read the globs of `ignore`")?,
            data: data.collect::<Result<_>>()?,
            origin: watch.origin.clone(),
        })
    }

    /// Whether there is anything to look for beside the packages.
    pub fn is_empty(&self) -> bool {
        self.extra.is_empty() && self.data.is_empty()
    }

    /// Whether that place is below a path that is named, or above one.
    pub fn is_near(&self, place: &Path) -> bool {
        self.has_data_at(place) || self.extra.iter().any(|extra| extra.starts_with(place) || place.starts_with(extra))
    }

    /// From now on it is as if that had not been named. What the user is told.
    pub fn refuse(&mut self, refused: &Refused) -> Note {
        if refused.is_data {
            self.data.retain(|data| data.base != refused.path);
        } else {
            self.extra.retain(|extra| *extra != refused.path);
        }
        Note::TooMuchBelow {
            origin: if refused.is_data { "`data`" } else { &self.origin }.to_owned(),
            path: one_line(&refused.path.to_string_lossy()),
            files: refused.files.saturating_sub(1),
            folders: refused.folders,
        }
    }

    pub fn is_extra(&self, path: &Path) -> bool {
        self.extra.iter().any(|extra| path.starts_with(extra))
    }

    /// Whether a folder is one of data, or holds one.
    pub fn has_data_at(&self, folder: &Path) -> bool {
        self.data.iter().any(|data| data.base.starts_with(folder) || folder.starts_with(&data.base))
    }

    pub fn data_action(&self, path: &Path) -> Option<DataAction> {
        self.data.iter().find(|data| data.glob.is_match(path)).map(|data| data.action)
    }

    /// Folders and files of `watch` without what git ignores in them, unless that is all; of `data` with it.
    pub fn below(&self, passed: &Passed<'_>) -> (Below, Vec<Refused>) {
        // Of such a folder not all is meant.
        let holds_packages = |folder: &Path| passed.packages.iter().any(|package| package.starts_with(folder));
        let (mut named, mut refused) = (Below::default(), Vec::new());
        let mut take = |path: &PathBuf, is_data: bool, below: Below| {
            if below.is_too_much {
                let (files, folders) = (below.files.len(), below.folders.len());
                refused.push(Refused { path: path.clone(), is_data, files, folders });
            } else {
                named.extend(below);
            }
        };
        for root in &self.extra {
            let mut below = walk::visible_of_named(root, passed);
            if below.files.is_empty() && !below.is_too_much && !below.is_partial && !holds_packages(root) {
                below = walk::all(root, None, passed);
            }
            take(root, false, below);
        }
        for data in self.data.iter().filter(|data| !holds_packages(&data.base)) {
            let mut below = walk::all(&data.base, data.depth, passed);
            if !below.is_too_much {
                below.files.retain(|path| data.glob.is_match(path));
                below.folders.extend(data.base.parent().map(Path::to_path_buf));
            }
            take(&data.base, true, below);
        }
        (named, refused)
    }
}

/// The part of a glob that is no pattern: a folder, or the file itself.
fn literal(glob: &str) -> PathBuf {
    let plain = |part: Component<'_>| {
        let part = part.as_os_str().to_string_lossy().into_owned();
        // As `globset::escape` writes signs that are meant.
        let signs = ['*', '?', '[', ']', '{', '}'];
        let plain = signs.iter().fold(part.clone(), |part, sign| part.replace(&format!("[{sign}]"), &sign.to_string()));
        (globset::escape(&plain) == part).then_some(plain)
    };
    Path::new(glob).components().map_while(plain).collect()
}
