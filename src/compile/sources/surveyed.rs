//! Looks at everything again, and where all names lead: at what is named beside the packages, which a thread has looked at (`survey`),
//! and at all the rest.
//! Never lives here: what one file's change means.

use super::Sources;
use crate::compile::found::Found;
use crate::compile::places::Places;
use crate::compile::survey::{Job, Survey};
use crate::compile::walk::{self, Below};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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

    /// Takes what such a look has shown. What has changed since the one before, and whether there are folders that were not watched while
    /// it was had.
    pub fn surveyed(&mut self, survey: Survey) -> (Found, bool) {
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
        (Found { notes, ..self.look_at_these(changed) }, is_new)
    }

    /// Looks where all names lead now, as folders came or went, or links lead elsewhere.
    pub fn follow(&mut self) {
        self.follow_these(true);
    }

    /// As `follow`, where there are others than before: those that lead elsewhere by now are told of by their folders.
    pub(super) fn follow_new(&mut self) {
        self.follow_these(false);
    }

    fn follow_these(&mut self, anew: bool) {
        let mut folders = self.visible(self.packages.with_former()).folders;
        folders.extend(self.packages.with_former().cloned());
        let by_scripts = self.below_named_by_scripts();
        folders.extend(by_scripts.folders);
        if self.is_partial() {
            // Those that were missed are still watched, if they are there.
            folders.extend(self.followed.iter().flat_map(|(before, _)| before.iter().cloned()));
        }
        let named = self.survey.iter();
        folders.extend(named.clone().flat_map(|named| named.folders.iter().cloned()));
        let single =
            self.exact.iter().chain(&self.settings).chain(&self.named.extra).chain(&self.asked).chain(&self.coming);
        // Where the others lead is known by their folders.
        let links = named.flat_map(|named| &named.links);
        let mut files: BTreeSet<PathBuf> = single.chain(links).chain(&by_scripts.files).cloned().collect();
        folders.extend(files.iter().filter_map(|path| path.parent()).map(Path::to_path_buf));
        // The one above tells when the project's folder goes, or one that it is in: it does not itself, as long as a process works in it.
        let below_top =
            self.root.ancestors().take_while(|folder| folder.parent().is_some_and(|above| above.parent().is_some()));
        files.extend(below_top.map(Path::to_path_buf));
        let wanted = Some((folders, files));
        if anew || wanted != self.followed {
            self.places = wanted.iter().map(|(folders, files)| Places::of(folders, files)).next().unwrap_or_default();
            self.followed = wanted;
        }
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
