//! What the program is made of, and whether a touched path has really changed it.
//! Never lives here: watching (`watch`), and what follows from a change (`cycle`).

mod dated;
mod surveyed;

use super::found::Found;
use super::named::Named;
use super::packages::Packages;
use super::places::{self, Places};
use super::rewritten::Rewritten;
use super::scripts::{Author, Scripts};
use super::seen::{Change, Seen};
use super::survey::MOST_READ;
use super::walk::{Below, Passed};
use super::{asked, project, stamp};
use crate::config;
use cargo_metadata::{Metadata, PackageId};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Builds that fail in a row, and are made again each time for what has come meanwhile.
const MOST_IN_A_ROW: u32 = 3;

/// The inputs of one program.
#[derive(Debug)]
pub struct Sources {
    packages: Packages,
    target_dir: PathBuf,
    /// Where cargo keeps what it needs itself, which is mostly the same.
    build_dir: PathBuf,
    /// Manifests, lock file, cargo's configuration, toolchain file: they say what is built and how.
    settings: BTreeSet<PathBuf>,
    /// Files that are not there, and would change what is built by their coming.
    coming: BTreeSet<PathBuf>,
    /// Named by the compiler's dep-info.
    exact: BTreeSet<PathBuf>,
    /// What the last failed build has named in its messages, there or not.
    asked: BTreeSet<PathBuf>,
    /// Builds that were made again for what had come while the one before failed.
    came_in_a_row: u32,
    /// Where the names of all that matters lead, as of the last look at the folders.
    places: Places,
    /// Where links have led when the last build succeeded: where cargo looks.
    led: HashMap<PathBuf, PathBuf>,
    /// Packages all of whose files are inputs.
    whole: BTreeSet<PathBuf>,
    named: Named,
    /// What is below the paths that are named, once that was looked at.
    survey: Option<Below>,
    /// The folders and files of which `places` tells.
    followed: Option<(BTreeSet<PathBuf>, BTreeSet<PathBuf>)>,
    /// Before the first build that succeeds, and after one that failed: any file of the packages may be what is missing.
    wide: bool,
    /// Whether a build has succeeded: then a file that counts for being one of the package's is a source by its name.
    built: bool,
    /// Touched since the running build began, and no input as far as is known.
    touched: BTreeSet<PathBuf>,
    /// Written since it began, though nothing in them is new.
    rewritten: Rewritten,
    /// Those that build scripts write, each time with something new.
    scripts: Scripts,
    /// When the build that runs, or ran last, began; and that by cargo which runs.
    began: Option<SystemTime>,
    cargo_runs: Option<SystemTime>,
    seen: Seen,
    /// Some of the folders could not be looked at, for a reason that passes.
    is_partial: Cell<bool>,
    env_file: Option<PathBuf>,
    root: PathBuf,
}

impl Sources {
    pub fn new(config: &config::Config, metadata: &Metadata) -> crate::error::Result<Self> {
        let mut sources = Sources {
            packages: Packages::default(),
            target_dir: metadata.target_directory.clone().into_std_path_buf(),
            build_dir: metadata.build_directory.as_ref().unwrap_or(&metadata.target_directory).clone().into(),
            settings: BTreeSet::new(),
            coming: BTreeSet::new(),
            exact: BTreeSet::new(),
            asked: BTreeSet::new(),
            came_in_a_row: 0,
            places: Places::default(),
            led: HashMap::new(),
            whole: BTreeSet::new(),
            named: Named::new(&config.watch)?,
            survey: None,
            followed: None,
            wide: true,
            built: false,
            touched: BTreeSet::new(),
            rewritten: Rewritten::default(),
            scripts: Scripts::default(),
            began: None,
            cargo_runs: None,
            seen: Seen::default(),
            is_partial: Cell::new(false),
            env_file: config.program.env_file.clone(),
            root: metadata.workspace_root.clone().into_std_path_buf(),
        };
        if let Some(folder) = &config.build.target_dir {
            if sources.build_dir == sources.target_dir {
                sources.build_dir.clone_from(folder);
            }
            sources.target_dir.clone_from(folder);
        }
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
        (self.settings, self.coming) = project::settings(root, self.packages.with_former(), self.packages.folders());
        self.settings.extend(self.env_file.clone());
        self.follow();
    }

