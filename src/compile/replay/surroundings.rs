//! Everything that a build of cargo's depends on besides the sources of the crates that can be compiled again without it. Where any
//! of it differs, cargo is asked.
//! Never lives here: those sources (`plan`).

use crate::compile::stamp::{Print, Stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// As it was when cargo had built.
#[derive(Debug, Default)]
pub struct Surroundings {
    kept: BTreeMap<PathBuf, Kept>,
}

#[derive(Debug, PartialEq)]
enum Kept {
    /// It was not there, and its coming would change what is built.
    Absent,
    /// By its content.
    File(Print),
    /// By its stamp: made by cargo or by whoever made the toolchain.
    Artifact(Stamp),
    /// Names that came or went.
    Folder(Stamp),
}

impl Kept {
    fn still_holds(&self, path: &Path) -> bool {
        match self {
            Kept::Absent => Stamp::of_any(path).is_none(),
            Kept::File(print) => print.still_holds(path),
            Kept::Artifact(stamp) | Kept::Folder(stamp) => Stamp::of_any(path).as_ref() == Some(stamp),
        }
    }
}

impl Surroundings {
    /// A file that somebody may edit, or that may come.
    pub fn add_file(&mut self, path: &Path, now: SystemTime) {
        let kept = Print::of(path, now).map_or(Kept::Absent, Kept::File);
        self.kept.insert(path.to_path_buf(), kept);
    }

    pub fn add_artifact(&mut self, path: &Path) {
        let kept = Stamp::of_any(path).map_or(Kept::Absent, Kept::Artifact);
        self.kept.insert(path.to_path_buf(), kept);
    }

    /// A file, or a folder with all that is below it.
    pub fn add_tree(&mut self, path: &Path, now: SystemTime) {
        let mut waiting = vec![path.to_path_buf()];
        let mut seen = BTreeSet::new();
        while let Some(path) = waiting.pop() {
            let Some(metadata) = fs::metadata(&path).ok().filter(Metadata::is_dir) else {
                self.add_file(&path, now);
                continue;
            };
            // By way of a symlink there may be no end.
            if !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            self.kept.insert(path.clone(), Kept::Folder(Stamp::from(&metadata)));
            waiting.extend(fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()));
        }
    }

    pub fn contains(&self, path: &Path) -> bool {
        self.kept.contains_key(path)
    }

    /// The first that is not as it was.
    pub fn changed(&self) -> Option<&Path> {
        self.kept.iter().find(|(path, kept)| !kept.still_holds(path)).map(|(path, _)| path.as_path())
    }

    /// The first file that was written since that moment: cargo may have read it before or after.
    pub fn written_since(&self, moment: SystemTime) -> Option<&Path> {
        let mut files = self.kept.iter().filter(|(_, kept)| matches!(kept, Kept::File(_)));
        // Cargo writes the lock file itself.
        files
            .find(|(path, _)| {
                !path.ends_with("Cargo.lock") && Stamp::of(path).is_some_and(|stamp| stamp.is_since(moment))
            })
            .map(|(path, _)| path.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn what_comes_goes_or_differs_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("tree/inner")).unwrap();
        for name in ["Cargo.toml", "tree/inner/a", "libx.rlib"] {
            fs::write(path(name), "x").unwrap();
        }
        let look = || {
            let mut all = Surroundings::default();
            all.add_file(&path("Cargo.toml"), SystemTime::now());
            all.add_file(&path("build.rs"), SystemTime::now());
            all.add_tree(&path("tree"), SystemTime::now());
            all.add_artifact(&path("libx.rlib"));
            assert_eq!(all.changed(), None);
            all
        };
        let changes: [(&str, &dyn Fn()); 6] = [
            ("Cargo.toml", &|| fs::write(path("Cargo.toml"), "y").unwrap()),
            ("build.rs", &|| fs::write(path("build.rs"), "").unwrap()),
            ("build.rs", &|| fs::remove_file(path("build.rs")).unwrap()),
            ("tree/inner/a", &|| fs::write(path("tree/inner/a"), "yy").unwrap()),
            ("tree/inner", &|| fs::write(path("tree/inner/b"), "").unwrap()),
            ("libx.rlib", &|| fs::remove_file(path("libx.rlib")).unwrap()),
        ];
        for (name, change) in changes {
            let all = look();
            change();
            assert_eq!(all.changed(), Some(path(name).as_path()), "{name}");
        }
        let all = look();
        fs::write(path("Cargo.toml"), "y").unwrap();
        assert_eq!(all.changed(), None, "written as it was");
        assert!(all.written_since(UNIX_EPOCH).is_some());
        assert_eq!(all.written_since(SystemTime::now() + Duration::from_secs(60)), None);
    }
}
