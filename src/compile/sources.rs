//! What the program is made of, and whether a touched path has really changed it.
//! Never lives here: watching (`watch`), and what follows from a change (`cycle`).

mod during_build;
mod inputs;
mod layout;

use super::found::Found;
use super::named::Named;
use super::packages::Packages;
use super::places::Places;
use super::scripts::Author;
use super::seen::{Change, Seen};
use super::survey::{MOST_READ, Survey, SurveyJob};
use super::walk::{self, Below, Passed};
use super::{asked, project};
use crate::config;
use crate::report::{Note, short};
use cargo_metadata::{Metadata, PackageId};
use during_build::DuringBuild;
use inputs::Inputs;
use layout::Layout;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The inputs of one program.
#[derive(Debug)]
pub struct Sources {
    pub layout: Layout,
    packages: Packages,
    pub inputs: Inputs,
    named: Named,
    /// What is below the paths that are named, once that was looked at.
    survey: Option<Below>,
    /// Where the names of all that matters lead, as of the last look at the folders; and the folders and files of which it tells.
    places: Places,
    followed: Option<(BTreeSet<PathBuf>, BTreeSet<PathBuf>)>,
    seen: Seen,
    pub build: DuringBuild,
    /// Some of the folders could not be looked at, for a reason that passes.
    is_partial: Cell<bool>,
}

impl Sources {
    pub fn new(config: &config::Config, metadata: &Metadata) -> crate::error::Result<Self> {
        let mut sources = Sources {
            layout: Layout::new(config, metadata),
            packages: Packages::default(),
            inputs: Inputs::default(),
            named: Named::new(&config.watch)?,
            survey: None,
            places: Places::default(),
            followed: None,
            seen: Seen::default(),
            build: DuringBuild::default(),
            is_partial: Cell::new(false),
        };
        sources.set_packages(metadata, &config.build.package_id);
        sources.look_at_all();
        Ok(sources)
    }

    /// The package and its path dependencies, from a new look at the manifests.
    pub fn set_packages(&mut self, metadata: &Metadata, package: &PackageId) {
        if !self.packages.set(metadata, package) {
            return;
        }
        let root = metadata.workspace_root.as_std_path();
        let (settings, coming) = project::settings(root, self.packages.with_former(), self.packages.folders());
        (self.inputs.settings, self.inputs.coming) = (settings, coming);
        self.inputs.settings.extend(self.layout.env_file.clone());
        self.follow();
    }

    /// Everything that says what is built and how, there or not; also what is not watched, as it is far from the project.
    pub fn all_settings(&self) -> Vec<PathBuf> {
        let files = project::settings_files(&self.layout.root).into_iter();
        let all = self.inputs.settings.iter().chain(&self.inputs.coming).cloned().chain(files);
        all.filter(|path| Some(path) != self.layout.env_file.as_ref()).collect()
    }

    /// What was written since a build of cargo began, and is as it was: the build may have read what was there only for a moment. Which
    /// files it reads it has said, unless it has failed. `again`: it was made for what the one before it gave here.
    pub fn rewritten(&mut self, again: bool) -> BTreeSet<PathBuf> {
        // That cargo writes the lock file is no news, and the other is for the program.
        let (inputs, env_file) = (&self.inputs, self.layout.env_file.as_ref());
        let is_setting = |path: &PathBuf| !inputs.are_exact || inputs.settings.contains(path);
        let is_other = |path: &PathBuf| path.ends_with("Cargo.lock") || env_file == Some(path);
        self.build.rewritten.doubtful(again, |path| inputs.is_input(path) || is_setting(path) && !is_other(path))
    }

