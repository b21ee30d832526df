//! What the program is made of, and whether a touched path has really changed it.
//! Never lives here: watching (`watch`), and what follows from a change (`cycle`).

use crate::compile::project;
use crate::compile::seen::{Change, Seen};
use crate::config::{self, DataAction};
use crate::error::Tried;
use crate::report::short;
use cargo_metadata::{DependencyKind, Metadata, PackageId};
use globset::GlobSet;
use ignore::WalkBuilder;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files an editor makes beside the one it saves.
const EDITORS: [&str; 6] = ["**/*~", "**/.#*", "**/#*#", "**/*.sw?", "**/4913", "**/*.tmp"];

/// The inputs of one program.
#[derive(Debug)]
pub struct Sources {
    /// Folders of the package and of its path dependencies.
    packages: BTreeMap<PackageId, PathBuf>,
    target_dir: PathBuf,
    /// Manifests, lock file, cargo's configuration, toolchain file: they say what is built and how.
    settings: BTreeSet<PathBuf>,
    /// Files that are not there, and would change what is built by their coming.
    coming: BTreeSet<PathBuf>,
    /// Named by the compiler's dep-info.
    exact: BTreeSet<PathBuf>,
    /// Real paths of inputs that are symlinks, or are reached through one.
    real: HashMap<PathBuf, PathBuf>,
    /// Packages all of whose files are inputs.
    whole: BTreeSet<PathBuf>,
    extra: Vec<PathBuf>,
    ignore: GlobSet,
    data: Vec<(GlobSet, DataAction)>,
    /// Before the first build that succeeds, and after one that failed: any file of the packages may be what is missing.
    wide: bool,
    /// Whether a build has succeeded: then a file that counts for being one of the package's is a source by its name.
    built: bool,
    /// Touched since the running build began, and no input as far as is known.
    touched: BTreeSet<PathBuf>,
    /// Written since the running build began, though nothing in them is new.
    rewritten: BTreeSet<PathBuf>,
    /// Those of these for which a build is made again.
    doubted: BTreeSet<PathBuf>,
    /// Those that builds themselves write, as some build scripts do, until there is something new in them.
    written_by_builds: BTreeSet<PathBuf>,
    seen: Seen,
    env_file: Option<PathBuf>,
    root: PathBuf,
}

/// What a look at touched paths has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files of the program that have changed.
    pub changed: Vec<PathBuf>,
    /// All of those have just become empty.
    pub emptied: bool,
    /// One of those says what is built or how.
    pub settings: bool,
    /// One of those is for the program that runs, not for the compiler: it is started again whatever comes of the build.
    pub start_anyway: bool,
    pub data: Vec<(PathBuf, DataAction)>,
    /// Folders that came or went.
    pub folders: Vec<PathBuf>,
}

impl Sources {
    pub fn new(config: &config::Config, metadata: &Metadata) -> crate::error::Result<Self> {
        let ignore = config.watch.ignore.iter().map(String::as_str).chain(EDITORS);
        let data = config.watch.data.iter().map(|data| {
            let glob = config::glob_set([data.glob.as_str()]).tried("read the globs of `data`")?;
            Ok((glob, data.action))
        });
        let mut sources = Sources {
            packages: BTreeMap::new(),
            target_dir: metadata.target_directory.clone().into_std_path_buf(),
            settings: BTreeSet::new(),
            coming: BTreeSet::new(),
            exact: BTreeSet::new(),
            real: HashMap::new(),
            whole: BTreeSet::new(),
            extra: config.watch.extra.clone(),
            ignore: config::glob_set(ignore).tried("read the globs of `ignore`")?,
            data: data.collect::<crate::error::Result<_>>()?,
            wide: true,
            built: false,
            touched: BTreeSet::new(),
            rewritten: BTreeSet::new(),
            doubted: BTreeSet::new(),
            written_by_builds: BTreeSet::new(),
            seen: Seen::default(),
            env_file: config.program.env_file.clone(),
            root: metadata.workspace_root.clone().into_std_path_buf(),
        };
        if let Some(folder) = &config.build.target_dir {
            sources.target_dir.clone_from(folder);
        }
        sources.set_packages(metadata, &config.build.package_id);
        sources.look_at_all();
        Ok(sources)
    }

