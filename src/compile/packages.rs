//! The packages that the program is made of, where they are the user's own: its own, and its path dependencies.
//! Never lives here: which of their files matter (`sources`).

use super::project;
use cargo_metadata::{Metadata, Package, PackageId};
use std::collections::{BTreeMap, BTreeSet};
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
        let local = project::reachable(metadata, package, |package| package.source.is_none()).into_iter();
        let folder = |(id, package): (&PackageId, &Package)| {
            Some((id.clone(), package.manifest_path.parent()?.as_std_path().to_path_buf()))
        };
        let now: BTreeMap<PackageId, PathBuf> = local.filter_map(folder).collect();
        if now.is_empty() {
            return false;
        }
        self.former.extend(std::mem::replace(&mut self.now, now).into_values());
        self.former.retain(|folder| !self.now.values().any(|now| now == folder));
        let has_script = |package: &&Package| package.targets.iter().any(|target| target.is_custom_build());
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
