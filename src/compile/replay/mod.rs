//! Replay: the crates of the workspace are compiled by running the calls again that cargo made of rustc, into a folder of our own: no
//! start of cargo, no look at every fingerprint, no wait for the lock that an editor's check holds, and a faster link.
//! Whatever is not surely the same as cargo would do is left to cargo.
//! Never lives here: when to build, and cargo's own runs.

pub mod call;
mod plan;
mod record;
pub mod run;
mod schedule;
mod surroundings;

pub use plan::{Lesson, Plan, Work};
pub use run::{Outcome, Run, Said, Step};

use crate::compile::project;
use crate::compile::stamp::content_of;
use crate::config;
use crate::report::short;
use cargo_metadata::{Metadata, PackageId};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where calls are run again. It is kept between sessions, with its incremental caches.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub line_tables: bool,
    /// Two sessions would write to the same files.
    lock: Flock<File>,
}

impl Folder {
    fn open(path: PathBuf, line_tables: bool) -> Result<Folder, String> {
        let tried = |error: io::Error| format!("{}: {error}", short(&path));
        for inner in ["deps", "incremental", "link", "records"] {
            DirBuilder::new().recursive(true).mode(0o700).create(path.join(inner)).map_err(tried)?;
        }
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"));
        let lock = Flock::lock(file.map_err(tried)?, FlockArg::LockExclusiveNonblock)
            .map_err(|_| format!("another session compiles in {}", short(&path)))?;
        let folder = Folder { path: path.clone(), line_tables, lock };
        folder.clear().map_err(tried)?;
        Ok(folder)
    }

    /// Whether nobody has removed it, as `cargo clean` does.
    fn is_there(&self) -> bool {
        let there = fs::metadata(self.path.join("lock"));
        there.is_ok_and(|there| {
            self.lock.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
        })
    }

    pub fn deps(&self) -> PathBuf {
        self.path.join("deps")
    }

    pub fn incremental(&self) -> PathBuf {
        self.path.join("incremental")
    }

    pub fn link(&self) -> PathBuf {
        self.path.join("link")
    }

    pub fn temporary(&self) -> PathBuf {
        self.path.join("temporary")
    }

    /// Removes what compilers have left that were killed.
    fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.temporary()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        DirBuilder::new().mode(0o700).create(self.temporary())
    }
}

/// What replay needs of the project, or why it cannot be had.
#[derive(Debug)]
pub struct Replay {
    folder: Result<Folder, String>,
    calls: PathBuf,
    wrapper: PathBuf,
    members: BTreeSet<PackageId>,
    /// A package that cargo compiles and that needs one of the workspace.
    outsider: Option<String>,
    plan: Result<Plan, String>,
    /// A linker that breaks is not used again in this session.
    pub own_linker: bool,
}

impl Replay {
    pub fn open(build: &config::Build, metadata: &Metadata, target_dir: &Path) -> Replay {
        let ours = target_dir.join("hotrun");
        let key = content_of(format!("{build:?}").as_bytes());
        let name = format!("{}-{}-{key:016x}", build.package, build.target.name());
        let line_tables = build.debug == config::Debug::LineTables;
        let calls = ours.join("calls");
        let wrapper = std::env::current_exe();
        let folder = match &wrapper {
            _ if !build.replay => Err("replay is switched off".to_owned()),
            Ok(wrapper) if wrapper.is_file() => forbidden(build, metadata)
                .and_then(|()| make(&calls))
                .and_then(|()| Folder::open(ours.join("replay").join(name), line_tables)),
            Ok(_) | Err(_) => Err("this program's own file is gone".to_owned()),
        };
        let mut replay = Replay {
            folder,
            calls,
            wrapper: wrapper.unwrap_or_default(),
            members: BTreeSet::new(),
            outsider: None,
            plan: Err("nothing was built yet".to_owned()),
            own_linker: true,
        };
        replay.set_metadata(metadata);
        replay
    }

    pub fn set_metadata(&mut self, metadata: &Metadata) {
        self.members = metadata.workspace_members.iter().cloned().collect();
        self.outsider = project::outsider(metadata);
    }

