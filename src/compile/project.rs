//! What cargo knows of the project: its packages, their dependencies, and what they say to this command.
//! Never lives here: files that change (`sources`), and building.

use crate::config::Config;
use crate::error::{Error, Exit, Result};
use crate::process::is_passing;
use crate::report::{clean, one_line};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, NodeDep, Package, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The cargo that started this program, else the one on the path.
pub fn cargo_program() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// The project, as `cargo metadata` knows it.
pub fn metadata(manifest: Option<&Path>, build: &impl MetadataFlags) -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.cargo_path(cargo_program());
    if let Some(manifest) = manifest {
        command.manifest_path(manifest);
    }
    command.other_options(build.flags());
    let folder = std::env::current_dir().unwrap_or_default();
    let place = folder.join(manifest.unwrap_or(Path::new("")));
    if place.to_str().is_none() {
        let text = format!("cargo cannot build in {}: the path is not UTF-8", place.display());
        return Err(Error::new(Exit::Project, text).help("rename the folder"));
    }
    command.exec().map_err(|error| {
        let text = with_names_on_one_line(clean::plain(&error.to_string()), &place);
        let told = Error::new(Exit::Project, "cargo cannot read the project").saying(text.trim());
        let passes = matches!(&error, cargo_metadata::Error::Io(error) if is_passing(error));
        let error = if passes { told.passing() } else { told };
        match manifest {
            Some(_) => error,
            None => error.help("run it in a package's folder, or name one with --manifest-path"),
        }
    })
}

/// Cargo shows the names of folders as they are.
fn with_names_on_one_line(text: String, place: &Path) -> String {
    let names = place.iter().map(|name| clean::plain(&name.to_string_lossy()));
    names.filter(|name| name.contains('\n')).fold(text, |text, name| text.replace(&name, &one_line(&name)))
}

/// The flags of a build that `cargo metadata` has too.
pub trait MetadataFlags {
    fn flags(&self) -> Vec<String>;
}

impl MetadataFlags for crate::config::Build {
    fn flags(&self) -> Vec<String> {
        metadata_flags(self.locked, self.offline, self.frozen, &self.cargo_config)
    }
}

impl MetadataFlags for crate::cli::SessionArgs {
    fn flags(&self) -> Vec<String> {
        metadata_flags(self.locked, self.offline, self.frozen, &self.config)
    }
}

fn metadata_flags(locked: bool, offline: bool, frozen: bool, config: &[String]) -> Vec<String> {
    let flags = [("--locked", locked), ("--offline", offline), ("--frozen", frozen)];
    let mut flags: Vec<String> = flags.iter().filter(|(_, on)| *on).map(|(flag, _)| (*flag).to_owned()).collect();
    for setting in config {
        flags.extend(["--config".to_owned(), setting.clone()]);
    }
    flags
}

/// What the manifests say to this command; the whole of it, to be compared.
pub(super) fn own_settings(metadata: &Metadata, package: &PackageId) -> serde_json::Value {
    let of_package = metadata.packages.iter().find(|candidate| candidate.id == *package);
    let of_package = of_package.map(|package| package.metadata["hotrun"].clone());
    let mut settings = serde_json::json!([of_package, metadata.workspace_metadata["hotrun"]]);
    for table in settings.as_array_mut().into_iter().flatten().filter_map(serde_json::Value::as_object_mut) {
        // These are followed.
        table.remove("bin");
        table.remove("example");
    }
    settings
}

/// A package outside of the workspace that needs one inside, by its name: through a path, or through `[patch]`.
pub(super) fn outsider(metadata: &Metadata) -> Option<String> {
    let is_member = |id: &PackageId| metadata.workspace_members.contains(id);
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
    let node = nodes.filter(|node| !is_member(&node.id)).find(|node| {
        let needed = |kind: &cargo_metadata::DepKindInfo| kind.kind != DependencyKind::Development;
        node.deps.iter().any(|dependency| is_member(&dependency.pkg) && dependency.dep_kinds.iter().any(needed))
    })?;
    let package = metadata.packages.iter().find(|package| package.id == node.id);
    Some(package.map_or_else(|| node.id.repr.clone(), |package| package.name.to_string()))
}

/// Where cargo's configuration may stand, there or not: from the working directory up, and in cargo's home (the cargo book,
/// "Hierarchical structure"). Cargo is started where this program was.
pub(super) fn cargo_config_files(root: &Path) -> Vec<PathBuf> {
    let home = home("CARGO_HOME", ".cargo");
    let at_home = home.into_iter().flat_map(|home| [home.join("config.toml"), home.join("config")]);
    from_here_up(root, [".cargo/config.toml", ".cargo/config"]).into_iter().chain(at_home).collect()
}

