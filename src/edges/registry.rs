//! The sessions of this user, a small file each, in a folder that `cargo clean` does not reach: what each runs on, and where it can
//! be asked. Whoever finds that one has died removes its file.
//! Never lives here: which of them is meant (`find`).

use crate::error::{Error, Result, Tried};
use crate::process::kin::{Process, started_at};
use crate::process::{file_id, private};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of what stands in a file; others are a later command's, and left alone.
const VERSION: u32 = 1;
/// Another session that ends removes the folder when it is empty, and may do so just before a file is put there.
const TRIES: usize = 5;

/// What a session tells of itself. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// The folder of its workspace.
    pub root: PathBuf,
    pub manifest: PathBuf,
    pub package: String,
    /// `bin NAME` or `example NAME`.
    pub target: String,
    pub target_dir: PathBuf,
    pub socket: PathBuf,
}

/// A session that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    version: u32,
    pub pid: u32,
    /// When it began, as the kernel counts, so that a later process of the same number is not taken for it.
    started: u64,
    #[serde(rename = "place")]
    scope: PidScope,
    /// The folders of its package and its workspace, should they be moved.
    folder: Option<(u64, u64)>,
    root_folder: Option<(u64, u64)>,
    #[serde(flatten)]
    session: SessionFacts,
}

impl std::ops::Deref for Listed {
    type Target = SessionFacts;

    fn deref(&self) -> &SessionFacts {
        &self.session
    }
}

/// Where a process number means anything: the folder may be shared with other machines and containers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct PidScope {
    host: String,
    boot: String,
    pids: String,
}

impl PidScope {
    fn here() -> PidScope {
        let kernel = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        let pids = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        PidScope {
            host: kernel("hostname").trim().to_owned(),
            boot: kernel("random/boot_id").trim().to_owned(),
            pids: pids.display().to_string(),
        }
    }
}

#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
}

/// This session's file, removed when dropped.
#[derive(Debug)]
pub struct Entered {
    file: PathBuf,
}

impl Registry {
    /// In cargo's home, which is the user's own (the cargo book, "Cargo Home").
    pub fn of_user() -> Result<Registry> {
        let named = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = named.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        let home = home.and_then(|home| std::path::absolute(home).ok()).ok_or_else(|| {
            Error::failure("find cargo's home: there is no home folder").help("set CARGO_HOME to a folder of yours")
        })?;
        Ok(Registry::in_home(&home))
    }

    fn in_home(home: &Path) -> Registry {
        Registry { folder: home.join("hotrun/sessions") }
    }

    /// Where this process is listed, there or not.
    pub fn own_file(&self) -> PathBuf {
        // Another container that shares this home may have a process of the same number.
        let mut scope = DefaultHasher::new();
        PidScope::here().hash(&mut scope);
        self.folder.join(format!("{}-{:016x}.json", std::process::id(), scope.finish()))
    }

    /// Lists this process.
    pub fn enter(&self, session: &SessionFacts) -> Result<Entered> {
        let (pid, file) = (std::process::id(), self.own_file());
        let listed = Listed {
            version: VERSION,
            pid,
            started: started_at(pid).unwrap_or_default(),
            scope: PidScope::here(),
            folder: session.manifest.parent().and_then(file_id),
            root_folder: file_id(&session.root),
            session: session.clone(),
        };
        let mut wrote = Ok(());
        for _ in 0..TRIES {
            wrote = self.write(&file, &listed);
            match &wrote {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Ok(()) | Err(_) => break,
            }
        }
        wrote
            .tried(format!("write {}", file.display()))
            .map_err(|error| error.help("set CARGO_HOME to a folder that you can write to, here and where you ask"))?;
        // For the files of those that were killed together with their guard.
        self.sessions().ok();
        Ok(Entered { file })
    }

    fn write(&self, file: &Path, listed: &Listed) -> io::Result<()> {
        self.make()?;
        let mut new = tempfile::NamedTempFile::new_in(&self.folder)?;
        new.write_all(&serde_json::to_vec(listed)?)?;
        new.persist(file).map_err(|error| error.error)?;
        Ok(())
    }