    /// Of the workspace.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// Where cargo keeps what it needs itself, its incremental caches among it.
    pub fn build_dir(&self) -> &Path {
        &self.build_dir
    }

    /// Everything that says what is built and how, there or not; also what is not watched, as it is far from the project.
    pub fn all_settings(&self) -> Vec<PathBuf> {
        let files = project::settings_files(&self.root).into_iter();
        let all = self.settings.iter().chain(&self.coming).cloned().chain(files);
        all.filter(|path| Some(path) != self.env_file.as_ref()).collect()
    }

    /// Folders of packages all of whose files are inputs.
    pub fn whole_folders(&self) -> Vec<PathBuf> {
        self.whole.iter().cloned().collect()
    }

    /// A build begins at that time of day: what is touched from now on may be an input of it that nobody knows yet.
    pub fn build_began(&mut self, now: SystemTime) {
        self.began = Some(now);
        self.touched.clear();
        self.rewritten.build_began();
    }

    /// The build by cargo that ran has come to its end, and not for a newer change.
    pub fn cargo_ended(&mut self) {
        if let Some(began) = self.cargo_runs {
            self.scripts.build_ended(began);
        }
    }

    /// Since when cargo runs, if it does.
    pub fn cargo_runs(&mut self, since: Option<SystemTime>) {
        self.cargo_runs = since;
    }

    /// What was written since a build of cargo began, and is as it was: the build may have read what was there only for a moment. Which
    /// files it reads it has said, unless it has failed. `again`: it was made for what the one before it gave here.
    pub fn rewritten(&mut self, again: bool) -> BTreeSet<PathBuf> {
        // Taken out while the others are asked.
        let mut rewritten = std::mem::take(&mut self.rewritten);
        // That cargo writes the lock file is no news, and the other is for the program.
        let is_setting = |path: &PathBuf| self.wide || self.settings.contains(path);
        let is_other = |path: &PathBuf| path.ends_with("Cargo.lock") || self.env_file.as_ref() == Some(path);
        let doubtful = rewritten.doubtful(again, |path| self.is_input(path) || is_setting(path) && !is_other(path));
        self.rewritten = rewritten;
        doubtful
    }

    /// Relative where `build.dep-info-basedir` is set, which is then most likely the root.
    pub fn absolute(&self, inputs: Vec<PathBuf>) -> Vec<PathBuf> {
        inputs.into_iter().map(|path| places::plain(self.root.join(path))).collect()
    }

    /// What a compiler names that was started in the root, or in the package's folder where that is no member of the workspace.
    pub fn as_compiled(&self, inputs: Vec<PathBuf>) -> Vec<PathBuf> {
        let folders = || std::iter::once(&self.root).chain(self.packages.folders());
        let named =
            inputs.into_iter().filter_map(|path| folders().map(|folder| folder.join(&path)).find(|path| path.exists()));
        named.map(places::plain).collect()
    }

    /// Takes the exact inputs that a build has named. Returns what was touched during the build and has turned out to be an
    /// input.
    pub fn built(&mut self, inputs: Vec<PathBuf>, whole_packages: &[PathBuf]) -> Vec<PathBuf> {
        let ours = inputs.into_iter().filter(|path| !self.is_made(path));
        // A folder is what a build script may name; all below it is meant.
        let (folders, files): (BTreeSet<PathBuf>, BTreeSet<PathBuf>) = ours.partition(|path| path.is_dir());
        // A file that was no input until now may have changed unnoticed since it was last looked at. One that was never looked at, as
        // nobody watched there, may have been written after it was read.
        let mut unread = Vec::new();
        for path in files.difference(&self.exact) {
            let is_new = !self.seen.knows(path);
            self.seen.remember(path.clone());
            if is_new && self.came_while_built(path) {
                unread.push(path.clone());
            }
        }
        let known = std::mem::replace(&mut self.exact, files);
        self.whole = whole_packages.iter().cloned().chain(folders).collect();
        self.wide = false;
        self.built = true;
        self.asked.clear();
        self.came_in_a_row = 0;
        self.packages.built();
        let real = |path: &PathBuf| Some((path.clone(), path.canonicalize().ok().filter(|real| real != path)?));
        self.led = self.exact.iter().filter_map(real).collect();
        self.look_at_all();
        self.follow_new();
        let touched = std::mem::take(&mut self.touched);
        let names: BTreeSet<PathBuf> = touched.iter().flat_map(|place| self.places.names(place)).collect();
        let mut walked = None;
        let missed = names.into_iter().filter(|name| self.counts(name, &mut walked)).collect::<Vec<_>>();
        // Those that a link leads to since it leads elsewhere were looked at by its name.
        let is_new =
            |name: &PathBuf| !known.contains(name) || matches!(self.seen.look_at(name), Change::Content { .. });
        let missed = missed.into_iter().filter(is_new).collect::<BTreeSet<_>>();
        unread.into_iter().filter(|path| !missed.contains(path)).chain(missed.iter().cloned()).collect()
    }

