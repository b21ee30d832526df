//! What cargo's last build has taught: which crates of the workspace can be compiled by running their captured calls again, of what
//! they are made, and in which order they need each other.
//! Never lives here: running anything.

use super::call::{Cache, Call, CallFacts};
use super::compiler::{self, Compiler};
use super::not_replayable::NotReplayable;
use super::record::{Before, Record};
use super::schedule::with_dependents;
use super::surroundings::Surroundings;
use super::unit::{Inputs, Unit, reads_ours};
use crate::compile::build::Script;
use crate::compile::output::Told;
use crate::compile::stamp;
use crate::process::{Leaving, inherited};
use crate::report::short;
use cargo_metadata::{Artifact, PackageId, Target, TargetKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What is known of a project before cargo builds it.
#[derive(Debug, Clone)]
pub struct Workspace {
    pub members: BTreeSet<PackageId>,
    pub root_manifest: PathBuf,
    /// Where calls were written down.
    pub calls: PathBuf,
    /// Where they are run again, and how.
    pub folder: PathBuf,
    pub cache: Cache,
}

/// A build of cargo's, as it has told of it.
#[derive(Debug)]
pub struct CargoBuild {
    pub units: Vec<Artifact>,
    pub scripts: Vec<Script>,
    pub executable: PathBuf,
    /// All that compilers said.
    pub messages: Vec<Told>,
    /// When cargo was started.
    pub began: SystemTime,
}

/// What there is to learn from, when cargo has built.
#[derive(Debug)]
pub struct Lesson {
    pub build: CargoBuild,
    /// All inputs that cargo names.
    pub inputs: Vec<PathBuf>,
    /// What says how to build, there or not.
    pub settings: Vec<PathBuf>,
    /// Folders all of whose files are inputs of a build script: that of its package, or one that it names.
    pub whole: Vec<PathBuf>,
    pub workspace: Workspace,
}

/// Crates in the order in which they need each other; the program is the last.
#[derive(Debug)]
pub struct Plan {
    pub crates: Vec<Slot>,
    pub surroundings: Surroundings,
    /// Folders of packages whose build script names no inputs.
    nameless: Vec<PathBuf>,
    /// Folders that build scripts name.
    named: Vec<PathBuf>,
    /// Inputs that are no crate's own sources.
    other_inputs: Vec<PathBuf>,
    pub began: SystemTime,
}

/// Where a unit is compiled again and again.
#[derive(Debug)]
pub struct Slot {
    pub unit: Unit,
    /// How it was compiled here last, if it was.
    pub record: Option<Record>,
    /// One that is ready for the next time.
    pub waiting: Option<Compiler>,
    /// One that has made everything and cleans up.
    pub leaving: Option<Leaving>,
    /// A compilation began after that and has not succeeded: what is there now is not what the record tells of.
    pub begun: bool,
}

impl Lesson {
    /// Of `whole`: folders that scripts name, and those of packages whose script names nothing.
    fn folders(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let is_named = |folder: &PathBuf| self.build.scripts.iter().any(|script| script.inputs.contains(folder));
        self.whole.iter().cloned().partition(is_named)
    }
}

impl Plan {
    pub fn learn(lesson: Lesson) -> Result<Plan, NotReplayable> {
        if let Some(path) = lesson.build.scripts.iter().find_map(|script| script.missing.as_ref()) {
            let why = format!("a build script depends on {}, which is not there, so every build runs it", short(path));
            return Err(NotReplayable::Unfit(why));
        }
        let calls = Captured::read(&lesson.workspace.calls);
        let (candidates, excluded) = sort(&lesson, &calls)?;
        let chosen = choose(&lesson, &calls, candidates, excluded)?;
        let order = chosen.keys().copied().collect::<Vec<_>>();
        let mut crates = Vec::with_capacity(order.len());
        // By the path of what cargo made.
        let mut places: HashMap<PathBuf, usize> = HashMap::new();
        for index in in_order(&order, &calls) {
            let (call, facts) = (&calls.all[index].call, &calls.all[index].facts);
            let artifact = chosen[&index];
            let mut externs = BTreeMap::new();
            let mut needs = BTreeSet::new();
            for path in &facts.externs {
                if let Some(number) = places.get(path) {
                    let here = lesson.workspace.folder.join("deps").join(path.file_name().unwrap_or_default());
                    externs.insert(path.clone(), here);
                    needs.insert(*number);
                }
            }
            let inputs = Inputs::read(call, facts, &facts.out_dir)?;
            let number = crates.len();
            places.extend(facts.outputs(&facts.out_dir).into_iter().map(|path| (path, number)));
            let unit = Unit {
                package: artifact.package_id.clone(),
                target: artifact.target.clone(),
                call: call.clone(),
                facts: facts.clone(),
                needs: needs.into_iter().collect(),
                externs,
                sources: inputs.sources.clone(),
            };
            let mut slot = Slot::open(unit, &lesson.workspace);
            if !slot.is_current() {
                slot.take_over(&calls.all[index].file, inputs.variables, &lesson);
            }
            crates.push(slot);
        }
        let plan = surround(lesson, crates, &calls)?;
        // A newer build is on its way, which will see it.
        match plan.surroundings.written_since(plan.began) {
            Some(path) => Err(NotReplayable::NoPlan(format!("{} was written while cargo built", short(path)))),
            None => Ok(plan),
        }
    }

    /// What is to be compiled, now that those files have changed.
    pub fn decide(&self, changed: &BTreeSet<PathBuf>) -> Result<Vec<usize>, NotReplayable> {
        for path in changed {
            if let Some(folder) = self.nameless.iter().find(|folder| path.starts_with(folder)) {
                return Err(names_no_inputs(folder));
            }
            let is_source = self.is_source(path);
            let is_other = self.surroundings.contains(path) || self.named.iter().any(|folder| path.starts_with(folder));
            if !is_source || is_other {
                return Err(NotReplayable::Changed(path.clone()));
            }
        }
        if let Some(path) = self.surroundings.changed() {
            return Err(NotReplayable::Changed(path.to_path_buf()));
        }
        match self.lacks_a_record() {
            Some(one) => {
                let name = &one.unit.facts.crate_name;
                Err(NotReplayable::NoPlan(format!("what cargo has made of {name} cannot be used here")))
            }
            None => Ok(self.work()),
        }
    }

    /// One that was not compiled in a way from which it could go on here.
    pub fn lacks_a_record(&self) -> Option<&Slot> {
        self.crates.iter().find(|one| one.record.is_none())
    }

    /// Of a crate here, by this name or by way of a link.
    fn is_source(&self, path: &PathBuf) -> bool {
        let by_link = || {
            let sources = self.crates.iter().flat_map(Slot::sources);
            path.canonicalize()
                .is_ok_and(|real| sources.filter_map(|path| path.canonicalize().ok()).any(|one| one == real))
        };
        self.crates.iter().any(|one| one.is_source(path)) || by_link()
    }

    /// All crates that are not as their sources are.
    pub fn work(&self) -> Vec<usize> {
        let needs: Vec<Vec<usize>> = self.crates.iter().map(|one| one.unit.needs.clone()).collect();
        with_dependents(&needs, |number| !self.crates[number].is_current())
    }

    /// Everything the program is made of, as far as is known now.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let sources = self.crates.iter().flat_map(Slot::sources);
        self.other_inputs.iter().cloned().chain(sources).collect()
    }

    /// Whether a message is about a crate of the plan.
    pub fn has(&self, package: &PackageId, target: &Target) -> bool {
        self.crates.iter().any(|one| one.unit.is_of(package, target))
    }
}

