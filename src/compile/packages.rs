//! The packages that the program is made of, where they are the user's own: its own, and its path dependencies.
//! Never lives here: which of their files matter (`sources`).

use cargo_metadata::{DependencyKind, Metadata, PackageId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// By their folders.
#[derive(Debug, Default)]
pub struct Packages {
    now: BTreeMap<PackageId, PathBuf>,
    /// Those before a change of the manifests, until a build has succeeded: what was renamed may get its name back.
    former: BTreeSet<PathBuf>,
    /// The names of those that have a build script.
    scripted: BTreeMap<PathBuf, String>,
}

impl Packages {
    /// Looks at them anew. Says whether the package is among them at all: where it has gone, it may come back where it was.
    pub fn set(&mut self, metadata: &Metadata, package: &PackageId) -> bool {
        let now = local_packages(metadata, package);
        if now.is_empty() {
            return false;
        }
        self.former.extend(std::mem::replace(&mut self.now, now).into_values());
        self.former.retain(|folder| !self.now.values().any(|now| now == folder));
        let has_script =
            |package: &&cargo_metadata::Package| package.targets.iter().any(|target| target.is_custom_build());
        let scripted = metadata.packages.iter().filter(has_script);
        let scripted =
            scripted.filter_map(|package| Some((self.now.get(&package.id)?.clone(), package.name.to_string())));
        self.scripted = scripted.collect();
        true
    }

    /// A build has succeeded without those that were there before.
    pub fn built(&mut self) {
        self.former.clear();
    }

    pub fn count(&self) -> usize {
        self.now.len()
    }

    pub fn folders(&self) -> impl Iterator<Item = &PathBuf> + Clone {
        self.now.values()
    }

    pub fn has_folder(&self, folder: &Path) -> bool {
        self.now.values().any(|package| package == folder)
    }

    pub fn with_former(&self) -> impl Iterator<Item = &PathBuf> {
        self.now.values().chain(&self.former)
    }

    /// Whose file that is, if the package has a build script.
    pub fn scripted(&self, file: &Path) -> Option<&str> {
        let around = self.scripted.iter().filter(|(folder, _)| file.starts_with(folder));
        around.max_by_key(|(folder, _)| folder.as_os_str().len()).map(|(_, name)| name.as_str())
    }

    #[cfg(test)]
    pub fn in_folder(folder: &Path) -> Packages {
        let now = [(PackageId { repr: "p".into() }, folder.to_path_buf())].into_iter().collect();
        Packages { now, ..Packages::default() }
    }
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
