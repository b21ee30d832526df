//! Which package and which of its targets is the server, when the user said so and when not.
//! Never lives here: running cargo. All it knows is what `cargo metadata` already said.

use std::path::{Path, PathBuf};

use cargo_metadata::{CrateType, Metadata, Package, TargetKind};

use super::Target;
use super::layer::Origin;
use super::values::{did_you_mean, listed};
use crate::error::{Error, Result};

/// `-p`; else the package of `manifest`; else the only default member that has what is `wanted`, or any binary at all.
pub(super) fn package<'m>(
    metadata: &'m Metadata,
    spec: Option<&str>,
    manifest: Option<&Path>,
    wanted: Option<&(Target, Origin)>,
) -> Result<&'m Package> {
    if let Some(spec) = spec {
        return by_spec(metadata, spec);
    }
    let here = metadata.workspace_packages().into_iter().find(|package| is_at(package, manifest));
    let fits = |package: &Package| match wanted {
        Some((target, _)) => has(package, target),
        None => !names(package, TargetKind::Bin).is_empty(),
    };
    let is_root = |package: &Package| package.manifest_path.parent() == Some(&metadata.workspace_root);
    // The root's manifest stands for the whole workspace when the root package has nothing to run.
    if let Some(package) = here.filter(|package| fits(package) || !is_root(package)) {
        return Ok(package);
    }
    let members = default_members(metadata);
    let fitting: Vec<_> = members.iter().copied().filter(|package| fits(package)).collect();
    match (fitting.as_slice(), members.as_slice(), wanted) {
        ([only], _, _) => Ok(only),
        // What exactly it lacks is said when its target is chosen.
        ([], [only], _) => Ok(only),
        ([], _, Some((target, origin))) => Err(origin.refuse(nobody_has(metadata, target))),
        ([], _, None) => Err(Error::usage(format!(
            "nothing to run: no default member of the workspace {} has a binary",
            metadata.workspace_root
        ))
        .help("a server is a package with a src/main.rs; choose a package with `-p NAME`")),
        (several, _, _) => {
            let named: Vec<_> = several.iter().map(|package| package.name.as_str()).collect();
            Err(Error::usage(format!("several packages could be run: {}", listed(named))).help(format!(
                "choose one with `-p NAME`, or write `bin = \"NAME\"` under [workspace.metadata.hotrun] in {}",
                metadata.workspace_root.join("Cargo.toml")
            )))
        }
    }
}

/// `own` is what the flags or the package's manifest say, `shared` what the workspace says for all its packages.
pub(super) fn target(
    metadata: &Metadata,
    package: &Package,
    own: Option<(Target, Origin)>,
    shared: Option<(Target, Origin)>,
) -> Result<Target> {
    if let Some((target, origin)) = own {
        return if has(package, &target) { Ok(target) } else { Err(origin.refuse(lacks(metadata, package, &target))) };
    }
    if let Some((target, origin)) = shared {
        if has(package, &target) {
            return Ok(target);
        }
        // Meant for another member, unless no member has it: then it is a mistake.
        if owners(metadata, &target).is_empty() {
            return Err(origin.refuse(lacks(metadata, package, &target)));
        }
    }
    if let Some(name) = &package.default_run {
        return Ok(Target::Bin(name.clone()));
    }
    match names(package, TargetKind::Bin).as_slice() {
        [only] => Ok(Target::Bin((*only).to_owned())),
        [] => {
            let error = Error::usage(format!("nothing to run: package `{}` has no binary", package.name));
            Err(match names(package, TargetKind::Example).as_slice() {
                [] => error.help("a server is a package with a src/main.rs; choose a package with `-p NAME`"),
                examples => error.help(format!("run an example with `--example NAME`: {}", listed(examples))),
            })
        }
        several => Err(Error::usage(format!("package `{}` has several binaries: {}", package.name, listed(several)))
            .help(format!(
                "choose one with `--bin NAME`, or write `bin = \"NAME\"` under [package.metadata.hotrun] in {}",
                package.manifest_path
            ))),
    }
}