    /// The package and its path dependencies, from a new look at the manifests.
    pub fn set_packages(&mut self, metadata: &Metadata, package: &PackageId) {
        self.packages = local_packages(metadata, package);
        let root = metadata.workspace_root.as_std_path();
        self.settings = [root.join("Cargo.toml"), root.join("Cargo.lock")].into_iter().collect();
        self.settings.extend(self.packages.values().map(|folder| folder.join("Cargo.toml")));
        let (there, absent): (Vec<PathBuf>, Vec<PathBuf>) =
            settings_files(root).into_iter().partition(|path| path.is_file());
        self.settings.extend(there);
        // Targets and build scripts that cargo finds by their names (the cargo book, "Target auto-discovery").
        let found = ["build.rs", "src/lib.rs", "src/main.rs"];
        let found = self.packages.values().flat_map(|folder| found.iter().map(|name| folder.join(name)));
        let below = absent.into_iter().filter(|path| path.starts_with(root));
        self.coming = below.chain(found.filter(|path| !path.exists())).collect();
        self.settings.extend(self.env_file.clone());
    }

    /// Of the workspace.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// Everything that says what is built and how, there or not; also what is not watched, as it is far from the project.
    pub fn all_settings(&self) -> Vec<PathBuf> {
        let files = settings_files(&self.root);
        self.settings
            .iter()
            .chain(&self.coming)
            .cloned()
            .chain(files)
            .filter(|path| Some(path) != self.env_file.as_ref())
            .collect()
    }

    /// Folders of packages all of whose files are inputs.
    pub fn whole_folders(&self) -> Vec<PathBuf> {
        self.whole.iter().cloned().collect()
    }

    /// A build begins: what is touched from now on may be an input of it that nobody knows yet.
    pub fn build_began(&mut self) {
        self.touched.clear();
        self.rewritten.clear();
    }

    /// What was written since a build of cargo began, and is as it was: the build may have read what was there only for a moment. Which
    /// files it reads it has said, unless it has failed. `again`: it was made for what the one before it gave here.
    pub fn rewritten(&mut self, again: bool) -> BTreeSet<PathBuf> {
        if !again {
            self.doubted.clear();
        }
        let mut rewritten = std::mem::take(&mut self.rewritten);
        // That cargo writes the lock file is no news, and the other is for the program.
        let is_setting = |path: &PathBuf| self.wide || self.settings.contains(path);
        let is_other = |path: &PathBuf| path.ends_with("Cargo.lock") || self.env_file.as_ref() == Some(path);
        rewritten.retain(|path| self.is_input(path) || is_setting(path) && !is_other(path));
        let (again, new): (BTreeSet<PathBuf>, _) = rewritten.into_iter().partition(|path| self.doubted.contains(path));
        self.written_by_builds.extend(again);
        self.doubted.extend(BTreeSet::clone(&new));
        new
    }

    /// Relative where `build.dep-info-basedir` is set, which is then most likely the root.
    pub fn absolute(&self, inputs: Vec<PathBuf>) -> Vec<PathBuf> {
        inputs.into_iter().map(|path| self.root.join(path)).collect()
    }

    /// Takes the exact inputs that a build has named. Returns what was touched during the build and has turned out to be an
    /// input.
    pub fn built(&mut self, inputs: Vec<PathBuf>, whole_packages: &[PathBuf]) -> Vec<PathBuf> {
        let ours = inputs.into_iter().filter(|path| !path.starts_with(&self.target_dir));
        // A folder is what a build script may name; all below it is meant.
        let (folders, files): (BTreeSet<PathBuf>, BTreeSet<PathBuf>) = ours.partition(|path| path.is_dir());
        // A file that was no input until now may have changed unnoticed since it was last looked at.
        for path in files.difference(&self.exact) {
            self.seen.remember(path.clone());
        }
        self.exact = files;
        self.whole = whole_packages.iter().cloned().chain(folders).collect();
        self.wide = false;
        self.built = true;
        self.real = HashMap::new();
        for path in &self.exact {
            if let Ok(real) = path.canonicalize()
                && real != *path
            {
                self.real.insert(real, path.clone());
            }
        }
        self.look_at_all();
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().filter(|path| self.counts(path, &mut None)).collect()
    }

