//! Replay: the crates of the workspace are compiled by running the calls again that cargo made of rustc, into a folder of our own: no
//! start of cargo, no look at every fingerprint, no wait for the lock that an editor's check holds, and a faster link.
//! Whatever is not surely the same as cargo would do is left to cargo.
//! Never lives here: when to build, and cargo's own runs.

pub mod call;
mod compilation;
mod compiler;
mod folder;
mod not_replayable;
mod plan;
mod record;
mod run;
mod schedule;
mod surroundings;
mod unit;

pub use compilation::{RustcSaid, RustcSink};
pub use folder::Folder;
pub use not_replayable::NotReplayable;
pub use plan::{CargoBuild, Lesson, Plan};
pub use run::{CrateSpan, ReplayOutcome, ReplayRun};

use crate::compile::stamp::content_of;
use crate::compile::{link, project};
use crate::config;
use crate::process::{Ground, Launcher, Leaving, Stdin, is_passing};
use crate::report::short;
use call::Cache;
use cargo_metadata::{Metadata, PackageId};
use compilation::Compilers;
use compiler::Compiler;
use plan::Workspace;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Below cargo's folder: what is this command's, where calls are written down, and where they are run again.
pub const OURS: &str = "hotrun";
const CALLS: &str = "calls";
const REPLAY: &str = "replay";
const INCREMENTAL: &str = "incremental";

/// What replay needs of the project, or why it cannot be had.
#[derive(Debug)]
pub struct Replay {
    launcher: Launcher,
    build: config::Build,
    root: PathBuf,
    target_dir: PathBuf,
    folder: Result<Folder, NotReplayable>,
    members: BTreeSet<PackageId>,
    /// A package that cargo compiles and that needs one of the workspace.
    outsider: Option<String>,
    plan: Result<Plan, NotReplayable>,
    /// A linker that breaks is not used again in this session.
    pub own_linker: bool,
}

impl Replay {
    pub fn open(build: &config::Build, metadata: &Metadata, target_dir: &Path, launcher: Launcher) -> Replay {
        let unbuilt = NotReplayable::NoPlan("nothing was built yet".to_owned());
        let mut replay = Replay {
            launcher,
            build: build.clone(),
            root: metadata.workspace_root.clone().into_std_path_buf(),
            target_dir: target_dir.to_path_buf(),
            folder: Err(unbuilt.clone()),
            members: BTreeSet::new(),
            outsider: None,
            plan: Err(unbuilt),
            own_linker: true,
        };
        replay.follow(build, metadata);
        replay
    }

    /// What is built is this from now on, of these packages; the folder follows when cargo is started next.
    pub fn follow(&mut self, build: &config::Build, metadata: &Metadata) {
        self.build = build.clone();
        self.members = metadata.workspace_members.iter().cloned().collect();
        self.outsider = project::outsider(metadata);
    }

    /// Has the calls of a cargo written down, where nothing forbids it now. What was known of the build before is not any more.
    pub fn wrap(&mut self, command: &mut Command) {
        self.forget("what cargo has built is still being looked at");
        match self.prepare_calls() {
            Ok(wrapper) => {
                self.prepare_folder();
                // Another session's cargo would compile what this one's has compiled, and the other way round.
                if let Ok(folder) = &self.folder {
                    call::wrap(command, &wrapper, &self.calls(), folder.cache.clone());
                }
            }
            Err(why) => self.folder = Err(why),
        }
    }

    fn prepare_calls(&self) -> Result<PathBuf, NotReplayable> {
        if !self.build.replay {
            return Err(NotReplayable::Unfit("replay is switched off".to_owned()));
        }
        if let Some(why) = forbidden(&self.build, &self.root) {
            return Err(NotReplayable::Unfit(why));
        }
        wrapper(&self.own(&[CALLS])?, self.line_tables())
    }

    fn prepare_folder(&mut self) {
        // The id has the version in it, with which the caches are as good as before.
        let build = config::Build { package_id: PackageId { repr: String::new() }, ..self.build.clone() };
        let key = content_of(format!("{build:?}").as_bytes());
        let name = format!("{}-{}-{key:016x}", build.package, build.target.name());
        let path = self.target_dir.join(OURS).join(REPLAY).join(&name);
        if !self.folder.as_ref().is_ok_and(|folder| folder.path == path && folder.is_there()) {
            self.folder = self.own(&[INCREMENTAL]).and_then(|incremental| {
                let cache = Cache { incremental, line_tables: self.line_tables() };
                Folder::open(self.own(&[REPLAY, &name])?, cache)
            });
        }
    }

