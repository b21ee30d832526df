//! Which running session is meant: that of the project here, of the one that is named, or of that process. No cargo is asked, as
//! a manifest that is broken for the moment must not keep anybody from the session that waits for it to be mended.
//! Never lives here: where sessions are listed (`registry`), and asking them.

use super::registry::{Listed, Registry, is_same};
use crate::cli;
use crate::error::{Error, Result, Tried};
use std::path::{Path, PathBuf};

/// The project that somebody asks about.
#[derive(Debug)]
struct Here {
    manifest: PathBuf,
    /// The folder of its workspace.
    root: PathBuf,
}

/// The session that is meant.
pub fn session(args: &cli::ControlArgs) -> Result<Listed> {
    let registry = Registry::of_user()?;
    let sessions = registry.sessions()?;
    choose(&sessions, args, here(args)?.as_ref()).cloned()
}

/// `None` where nobody stands in a project.
fn here(args: &cli::ControlArgs) -> Result<Option<Here>> {
    let manifest = match &args.manifest_path {
        Some(named) => {
            let manifest = std::path::absolute(named).tried(format!("find {}", named.display()))?;
            // The folder will do for the file in it, which may be missing for the moment.
            Some(if manifest.is_dir() { manifest.join("Cargo.toml") } else { manifest })
        }
        // A working directory that was removed is no project.
        None => std::env::current_dir().ok().and_then(|folder| nearest(&folder)),
    };
    Ok(manifest.map(|manifest| Here { root: root(&manifest), manifest }))
}

fn nearest(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().map(|folder| folder.join("Cargo.toml")).find(|path| path.is_file())
}

/// The folder of the workspace that a manifest belongs to, as far as that can be seen without cargo (the cargo book, "Workspaces").
fn root(manifest: &Path) -> PathBuf {
    // A link to the manifest of a package is that package's.
    let manifest = manifest.canonicalize().unwrap_or_else(|_| manifest.to_path_buf());
    let own = manifest.parent().unwrap_or(Path::new("/"));
    let mut folders = own.ancestors();
    if let Some(named) = read(&manifest).and_then(|text| named_root(&text)) {
        return own.join(named);
    }
    let is_root = |folder: &&Path| read(&folder.join("Cargo.toml")).is_some_and(|text| has_workspace(&text));
    folders.find(is_root).unwrap_or(own).to_path_buf()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// By its lines, as the manifest may be broken.
fn has_workspace(text: &str) -> bool {
    let table = |line: &str| line.split('#').next().unwrap_or_default().replace(' ', "");
    text.lines().map(table).any(|line| line == "[workspace]" || line.starts_with("[workspace."))
}

/// `workspace = "PATH"` of the package's table.
fn named_root(text: &str) -> Option<String> {
    let mut in_package = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_package = line.starts_with("[package]");
        }
        let value = || line.strip_prefix("workspace")?.trim_start().strip_prefix('=')?.trim().strip_prefix('"');
        if let Some(value) = value().filter(|_| in_package) {
            return value.split('"').next().map(str::to_owned);
        }
    }
    None
}

fn choose<'l>(sessions: &'l [Listed], args: &cli::ControlArgs, here: Option<&Here>) -> Result<&'l Listed> {
    let of_pid = |session: &&Listed| args.pid.is_none_or(|pid| session.pid == pid);
    let of_target = |session: &&Listed| {
        let is_it = |folder: PathBuf| is_same(&session.target_dir, &folder);
        args.target_dir.as_ref().is_none_or(|folder| std::path::absolute(folder).is_ok_and(is_it))
    };
    let running: Vec<&Listed> = sessions.iter().filter(of_pid).filter(of_target).collect();
    let those = |wanted: &dyn Fn(&Listed) -> bool| -> Vec<&Listed> {
        running.iter().copied().filter(|session| wanted(session)).collect()
    };
    // A process is named by its number alone.
    let by_number = args.pid.is_some() && args.manifest_path.is_none() && args.package.is_none();
    let found = match (here, &args.package) {
        _ if by_number => those(&|_| true),
        (Some(here), Some(package)) => those(&|session| here.has(session) && is_called(session, package)),
        (Some(here), None) => match those(&|session| session.is_of(&here.manifest)) {
            none if none.is_empty() && here.is_root() => those(&|session| here.has(session)),
            own => own,
        },
        (None, Some(package)) if args.pid.is_some() => those(&|session| is_called(session, package)),
        (None, _) => Vec::new(),
    };
    match found.as_slice() {
        [only] => Ok(only),
        [] => Err(none(sessions, args, here)),
        several => Err(too_many(several)),
    }
}

