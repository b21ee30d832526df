//! Which package and which of its targets are meant when the manifests have changed while the session runs: the one that was,
//! whatever it is called now and wherever it stands.
//! Never lives here: the rules of the choice (`choose`), and running cargo.

use std::path::PathBuf;

use cargo_metadata::{Metadata, Package};

use super::metadata::{self, Section};
use super::{Build, Target, choose, flags};
use crate::cli;
use crate::error::{Error, Result};

/// What the user has said, to choose again.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub(super) args: cli::SessionArgs,
    pub(super) directory: PathBuf,
}

/// What is to be built from now on, and what is wrong with it: then its target is the one from before.
#[derive(Debug)]
pub struct Again {
    pub build: Build,
    pub trouble: Option<Error>,
}

impl Choice {
    /// The package with the same manifest, else the one of the same name, else what would be chosen if the session began now.
    ///
    /// # Errors
    /// When no package of the workspace can be meant.
    pub fn again(&self, metadata: &Metadata, before: &Build) -> Result<Again> {
        let members = metadata.workspace_packages();
        let same_manifest = members.iter().find(|package| package.manifest_path.as_std_path() == before.manifest_path);
        let same_name = members.iter().find(|package| package.name.as_str() == before.package);
        let mut known = same_manifest.into_iter().chain(same_name).copied();
        let first = known.clone().next();
        let fitting = known.find_map(|package| Some((package, self.target(metadata, package, before).ok()?)));
        let (package, target) = match (fitting, first) {
            (Some((package, target)), _) => (package, Ok(target)),
            (None, Some(first)) => match self.anew(metadata, before) {
                Ok((package, target)) => (package, Ok(target)),
                // What is wrong with the one that is known.
                Err(_) => (first, self.target(metadata, first, before)),
            },
            (None, None) => {
                let gone = || format!("package `{}` is not in the workspace any more", before.package);
                let (package, target) = self.anew(metadata, before).map_err(|error| error.after(gone()))?;
                (package, Ok(target))
            }
        };
        let (target, trouble) = match target {
            Ok(target) => (target, None),
            Err(error) => (before.target.clone(), Some(error)),
        };
        let build = Build {
            manifest_path: package.manifest_path.clone().into_std_path_buf(),
            package: package.name.to_string(),
            package_id: package.id.clone(),
            target,
            ..before.clone()
        };
        Ok(Again { build, trouble })
    }

    fn anew<'m>(&self, metadata: &'m Metadata, before: &Build) -> Result<(&'m Package, Target)> {
        let flags = flags::layer(&self.args, &self.directory)?;
        let root = metadata.workspace_root.join("Cargo.toml");
        let workspace = metadata::read(root.as_std_path(), Section::Workspace)?;
        let manifest = choose::manifest(self.args.manifest_path.as_deref(), &self.directory);
        let wanted = flags.target.as_ref().or(workspace.target.as_ref());
        let package = choose::package(metadata, self.args.package.as_deref(), manifest.as_deref(), wanted)?;
        Ok((package, self.target(metadata, package, before)?))
    }

    /// Where nobody says which one is meant, a second one that has come does not make it doubtful.
    fn target(&self, metadata: &Metadata, package: &Package, before: &Build) -> Result<Target> {
        let read = |manifest: PathBuf, section| metadata::read(&manifest, section).unwrap_or_default().target;
        // A table that cannot be read is told where it counts: at the next start.
        let own = read(package.manifest_path.clone().into_std_path_buf(), Section::Package);
        let shared = read(metadata.workspace_root.join("Cargo.toml").into_std_path_buf(), Section::Workspace);
        let nearest = flags::layer(&self.args, &self.directory)?.target.or(own);
        let is_said = nearest.is_some() || shared.is_some();
        match choose::target(metadata, package, nearest, shared) {
            Err(_) if !is_said && choose::has(package, &before.target) => Ok(before.target.clone()),
            chosen => chosen,
        }
    }
}
