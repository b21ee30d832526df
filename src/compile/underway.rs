//! What the running cargo has under way, and of which kind a save is for it (`Underway::kind_of`): one that ends it, or one that leaves it as
//! it is. A dependency that compiles for minutes, or a build
//! script that is slow, is not begun again for a file that it does not read.
//! Never lives here: when to build (`cycle`), and which files count (`sources`).

use super::build::{CargoSaid, names_its_inputs};
use super::cycle::{BuildEnd, ChangeKind};
use super::found::Found;
use super::places::plain;
use super::progress::Pace;
use super::{project, stamp};
use crate::report::clean;
use cargo_metadata::{DependencyKind, Message, Metadata, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A crate that was begun that long after a save has surely read what was saved, however late cargo's word of it was heard. It matters
/// only for a file with an older date, of which cargo thinks that it was there before.
const SURELY: Duration = Duration::from_millis(50);

/// A package of the user's own.
#[derive(Debug, Default)]
struct Local {
    /// Folders of those it needs, directly.
    needs: BTreeSet<PathBuf>,
    /// Those of them that its build script is made of.
    script_needs: BTreeSet<PathBuf>,
    script: Option<PathBuf>,
    /// Where the sources of its other targets are.
    code: BTreeSet<PathBuf>,
}

/// How far a package has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its build script is compiled or runs; the crate is not begun.
    Script,
    Crate(Instant),
    Done(Instant),
}

/// A save that has left the running build alone.
#[derive(Debug)]
struct Spared {
    path: PathBuf,
    owner: PathBuf,
    at: Instant,
    dated: bool,
}

#[derive(Debug, Default)]
pub(super) struct Underway {
    locals: BTreeMap<PathBuf, Local>,
    /// What the build scripts of those have named when they ran last, if that is not everything.
    named: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// The folder of the program's package.
    program: PathBuf,
    /// Packages that cargo has begun, as it calls them: `syn v2.0.1`, with the folder of a local one.
    begun: BTreeMap<String, (Option<PathBuf>, Stage)>,
    /// Those whose build script has run, or need not.
    scripted: BTreeSet<String>,
    folders: BTreeMap<String, PathBuf>,
    spared: Vec<Spared>,
    /// Of the build before: saved while it ran, and surely compiled by it.
    settled: BTreeSet<PathBuf>,
}

impl Underway {
    pub fn set_packages(&mut self, metadata: &Metadata, program: &Path) {
        self.program = program.parent().unwrap_or(program).to_path_buf();
        let own = metadata.packages.iter().filter(|package| package.source.is_none());
        let folders: BTreeMap<&PackageId, PathBuf> = own
            .clone()
            .filter_map(|package| Some((&package.id, package.manifest_path.parent()?.as_std_path().to_path_buf())))
            .collect();
        let mut locals: BTreeMap<PathBuf, Local> = BTreeMap::new();
        for package in own {
            let Some(folder) = folders.get(&package.id) else { continue };
            let local = locals.entry(folder.clone()).or_default();
            for target in &package.targets {
                let source = target.src_path.as_std_path();
                if target.is_custom_build() {
                    local.script = Some(source.to_path_buf());
                } else {
                    local.code.extend(source.parent().map(Path::to_path_buf));
                }
            }
            for dependency in project::needs(metadata, &package.id) {
                let Some(needed) = folders.get(&dependency.pkg) else { continue };
                let has = |kind| dependency.dep_kinds.iter().any(|info| info.kind == kind);
                if has(DependencyKind::Build) {
                    local.script_needs.insert(needed.clone());
                }
                if has(DependencyKind::Build) || has(DependencyKind::Normal) || dependency.dep_kinds.is_empty() {
                    local.needs.insert(needed.clone());
                }
            }
        }
        self.locals = locals;
    }

    pub fn build_began(&mut self) {
        self.begun.clear();
        self.scripted.clear();
        self.spared.clear();
    }

    /// Of the running cargo.
    pub fn hear(&mut self, now: Instant, said: &CargoSaid) {
        match said {
            CargoSaid::Cargo(line) => self.hear_line(now, &clean::plain(line)),
            CargoSaid::Message(message) => self.hear_message(now, message),
            CargoSaid::Caught(_) | CargoSaid::OutputClosed | CargoSaid::Exited => {}
        }
    }