    /// Takes the exact inputs that a build has named. Returns what was touched during the build and has turned out to be an
    /// input.
    pub fn built(&mut self, inputs: Vec<PathBuf>, whole_packages: &[PathBuf]) -> Vec<PathBuf> {
        let ours = inputs.into_iter().filter(|path| !self.layout.is_made(path));
        // A folder is what a build script may name; all below it is meant.
        let (folders, files): (BTreeSet<PathBuf>, BTreeSet<PathBuf>) = ours.partition(|path| path.is_dir());
        // A file that was no input until now may have changed unnoticed since it was last looked at. One that was never looked at, as
        // nobody watched there, may have been written after it was read.
        let mut unread = Vec::new();
        for path in files.difference(&self.inputs.exact) {
            let is_new = !self.seen.knows(path);
            self.seen.remember(path.clone());
            if is_new && self.build.may_have_missed(&self.seen, path) {
                unread.push(path.clone());
            }
        }
        let known = self.inputs.built(files, whole_packages.iter().cloned().chain(folders).collect());
        self.packages.built();
        self.look_at_all();
        self.follow_these(false);
        let touched = std::mem::take(&mut self.build.touched);
        let names: BTreeSet<PathBuf> = touched.iter().flat_map(|place| self.places.names(place)).collect();
        let mut walked = None;
        let missed = names.into_iter().filter(|name| self.counts(name, &mut walked)).collect::<Vec<_>>();
        // Those that a link leads to since it leads elsewhere were looked at by its name.
        let is_new =
            |name: &PathBuf| !known.contains(name) || matches!(self.seen.look_at(name), Change::Content { .. });
        let missed = missed.into_iter().filter(is_new).collect::<BTreeSet<_>>();
        unread.into_iter().filter(|path| !missed.contains(path)).chain(missed.iter().cloned()).collect()
    }

