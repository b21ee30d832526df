//! What happens to files while a build runs, or ran last.
//! Never lives here: which of them matter (`inputs`).

use crate::compile::rewritten::Rewritten;
use crate::compile::scripts::Scripts;
use crate::compile::seen::Seen;
use crate::compile::stamp;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Default)]
pub struct DuringBuild {
    began: Option<SystemTime>,
    /// Since when cargo runs, where it does.
    pub cargo_runs: Option<SystemTime>,
    /// Touched since it began, and no input as far as is known.
    pub touched: BTreeSet<PathBuf>,
    /// Written since it began, though nothing in them is new.
    pub rewritten: Rewritten,
    /// Those that build scripts write, each time with something new.
    pub scripts: Scripts,
}

impl DuringBuild {
    pub fn began(&mut self, now: SystemTime) {
        self.began = Some(now);
        self.touched.clear();
        self.rewritten.build_began();
    }

    pub fn cargo_ended(&mut self) {
        if let Some(began) = self.cargo_runs {
            self.scripts.build_ended(began);
        }
    }

    /// Whether the build may have read that file before it was as it was first seen.
    pub fn may_have_missed(&self, seen: &Seen, path: &Path) -> bool {
        let began = self.began.and_then(|began| began.checked_sub(stamp::RACY));
        began.is_some_and(|began| seen.came_since(path, began))
    }
}
