//! Programs that have been built: each runs from a hard link of its own, so that the next build never touches a file that
//! runs, and an earlier program can be run again. So do the libraries that are built with it.
//! Never lives here: when a program is run.

use super::{Program, libraries};
use crate::error::{Result, Tried};
use crate::process::{LIBRARY_PATH, Setting};
use std::collections::BTreeMap;
use std::ffi::OsString;
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
    pub setting: Setting,
    file: Kept,
    /// By the names that the program knows them by.
    libraries: BTreeMap<OsString, Kept>,
}

/// A file of our own, open, as `cargo clean` removes its name.
#[derive(Debug, Clone)]
struct Kept {
    path: PathBuf,
    file: Arc<File>,
}

impl Kept {
    fn open(path: PathBuf) -> Result<Kept> {
        let file = Arc::new(File::open(&path).tried(format!("open {}", path.display()))?);
        Ok(Kept { path, file })
    }

    /// A path that leads to the file for as long as it is open here (proc_pid_fd(5)).
    fn by_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    fn has_bytes_of(&self, other: &Path) -> bool {
        same_bytes(&self.by_descriptor(), other).unwrap_or(false)
    }

    fn restore(&self) -> io::Result<()> {
        if self.path.exists() {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        // Whole, or not at all: there may be no room.
        let mut copy = tempfile::NamedTempFile::new_in(folder)?;
        io::copy(&mut File::open(self.by_descriptor())?, &mut copy)?;
        copy.as_file().set_permissions(self.file.metadata()?.permissions())?;
        copy.persist(&self.path).map(drop).map_err(|error| error.error)
    }
}

impl PartialEq for Published {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Published {
    /// Whether that program would do the same: it has the same bytes, in its libraries too, and is started in the same way.
    pub fn is_same(&self, program: &Program) -> bool {
        if self.setting != program.setting || !self.file.has_bytes_of(&program.executable) {
            return false;
        }
        let libraries = libraries::built(&program.executable, &program.setting.libraries);
        self.libraries.len() == libraries.len()
            && libraries.iter().all(|(name, path)| self.libraries.get(name).is_some_and(|kept| kept.has_bytes_of(path)))
    }

    /// Puts it back where it was, should it have been removed.
    pub fn restore(&self) -> io::Result<()> {
        std::iter::once(&self.file).chain(self.libraries.values()).try_for_each(Kept::restore)
    }

    /// What is different in its environment.
    pub fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let mut env = self.setting.env.clone();
        if let Some(folder) = self.libraries.values().find_map(|library| library.path.parent()) {
            // In front of where the next build puts others of the same names.
            let path = env.iter_mut().find(|(name, _)| name == LIBRARY_PATH);
            let before = path.as_ref().and_then(|(_, value)| value.clone()).unwrap_or_default();
            let value = Some(Setting::library_path([folder.to_path_buf()], &before));
            match path {
                Some((_, path)) => *path = value,
                None => env.push((LIBRARY_PATH.into(), value)),
            }
        }
        env
    }

    /// Whether the library is linked in, and not just depended on: then the name of its variable stands in the file. A file
    /// that cannot be read is given the benefit of the doubt.
    pub fn uses_library(&self) -> bool {
        let name = hotrun::wire::HOTRUN_CTL.as_bytes();
        fs::read(self.file.by_descriptor()).map_or(true, |bytes| memchr::memmem::find(&bytes, name).is_some())
    }

    /// Whether it has a way to listen(2): what is linked by the C library's name of it, or into the file with it.
    pub fn can_listen(&self) -> bool {
        libraries::names_symbol(&self.file.by_descriptor(), "listen")
    }
}

/// The folder of this session's programs, removed with it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    last: u64,
    numbers: Vec<u64>,
}

/// Another session that ends removes the folder of them all when it is empty, and may do so just before this one's is made there.
const TRIES: usize = 5;