    /// Both folders are this user's alone: what stands there is believed.
    fn make(&self) -> io::Result<()> {
        let own = self.folder.parent().unwrap_or(&self.folder);
        if let Some(home) = own.parent() {
            fs::create_dir_all(home)?;
        }
        private::folder(own)?;
        private::folder(&self.folder)
    }

    /// The sessions that run. The files of those that have died are removed.
    pub fn sessions(&self) -> Result<Vec<Listed>> {
        let looking = format!("look for sessions in {}", self.folder.display());
        let own = self.folder.parent().unwrap_or(&self.folder);
        let checked = private::check(own).and_then(|()| private::check(&self.folder));
        let entries = match checked.and_then(|()| fs::read_dir(&self.folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::failure(format!("{looking}: {error}"))),
        };
        let here = PidScope::here();
        let mut found: Vec<Listed> = entries.flatten().filter_map(|entry| read(&entry.path(), &here)).collect();
        found.sort_by_key(|session| session.pid);
        Ok(found)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        fs::remove_file(&self.file).ok();
        // Those that are empty: the session was the last.
        for folder in self.file.ancestors().skip(1).take(2) {
            fs::remove_dir(folder).ok();
        }
    }
}

impl Listed {
    /// Waits until it has; it has not when that takes longer.
    pub fn has_ended(&self, limit: Duration) -> bool {
        // A number that is another's by now is not waited for.
        let process = Process::of(self.pid).filter(|_| self.runs());
        process.map_or_else(|| !self.runs(), |process| process.ends_within(limit))
    }

    fn runs(&self) -> bool {
        started_at(self.pid) == Some(self.started)
    }

    /// Whether its package lies there: by its path, or, where that leads nowhere any more, by what the folder is.
    pub fn is_of(&self, manifest: &Path) -> bool {
        let (Some(own), Some(other)) = (self.manifest.parent(), manifest.parent()) else { return false };
        // The file may be missing for the moment.
        let same_name = self.manifest.file_name() == manifest.file_name();
        is_same(&self.manifest, manifest)
            || (same_name && is_same(own, other))
            || (same_name && !own.exists() && self.folder.is_some() && self.folder == file_id(other))
    }

    /// Whether it is of the workspace in that folder, by its path or as above.
    pub fn is_in(&self, root: &Path) -> bool {
        is_same(&self.root, root)
            || (!self.root.exists() && self.root_folder.is_some() && self.root_folder == file_id(root))
    }
}