    fn hear_line(&mut self, now: Instant, line: &str) {
        let Some(package) = line.trim_start().strip_prefix("Compiling ") else { return };
        let (name, place) = package.split_once(" (").unwrap_or((package, ""));
        let place = Path::new(place.trim_end_matches(')'));
        let folder = place.is_absolute().then(|| place.to_path_buf());
        let has_script =
            folder.as_ref().and_then(|folder| self.locals.get(folder)).is_some_and(|it| it.script.is_some());
        let waits = has_script && !self.scripted.contains(name);
        self.begun.insert(name.to_owned(), (folder, if waits { Stage::Script } else { Stage::Crate(now) }));
    }

    fn hear_message(&mut self, now: Instant, message: &Message) {
        match message {
            Message::CompilerArtifact(unit) => {
                let Some(name) = name_of(&unit.package_id) else { return };
                let folder = unit.manifest_path.parent().map(|folder| folder.as_std_path().to_path_buf());
                self.folders.extend(folder.clone().map(|folder| (name.clone(), folder)));
                let is_last = folder.as_ref() != Some(&self.program) || unit.executable.is_some();
                if let Some((_, stage)) = self.begun.get_mut(&name)
                    && let Stage::Crate(began) = *stage
                    && is_last
                    && !unit.fresh
                    && !unit.target.is_custom_build()
                {
                    *stage = Stage::Done(began);
                }
            }
            Message::BuildScriptExecuted(script) => {
                let Some(name) = name_of(&script.package_id) else { return };
                if let Some((_, stage @ Stage::Script)) = self.begun.get_mut(&name) {
                    *stage = Stage::Crate(now);
                }
                if let Some(folder) = self.folders.get(&name).filter(|folder| self.locals.contains_key(*folder)) {
                    let output = script.out_dir.parent().map(|folder| folder.join("output").into_std_path_buf());
                    let names = names_its_inputs(&output.unwrap_or_default());
                    let named: Vec<PathBuf> = names.iter().map(|name| plain(folder.join(name))).collect();
                    if named.is_empty() {
                        self.named.remove(folder);
                    } else {
                        self.named.insert(folder.clone(), named);
                    }
                }
                self.scripted.insert(name);
            }
            _ => {}
        }
    }

    /// Whether something is under way that the file has no part in.
    fn is_worth_its_end(&self, path: &Path) -> bool {
        let Some(owner) = self.owner(path) else { return false };
        self.begun.values().any(|(folder, stage)| match (folder, stage) {
            (_, Stage::Done(_)) => false,
            // What is not the user's own does not depend on it.
            (None, _) => true,
            (Some(folder), Stage::Script) => !self.script_reads(folder, path) && !self.script_is_made_of(folder, owner),
            (Some(folder), Stage::Crate(_)) => folder != owner && !self.below(folder).contains(owner),
        })
    }

    /// A build script has said that it reads it.
    fn is_named(&self, path: &Path) -> bool {
        self.named.values().flatten().any(|name| path.starts_with(name))
    }

    /// The package in whose folder it is.
    fn owner(&self, path: &Path) -> Option<&PathBuf> {
        self.locals.keys().filter(|folder| path.starts_with(folder)).max_by_key(|folder| folder.components().count())
    }

    fn script_reads(&self, folder: &PathBuf, path: &Path) -> bool {
        match self.named.get(folder) {
            Some(named) if named.iter().any(|name| path.starts_with(name)) => return true,
            Some(_) => {}
            // It has not run yet, or names nothing: then it depends on all of its package.
            None if path.starts_with(folder) => return true,
            None => {}
        }
        let Some(local) = self.locals.get(folder).filter(|_| self.owner(path) == Some(folder)) else { return false };
        local.script.as_deref() == Some(path) || !local.code.iter().any(|code| path.starts_with(code))
    }

    fn script_is_made_of(&self, folder: &PathBuf, owner: &PathBuf) -> bool {
        let needs = self.locals.get(folder).map(|local| &local.script_needs);
        needs.into_iter().flatten().any(|needed| needed == owner || self.below(needed).contains(owner))
    }

    /// All that a package needs, directly or not.
    fn below<'u>(&'u self, folder: &'u PathBuf) -> BTreeSet<&'u PathBuf> {
        let mut below = BTreeSet::new();
        let mut waiting = vec![folder];
        while let Some(folder) = waiting.pop() {
            let needs = self.locals.get(folder).map(|local| &local.needs);
            waiting.extend(needs.into_iter().flatten().filter(|needed| below.insert(*needed)));
        }
        below
    }

