//! Files as they were last looked at.
//! Never lives here: which files matter (`sources`).

use crate::compile::stamp::{self, MOST_HASHED, Stamp};
use crate::process::is_passing;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Default)]
pub struct Seen(HashMap<PathBuf, Look>);

/// What one look at a file has shown, compared with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// It is as it was, and somebody has written it since, or moved it there: for a moment it may have been another.
    Rewritten,
    /// `empty`: there is nothing in it any more, or it has gone.
    Content {
        empty: bool,
    },
}

/// A file at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    stamp: Option<Stamp>,
    content: u64,
    /// It has nothing in it, or is not there.
    empty: bool,
    /// What is in it is not known.
    unread: bool,
}

impl Seen {
    pub fn knows(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    pub fn was_there(&self, path: &Path) -> bool {
        self.0.get(path).is_some_and(|look| look.stamp.is_some())
    }

    /// Whether it is there, and was written, moved there or dated since that moment, as far as is known.
    pub fn came_since(&self, path: &Path, moment: SystemTime) -> bool {
        self.0.get(path).and_then(|look| look.stamp.as_ref()).is_some_and(|stamp| stamp.is_since(moment))
    }

    /// Whether a look could show anything new.
    pub fn is_worth_a_look(&self, path: &Path) -> bool {
        self.0.get(path).is_none_or(|look| look.stamp != Stamp::of(path))
    }

    /// What it is like now is what the next look is compared with.
    pub fn remember(&mut self, path: PathBuf) {
        let look = Look::at(&path);
        self.0.insert(path, look);
    }

    /// As `remember`, of a file that was not looked at yet, without reading it.
    pub fn remember_unread(&mut self, path: PathBuf) {
        let look = Look::by_stamp(&path);
        self.0.insert(path, look);
    }

    /// A look that somebody else has had, of a file that was not looked at yet.
    pub fn take(&mut self, path: PathBuf, look: Look) {
        self.0.entry(path).or_insert(look);
    }

    /// Whether that look shows a file that is not as it was.
    pub fn is_another(&self, path: &Path, look: &Look) -> bool {
        self.0.get(path).is_none_or(|before| before.stamp != look.stamp)
    }

    pub fn look_at(&mut self, path: &Path) -> Change {
        let now = Look::at(path);
        let content = Change::Content { empty: now.empty };
        match self.0.insert(path.to_path_buf(), now.clone()) {
            // Never looked at: it is new, unless it was only there for a moment.
            None if now.stamp.is_none() => Change::Nothing,
            None => content,
            Some(before) if (before.unread || now.unread) && before.stamp == now.stamp => Change::Nothing,
            Some(before) => match (&before.stamp, &now.stamp) {
                _ if before.content != now.content => content,
                (before, now) if before == now => Change::Nothing,
                (Some(_), Some(_)) => Change::Rewritten,
                (Some(_), None) | (None, _) => content,
            },
        }
    }

    /// Dates a file to now, which is no change of it. Says whether that could be done.
    pub fn date(&mut self, path: &Path) -> bool {
        let before = Stamp::of(path);
        let file = File::options().append(true).open(path);
        let dated = file.is_ok_and(|file| file.set_modified(SystemTime::now()).is_ok());
        if dated && let Some(look) = self.0.get_mut(path).filter(|look| look.stamp == before) {
            look.stamp = Stamp::of(path);
            look.content = look.stamp.as_ref().and_then(content_by_stamp).unwrap_or(look.content);
        }
        dated
    }
}

impl Look {
    /// Without what is in it.
    pub fn by_stamp(path: &Path) -> Look {
        let stamp = Stamp::of(path);
        let empty = stamp.as_ref().is_none_or(|stamp| stamp.size == 0);
        let content = stamp::content_of(format!("{stamp:?}").as_bytes());
        Look { stamp, content, empty, unread: true }
    }

    pub fn at(path: &Path) -> Look {
        let stamp = Stamp::of(path);
        let (content, empty) = match &stamp {
            None => (0, true),
            Some(stamp) => match content_by_stamp(stamp) {
                Some(content) => (content, false),
                None => match fs::read(path) {
                    // There is no descriptor left: what is in it is not known.
                    Err(error) if is_passing(&error) => return Look::by_stamp(path),
                    read => {
                        // Gone between the two looks: its event is on the way.
                        let bytes = read.unwrap_or_default();
                        (stamp::content_of(&bytes), bytes.is_empty())
                    }
                },
            },
        };
        Look { stamp, content, empty, unread: false }
    }
}

/// What stands for the content of a file that is too large to be read each time.
fn content_by_stamp(stamp: &Stamp) -> Option<u64> {
    (stamp.size > MOST_HASHED).then(|| stamp::content_of(format!("{stamp:?}").as_bytes()))
}
