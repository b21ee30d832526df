//! Programs that have been built: each runs from a hard link of its own, so that the next build never touches a file that
//! runs, and an earlier program can be run again.
//! Never lives here: when a program is run.

use super::Program;
use crate::error::{Result, Tried};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A program with a file of its own.
#[derive(Debug, Clone)]
pub struct Published {
    number: u64,
    pub path: PathBuf,
    pub libraries: Vec<PathBuf>,
    /// Open, as `cargo clean` removes the path.
    file: Arc<File>,
}

impl PartialEq for Published {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Published {
    /// Whether a file has the same bytes as this program.
    pub fn same_bytes(&self, program: &Program) -> bool {
        same_bytes(&self.open(), &program.executable).unwrap_or(false)
    }

    /// Puts it back where it was, should it have been removed.
    pub fn restore(&self) -> io::Result<()> {
        if self.path.exists() {
            return Ok(());
        }
        self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::copy(self.open(), &self.path).map(drop)
    }

    /// A path that leads to the file for as long as it is open here (proc_pid_fd(5)).
    fn open(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Whether the library is linked in, and not just depended on: then the name of its variable stands in the file. A file
    /// that cannot be read is given the benefit of the doubt.
    pub fn uses_library(&self) -> bool {
        let name = hotrun::wire::HOTRUN_CTL.as_bytes();
        fs::read(self.open()).map_or(true, |bytes| memchr::memmem::find(&bytes, name).is_some())
    }
}

/// The folder of this session's programs, removed with it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    last: u64,
    numbers: Vec<u64>,
}

impl Store {
    pub fn open(folder: PathBuf) -> Result<Store> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.tried(format!("make the folder {}", folder.display()))?;
        Ok(Store { folder, last: 0, numbers: Vec::new() })
    }

    pub fn publish(&mut self, program: &Program) -> Result<Published> {
        self.last += 1;
        let folder = self.folder.join(self.last.to_string());
        let name = program.executable.file_name().unwrap_or_else(|| "program".as_ref());
        let path = folder.join(name);
        fs::create_dir_all(&folder).tried(format!("make the folder {}", folder.display()))?;
        // A copy where the folders are on two file systems.
        fs::hard_link(&program.executable, &path)
            .or_else(|_| fs::copy(&program.executable, &path).map(drop))
            .tried(format!("keep {} as {}", program.executable.display(), path.display()))?;
        self.numbers.push(self.last);
        let file = Arc::new(File::open(&path).tried(format!("open {}", path.display()))?);
        Ok(Published { number: self.last, path, libraries: program.libraries.clone(), file })
    }

    /// Removes all but these.
    pub fn keep<'a>(&mut self, wanted: &'a [Published], running: impl Iterator<Item = &'a Published>) {
        let wanted: Vec<u64> = wanted.iter().chain(running).map(|program| program.number).collect();
        self.numbers.retain(|number| {
            let keep = wanted.contains(number);
            if !keep {
                // Tried again with the whole folder, at the end.
                fs::remove_dir_all(self.folder.join(number.to_string())).ok();
            }
            keep
        });
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What cannot be removed is below `target`, where `cargo clean` will find it.
        fs::remove_dir_all(&self.folder).ok();
        for parent in self.folder.ancestors().skip(1).take(2) {
            fs::remove_dir(parent).ok();
        }
    }
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (one_is, other_is) = (fs::metadata(one)?, fs::metadata(other)?);
    if (one_is.dev(), one_is.ino()) == (other_is.dev(), other_is.ino()) {
        return Ok(true);
    }
    if one_is.len() != other_is.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, bytes: &str) -> Program {
        // As a linker does it: a new file in place of the old one.
        fs::remove_file(path).ok();
        fs::write(path, bytes).unwrap();
        Program { executable: path.to_path_buf(), libraries: Vec::new(), since: None, start_anyway: false }
    }

    #[test]
    fn a_program_outlives_the_file_it_was_built_as() {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("api");
        let run = folder.path().join("hotrun/run/1");
        let mut store = Store::open(run.clone()).unwrap();
        let one = store.publish(&program(&built, "one")).unwrap();
        assert!(one.same_bytes(&program(&built, "one")), "other file, same bytes");
        assert!(!one.same_bytes(&program(&built, "two")));
        let two = store.publish(&program(&built, "two")).unwrap();
        assert_eq!(fs::read_to_string(&one.path).unwrap(), "one");
        assert_eq!(one.path.file_name(), built.file_name(), "it is called what it is called");
        // As `cargo clean` does it.
        fs::remove_dir_all(folder.path().join("hotrun")).unwrap();
        assert!(one.same_bytes(&program(&built, "one")));
        one.restore().unwrap();
        two.restore().unwrap();
        assert_eq!(fs::read_to_string(&one.path).unwrap(), "one");
        store.keep(std::slice::from_ref(&two), std::iter::empty());
        assert!(!one.path.exists() && two.path.exists());
        drop(store);
        assert!(!folder.path().join("hotrun").exists(), "nothing is left");
    }
}