impl Slot {
    /// With what is known of it from a session before.
    fn open(unit: Unit, workspace: &Workspace) -> Slot {
        let record = Record::read(&workspace.folder, &unit, &workspace.cache);
        let record = record.filter(|record| record.made(&unit.outputs(&workspace.folder)));
        Slot { unit, record, waiting: None, leaving: None, begun: false }
    }

    /// What cargo has compiled as it would be compiled here is here, too, under another name. `written`: the call's file, which was
    /// written when its compiler began.
    fn take_over(&mut self, written: &Path, variables: Vec<(String, Option<String>)>, lesson: &Lesson) {
        let (unit, folder, cache) = (&self.unit, &lesson.workspace.folder, &lesson.workspace.cache);
        if unit.call.cache.as_ref() != Some(cache) {
            return;
        }
        // As when it is compiled here: what may be half there is taken for made by nobody.
        self.begun = true;
        Record::remove(folder, unit);
        let outputs = unit.outputs(folder);
        let made = unit.facts.outputs(&unit.facts.out_dir);
        if made.iter().zip(&outputs).any(|(made, here)| same_file(made, here).is_err()) {
            return;
        }
        let messages = lesson
            .build
            .messages
            .iter()
            .filter(|told| told.about.as_ref().is_some_and(|(package, target)| unit.is_of(package, target)));
        let messages = messages.map(|told| told.words.clone()).collect();
        let inputs = Inputs { sources: unit.sources.clone(), variables };
        let Ok(before) = Before::of_cargo(unit, cache, written) else { return };
        let record = before.record(inputs, outputs, messages);
        // Without it the crate is compiled once more in the next session.
        record.write(folder, unit).ok();
        self.record = Some(record);
        self.begun = false;
    }