/// Whether both paths lead to one file or folder; also where it is not there any more.
pub fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// A file, if it is that of a session which runs here.
fn read(path: &Path, here: &PidScope) -> Option<Listed> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return None;
    }
    // A file of another user's may have been put there while the folder was open to all.
    fs::symlink_metadata(path).ok().filter(|is| is.is_file() && is.uid() == geteuid().as_raw())?;
    let listed: Listed = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    if listed.version != VERSION {
        return None;
    }
    let rebooted = listed.scope.host == here.host && listed.scope.boot != here.boot;
    if listed.scope != *here && !rebooted {
        // Another machine's, or another container's: its number says nothing here.
        return None;
    }
    if rebooted || !listed.runs() {
        fs::remove_file(path).ok();
        return None;
    }
    Some(listed)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    /// As one that runs, but for what the test is about.
    pub fn listed(pid: u32, root: &Path, member: &str, package: &str) -> Listed {
        let manifest = root.join(member).join("Cargo.toml");
        Listed {
            version: VERSION,
            pid,
            started: started_at(std::process::id()).unwrap(),
            scope: PidScope::here(),
            folder: manifest.parent().and_then(file_id),
            root_folder: file_id(root),
            session: SessionFacts {
                root: root.to_path_buf(),
                manifest,
                package: package.to_owned(),
                target: format!("bin {package}"),
                target_dir: root.join("target"),
                socket: PathBuf::from("control"),
            },
        }
    }

    impl Listed {
        pub fn share(&mut self, target_dir: &Path) {
            self.session.target_dir = target_dir.to_path_buf();
        }
    }

    fn session(root: &Path) -> SessionFacts {
        listed(0, root, "", "api").session
    }

    #[test]
    fn a_session_is_listed_as_long_as_it_lives_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::in_home(home.path());
        assert_eq!(registry.sessions().unwrap(), []);
        let entered = registry.enter(&session(home.path())).unwrap();
        let found = registry.sessions().unwrap();
        assert_eq!((found.len(), found[0].pid), (1, std::process::id()));
        assert_eq!(found[0].session, session(home.path()));
        for folder in ["hotrun", "hotrun/sessions"] {
            assert_eq!(fs::metadata(home.path().join(folder)).unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(fs::metadata(registry.own_file()).unwrap().mode() & 0o077, 0);
        drop(entered);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_has_died_is_removed_and_what_is_elsewhere_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::in_home(home.path());
        registry.make().unwrap();
        let own = listed(std::process::id(), home.path(), "", "api");
        let place = |change: fn(&mut PidScope)| {
            let mut listed = own.clone();
            change(&mut listed.scope);
            listed
        };
        // A later process has its number; the machine was started anew; two that only their own place can judge; and a later format.
        let recycled = Listed { started: own.started + 1, ..own.clone() };
        let before = place(|place| place.boot.push('x'));
        let container = place(|place| place.pids.push('x'));
        let machine = place(|place| (place.host, place.boot) = ("other".into(), "x".into()));
        let later = Listed { version: VERSION + 1, ..own.clone() };
        for (name, listed) in [
            ("own", &own),
            ("recycled", &recycled),
            ("before", &before),
            ("container", &container),
            ("machine", &machine),
            ("later", &later),
        ] {
            let text = serde_json::to_vec(listed).unwrap();
            fs::write(registry.folder.join(format!("{name}.json")), text).unwrap();
        }
        fs::write(registry.folder.join("half.json"), "{").unwrap();
        assert_eq!(registry.sessions().unwrap(), [own]);
        let left = |name: &str| registry.folder.join(format!("{name}.json")).exists();
        assert!(!left("recycled") && !left("before"));
        assert!(left("own") && left("container") && left("machine") && left("later") && left("half"));
    }

    #[test]
    fn a_folder_that_others_may_enter_is_closed_and_one_that_is_none_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::in_home(home.path());
        fs::create_dir_all(&registry.folder).unwrap();
        fs::set_permissions(&registry.folder, fs::Permissions::from_mode(0o777)).unwrap();
        let error = registry.sessions().unwrap_err().to_string();
        assert!(error.contains("others may write to"), "{error}");
        drop(registry.enter(&session(home.path())).unwrap());
        fs::write(home.path().join("hotrun"), "").unwrap();
        let error = registry.enter(&session(home.path())).unwrap_err().to_string();
        assert!(error.contains("hotrun is no folder") && error.contains("help: set CARGO_HOME"), "{error}");
        // What a link leads to is neither written to nor closed.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(home.path().join("hotrun")).unwrap();
        for link in ["hotrun", "hotrun/sessions"].map(|link| home.path().join(link)) {
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
            let error = registry.enter(&session(home.path())).unwrap_err().to_string();
            assert!(error.contains("is a link"), "{error}");
            assert!(registry.sessions().unwrap_err().to_string().contains("is a link"));
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
            assert_eq!(fs::metadata(elsewhere.path()).unwrap().mode() & 0o777, 0o755);
            fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn a_folder_that_was_moved_is_known_again() {
        let home = tempfile::tempdir().unwrap();
        let (old, new) = (home.path().join("old"), home.path().join("new"));
        fs::create_dir(&old).unwrap();
        fs::write(old.join("Cargo.toml"), "").unwrap();
        let session = listed(1, &old, "", "api");
        fs::rename(&old, &new).unwrap();
        assert!(session.is_of(&new.join("Cargo.toml")) && session.is_in(&new));
        std::os::unix::fs::symlink(&new, home.path().join("link")).unwrap();
        assert!(session.is_of(&home.path().join("link/Cargo.toml")));
        fs::create_dir(&old).unwrap();
        fs::write(old.join("Cargo.toml"), "").unwrap();
        assert!(session.is_of(&old.join("Cargo.toml")), "made anew at its place");
        assert!(!session.is_of(&new.join("Cargo.toml")) && !session.is_in(&new));
    }
}