    /// Dates inputs to now, so that cargo sees that they have changed: it compares times, and takes a file for old that was
    /// saved within the first milliseconds of a build. Says whether there was one.
    pub fn date_anew(&mut self, paths: &BTreeSet<PathBuf>) -> bool {
        // A file that may not be written keeps its date, and cargo its opinion.
        let inputs: Vec<&PathBuf> = paths.iter().filter(|path| self.is_input(path)).collect();
        inputs.into_iter().filter(|path| self.seen.date(path)).count() > 0
    }

    /// As `date_anew`, of inputs that were moved here with a date before that moment: cargo would never see that they have
    /// changed, neither now nor when it builds for another reason.
    pub fn date_the_old_anew(&mut self, paths: &BTreeSet<PathBuf>, moment: SystemTime) {
        let is_old = |path: &&PathBuf| {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|modified| modified < moment)
        };
        let old = paths.iter().filter(is_old).cloned().collect();
        self.date_anew(&old);
    }

    /// Of the compiler, or of a build script.
    fn is_input(&self, path: &Path) -> bool {
        self.exact.contains(path) || self.whole.iter().any(|folder| path.starts_with(folder))
    }

    /// A build failed: what it lacks may be any file.
    pub fn failed(&mut self) {
        self.wide = true;
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
        self.packages.len().saturating_sub(1)
    }

    /// Every folder in which something may change the program.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        let mut folders: BTreeSet<PathBuf> = self.packages.values().cloned().collect();
        let (inner, _) = self.walk(self.packages.values().chain(&self.whole));
        folders.extend(inner);
        let (extra, files) = self.walk(&self.extra);
        folders.extend(extra);
        let single = files.iter().chain(&self.exact).chain(&self.settings).chain(self.real.keys()).chain(&self.extra);
        folders.extend(single.filter_map(|path| path.parent()).map(Path::to_path_buf));
        // Where the folder of what may come is not there either, the one in which it would come is.
        let coming = self.coming.iter().filter_map(|path| path.ancestors().skip(1).find(|folder| folder.is_dir()));
        folders.extend(coming.map(Path::to_path_buf));
        folders
    }

    /// Looks at paths that were touched.
    pub fn look(&mut self, paths: &[PathBuf]) -> Found {
        let mut found = Found { emptied: true, ..Found::default() };
        // Asked for once a look, as it walks the packages.
        let mut walked: Option<BTreeSet<PathBuf>> = None;
        for path in paths {
            let path = self.real.get(path).unwrap_or(path).clone();
            let was_folder = !self.seen.knows(&path) && self.seen.paths().any(|seen| seen.starts_with(&path));
            if path.is_dir() || was_folder {
                found.folders.push(path);
                continue;
            }
            if let Some(action) = self.data_action(&path) {
                if let Change::Content { .. } = self.seen.look_at(&path) {
                    found.data.push((path, action));
                }
                continue;
            }
            if !self.counts(&path, &mut walked) {
                self.touched.insert(path);
                continue;
            }
            match self.seen.look_at(&path) {
                Change::Content { empty } => {
                    found.settings |= self.settings.contains(&path) || self.coming.contains(&path);
                    found.start_anyway |= self.env_file.as_ref() == Some(&path)
                        || (!self.exact.contains(&path) && self.extra.iter().any(|extra| path.starts_with(extra)));
                    found.emptied &= empty;
                    self.written_by_builds.remove(&path);
                    found.changed.push(path);
                }
                Change::Rewritten if !self.written_by_builds.contains(&path) => drop(self.rewritten.insert(path)),
                Change::Rewritten | Change::Nothing => {}
            }
        }
        found.emptied &= !found.changed.is_empty();
        found
    }

    /// Looks at everything, as events were lost or cannot be had. Only files whose size, time or inode differ are read.
    pub fn look_again(&mut self) -> Found {
        let mut paths: BTreeSet<PathBuf> = self.seen.paths().cloned().collect();
        paths.extend(self.all_files());
        let touched: Vec<PathBuf> = paths.into_iter().filter(|path| self.seen.is_worth_a_look(path)).collect();
        self.look(&touched)
    }

    fn data_action(&self, path: &Path) -> Option<DataAction> {
        self.data.iter().find(|(glob, _)| glob.is_match(path)).map(|(_, action)| *action)
    }

    fn counts(&self, path: &Path, walked: &mut Option<BTreeSet<PathBuf>>) -> bool {
        if self.exact.contains(path) || self.settings.contains(path) || self.coming.contains(path) {
            return true;
        }
        if path.starts_with(&self.target_dir) || self.ignore.is_match(path) {
            return false;
        }
        if self.extra.iter().any(|extra| path.starts_with(extra)) {
            return true;
        }
        let roots = self.whole.iter().chain(self.packages.values().filter(|_| self.wide));
        if !roots.clone().any(|root| path.starts_with(root)) {
            return false;
        }
        let was_there = self.seen.was_there(path);
        // What the old program writes into its own package is not what a failed build lacks, unless it came or went.
        let may_be_source = path.extension().is_some_and(|extension| extension == "rs" || extension == "toml");
        let is_whole = self.whole.iter().any(|root| path.starts_with(root));
        if self.built && !may_be_source && !is_whole && path.exists() == was_there {
            return false;
        }
        // A file that was one of them counts when it has gone, too.
        was_there || walked.get_or_insert_with(|| self.walk(roots).1).contains(path)
    }

    fn look_at_all(&mut self) {
        for path in self.all_files() {
            if !self.seen.knows(&path) {
                self.seen.remember(path);
            }
        }
    }

    fn all_files(&self) -> BTreeSet<PathBuf> {
        let roots = self.whole.iter().chain(&self.extra).chain(self.packages.values());
        let (_, mut files) = self.walk(roots);
        files.extend(self.exact.iter().chain(&self.settings).chain(&self.coming).cloned());
        files
    }

    /// Folders and files below the roots that git would not ignore, without hidden ones and without what cargo makes.
    fn walk<'a>(&self, roots: impl IntoIterator<Item = &'a PathBuf>) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
        let (mut folders, mut files) = (BTreeSet::new(), BTreeSet::new());
        for root in roots {
            let (root, target_dir) = (root.clone(), self.target_dir.clone());
            let packages: BTreeSet<PathBuf> = self.packages.values().cloned().collect();
            let walk = WalkBuilder::new(&root)
                .require_git(false)
                .filter_entry(move |entry| {
                    let path = entry.path();
                    // A crate that is no path dependency is another program's.
                    let stranger = || path != root && !packages.contains(path) && path.join("Cargo.toml").is_file();
                    path != target_dir && entry.file_name() != "target" && !stranger()
                })
                .build();
            // What cannot be read cannot be compiled either; the compiler will say so.
            for entry in walk.filter_map(|entry| entry.ok()) {
                let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
                if is_folder {
                    folders.insert(entry.into_path());
                } else if !self.ignore.is_match(entry.path()) {
                    files.insert(entry.into_path());
                }
            }
        }
        (folders, files)
    }
}

