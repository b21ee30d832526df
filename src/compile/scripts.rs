//! Files that build scripts write themselves, anew in every build: a time stamp in a source, a generated module. Each would lead to a
//! build, in which it is written again.
//! Never lives here: what is built.

use super::stamp::Stamp;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Builds in a row that have written a file, and nobody else has, after which it is the build's.
const MOST: u32 = 3;
/// A script that has what it has generated formatted writes it twice. What is written more often is being saved without a pause.
const MOST_WRITES: u32 = 4;
/// A person may save a file while a script runs, too. In one that takes so long, that is no rare chance.
const QUICK: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Scripts {
    /// Of files that were written by scripts last.
    rows: HashMap<PathBuf, Row>,
    /// Those that are the builds' own by now.
    own: BTreeSet<PathBuf>,
    /// The last build that has come to its end, by its beginning.
    ended: Option<SystemTime>,
}

/// Builds in a row in which nobody but a script has written a file.
#[derive(Debug)]
struct Row {
    builds: u32,
    /// The last of them, by its beginning, and how often it was written in that.
    last: SystemTime,
    writes: u32,
}

/// Whose a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Somebody's who is to be served with it.
    Somebody,
    /// Most likely a build script's that runs: somebody's all the same, until that is sure, but no reason to end the build.
    Script,
    /// The build's, as has just become clear.
    Build,
    /// The build's, as is known.
    BuildAgain,
}

impl Scripts {
    /// The file has changed. `build` is the beginning of the build by cargo that runs, if one does, and `package` the name of the
    /// package whose file it is, below which folder cargo builds.
    pub fn author(
        &mut self,
        path: &Path,
        build: Option<SystemTime>,
        target_dir: &Path,
        package: Option<&str>,
    ) -> Author {
        let by_script =
            build.zip(package).filter(|(began, package)| is_written_by_script(path, *began, target_dir, package));
        let Some((began, _)) = by_script else {
            self.own.remove(path);
            self.rows.remove(path);
            return Author::Somebody;
        };
        let row = self.rows.entry(path.to_path_buf()).or_insert(Row { builds: 0, last: began, writes: 0 });
        if row.builds == 0 || row.last != began {
            // One that was ended for a save, as quick ones end each other, shows nothing.
            let counts = row.builds == 0 || self.ended == Some(row.last);
            *row = Row { builds: row.builds + u32::from(counts), last: began, writes: 0 };
        }
        row.writes += 1;
        let (builds, writes) = (row.builds, row.writes);
        if writes > MOST_WRITES {
            self.own.remove(path);
            self.rows.remove(path);
            return Author::Somebody;
        }
        match builds {
            _ if self.own.contains(path) => Author::BuildAgain,
            MOST.. => {
                self.own.insert(path.to_path_buf());
                Author::Build
            }
            _ => Author::Script,
        }
    }

    /// The build that began then has come to its end.
    pub fn build_ended(&mut self, began: SystemTime) {
        self.ended = Some(began);
    }
}

/// Whether it was written while the package's build script ran, or just after it was started: cargo writes `invoked.timestamp`
/// before it runs one, and `output` when that has ended (in the script's folder, `build/NAME-HASH`).
fn is_written_by_script(path: &Path, began: SystemTime, target_dir: &Path, package: &str) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(written) = modified(path).filter(|_| Stamp::of(path).is_some_and(|stamp| stamp.is_since(began))) else {
        return false;
    };
    let inner =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    // `target/debug/build`, or `target/TRIPLE/debug/build`.
    let profiles = inner(target_dir).chain(inner(target_dir).flat_map(|folder| inner(&folder)));
    let scripts = profiles.flat_map(|profile| inner(&profile.join("build")));
    let is_packages = |script: &PathBuf| {
        let name = script.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.rsplit_once('-').is_some_and(|(name, _)| name == package)
    };
    scripts.filter(is_packages).any(|script| {
        let Some(started) = modified(&script.join("invoked.timestamp")) else { return false };
        // Cargo dates `output` back to the start.
        let ended = Stamp::of(&script.join("output")).map(|stamp| stamp.changed()).filter(|ended| *ended >= started);
        let until = ended.map_or(started + QUICK, |ended| ended.min(started + QUICK));
        started >= began && (started..=until).contains(&written)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};

    /// A package `api` whose script has run from second 100 on, in a build that began at 90, and a file that was written then.
    struct Project(tempfile::TempDir);

    impl Project {
        fn new() -> Project {
            let project = Project(tempfile::tempdir().unwrap());
            fs::create_dir_all(project.0.path().join("debug/build/api-1f")).unwrap();
            project.write("debug/build/api-1f/invoked.timestamp", 0);
            project
        }

        /// So long after now.
        fn write(&self, path: &str, millis: u64) -> PathBuf {
            let path = self.0.path().join(path);
            fs::write(&path, "x").unwrap();
            let at = now() + Duration::from_millis(millis);
            File::options().append(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(at)).unwrap();
            path
        }
    }

    fn now() -> SystemTime {
        // All of one test is one moment.
        static NOW: std::sync::OnceLock<SystemTime> = std::sync::OnceLock::new();
        *NOW.get_or_init(SystemTime::now)
    }

    /// Beginnings of builds, each of its own.
    fn build(number: u64) -> Option<SystemTime> {
        Some(now() - Duration::from_secs(60) + Duration::from_secs(number))
    }

    #[test]
    fn what_a_script_writes_in_three_builds_in_a_row_is_the_builds() {
        let project = Project::new();
        let mut scripts = Scripts::default();
        let path = project.write("stamp.rs", 10);
        let mut author = |number, package| {
            scripts.build_ended(build(number - 1).unwrap());
            scripts.author(&path, build(number), project.0.path(), package)
        };
        use Author::{Build, BuildAgain, Script, Somebody};
        let api = Some("api");
        let expected = [Script, Script, Script, Build, BuildAgain, BuildAgain];
        for (number, expected) in [1, 2, 2, 3, 3, 4].into_iter().zip(expected) {
            assert_eq!(author(number, api), expected, "in build {number}");
        }
        // Of another package, of one without a script.
        assert_eq!([author(5, Some("ap")), author(6, None)], [Somebody; 2]);
        assert_eq!([author(7, api), author(8, api), author(9, api)], [Script, Script, Build]);
        // Builds that are ended for it.
        let mut scripts = Scripts::default();
        for number in 1..9 {
            assert_eq!(scripts.author(&path, build(number), project.0.path(), api), Script);
        }
    }

    #[test]
    fn what_somebody_saves_is_theirs_however_often() {
        let project = Project::new();
        let path = project.write("main.rs", 10);
        let folder = project.0.path();
        let mut scripts = Scripts::default();
        // No build runs, now and then.
        for number in 1..20 {
            let build = build(number).filter(|_| number % 3 != 0);
            let author = scripts.author(&path, build, folder, Some("api"));
            assert_eq!(author == Author::Script, build.is_some());
        }
        // Without a pause.
        let mut scripts = Scripts::default();
        for number in (1..4).flat_map(|number| [number; 6]) {
            scripts.build_ended(build(number - 1).unwrap());
            let author = scripts.author(&path, build(number), folder, Some("api"));
            assert!(matches!(author, Author::Somebody | Author::Script), "{author:?}");
        }
        // Long after the script was started: one that takes so long gives time to save.
        let mut scripts = Scripts::default();
        let path = project.write("main.rs", 2500);
        for number in 1..9 {
            assert_eq!(scripts.author(&path, build(number), folder, Some("api")), Author::Somebody);
        }
    }
}