    /// A build failed: what it lacks may be any file of the packages, and whatever its messages name.
    pub fn failed<'t>(&mut self, messages: impl IntoIterator<Item = &'t str>) {
        self.inputs.are_exact = false;
        let folders = self.compiled_in();
        let is_meant =
            |path: &PathBuf| !self.layout.is_made(path) && !self.named.ignore.is_match(path) && !path.is_dir();
        self.inputs.asked = asked::paths(messages, &folders).into_iter().filter(is_meant).collect();
        self.follow();
    }

    /// What was written since a build began that has failed, and may be what it lacks: it may have come too late to be read. Not for ever:
    /// a build may name a log that it writes anew each time.
    pub fn came_meanwhile(&mut self) -> Vec<PathBuf> {
        let touched = std::mem::take(&mut self.build.touched);
        let mut names: BTreeSet<PathBuf> = touched.iter().flat_map(|place| self.places.names(place)).collect();
        names.extend(self.inputs.asked.iter().cloned());
        let mut walked = None;
        names.retain(|name| self.counts(name, &mut walked));
        let mut came = Vec::new();
        for name in names {
            let is_new = !self.seen.knows(&name);
            let has_changed = matches!(self.seen.look_at(&name), Change::Content { .. });
            if has_changed && (!is_new || self.build.may_have_missed(&self.seen, &name)) {
                came.push(name);
            }
        }
        if self.inputs.may_be_made_again(!came.is_empty()) { came } else { Vec::new() }
    }

    /// Cargo may write the lock file while it builds; that is no change of the user's.
    pub fn accept_lock_file(&mut self) {
        let locks: Vec<PathBuf> =
            self.inputs.settings.iter().filter(|path| path.ends_with("Cargo.lock")).cloned().collect();
        for path in locks {
            self.seen.remember(path);
        }
    }

    /// How many files are watched by name, and how many path dependencies there are.
    pub fn watched(&self) -> (usize, usize) {
        (self.inputs.exact.len() + self.inputs.settings.len(), self.packages.count().saturating_sub(1))
    }

    /// Where compilers are started: in the root, or in the package's folder where that is no member of the workspace.
    pub fn compiled_in(&self) -> Vec<PathBuf> {
        std::iter::once(&self.layout.root).chain(self.packages.folders()).cloned().collect()
    }

    /// Every folder in which something may change the program, by its place.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        self.places.folders()
    }

    fn passed(&self) -> Passed<'_> {
        let packages = self.packages.with_former().cloned().collect();
        let made = [self.layout.target_dir.as_path(), &self.layout.build_dir];
        Passed { made, packages, ignore: &self.named.ignore, apart: &self.named.apart }
    }

    /// Looks at places that were touched.
    pub fn look(&mut self, touched: &[PathBuf]) -> Found {
        let mut found = Found { emptied: true, ..Found::default() };
        // Asked for once a look, as it walks the packages.
        let mut walked: Option<BTreeSet<PathBuf>> = None;
        for place in touched {
            let names = self.places.names(place);
            if !self.places.has_link(place) && !self.is_near(&names) {
                continue;
            }
            let was_folder =
                |name: &PathBuf| !self.seen.knows(name) && self.seen.paths().any(|seen| seen.starts_with(name));
            let is_known = || names.iter().any(|name| self.seen.knows(name) || was_folder(name));
            if self.places.has_link(place) || place.is_symlink() && is_known() {
                // What it leads to now is looked at with everything else.
                found.folders.push(place.clone());
                continue;
            }
            if place.is_dir() || self.places.has_folder(place) || names.iter().any(was_folder) {
                found.changed.extend(names.into_iter().find(|name| self.inputs.asked.contains(name) && name.is_dir()));
                found.folders.push(place.clone());
                continue;
            }
            self.look_at(place, &names, &mut found, &mut walked);
        }
        found.emptied &= !found.changed.is_empty();
        found
    }

    /// Whether anything below, or around, such a name may matter: folders come and go where only one file is meant, or a link.
    fn is_near(&self, names: &BTreeSet<PathBuf>) -> bool {
        let roots = || self.packages.with_former().chain(&self.inputs.whole).chain(&self.named.extra);
        let is_near = |name: &PathBuf, other: &PathBuf| name.starts_with(other) || other.starts_with(name);
        names.iter().any(|name| {
            self.named.has_data_at(name) || roots().chain(self.inputs.files()).any(|other| is_near(name, other))
        })
    }

    /// Looks at a file by all its names; it is one change.
    fn look_at(
        &mut self,
        place: &Path,
        names: &BTreeSet<PathBuf>,
        found: &mut Found,
        walked: &mut Option<BTreeSet<PathBuf>>,
    ) {
        if let Some((name, action)) = names.iter().find_map(|name| Some((name, self.named.data_action(name)?))) {
            if let Change::Content { .. } = self.seen.look_at(name) {
                found.data.push((name.clone(), action));
            }
            return;
        }
        let (counting, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| self.counts(name, walked));
        // What a failed build has named, and writes itself, is asked for when it has ended: only this may be a log of it.
        let is_asked = self.build.cargo_runs.is_some() && counting.iter().all(|name| self.is_only_asked(name));
        if counting.is_empty() || is_asked {
            self.build.touched.extend(others.into_iter().chain(counting).cloned());
            return;
        }
        self.inputs.came_in_a_row = 0;
        let mut changed = Vec::new();
        for name in counting {
            match self.seen.look_at(name) {
                Change::Content { empty } => {
                    if !self.is_somebodys(place, name, found) {
                        continue;
                    }
                    found.settings |= self.inputs.settings.contains(name) || self.inputs.coming.contains(name);
                    found.start_anyway |= self.layout.env_file.as_ref() == Some(name)
                        || (!self.inputs.exact.contains(name) && self.named.is_extra(name));
                    found.emptied &= empty;
                    self.build.rewritten.is_another(name);
                    changed.push(name);
                }
                Change::Rewritten => self.build.rewritten.add(name),
                Change::Nothing => {}
            }
        }
        // It is told by the name by which the project reaches it.
        let by_link = changed.iter().find(|name| **name != place && name.starts_with(&self.layout.root));
        found.changed.extend(by_link.or(changed.first()).map(|name| (*name).clone()));
    }

    fn is_somebodys(&mut self, place: &Path, name: &Path, found: &mut Found) -> bool {
        let package = self.packages.scripted(name).map(str::to_owned);
        match self.build.scripts.author(place, self.build.cargo_runs, &self.layout.build_dir, package.as_deref()) {
            Author::Somebody => true,
            Author::Script => {
                found.most_likely_scripts += 1;
                true
            }
            Author::BuildAgain => false,
            Author::Build => {
                found.notes.extend(package.map(|package| Note::WrittenByScript { path: short(name), package }));
                false
            }
        }
    }

    fn look_at_these(&mut self, touched: Vec<PathBuf>) -> Found {
        let mut found = Found { emptied: true, ..Found::default() };
        let mut walked = None;
        for name in touched {
            let mut names = self.places.names(&name);
            names.insert(name.clone());
            self.look_at(&name, &names, &mut found, &mut walked);
        }
        found.emptied &= !found.changed.is_empty();
        found
    }

    /// It counts for nothing but that the last failed build has named it.
    fn is_only_asked(&self, path: &Path) -> bool {
        self.inputs.asked.contains(path)
            && !self.inputs.is_known(path)
            && !may_be_source(path)
            && !self.named.is_extra(path)
    }

    fn counts(&self, path: &Path, walked: &mut Option<BTreeSet<PathBuf>>) -> bool {
        if self.inputs.is_known(path) {
            return true;
        }
        if self.layout.is_made(path) || self.named.ignore.is_match(path) {
            return false;
        }
        if self.inputs.asked.iter().chain(&self.named.extra).any(|root| path.starts_with(root)) {
            return true;
        }
        let roots = self.inputs.whole.iter().chain(self.packages.folders().filter(|_| !self.inputs.are_exact));
        if !roots.clone().any(|root| path.starts_with(root)) {
            return false;
        }
        if self.inputs.whole.iter().any(|root| path.starts_with(root) && !self.packages.has_folder(root)) {
            return true;
        }
        let was_there = self.seen.was_there(path);
        // What the old program writes into its own package is not what a failed build lacks, unless it came or went.
        let is_whole = self.inputs.whole.iter().any(|root| path.starts_with(root));
        if self.inputs.built && !may_be_source(path) && !is_whole && path.exists() == was_there {
            return false;
        }
        // A file that was one of them counts when it has gone, too.
        was_there || walked.get_or_insert_with(|| self.visible(roots).files).contains(path)
    }

    fn look_at_all(&mut self) {
        let mut read = 0;
        for path in self.all_files() {
            if self.seen.knows(&path) {
                continue;
            }
            read += 1;
            // A package may hold many thousands of files that are no sources.
            if read <= MOST_READ || self.inputs.exact.contains(&path) || path.extension().is_some_and(|it| it == "rs") {
                self.seen.remember(path);
            } else {
                self.seen.remember_unread(path);
            }
        }
    }

    fn all_files(&self) -> BTreeSet<PathBuf> {
        let mut files = self.visible(self.packages.folders()).files;
        files.extend(self.below_named_by_scripts().files);
        files.extend(self.inputs.files().cloned());
        files
    }

    /// The look at what is named beside the packages, for a thread of its own; none where nothing is.
    pub fn survey(&self) -> Option<SurveyJob> {
        let packages = self.packages.with_former().cloned().collect();
        let made = [self.layout.target_dir.clone(), self.layout.build_dir.clone()];
        let (is_first, named) = (self.survey.is_none(), self.named.clone());
        (!named.is_empty()).then_some(SurveyJob { is_first, named, made, packages })
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
            self.follow_these(false);
        }
        (Found { notes, ..self.look_at_these(changed) }, is_new)
    }

    /// Looks where all names lead now, as folders came or went, or links lead elsewhere.
    pub fn follow(&mut self) {
        self.follow_these(true);
    }

    /// Not `anew`: only where there are others than before. Those that lead elsewhere by now are told of by their folders.
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
        let single = self.inputs.files().chain(&self.named.extra);
        // Where the others lead is known by their folders.
        let links = named.flat_map(|named| &named.links);
        let mut files: BTreeSet<PathBuf> = single.chain(links).chain(&by_scripts.files).cloned().collect();
        folders.extend(files.iter().filter_map(|path| path.parent()).map(Path::to_path_buf));
        // The one above tells when the project's folder goes, or one that it is in: it does not itself, as long as a process works in it.
        let below_top = self
            .layout
            .root
            .ancestors()
            .take_while(|folder| folder.parent().is_some_and(|above| above.parent().is_some()));
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
    fn visible<'r>(&self, roots: impl IntoIterator<Item = &'r PathBuf>) -> Below {
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
    fn below_named_by_scripts(&self) -> Below {
        let mut below = Below::default();
        for folder in self.inputs.whole.iter().filter(|folder| !self.packages.has_folder(folder)) {
            below.extend(walk::all(folder, None, &self.passed()));
        }
        self.is_partial.set(self.is_partial() || below.is_partial);
        below
    }

    /// Dates inputs to now, so that cargo sees that they have changed. Says whether there was one.
    pub fn date_anew(&mut self, paths: &BTreeSet<PathBuf>) -> bool {
        self.inputs.date_anew(&mut self.seen, paths)
    }

    /// The same, of those that cargo would never see.
    pub fn date_the_old_anew(&mut self, paths: &BTreeSet<PathBuf>, moment: SystemTime) {
        self.inputs.date_the_old_anew(&mut self.seen, paths, moment);
    }
}

/// By its name.
fn may_be_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs" || extension == "toml")
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