    fn line_tables(&self) -> bool {
        self.build.debug == config::Debug::LineTables
    }

    /// A folder of ours that others can neither write to nor read: calls may hold what is secret, and are believed.
    fn own(&self, names: &[&str]) -> Result<PathBuf, NotReplayable> {
        let names = [&[OURS], names].concat();
        let own = Ground::new(&self.root).own(&self.target_dir, &names);
        own.map_err(|error| NotReplayable::refused(error.to_string(), &error))
    }

    fn calls(&self) -> PathBuf {
        self.target_dir.join(OURS).join(CALLS)
    }

    /// What cargo's build is to be learnt from, where anything can be.
    pub fn workspace(&self) -> Result<Workspace, NotReplayable> {
        let folder = self.folder.as_ref().map_err(Clone::clone)?;
        if let Some(outsider) = &self.outsider {
            let why = format!("{outsider}, which is no member of the workspace, needs one that is");
            return Err(NotReplayable::Unfit(why));
        }
        Ok(Workspace {
            members: self.members.clone(),
            root_manifest: self.root.join("Cargo.toml"),
            calls: self.calls(),
            folder: folder.path.clone(),
            cache: folder.cache.clone(),
        })
    }

    /// From now on there is this plan, or none.
    pub fn learn(&mut self, plan: Result<Plan, NotReplayable>) {
        self.plan = plan;
    }

    pub fn forget(&mut self, why: &str) {
        self.plan = Err(NotReplayable::NoPlan(why.to_owned()));
    }

    /// What is to be compiled, now that those files have changed.
    pub fn decide(&self, changed: &BTreeSet<PathBuf>) -> Result<Vec<usize>, NotReplayable> {
        self.folder.as_ref().map_err(Clone::clone)?;
        self.plan.as_ref().map_err(Clone::clone)?.decide(changed)
    }

    /// How many crates it compiles, where the next save is compiled by it.
    pub fn replays(&self) -> Option<usize> {
        let plan = self.plan.as_ref().ok().filter(|plan| self.folder.is_ok() && plan.lacks_a_record().is_none())?;
        Some(plan.crates.len())
    }

    /// Has a compiler ready for the crate that was edited last, and for the program, which is linked whatever is edited.
    pub fn ready(&mut self, edited: Option<usize>) {
        let (Ok(plan), Ok(folder)) = (&mut self.plan, &self.folder) else { return };
        let program = plan.crates.len().checked_sub(1);
        for (number, one) in plan.crates.iter_mut().enumerate() {
            if Some(number) != edited && Some(number) != program {
                one.waiting = None;
            } else if one.waiting.is_none() {
                let own_linker = one.unit.facts.is_linked_by(self.own_linker);
                // Without one, the next time takes what the first has taken.
                one.waiting = Compiler::start(&self.launcher, &one.unit.call, folder, own_linker).ok();
            }
        }
    }