impl Found {
    /// `src/routes.rs changed`, `3 files changed (src/a.rs and others)`.
    pub fn cause(&self) -> String {
        match self.changed.as_slice() {
            [one] => format!("{} changed", short(one)),
            [first, ..] => format!("{} files changed ({} and others)", self.changed.len(), short(first)),
            [] => "nothing changed".to_owned(),
        }
    }
}

/// Where cargo's configuration and the choice of the toolchain may stand.
fn settings_files(root: &Path) -> Vec<PathBuf> {
    let mut files = project::cargo_config_files(root);
    files.extend(project::toolchain_files(root));
    files
}

/// The package and all it depends on, by path, to run or to build.
fn local_packages(metadata: &Metadata, package: &PackageId) -> BTreeMap<PackageId, PathBuf> {
    let mut found = BTreeMap::new();
    let mut waiting = VecDeque::from([package.clone()]);
    while let Some(id) = waiting.pop_front() {
        let Some(package) = metadata.packages.iter().find(|package| package.id == id) else { continue };
        let Some(folder) = package.manifest_path.parent().filter(|_| package.source.is_none()) else { continue };
        if found.insert(id.clone(), folder.to_path_buf().into_std_path_buf()).is_some() {
            continue;
        }
        let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).filter(|node| node.id == id);
        for dependency in nodes.flat_map(|node| &node.deps) {
            let kinds = &dependency.dep_kinds;
            if kinds.is_empty() || kinds.iter().any(|kind| kind.kind != DependencyKind::Development) {
                waiting.push_back(dependency.pkg.clone());
            }
        }
    }
    found
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