    /// Before a build by cargo: makes again what somebody has removed.
    pub fn renew(&mut self) {
        let Ok(folder) = &self.folder else { return };
        let (path, line_tables, is_there) = (folder.path.clone(), folder.line_tables, folder.is_there());
        match make(&self.calls) {
            Ok(()) if is_there => {}
            Ok(()) => self.folder = Folder::open(path, line_tables),
            Err(error) => self.folder = Err(error),
        }
    }

    /// Has the calls of a cargo written down.
    pub fn wrap(&self, command: &mut Command) {
        if self.folder.is_ok() {
            command.env("RUSTC_WORKSPACE_WRAPPER", &self.wrapper).env(call::FOLDER, &self.calls);
        }
    }

    /// What cargo's build is to be learnt from, where anything can be.
    ///
    /// # Errors
    /// Why nothing can.
    pub fn lesson(&self) -> Result<(BTreeSet<PackageId>, PathBuf, PathBuf, bool), String> {
        let folder = self.folder.as_ref().map_err(Clone::clone)?;
        if let Some(outsider) = &self.outsider {
            return Err(format!("{outsider}, which is no member of the workspace, needs one that is"));
        }
        Ok((self.members.clone(), self.calls.clone(), folder.path.clone(), folder.line_tables))
    }

    /// From now on there is this plan, or none.
    pub fn learn(&mut self, plan: Result<Plan, String>) {
        self.plan = plan;
    }

    pub fn forget(&mut self, why: &str) {
        self.plan = Err(why.to_owned());
    }

    /// What is to be compiled, now that those files have changed.
    ///
    /// # Errors
    /// Why cargo has to be asked.
    pub fn decide(&self, changed: &BTreeSet<PathBuf>) -> Result<Work, String> {
        let (plan, folder) = (self.plan.as_ref(), self.folder.as_ref());
        folder.map_err(Clone::clone)?;
        let work = plan.map_err(Clone::clone)?.decide(changed)?;
        match work.cold {
            Some(name) => Err(format!("{name} is not prepared for replay yet")),
            None => Ok(work),
        }
    }

    /// What is worth compiling before it is needed.
    pub fn preparation(&self) -> Option<Work> {
        let work = self.plan.as_ref().ok()?.work();
        self.folder.is_ok().then_some(work)
    }

    pub fn parts(&mut self) -> Option<(&mut Plan, &Folder)> {
        Some((self.plan.as_mut().ok()?, self.folder.as_ref().ok()?))
    }

    /// Before a run, when no other is under way.
    pub fn clear(&self) {
        if let Ok(folder) = &self.folder {
            // What cannot be removed is in nobody's way.
            folder.clear().ok();
        }
    }
}

/// The folder for calls, and the one it is in.
fn make(calls: &Path) -> Result<(), String> {
    let tried = |folder: &Path| owned(folder).map_err(|error| format!("{}: {error}", short(folder)));
    calls.parent().map_or(Ok(()), tried)?;
    tried(calls)
}

/// A folder that others can neither write to nor read: calls may hold what is secret, and are believed.
fn owned(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    let uid = nix::unistd::Uid::effective().as_raw();
    if !metadata.is_dir() || metadata.uid() != uid {
        return Err(io::Error::other("it is not this user's folder"));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Settings of the user's with which calls cannot be written down, or not be understood.
fn forbidden(build: &config::Build, metadata: &Metadata) -> Result<(), String> {
    for name in ["RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER"] {
        if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
            return Err(format!("{name} is set"));
        }
    }
    let said = |text: &str| text.contains("rustc-workspace-wrapper");
    if build.cargo_config.iter().any(|setting| said(setting)) {
        return Err("--config sets rustc-workspace-wrapper".to_owned());
    }
    for path in project::cargo_config_files(metadata.workspace_root.as_std_path()) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if said(&text) {
            return Err(format!("{} sets rustc-workspace-wrapper", short(&path)));
        }
        if text.lines().any(|line| line.trim_start().starts_with("include")) {
            return Err(format!("{} includes other files", short(&path)));
        }
    }
    Ok(())
}
