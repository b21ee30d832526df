//! Folders of our own, by name: made where the project still is, and believed only where they are this user's.
//! Never lives here: what is put into them.

use super::private;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder of a project. Where it is gone, nothing is made at its path: whoever fetches it anew is refused a folder that has
/// something in it.
#[derive(Debug, Clone)]
pub struct Ground {
    root: PathBuf,
}

impl Ground {
    pub fn new(root: &Path) -> Ground {
        Ground { root: root.to_path_buf() }
    }

    /// A folder alone is none: it may be there for a clone that is about to begin.
    pub fn is_there(&self) -> bool {
        self.root.join("Cargo.toml").is_file()
    }

    /// Makes a folder, and those above it. Where it is below the project's, that one is not made.
    pub fn make(&self, folder: &Path) -> io::Result<()> {
        let Ok(below) = folder.strip_prefix(&self.root) else {
            return DirBuilder::new().recursive(true).mode(0o700).create(folder);
        };
        if !self.is_there() {
            let gone = format!("the project's Cargo.toml is gone from {}", self.root.display());
            return Err(io::Error::other(gone));
        }
        let mut path = self.root.clone();
        for part in below.components() {
            path.push(part);
            make_one(&path)?;
        }
        Ok(())
    }

    /// Where a process that was about to end has made folders of ours again after the project had gone, and there is nothing else, they
    /// are removed.
    pub fn sweep(&self, target: &Path, name: &str) {
        let has_only = |folder: &Path, entry: &Path| {
            let entries: Vec<_> =
                fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            entries == [entry]
        };
        let ours = target.join(name);
        if target.parent() == Some(&self.root) && has_only(&self.root, target) && has_only(target, &ours) {
            // What cannot be removed is in the way of a clone, which says so.
            fs::remove_dir_all(&ours).ok();
            fs::remove_dir(target).ok();
            fs::remove_dir(&self.root).ok();
        }
    }

    /// As `make`, for a folder of ours in one of cargo's: it, and those of `names` on the way to it, are this user's alone.
    pub fn own(&self, target: &Path, names: &[&str]) -> io::Result<PathBuf> {
        self.make(target)?;
        let mut path = target.to_path_buf();
        for name in names {
            path.push(name);
            private::folder(&path)?;
        }
        Ok(path)
    }
}

fn make_one(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn project() -> (tempfile::TempDir, Ground) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("Cargo.toml"), "").unwrap();
        let ground = Ground::new(root.path());
        (root, ground)
    }

    #[test]
    fn nothing_is_made_where_a_project_was() {
        let (root, ground) = project();
        let target = root.path().join("target");
        ground.own(&target, &["hotrun", "run"]).unwrap();
        fs::remove_dir_all(root.path()).unwrap();
        assert!(ground.own(&target, &["hotrun", "run"]).unwrap_err().to_string().contains("Cargo.toml is gone"));
        assert!(!root.path().exists());
        // As for a clone that is about to begin.
        fs::create_dir(root.path()).unwrap();
        ground.make(&target).unwrap_err();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        let elsewhere = tempfile::tempdir().unwrap();
        ground.own(&elsewhere.path().join("a/target"), &["hotrun"]).unwrap();
    }

    #[test]
    fn what_is_made_after_all_is_removed_where_there_is_nothing_else() {
        let (root, ground) = project();
        let target = root.path().join("target");
        fs::create_dir_all(target.join("hotrun/replay/x")).unwrap();
        ground.sweep(&target, "hotrun");
        assert!(target.join("hotrun/replay/x").exists(), "the project is there");
        fs::remove_file(root.path().join("Cargo.toml")).unwrap();
        fs::create_dir(target.join("debug")).unwrap();
        ground.sweep(&target, "hotrun");
        assert!(target.join("hotrun/replay/x").exists(), "somebody has more there");
        fs::remove_dir(target.join("debug")).unwrap();
        ground.sweep(&target, "hotrun");
        assert!(!root.path().exists());
        ground.sweep(&target, "hotrun");
    }

    #[test]
    fn what_is_in_the_place_of_a_folder_of_ours_is_neither_followed_nor_written_to() {
        let (root, ground) = project();
        let (target, other) = (root.path().join("target"), tempfile::tempdir().unwrap());
        fs::create_dir(&target).unwrap();
        for (what, plant) in [
            ("a link", &(|path: &Path| symlink(other.path(), path)) as &dyn Fn(&Path) -> io::Result<()>),
            ("a link", &|path: &Path| symlink(other.path().join("gone"), path)),
            ("no folder", &|path: &Path| fs::write(path, "")),
        ] {
            let ours = target.join("hotrun");
            plant(&ours).unwrap();
            let error = ground.own(&target, &["hotrun", "run"]).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
            fs::remove_file(&ours).unwrap();
        }
        // One that others could write to is closed.
        fs::create_dir(target.join("hotrun")).unwrap();
        fs::set_permissions(target.join("hotrun"), Permissions::from_mode(0o777)).unwrap();
        let made = ground.own(&target, &["hotrun", "run"]).unwrap();
        for folder in [target.join("hotrun"), made] {
            assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
        }
    }
}
