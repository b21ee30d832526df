//! What the user has named beside the program's own files: what is watched, too, what is passed over, and what is data.
//! Never lives here: what counts as changed (`sources`).

use super::walk::{self, Below, Passed};
use crate::config::{self, DataAction};
use crate::error::{Result, Tried};
use globset::GlobSet;
use std::path::{Component, Path, PathBuf};

/// Files an editor makes beside the one it saves.
const EDITORS: [&str; 6] = ["**/*~", "**/.#*", "**/#*#", "**/*.sw?", "**/4913", "**/*.tmp"];

#[derive(Debug)]
pub struct Named {
    /// Read by the program when it starts.
    pub extra: Vec<PathBuf>,
    pub ignore: GlobSet,
    data: Vec<Data>,
}

/// Files that the running program reads.
#[derive(Debug)]
struct Data {
    glob: GlobSet,
    action: DataAction,
    /// Before the first sign in the glob that is a pattern.
    base: PathBuf,
}

impl Named {
    pub fn new(watch: &config::Watch) -> Result<Named> {
        let ignore = watch.ignore.iter().map(String::as_str).chain(EDITORS);
        let data = watch.data.iter().map(|data| {
            let glob = config::glob_set([data.glob.as_str()]).tried("read the globs of `data`")?;
            Ok(Data { glob, action: data.action, base: literal(&data.glob) })
        });
        Ok(Named {
            extra: watch.extra.clone(),
            ignore: config::glob_set(ignore).tried("read the globs of `ignore`")?,
            data: data.collect::<Result<_>>()?,
        })
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
    pub fn below(&self, passed: &Passed<'_>) -> Below {
        // Of such a folder not all is meant.
        let holds_packages = |folder: &Path| passed.packages.iter().any(|package| package.starts_with(folder));
        let mut named = Below::default();
        for root in &self.extra {
            let mut below = walk::visible([root], passed);
            if below.files.is_empty() && !holds_packages(root) {
                below = walk::all(root, passed);
            }
            named.extend(below);
        }
        for data in self.data.iter().filter(|data| !holds_packages(&data.base)) {
            let mut below = walk::all(&data.base, passed);
            below.files.retain(|path| data.glob.is_match(path));
            below.folders.extend(data.base.parent().map(Path::to_path_buf));
            named.extend(below);
        }
        named
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