/// The manifest that cargo would take: the one named, else the nearest from `directory` upwards.
pub(super) fn manifest(named: Option<&Path>, directory: &Path) -> Option<PathBuf> {
    match named {
        Some(path) => Some(directory.join(path)),
        None => directory.ancestors().map(|dir| dir.join("Cargo.toml")).find(|path| path.is_file()),
    }
}

fn by_spec<'m>(metadata: &'m Metadata, spec: &str) -> Result<&'m Package> {
    let members = metadata.workspace_packages();
    let is_meant = |package: &&Package| {
        let versioned = |sign| format!("{}{sign}{}", package.name, package.version);
        spec == package.name.as_str()
            || [versioned('@'), versioned(':'), package.id.repr.clone()].contains(&spec.into())
    };
    if let Some(package) = members.iter().copied().find(is_meant) {
        return Ok(package);
    }
    let known: Vec<_> = members.iter().map(|package| package.name.as_str()).collect();
    let meant = did_you_mean(spec, known.iter().copied());
    let why = format!("found {spec:?}; the packages of this workspace are {}{meant}", listed(known));
    Err(Origin::flag("--package").refuse(why))
}

/// Both sides may have come here through links.
fn is_at(package: &Package, manifest: Option<&Path>) -> bool {
    let Some(manifest) = manifest else { return false };
    let own = package.manifest_path.as_std_path();
    own == manifest || own.canonicalize().is_ok_and(|own| manifest.canonicalize().is_ok_and(|other| own == other))
}

/// Cargo before 1.71 does not say which members are the default ones.
fn default_members(metadata: &Metadata) -> Vec<&Package> {
    if metadata.workspace_default_members.is_available() {
        metadata.workspace_default_packages()
    } else {
        metadata.workspace_packages()
    }
}

/// Runnable targets of one kind: an example may also be a library.
fn names(package: &Package, kind: TargetKind) -> Vec<&str> {
    let runnable = package.targets.iter().filter(|target| {
        target.kind.contains(&kind) && (target.crate_types.is_empty() || target.crate_types.contains(&CrateType::Bin))
    });
    runnable.map(|target| target.name.as_str()).collect()
}

pub(super) fn has(package: &Package, target: &Target) -> bool {
    names(package, kind(target)).contains(&target.name())
}

fn kind(target: &Target) -> TargetKind {
    match target {
        Target::Bin(_) => TargetKind::Bin,
        Target::Example(_) => TargetKind::Example,
    }
}

fn owners<'m>(metadata: &'m Metadata, target: &Target) -> Vec<&'m str> {
    let members = metadata.workspace_packages().into_iter().filter(|package| has(package, target));
    members.map(|package| package.name.as_str()).collect()
}

fn lacks(metadata: &Metadata, package: &Package, target: &Target) -> String {
    let (name, word) = (target.name(), target.kind());
    let own = names(package, kind(target));
    let begin = format!("found {name:?}; package `{}` has no {word} of that name", package.name);
    let meant = did_you_mean(name, own.iter().copied());
    match owners(metadata, target).first() {
        Some(owner) => format!("{begin}, but package `{owner}` has; choose it with `-p {owner}`"),
        None if !meant.is_empty() || own.is_empty() => format!("{begin}{meant}"),
        None => format!("{begin}, but these: {}", listed(own)),
    }
}

fn nobody_has(metadata: &Metadata, target: &Target) -> String {
    let (name, word) = (target.name(), target.kind());
    let members = metadata.workspace_packages();
    let all: Vec<_> = members.iter().flat_map(|package| names(package, kind(target))).collect();
    let begin = format!("found {name:?}; no default member of the workspace has the {word}");
    match owners(metadata, target).first() {
        Some(owner) => format!("{begin}, but package `{owner}` has; choose it with `-p {owner}`"),
        None => format!("{begin}{}", did_you_mean(name, all)),
    }
}