    /// As the last compilation knew them.
    pub fn sources(&self) -> Vec<PathBuf> {
        self.record.as_ref().map_or_else(|| self.unit.sources.clone(), Record::sources)
    }

    fn is_source(&self, path: &PathBuf) -> bool {
        match &self.record {
            Some(record) => record.has_source(path),
            None => self.unit.sources.contains(path),
        }
    }

    /// Whether compiling it again would give what is there.
    fn is_current(&self) -> bool {
        !self.begun && self.record.as_ref().is_some_and(|record| record.still_holds(&self.unit.call))
    }
}

/// Gives a file another name, in the place of what has it; a copy of it where the file system has no second names. A linker that writes to
/// the file that is there does so for a build of cargo's, after which it is taken over again.
fn same_file(file: &Path, name: &Path) -> io::Result<()> {
    let folder = name.parent().unwrap_or(name);
    let new = tempfile::Builder::new()
        .make_in(folder, |path| fs::hard_link(file, path).or_else(|_| fs::copy(file, path).map(drop)))?;
    new.into_temp_path().persist(name).map_err(|error| error.error)
}

/// All calls that were written down, and what they made.
struct Captured {
    all: Vec<One>,
    by_path: HashMap<PathBuf, usize>,
    /// Cargo hard-links what is asked for to a name without a hash.
    by_inode: HashMap<(u64, u64), usize>,
}

struct One {
    file: PathBuf,
    call: Call,
    facts: CallFacts,
}

impl Captured {
    fn read(folder: &Path) -> Captured {
        let mut calls = Captured { all: Vec::new(), by_path: HashMap::new(), by_inode: HashMap::new() };
        for (file, call) in Call::read_all(folder) {
            let facts = call.facts();
            for path in facts.outputs(&facts.out_dir) {
                if let Ok(metadata) = fs::metadata(&path) {
                    calls.by_inode.insert((metadata.dev(), metadata.ino()), calls.all.len());
                }
                calls.by_path.insert(path, calls.all.len());
            }
            calls.all.push(One { file, call, facts });
        }
        calls
    }