/// Where the toolchain may be chosen, there or not: from the working directory up (the rustup book, "Overrides").
pub(super) fn toolchain_files(root: &Path) -> Vec<PathBuf> {
    let at_home = home("RUSTUP_HOME", ".rustup").map(|home| home.join("settings.toml"));
    from_here_up(root, ["rust-toolchain.toml", "rust-toolchain"]).into_iter().chain(at_home).collect()
}

fn from_here_up(root: &Path, names: [&str; 2]) -> Vec<PathBuf> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| root.to_path_buf());
    cwd.ancestors().flat_map(|folder| names.map(|name| folder.join(name))).collect()
}

/// Of a tool, by its variable, or by its name in the user's own.
fn home(variable: &str, name: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from);
    set.or_else(|| std::env::home_dir().map(|home| home.join(name)))
}

/// What says what is built and how, and what would by its coming. `all`: also packages that were there before.
pub(super) fn settings<'p>(
    root: &Path,
    all: impl Iterator<Item = &'p PathBuf>,
    packages: impl Iterator<Item = &'p PathBuf>,
) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
    let mut settings = BTreeSet::from([root.join("Cargo.toml"), root.join("Cargo.lock")]);
    settings.extend(all.map(|folder| folder.join("Cargo.toml")));
    let (there, absent): (Vec<PathBuf>, Vec<PathBuf>) =
        settings_files(root).into_iter().partition(|path| path.is_file());
    settings.extend(there);
    // Targets and build scripts that cargo finds by their names (the cargo book, "Target auto-discovery").
    let found = ["build.rs", "src/lib.rs", "src/main.rs"];
    let found = packages.flat_map(|folder| found.iter().map(|name| folder.join(name)));
    let below = absent.into_iter().filter(|path| path.starts_with(root));
    (settings, below.chain(found.filter(|path| !path.exists())).collect())
}

/// Where cargo's configuration and the choice of the toolchain may stand.
pub(super) fn settings_files(root: &Path) -> Vec<PathBuf> {
    let mut files = cargo_config_files(root);
    files.extend(toolchain_files(root));
    files
}

/// Whether the package depends on the crate of that name, itself or through others, when it runs.
pub fn depends_on(metadata: &Metadata, package: &cargo_metadata::PackageId, name: &str) -> bool {
    reachable(metadata, package, |_| true).values().any(|package| package.name.as_str() == name)
}

/// What the package and the others of the user's that it is made of need themselves, by name.
pub(super) fn local_needs(metadata: &Metadata, package: &PackageId) -> Vec<String> {
    let packages = reachable(metadata, package, |_| true);
    let is_local = |id: &PackageId| packages.get(id).is_some_and(|package| package.source.is_none());
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).filter(|node| is_local(&node.id));
    let needed = nodes
        .flat_map(|node| &node.deps)
        .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
    needed.filter_map(|dependency| Some(packages.get(&dependency.pkg)?.name.to_string())).collect()
}

/// Each package is compiled once, and its build script compiled and run: close enough for a bar.
pub(super) fn unit_estimate(metadata: &Metadata, config: &Config) -> usize {
    let packages = reachable(metadata, &config.build.package_id, |_| true);
    let scripts = packages.values().filter(|package| package.targets.iter().any(|target| target.is_custom_build()));
    packages.len() + 2 * scripts.count()
}

/// The package and all it depends on, to run or to build, by way of those that are `meant`.
pub(super) fn reachable<'m>(
    metadata: &'m Metadata,
    package: &PackageId,
    meant: impl Fn(&Package) -> bool,
) -> BTreeMap<&'m PackageId, &'m Package> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![package];
    while let Some(id) = waiting.pop() {
        let package = metadata.packages.iter().find(|package| package.id == *id && meant(package));
        let Some(package) = package.filter(|package| found.insert(&package.id, *package).is_none()) else { continue };
        for dependency in needs(metadata, &package.id) {
            let kinds = &dependency.dep_kinds;
            if kinds.is_empty() || kinds.iter().any(|kind| kind.kind != DependencyKind::Development) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    found
}

/// What a package depends on itself.
pub(super) fn needs<'m>(metadata: &'m Metadata, package: &PackageId) -> impl Iterator<Item = &'m NodeDep> {
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).filter(move |node| node.id == *package);
    nodes.flat_map(|node| &node.deps)
}
