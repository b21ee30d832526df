//! The folder in which calls are run again.
//! Never lives here: which calls, and running them.

use super::call::{Cache, CallFacts};
use super::not_replayable::NotReplayable;
use crate::process::private;
use crate::report::short;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// It is kept between sessions.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub cache: Cache,
    /// Two sessions would write to the same files.
    lock: Flock<File>,
}

impl Folder {
    pub fn open(path: PathBuf, cache: Cache) -> Result<Folder, NotReplayable> {
        let tried = |error: io::Error| NotReplayable::refused(format!("{}: {error}", short(&path)), &error);
        if path.to_str().is_none_or(|name| name.contains(['\n', '\r'])) {
            let why = format!("{} has a name that cannot be given to rustc as a line", short(&path));
            return Err(NotReplayable::Unfit(why));
        }
        for inner in ["deps", "link", "program", "records"].map(|inner| path.join(inner)) {
            private::folder(&inner).map_err(tried)?;
        }
        let mut lock = File::options();
        lock.create(true).truncate(false).write(true).mode(0o600).custom_flags(O_NOFOLLOW | O_NONBLOCK);
        let file = lock.open(path.join("lock"));
        let lock = Flock::lock(file.map_err(tried)?, FlockArg::LockExclusiveNonblock)
            .map_err(|_| NotReplayable::Unfit(format!("another session compiles in {}", short(&path))))?;
        let folder = Folder { path: path.clone(), cache, lock };
        folder.clear().map_err(tried)?;
        Ok(folder)
    }

    /// Whether nobody has removed it, as `cargo clean` does.
    pub fn is_there(&self) -> bool {
        let there = fs::metadata(self.path.join("lock"));
        there.is_ok_and(|there| {
            self.lock.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
        })
    }

    pub fn deps(&self) -> PathBuf {
        self.path.join("deps")
    }

    /// The program, under the name that cargo gives it: what links the next one never touches it.
    pub fn program(&self, name: &str) -> PathBuf {
        program(&self.path, name)
    }

    pub fn link(&self) -> PathBuf {
        self.path.join("link")
    }

    pub fn temporary(&self) -> PathBuf {
        self.path.join("temporary")
    }

    /// A cache that a compiler could not live with.
    pub fn forget_cache(&self, facts: &CallFacts) {
        let name = format!("{}-", facts.crate_name);
        let caches = fs::read_dir(&self.cache.incremental).into_iter().flatten().filter_map(Result::ok);
        for cache in caches.filter(|cache| cache.file_name().to_string_lossy().starts_with(&name)) {
            fs::remove_dir_all(cache.path()).ok();
        }
    }

    /// Removes what compilers have left that were killed: objects beside what they made, folders to link in.
    pub fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.deps())?.filter_map(Result::ok) {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            if (name.starts_with("rustc") || name.starts_with("rmeta")) && path.is_dir() {
                fs::remove_dir_all(path).ok();
            } else if name.ends_with(".rcgu.o") || name.ends_with(".linking") {
                fs::remove_file(path).ok();
            }
        }
        match fs::remove_dir_all(self.temporary()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        DirBuilder::new().mode(0o700).create(self.temporary())
    }
}

pub fn program(folder: &Path, name: &str) -> PathBuf {
    folder.join("program").join(name)
}