    fn of(&self, unit: &Artifact) -> Option<usize> {
        let files = unit.filenames.iter().map(|path| path.as_std_path());
        let mut files = files.chain(unit.executable.as_ref().map(|path| path.as_std_path()));
        files.find_map(|path| {
            let by_inode = || {
                let metadata = fs::metadata(path).ok()?;
                self.by_inode.get(&(metadata.dev(), metadata.ino())).copied()
            };
            self.by_path.get(path).copied().or_else(by_inode)
        })
    }
}

type Chosen<'l> = BTreeMap<usize, &'l Artifact>;

/// Calls of workspace members: those that can be run again, and those that cannot.
fn sort<'l>(lesson: &'l Lesson, calls: &Captured) -> Result<(Chosen<'l>, Vec<usize>), NotReplayable> {
    let (mut candidates, mut excluded) = (Chosen::new(), Vec::new());
    for unit in lesson.build.units.iter().filter(|unit| lesson.workspace.members.contains(&unit.package_id)) {
        let Some(index) = calls.of(unit) else {
            return Err(NotReplayable::NoPlan(format!("how cargo compiles {} is not known yet", unit.target.name)));
        };
        let One { file, call, facts } = &calls.all[index];
        let compiled_for_compiling =
            unit.target.kind.contains(&TargetKind::ProcMacro) || unit.target.kind.contains(&TargetKind::CustomBuild);
        let manifest = unit.manifest_path.as_std_path();
        let whole = lesson.whole.iter().any(|folder| manifest.parent() == Some(folder));
        let read = match Inputs::read(call, facts, &facts.out_dir) {
            // Not a reason to leave this crate to cargo for good.
            Err(why) if why.passes() => return Err(why),
            read => read.ok(),
        };
        // Whoever stands between this program and cargo may give it variables, as rustup does.
        let variables = read.as_ref().map(|read| read.variables.as_slice());
        let fits = call.fits(inherited) && variables.is_some_and(|read| call.otherwise(read, inherited).is_none());
        let ours = variables.into_iter().flatten().map(|(name, _)| name).find(|name| compiler::sets(name));
        if let (Some(name), true) = (ours, is_program(lesson, unit)) {
            return Err(reads_ours(facts, name));
        }
        // What cargo takes from these it may have changed since without a new call.
        let old = lesson.settings.iter().find(|path| {
            let is_config = path.ends_with("config.toml") || path.ends_with("config");
            (is_config || *path == manifest || **path == lesson.workspace.root_manifest) && stamp::is_newer(path, file)
        });
        if let (Some(path), true) = (old, is_program(lesson, unit)) {
            let why = format!("{} was written after cargo compiled {}", short(path), unit.target.name);
            return Err(NotReplayable::NoPlan(why));
        }
        let fits = fits && old.is_none() && ours.is_none();
        if facts.can_run_again() && !compiled_for_compiling && !whole && fits {
            candidates.insert(index, unit);
        } else {
            excluded.push(index);
        }
    }
    Ok((candidates, excluded))
}

/// The program, and what it needs: without all that is compiled by cargo, and without what such a crate needs.
fn choose<'l>(
    lesson: &Lesson,
    calls: &Captured,
    mut candidates: Chosen<'l>,
    mut excluded: Vec<usize>,
) -> Result<Chosen<'l>, NotReplayable> {
    while let Some(index) = excluded.pop() {
        let below = calls.all[index].facts.externs.iter().filter_map(|path| calls.by_path.get(path));
        excluded.extend(below.filter(|below| candidates.remove(below).is_some()));
    }
    let program = candidates.iter().find(|(_, unit)| is_program(lesson, unit)).map(|(index, _)| *index);
    let Some(program) = program else {
        return Err(match lesson.folders().1.first() {
            Some(folder) => names_no_inputs(folder),
            None => NotReplayable::Unfit(
                "the program's own crate is not compiled incrementally, or not in a way that is understood here"
                    .to_owned(),
            ),
        });
    };
    let mut needed = BTreeSet::new();
    let mut waiting = vec![program];
    while let Some(index) = waiting.pop() {
        if needed.insert(index) {
            let below = calls.all[index].facts.externs.iter().filter_map(|path| calls.by_path.get(path));
            waiting.extend(below.filter(|below| candidates.contains_key(below)));
        }
    }
    candidates.retain(|index, _| needed.contains(index));
    Ok(candidates)
}

