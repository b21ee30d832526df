//! Looks at everything again: at what is named beside the packages, which a thread has looked at (`survey`), and at all the rest.
//! Never lives here: what one file's change means.

use super::Sources;
use crate::compile::found::Found;
use crate::compile::survey::{Job, Survey};
use crate::compile::walk::{self, Below};
use std::collections::BTreeSet;
use std::path::PathBuf;

impl Sources {
    /// The look at what is named beside the packages, for a thread of its own; none where nothing is.
    pub fn survey(&self) -> Option<Job> {
        let packages = self.packages.with_former().cloned().collect();
        let made = [self.target_dir.clone(), self.build_dir.clone()];
        (!self.named.is_empty()).then(|| Job {
            is_first: self.survey.is_none(),
            named: self.named.clone(),
            made,
            packages,
        })
    }

    /// Whether one of those places has to do with it.
    pub fn is_near_named(&self, places: &[PathBuf]) -> bool {
        places.iter().any(|place| self.places.names(place).iter().any(|name| self.named.is_near(name)))
    }

    /// Takes what such a look has shown. What has changed since the one before, what the user is told, and whether there are folders
    /// that were not watched while it was had.
    pub fn surveyed(&mut self, survey: Survey) -> (Found, Vec<String>, bool) {
        let notes = survey.refused.iter().map(|refused| self.named.refuse(refused)).collect();
        let mut changed: Vec<PathBuf> = Vec::new();
        if let Some(before) = &self.survey {
            let others = survey.looks.iter().filter(|(path, look)| self.seen.is_another(path, look));
            let gone = before.files.difference(&survey.below.files);
            changed.extend(others.map(|(path, _)| path).chain(gone).cloned());
        } else {
            survey.looks.into_iter().for_each(|(path, look)| self.seen.take(path, look));
        }
        let before = self.survey.replace(survey.below);
        let is_new = before.is_none_or(|before| {
            self.survey.as_ref().is_some_and(|now| now.folders != before.folders || now.links != before.links)
        });
        if is_new {
            self.follow_new();
        }
        (self.look_at_these(changed), notes, is_new)
    }

    /// Looks at everything but what is named beside the packages, which is surveyed, as events were lost or cannot be had. Only files
    /// whose size, time or inode differ are read.
    pub fn look_again(&mut self) -> Found {
        let surveyed = |path: &&PathBuf| self.survey.as_ref().is_some_and(|named| named.files.contains(*path));
        let mut names: BTreeSet<PathBuf> = self.seen.paths().filter(|path| !surveyed(path)).cloned().collect();
        names.extend(self.all_files());
        let touched: Vec<PathBuf> = names.into_iter().filter(|name| self.seen.is_worth_a_look(name)).collect();
        self.look_at_these(touched)
    }

    /// The same, and where all names lead, if something could not be looked at before.
    pub fn look_again_if_partial(&mut self) -> Found {
        if !self.is_partial.replace(false) {
            return Found::default();
        }
        self.follow();
        self.look_again()
    }

    /// Whether some of the folders could not be looked at, for a reason that passes: something may have come there.
    pub fn is_partial(&self) -> bool {
        self.is_partial.get()
    }

    /// Folders and files of packages.
    pub(super) fn visible<'r>(&self, roots: impl IntoIterator<Item = &'r PathBuf>) -> Below {
        let below = walk::visible(roots, &self.passed());
        self.is_partial.set(self.is_partial() || below.is_partial);
        below
    }

    /// Events were lost: any folder may be another one by now.
    pub fn lost(&mut self) -> Found {
        let folders = self.folders().into_iter().collect();
        Found { folders, ..self.look_again() }
    }

    /// Cargo takes all that is there in folders that build scripts name.
    pub(super) fn below_named_by_scripts(&self) -> Below {
        let mut below = Below::default();
        for folder in self.whole.iter().filter(|folder| !self.is_of_package(folder)) {
            below.extend(walk::all(folder, None, &self.passed()));
        }
        self.is_partial.set(self.is_partial() || below.is_partial);
        below
    }
}