    fn came_while_built(&self, path: &Path) -> bool {
        let began = self.began.and_then(|began| began.checked_sub(stamp::RACY));
        began.is_some_and(|began| self.seen.came_since(path, began))
    }

    /// Of the compiler, or of a build script.
    fn is_input(&self, path: &Path) -> bool {
        self.exact.contains(path) || self.whole.iter().any(|folder| path.starts_with(folder))
    }

    /// A build failed: what it lacks may be any file of the packages, and whatever its messages name.
    pub fn failed<'t>(&mut self, messages: impl IntoIterator<Item = &'t str>) {
        self.wide = true;
        let folders: Vec<PathBuf> = std::iter::once(&self.root).chain(self.packages.folders()).cloned().collect();
        let is_meant = |path: &PathBuf| !self.is_made(path) && !self.named.ignore.is_match(path) && !path.is_dir();
        self.asked = asked::paths(messages, &folders).into_iter().filter(is_meant).collect();
        self.follow();
    }

    /// What was written since a build began that has failed, and may be what it lacks: it may have come too late to be read. Not for ever:
    /// a build may name a log that it writes anew each time.
    pub fn came_meanwhile(&mut self) -> Vec<PathBuf> {
        let touched = std::mem::take(&mut self.touched);
        let mut names: BTreeSet<PathBuf> = touched.iter().flat_map(|place| self.places.names(place)).collect();
        names.extend(self.asked.iter().cloned());
        let mut walked = None;
        names.retain(|name| self.counts(name, &mut walked));
        let mut came = Vec::new();
        for name in names {
            let is_new = !self.seen.knows(&name);
            let has_changed = matches!(self.seen.look_at(&name), Change::Content { .. });
            if has_changed && (!is_new || self.came_while_built(&name)) {
                came.push(name);
            }
        }
        self.came_in_a_row += u32::from(!came.is_empty());
        if self.came_in_a_row > MOST_IN_A_ROW { Vec::new() } else { came }
    }

    /// Cargo may write the lock file while it builds; that is no change of the user's.
    pub fn accept_lock_file(&mut self) {
        let locks: Vec<PathBuf> = self.settings.iter().filter(|path| path.ends_with("Cargo.lock")).cloned().collect();
        for path in locks {
            self.seen.remember(path);
        }
    }

    pub fn file_count(&self) -> usize {
        self.exact.len() + self.settings.len()
    }

    pub fn path_dependencies(&self) -> usize {
        self.packages.count().saturating_sub(1)
    }

    /// Every folder in which something may change the program, by its place.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        self.places.folders()
    }

    fn is_of_package(&self, folder: &Path) -> bool {
        self.packages.folders().any(|package| package == folder)
    }

    fn passed(&self) -> Passed<'_> {
        let packages = self.packages.with_former().cloned().collect();
        let made = [self.target_dir.as_path(), &self.build_dir];
        Passed { made, packages, ignore: &self.named.ignore, apart: &self.named.apart }
    }

    /// By cargo.
    fn is_made(&self, path: &Path) -> bool {
        path.starts_with(&self.target_dir) || path.starts_with(&self.build_dir)
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
                found.changed.extend(names.into_iter().find(|name| self.asked.contains(name) && name.is_dir()));
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
        let roots = || self.packages.with_former().chain(&self.whole).chain(&self.named.extra);
        let files = || self.exact.iter().chain(&self.settings).chain(&self.coming).chain(&self.asked);
        let is_near = |name: &PathBuf, other: &PathBuf| name.starts_with(other) || other.starts_with(name);
        names
            .iter()
            .any(|name| self.named.has_data_at(name) || roots().chain(files()).any(|other| is_near(name, other)))
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
        let is_asked = self.cargo_runs.is_some() && counting.iter().all(|name| self.is_only_asked(name));
        if counting.is_empty() || is_asked {
            self.touched.extend(others.into_iter().chain(counting).cloned());
            return;
        }
        self.came_in_a_row = 0;
        let mut changed = Vec::new();
        for name in counting {
            match self.seen.look_at(name) {
                Change::Content { empty } => {
                    if !self.is_somebodys(place, name, found) {
                        continue;
                    }
                    found.settings |= self.settings.contains(name) || self.coming.contains(name);
                    found.start_anyway |= self.env_file.as_ref() == Some(name)
                        || (!self.exact.contains(name) && self.named.is_extra(name));
                    found.emptied &= empty;
                    self.rewritten.is_another(name);
                    changed.push(name);
                }
                Change::Rewritten => self.rewritten.add(name),
                Change::Nothing => {}
            }
        }
        // It is told by the name by which the project reaches it.
        let by_link = changed.iter().find(|name| **name != place && name.starts_with(&self.root));
        found.changed.extend(by_link.or(changed.first()).map(|name| (*name).clone()));
    }

    fn is_somebodys(&mut self, place: &Path, name: &Path, found: &mut Found) -> bool {
        let package = self.packages.scripted(name).map(str::to_owned);
        match self.scripts.author(place, self.cargo_runs, &self.build_dir, package.as_deref()) {
            Author::Somebody => true,
            Author::Script => {
                found.most_likely_scripts += 1;
                true
            }
            Author::BuildAgain => false,
            Author::Build => {
                found.by_script.extend(package.map(|package| (name.to_path_buf(), package)));
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
        let is_input = self.exact.contains(path) || self.settings.contains(path) || self.coming.contains(path);
        let may_be_source = path.extension().is_some_and(|extension| extension == "rs" || extension == "toml");
        self.asked.contains(path) && !is_input && !may_be_source && !self.named.is_extra(path)
    }

    fn counts(&self, path: &Path, walked: &mut Option<BTreeSet<PathBuf>>) -> bool {
        if self.exact.contains(path) || self.settings.contains(path) || self.coming.contains(path) {
            return true;
        }
        if self.is_made(path) || self.named.ignore.is_match(path) {
            return false;
        }
        if self.asked.iter().chain(&self.named.extra).any(|root| path.starts_with(root)) {
            return true;
        }
        let roots = self.whole.iter().chain(self.packages.folders().filter(|_| self.wide));
        if !roots.clone().any(|root| path.starts_with(root)) {
            return false;
        }
        if self.whole.iter().any(|root| path.starts_with(root) && !self.is_of_package(root)) {
            return true;
        }
        let was_there = self.seen.was_there(path);
        // What the old program writes into its own package is not what a failed build lacks, unless it came or went.
        let may_be_source = path.extension().is_some_and(|extension| extension == "rs" || extension == "toml");
        let is_whole = self.whole.iter().any(|root| path.starts_with(root));
        if self.built && !may_be_source && !is_whole && path.exists() == was_there {
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
            if read <= MOST_READ || self.exact.contains(&path) || path.extension().is_some_and(|it| it == "rs") {
                self.seen.remember(path);
            } else {
                self.seen.remember_unread(path);
            }
        }
    }

    fn all_files(&self) -> BTreeSet<PathBuf> {
        let mut files = self.visible(self.packages.folders()).files;
        files.extend(self.below_named_by_scripts().files);
        files.extend(self.exact.iter().chain(&self.settings).chain(&self.coming).chain(&self.asked).cloned());
        files
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