fn is_program(lesson: &Lesson, unit: &Artifact) -> bool {
    unit.executable.as_ref().is_some_and(|path| path.as_std_path() == lesson.build.executable)
}

/// Those that are needed before those that need them.
fn in_order(chosen: &[usize], calls: &Captured) -> Vec<usize> {
    let mut order = Vec::with_capacity(chosen.len());
    let mut seen = BTreeSet::new();
    // Visited twice: on the way down, and when all below it stands in the order.
    let mut waiting: Vec<(usize, bool)> = chosen.iter().map(|index| (*index, false)).collect();
    while let Some((index, below_is_there)) = waiting.pop() {
        if below_is_there {
            order.push(index);
        } else if seen.insert(index) {
            waiting.push((index, true));
            let below = calls.all[index].facts.externs.iter().filter_map(|path| calls.by_path.get(path));
            waiting.extend(below.filter(|below| chosen.contains(below)).map(|below| (*below, false)));
        }
    }
    order
}

fn names_no_inputs(folder: &Path) -> NotReplayable {
    let folder = short(folder);
    NotReplayable::Unfit(format!(
        "the build script of {folder} names no inputs (cargo::rerun-if-changed), so any change runs it"
    ))
}

fn surround(lesson: Lesson, crates: Vec<Slot>, calls: &Captured) -> Result<Plan, NotReplayable> {
    let now = SystemTime::now();
    let mut surroundings = Surroundings::default();
    let (named, nameless) = lesson.folders();
    let own: BTreeSet<PathBuf> = crates.iter().flat_map(|one| one.unit.sources.iter().cloned()).collect();
    // Cargo names some files by where a link has led.
    let places: BTreeSet<PathBuf> = own.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let is_own = |path: &PathBuf| own.contains(path) || path.canonicalize().is_ok_and(|place| places.contains(&place));
    let other_inputs: Vec<PathBuf> = lesson.inputs.into_iter().filter(|path| !is_own(path)).collect();
    other_inputs.iter().for_each(|path| surroundings.add_tree(path, now));
    for path in lesson.settings.iter().filter(|path| !own.contains(*path)) {
        surroundings.add_file(path, now);
    }
    for script in &lesson.build.scripts {
        surroundings.add_artifact(&script.output);
        for path in &script.inputs {
            if own.contains(path) {
                // Both: then its crate is compiled after the script has run again.
                surroundings.add_file(path, now);
            } else {
                surroundings.add_tree(path, now);
            }
        }
    }
    let in_plan: BTreeSet<&str> = crates.iter().map(|one| one.unit.facts.crate_name.as_str()).collect();
    for unit in &lesson.build.units {
        let is_own = crates.iter().any(|one| one.unit.is_of(&unit.package_id, &unit.target));
        if is_own {
            continue;
        }
        unit.filenames.iter().for_each(|path| surroundings.add_artifact(path.as_std_path()));
        if let Some(index) = calls.of(unit) {
            let One { call, facts, .. } = &calls.all[index];
            // Also where they are sources of a crate of the plan, too.
            let inputs = Inputs::read(call, facts, &facts.out_dir)?;
            inputs.sources.iter().for_each(|path| surroundings.add_file(path, now));
        }
    }
    for one in calls.all.iter().filter(|one| in_plan.contains(one.facts.crate_name.as_str())) {
        surroundings.add_artifact(&one.file);
    }
    for one in &crates {
        surroundings.add_artifact(&one.unit.call.program);
    }
    Ok(Plan { crates, surroundings, nameless, named, other_inputs, began: lesson.build.began })
}