impl Store {
    /// With a folder of this session's own, below cargo's: an earlier process may have had the same number, and another container's has
    /// it now.
    pub fn new(target: &Path) -> Result<Store> {
        let (all, pid) = (target.join("hotrun/run"), std::process::id());
        let names = std::iter::once(pid.to_string()).chain((2..).map(|number| format!("{pid}-{number}")));
        let mut folders = names.map(|name| all.join(name));
        let mut folder = all.join(pid.to_string());
        let mut made = Ok(());
        for _ in 0..TRIES {
            let there = fs::DirBuilder::new().recursive(true).mode(0o700).create(&all);
            made = there.and_then(|()| {
                for next in folders.by_ref() {
                    folder = next;
                    match fs::DirBuilder::new().mode(0o700).create(&folder) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        made => return made,
                    }
                }
                Ok(())
            });
            if !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                break;
            }
        }
        made.tried(format!("make the folder {}", folder.display()))?;
        Ok(Store { folder, last: 0, numbers: Vec::new() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn publish(&mut self, program: &Program) -> Result<Published> {
        self.last += 1;
        let folder = self.folder.join(self.last.to_string());
        let name = program.executable.file_name().unwrap_or_else(|| "program".as_ref());
        let path = folder.join(name);
        fs::create_dir_all(&folder).tried(format!("make the folder {}", folder.display()))?;
        keep(&program.executable, &path)?;
        self.numbers.push(self.last);
        let kept = Kept::open(path.clone())?;
        let setting = program.setting.clone();
        let libraries = keep_libraries(&program.executable, &setting, &folder)?;
        Ok(Published { number: self.last, path, setting, file: kept, libraries })
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
        // And what was made for it, where cargo has made nothing.
        for parent in self.folder.ancestors().skip(1).take(3) {
            fs::remove_dir(parent).ok();
        }
    }
}

fn keep_libraries(program: &Path, setting: &Setting, folder: &Path) -> Result<BTreeMap<OsString, Kept>> {
    let mut kept = BTreeMap::new();
    for (name, library) in libraries::built(program, &setting.libraries) {
        let folder = folder.join("libraries");
        fs::create_dir_all(&folder).tried(format!("make the folder {}", folder.display()))?;
        let path = folder.join(&name);
        // A copy: build scripts write theirs in place, and this one is mapped by a program that runs.
        let copied = fs::copy(&library, &path);
        copied.tried(format!("keep {} as {}", library.display(), path.display()))?;
        kept.insert(name, Kept::open(path)?);
    }
    Ok(kept)
}

/// A copy where the folders are on two file systems.
fn keep(file: &Path, path: &Path) -> Result<()> {
    let is_there = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    let linked = fs::hard_link(file, path);
    // Never onto a file that is there: it may be the same one, which copying would empty.
    let kept = linked.or_else(|error| if is_there(&error) { Err(error) } else { fs::copy(file, path).map(drop) });
    kept.tried(format!("keep {} as {}", file.display(), path.display()))
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
        Program { executable: path.to_path_buf(), setting: Setting::default(), since: None, start_anyway: false }
    }

    #[test]
    fn a_program_outlives_the_file_it_was_built_as() {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("api");
        let mut store = Store::new(folder.path()).unwrap();
        let one = store.publish(&program(&built, "one")).unwrap();
        assert!(one.is_same(&program(&built, "one")), "other file, same bytes");
        assert!(!one.is_same(&program(&built, "two")));
        let elsewhere = Program {
            setting: Setting { env: vec![("A".into(), Some("1".into()))], ..Setting::default() },
            ..program(&built, "one")
        };
        assert!(!one.is_same(&elsewhere), "same bytes, another environment");
        let two = store.publish(&program(&built, "two")).unwrap();
        assert_eq!(fs::read_to_string(&one.path).unwrap(), "one");
        assert_eq!(one.path.file_name(), built.file_name(), "it is called what it is called");
        // As `cargo clean` does it.
        fs::remove_dir_all(folder.path().join("hotrun")).unwrap();
        assert!(one.is_same(&program(&built, "one")));
        one.restore().unwrap();
        two.restore().unwrap();
        assert_eq!(fs::read_to_string(&one.path).unwrap(), "one");
        store.keep(std::slice::from_ref(&two), std::iter::empty());
        assert!(!one.path.exists() && two.path.exists());
        drop(store);
        assert!(!folder.path().join("hotrun").exists(), "nothing is left");
    }

    /// Processes have the same number in two containers, and after one that was killed with its guard.
    #[test]
    fn a_folder_that_another_process_of_the_same_number_has_left_is_its_own() {
        let target = tempfile::tempdir().unwrap();
        let built = target.path().join("api");
        let build = program(&built, "one");
        let mut first = Store::new(target.path()).unwrap();
        first.publish(&build).unwrap();
        let mut second = Store::new(target.path()).unwrap();
        assert_ne!(first.folder(), second.folder());
        second.publish(&build).unwrap();
        // Even in the same one nothing is copied onto itself.
        second.last = 0;
        assert!(second.publish(&build).is_err());
        assert_eq!(fs::read_to_string(&built).unwrap(), "one");
    }

    /// This test is a program that needs the C library; here another file has that name.
    #[test]
    fn a_program_outlives_the_libraries_it_was_built_with() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libc.so.6");
        let build = |bytes: &str| {
            // In place, as a build script does it that copies one.
            fs::write(&library, bytes).unwrap();
            let env = vec![(LIBRARY_PATH.into(), Some("/target/deps".into()))];
            let setting = Setting { env, libraries: vec![folder.path().to_path_buf()], ..Setting::default() };
            Program { executable: std::env::current_exe().unwrap(), setting, since: None, start_anyway: false }
        };
        let mut store = Store::new(folder.path()).unwrap();
        let one = store.publish(&build("one")).unwrap();
        assert!(one.is_same(&build("one")));
        assert!(!one.is_same(&build("two")), "same bytes, another library");
        let kept = store.folder().join("1/libraries");
        assert_eq!(fs::read_to_string(kept.join("libc.so.6")).unwrap(), "one");
        fs::remove_dir_all(folder.path().join("hotrun")).unwrap();
        one.restore().unwrap();
        assert_eq!(fs::read_to_string(kept.join("libc.so.6")).unwrap(), "one", "after `cargo clean`");
        let path = format!("{}:/target/deps", kept.display());
        assert_eq!(one.environment(), [(LIBRARY_PATH.into(), Some(path.into()))]);
    }
}
