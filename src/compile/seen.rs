//! Files as they were last looked at, and which of them were written while a build was reading.
//! Never lives here: which files matter (`sources`).

use crate::compile::stamp::{self, MOST_HASHED, Stamp};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Default)]
pub struct Seen {
    files: HashMap<PathBuf, Look>,
    /// Written since the running build began, and as they were: what it has read of them is not known.
    rewritten: BTreeSet<PathBuf>,
    /// Those for which the build before was not believed.
    doubted: BTreeSet<PathBuf>,
    /// Those that builds themselves write, as some build scripts do.
    written_by_builds: BTreeSet<PathBuf>,
}

/// What one look at a file has shown, compared with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// It is as it was, and was written since.
    Rewritten,
    /// `empty`: there is nothing in it any more, or it has gone.
    Content {
        empty: bool,
    },
}

/// A file at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    stamp: Option<Stamp>,
    content: u64,
    /// It has nothing in it, or is not there.
    empty: bool,
}

impl Seen {
    pub fn knows(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    pub fn was_there(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|look| look.stamp.is_some())
    }

    /// Whether a look could show anything new.
    pub fn is_worth_a_look(&self, path: &Path) -> bool {
        self.files.get(path).is_none_or(|look| look.stamp != Stamp::of(path))
    }

    /// What it is like now is what the next look is compared with.
    pub fn remember(&mut self, path: PathBuf) {
        let look = Look::at(&path);
        self.files.insert(path, look);
    }

    pub fn look_at(&mut self, path: &Path) -> Change {
        let now = Look::at(path);
        let content = Change::Content { empty: now.empty };
        match self.files.insert(path.to_path_buf(), now.clone()) {
            // Never looked at: it is new, unless it was only there for a moment.
            None if now.stamp.is_none() => Change::Nothing,
            None => content,
            Some(before) => match (&before.stamp, &now.stamp) {
                _ if before.content != now.content => content,
                (Some(before), Some(now)) if now.is_written_since(before) => Change::Rewritten,
                (Some(_), Some(_)) | (None, None) => Change::Nothing,
                (Some(_), None) | (None, Some(_)) => content,
            },
        }
    }

    /// Dates a file to now, which is no writing. Says whether that could be done.
    pub fn date(&mut self, path: &Path) -> bool {
        let before = Stamp::of(path);
        let file = File::options().append(true).open(path);
        let dated = file.is_ok_and(|file| file.set_modified(SystemTime::now()).is_ok());
        if dated && let Some(look) = self.files.get_mut(path).filter(|look| look.stamp == before) {
            look.stamp = Stamp::of(path);
        }
        dated
    }

    pub fn build_began(&mut self) {
        self.rewritten.clear();
    }

    /// An input of the build was written, and is as it was.
    pub fn rewritten(&mut self, path: PathBuf) {
        self.rewritten.insert(path);
    }

    /// The inputs for which a build that ends now is not to be believed. Those for which it was made again are none: nothing but the
    /// build itself writes them each time, and to build for that would not end.
    pub fn doubtful(&mut self) -> &BTreeSet<PathBuf> {
        let rewritten = std::mem::take(&mut self.rewritten);
        self.written_by_builds.extend(rewritten.intersection(&self.doubted).cloned());
        self.doubted = rewritten.difference(&self.written_by_builds).cloned().collect();
        &self.doubted
    }
}

impl Look {
    fn at(path: &Path) -> Look {
        let stamp = Stamp::of(path);
        let (content, empty) = match &stamp {
            None => (0, true),
            Some(stamp) if stamp.size > MOST_HASHED => (stamp::content_of(format!("{stamp:?}").as_bytes()), false),
            Some(_) => {
                // Gone between the two looks: its event is on the way.
                let bytes = fs::read(path).unwrap_or_default();
                (stamp::content_of(&bytes), bytes.is_empty())
            }
        };
        Look { stamp, content, empty }
    }
}