    /// When the crate of that package was begun in the running build.
    fn crate_began(&self, owner: &Path) -> Option<Instant> {
        let stage = self.begun.values().find(|(folder, _)| folder.as_deref() == Some(owner)).map(|(_, stage)| *stage);
        match stage? {
            Stage::Script => None,
            Stage::Crate(began) | Stage::Done(began) => Some(began),
        }
    }

    /// Whether a save that left the build alone is not in what it has made: its package was begun before, or not at all.
    fn is_behind(&self) -> bool {
        self.spared.iter().any(|one| self.crate_began(&one.owner).is_none_or(|began| began < one.at))
    }

    /// The build has ended. What was saved meanwhile and is in it needs no doubt when the next one finds nothing to do.
    pub fn settle(&mut self, built: bool) {
        let spared = std::mem::take(&mut self.spared);
        let surely = |one: &Spared| {
            let from = if one.dated { one.at + SURELY } else { one.at };
            built && self.crate_began(&one.owner).is_some_and(|began| began >= from)
        };
        let (settled, unsure): (Vec<Spared>, Vec<Spared>) = spared.into_iter().partition(surely);
        self.settled = settled.into_iter().map(|one| one.path).collect();
        self.settled.retain(|path| !unsure.iter().any(|one| one.path == *path));
    }

    /// What the cycle is told of files that have changed, and why a build follows. `is_building`: one runs whose result is wanted;
    /// `cargo`: how far it has come, where cargo runs.
    pub fn kind_of(
        &mut self,
        found: &Found,
        at: Instant,
        is_building: bool,
        cargo: Option<&Pace>,
    ) -> (ChangeKind, String) {
        let cause = found.cause();
        self.settled.retain(|path| !found.changed.contains(path));
        let nothing_begun = self.begun.is_empty() && cargo.is_some_and(Pace::is_busy);
        let spares = |path: &PathBuf| self.is_worth_its_end(path) || nothing_begun && self.owner(path).is_some();
        if found.emptied {
            return (ChangeKind::Emptied, cause);
        }
        let is_of_script = !found.changed.is_empty() && found.most_likely_scripts >= found.changed.len();
        if is_building && is_of_script && !found.changed.iter().any(|path| self.is_named(path)) {
            return (ChangeKind::Spared, cause);
        }
        let is_for_all = found.settings || found.start_anyway;
        if cargo.is_none() || !is_building || is_for_all || !found.changed.iter().all(spares) {
            return (ChangeKind::Content, cause);
        }
        let owned = |path: &PathBuf| {
            let (path, owner) = (path.clone(), self.owner(path)?.clone());
            Some(Spared { dated: stamp::is_dated(&path), path, owner, at })
        };
        let spared: Vec<Spared> = found.changed.iter().filter_map(owned).collect();
        self.spared.extend(spared);
        (ChangeKind::Spared, format!("{cause} during the build"))
    }

    /// What the cycle is told of a build that has ended, with a program or without.
    pub fn end(&self, built: bool) -> BuildEnd {
        match built {
            true if self.is_behind() => BuildEnd::Behind,
            true => BuildEnd::Built,
            false => BuildEnd::Failed,
        }
    }

    /// Without those that are surely in what the build before has made.
    pub fn unsettled(&self, changed: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        changed.difference(&self.settled).cloned().collect()
    }
}