    /// Makes what the next link is faster with, of the program that was linked last.
    pub fn merge(&self) -> Option<Leaving> {
        let folder = self.folder.as_ref().ok()?;
        let mut command = Command::new(format!("/proc/{}/exe", std::process::id()));
        command.arg(link::MERGE).arg(self.program()?);
        command.env(link::FOLDER, folder.link()).env("TMPDIR", folder.temporary());
        let running = self.launcher.start(&command, Stdio::null(), Stdio::null(), Stdin::Null, &[], false).ok()?;
        running.to_background();
        running.leave().ok()
    }

    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref().ok()
    }

    /// The program that the last run has made.
    pub fn program(&self) -> Option<PathBuf> {
        let name = &self.plan.as_ref().ok()?.crates.last()?.unit.target.name;
        Some(self.folder.as_ref().ok()?.program(name))
    }

    /// Starts a run, when no other is under way; none where the plan was forgotten.
    pub fn start(&mut self, now: Instant, work: Vec<usize>, sink: RustcSink) -> Option<ReplayRun> {
        let at_once = self.at_once();
        let (Ok(plan), Ok(folder)) = (&mut self.plan, &self.folder) else { return None };
        // Objects that one of them still removes are the next one's to make.
        plan.crates.iter_mut().for_each(|one| one.leaving = None);
        // What cannot be removed is in nobody's way.
        folder.clear().ok();
        let (launcher, own_linker) = (self.launcher.clone(), self.own_linker);
        let compilers = Compilers { launcher, sink, allowance: Arc::default(), own_linker };
        let mut run = ReplayRun::new(now, plan, work, at_once, compilers);
        run.begin(now, plan, folder);
        Some(run)
    }

    /// What came of a run, when it has come to its end.
    pub fn go_on(&mut self, now: Instant, run: &mut ReplayRun) -> Option<ReplayOutcome> {
        match (&mut self.plan, &self.folder) {
            (Ok(plan), Ok(folder)) => run.go_on(now, plan, folder),
            (Ok(_) | Err(_), _) => Some(ReplayOutcome::Gone),
        }
    }

    /// How many compilers run at once, as cargo would have it.
    fn at_once(&self) -> usize {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let asked = self.build.jobs.as_ref().and_then(|jobs| jobs.parse().ok());
        asked.unwrap_or(processors)
    }
}

/// The name under which this program is the wrapper: cargo compiles the crates of the workspace again when it is a new one. It is
/// new when the calls are gone that were written down, or are not of the form that is understood here, and another where other debug data
/// is wanted.
fn wrapper(calls: &Path, line_tables: bool) -> Result<PathBuf, NotReplayable> {
    let tried = |error: io::Error| NotReplayable::refused(format!("{}: {error}", short(calls)), &error);
    let program = std::env::current_exe().ok().filter(|program| program.is_file());
    let program = program.ok_or_else(|| NotReplayable::Unfit("this program's own file is gone".to_owned()))?;
    let prefix = format!("rustc-{}-{}-", call::VERSION, if line_tables { "lines" } else { "whole" });
    let entries = fs::read_dir(calls).map_err(tried)?.filter_map(Result::ok).map(|entry| entry.path());
    let is_ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    let there = entries.filter(|path| path.is_symlink()).find(is_ours);
    if let Some(there) = &there
        && fs::read_link(there).is_ok_and(|target| target == program)
    {
        return Ok(there.clone());
    }
    let link = |path: &Path| std::os::unix::fs::symlink(&program, path);
    let new = tempfile::Builder::new().prefix(&prefix).make_in(calls, link).map_err(tried)?;
    let new = new.into_temp_path().keep().map_err(|error| tried(error.error))?;
    // Where this program was built or installed anew, nothing else has changed.
    let Some(there) = there else { return Ok(new) };
    fs::rename(&new, &there).map_err(tried)?;
    Ok(there)
}

/// Settings of the user's with which calls cannot be written down, or not be understood.
fn forbidden(build: &config::Build, root: &Path) -> Option<String> {
    let names = [call::WRAPPER, "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"];
    if let Some(name) = names.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        return Some(format!("{name} is set"));
    }
    if build.triple.as_ref().is_some_and(|triple| triple.ends_with(".json")) {
        return Some("the target is described by a file".to_owned());
    }
    let said = |text: &str| text.contains("rustc-workspace-wrapper") || text.contains("rustc-wrapper");
    for setting in &build.cargo_config {
        if said(setting) {
            return Some("--config sets a wrapper of rustc".to_owned());
        }
        if !setting.contains('=') {
            return Some("--config names a file".to_owned());
        }
    }
    for path in project::cargo_config_files(root) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // What nobody can read at all is passed over by cargo, too.
            Err(error) if !is_passing(&error) && error.kind() != io::ErrorKind::InvalidData => continue,
            Err(error) => return Some(format!("{}: {error}", short(&path))),
        };
        if said(&text) {
            return Some(format!("{} sets a wrapper of rustc", short(&path)));
        }
        if text.lines().any(|line| line.trim_start().starts_with("include")) {
            return Some(format!("{} includes other files", short(&path)));
        }
    }
    None
}