impl Here {
    /// A file that is not there stands for nothing but itself.
    fn is_root(&self) -> bool {
        self.manifest.exists() && self.manifest.parent().is_some_and(|folder| is_same(folder, &self.root))
    }

    fn has(&self, session: &Listed) -> bool {
        session.is_in(&self.root) || session.is_of(&self.manifest)
    }
}

/// By its name, or as cargo's `-p` takes it: with a version, or as the end of an address.
fn is_called(session: &Listed, spec: &str) -> bool {
    let rest = spec.rsplit_once('#').map_or(spec, |(_, rest)| rest);
    rest.split(['@', ':']).next() == Some(session.package.as_str())
}

fn none(sessions: &[Listed], args: &cli::ControlArgs, here: Option<&Here>) -> Error {
    if let Some(here) = here.filter(|here| !here.manifest.exists()) {
        return Error::usage(format!(
            "`--manifest-path`: {} is not there, and no session runs on it",
            here.manifest.display()
        ));
    }
    let of = |folder: &PathBuf| format!(" that builds to {}", folder.display());
    let target = args.target_dir.as_ref().map(of).unwrap_or_default();
    let what = match (args.pid, &args.package, here) {
        (Some(pid), None, _) if args.manifest_path.is_none() => format!("no session{target} runs as process {pid}"),
        (_, Some(package), Some(here)) => {
            format!("no session of the package {package}{target} runs, in the workspace {}", here.root.display())
        }
        (_, _, Some(here)) => format!("no session{target} runs on {}", here.manifest.display()),
        (_, _, None) => "no session is meant: there is no Cargo.toml here, nor in a folder above".to_owned(),
    };
    let near: Vec<&Listed> = sessions.iter().filter(|session| here.is_some_and(|here| here.has(session))).collect();
    let error = Error::failure(what);
    if !near.is_empty() {
        return error.help(format!("in this workspace run {}; choose with -p NAME or --pid PID", named(&near)));
    }
    match sessions {
        [] => error.help("none runs at all: start one with `cargo hotrun`, in a package's folder"),
        others => {
            let others: Vec<&Listed> = others.iter().collect();
            error.help(format!("others run: {}; choose with --manifest-path PATH or --pid PID", named(&others)))
        }
    }
}

fn too_many(several: &[&Listed]) -> Error {
    let distinct = several.iter().all(|one| several.iter().filter(|other| other.package == one.package).count() == 1);
    let how = if distinct { "with -p NAME or --pid PID" } else { "by its process, with --pid PID" };
    Error::usage(format!("several sessions are meant: {}", named(several))).help(format!("choose one {how}"))
}

/// `api (pid 7), web (pid 8)`, with what else tells two of one package apart.
fn named(sessions: &[&Listed]) -> String {
    let name = |session: &&Listed| {
        let twins: Vec<&&Listed> = sessions.iter().filter(|other| other.package == session.package).collect();
        let mut parts = vec![format!("pid {}", session.pid)];
        if twins.iter().any(|twin| twin.target != session.target) {
            parts.push(session.target.clone());
        }
        if twins.iter().any(|twin| twin.target_dir != session.target_dir) {
            parts.push(format!("building to {}", session.target_dir.display()));
        }
        if twins.iter().any(|twin| twin.manifest != session.manifest) {
            parts.push(session.manifest.display().to_string());
        }
        format!("{} ({})", session.package, parts.join(", "))
    };
    sessions.iter().map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