/// As cargo calls it in its lines of progress: `name vVERSION`. Ids end in `name@version`, or in the version alone behind a
/// folder of that name; before cargo 1.77 they began with both (the cargo book, "Package ID specifications").
fn name_of(id: &PackageId) -> Option<String> {
    let Some((place, end)) = id.repr.rsplit_once('#') else {
        let mut words = id.repr.split(' ');
        return Some(format!("{} v{}", words.next()?, words.next()?));
    };
    let (name, version) = match end.split_once('@') {
        Some(both) => both,
        None => (place.split('?').next()?.rsplit('/').next()?, end),
    };
    Some(format!("{name} v{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::start;

    /// `/w/app` needs `/w/lib`, whose build script is made of `/w/tool`; `/w/app` has a script, too.
    fn underway() -> Underway {
        let set = |folders: &[&str]| folders.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        let local = |folder: &str, needs: &[&str], script_needs: &[&str], script: bool| {
            let script = script.then(|| Path::new(folder).join("build.rs"));
            let code = [Path::new(folder).join("src")].into_iter().collect();
            (PathBuf::from(folder), Local { needs: set(needs), script_needs: set(script_needs), script, code })
        };
        let locals = [
            local("/w/app", &["/w/lib"], &[], true),
            local("/w/lib", &["/w/tool"], &["/w/tool"], true),
            local("/w/tool", &[], &[], false),
        ];
        Underway { locals: locals.into_iter().collect(), program: "/w/app".into(), ..Underway::default() }
    }

    fn compiling(underway: &mut Underway, at: Instant, what: &str) {
        underway.hear(at, &CargoSaid::Cargo(format!("   Compiling {what}")));
    }

    fn spares(underway: &Underway, path: &str) -> bool {
        underway.is_worth_its_end(Path::new(path))
    }

    #[test]
    fn what_is_not_the_users_own_is_let_through_and_what_reads_the_file_is_not() {
        let mut underway = underway();
        assert!(!spares(&underway, "/w/app/src/main.rs"), "nothing is under way");
        compiling(&mut underway, start(), "syn v2.0.1");
        assert!(spares(&underway, "/w/app/src/main.rs"));
        assert!(!spares(&underway, "/elsewhere/x.rs"), "nobody knows whose it is");
        let mut underway = self::underway();
        compiling(&mut underway, start(), "tool v0.1.0 (/w/tool)");
        assert!(spares(&underway, "/w/app/src/main.rs") && spares(&underway, "/w/lib/src/lib.rs"));
        assert!(!spares(&underway, "/w/tool/src/lib.rs"));
    }

    #[test]
    fn a_script_is_let_through_unless_it_reads_the_file_or_is_made_of_it() {
        let mut underway = underway();
        compiling(&mut underway, start(), "lib v0.1.0 (/w/lib)");
        for (path, spared) in [
            ("/w/app/src/main.rs", true),
            ("/w/lib/src/lib.rs", false),
            ("/w/lib/build.rs", false),
            ("/w/tool/src/lib.rs", false),
        ] {
            assert_eq!(spares(&underway, path), spared, "{path}, as long as nobody knows what the script reads");
        }
        underway.named.insert("/w/lib".into(), vec!["/w/lib/schema".into(), "/w/app/src/x.rs".into()]);
        for (path, spared) in [
            ("/w/lib/src/lib.rs", true),
            ("/w/lib/schema/a.sql", false),
            ("/w/lib/build.rs", false),
            ("/w/lib/other.txt", false),
            ("/w/tool/src/lib.rs", false),
            ("/w/app/src/x.rs", false),
        ] {
            assert_eq!(spares(&underway, path), spared, "{path}");
        }
    }

    #[test]
    fn what_was_begun_before_the_save_is_behind_and_what_was_begun_after_it_is_not() {
        let (now, mut underway) = (start(), underway());
        let save = |underway: &mut Underway, at, dated| {
            underway.spared.push(Spared { path: "/w/tool/src/lib.rs".into(), owner: "/w/tool".into(), at, dated });
        };
        save(&mut underway, now, true);
        assert!(underway.is_behind(), "it was not compiled at all");
        compiling(&mut underway, now + SURELY, "tool v0.1.0 (/w/tool)");
        assert!(!underway.is_behind());
        underway.settle(true);
        let changed: BTreeSet<PathBuf> = [PathBuf::from("/w/tool/src/lib.rs")].into_iter().collect();
        assert!(underway.unsettled(&changed).is_empty());
        save(&mut underway, now + SURELY + SURELY, false);
        assert!(underway.is_behind());
        underway.settle(true);
        assert_eq!(underway.unsettled(&changed), changed);
        for dated in [true, false] {
            underway.build_began();
            save(&mut underway, now, dated);
            compiling(&mut underway, now, "tool v0.1.0 (/w/tool)");
            underway.settle(true);
            assert_eq!(!underway.unsettled(&changed).is_empty(), dated, "so soon after it");
        }
    }

    #[test]
    fn a_package_is_called_as_cargo_calls_it() {
        for (id, name) in [
            ("path+file:///w/api#0.1.0", "api v0.1.0"),
            ("path+file:///w/folder#api@0.1.0-rc.1", "api v0.1.0-rc.1"),
            ("registry+https://example.org/index#syn@2.0.1", "syn v2.0.1"),
            ("git+https://example.org/tool?branch=x#1.0.0", "tool v1.0.0"),
            ("api 0.1.0 (path+file:///w/api)", "api v0.1.0"),
        ] {
            assert_eq!(name_of(&PackageId { repr: id.into() }).as_deref(), Some(name));
        }
        assert_eq!(name_of(&PackageId { repr: "odd".into() }), None);
    }
}
