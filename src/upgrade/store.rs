//! Programs that have been built: each runs from a hard link of its own, so that the next build never touches a file that
//! runs, and an earlier program can be run again. So do the libraries that are built with it.
//! Never lives here: when a program is run.

use super::{Program, libraries, whole};
use crate::error::{Result, Tried};
use crate::process::{Ground, LIBRARY_PATH, Setting, private};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A program with a file of its own.
#[derive(Debug, Clone)]
pub struct Published {
    number: u64,
    pub path: PathBuf,
    /// Where it was built.
    built: PathBuf,
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

    /// Where its folder is there, and it is not.
    fn restore(&self) -> io::Result<()> {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| there.is_file() && self.file.metadata().is_ok_and(|held| held.len() == there.len()))
        {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
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
        // It may be linked dynamically.
        std::iter::once(&self.file).chain(self.libraries.values()).any(|file| names_channel(&file.by_descriptor()))
    }

    /// Whether it has a way to listen(2): what is linked by the C library's name of it, or into the file with it.
    pub fn can_listen(&self) -> bool {
        libraries::names_symbol(&self.file.by_descriptor(), "listen")
    }
}

fn names_channel(path: &Path) -> bool {
    let name = memchr::memmem::Finder::new(hotrun::wire::HOTRUN_CTL);
    // Where texts nearly always stand, which is a small part of a program.
    libraries::texts(path).is_some_and(|texts| name.find(&texts).is_some())
        || fs::read(path).map_or(true, |bytes| name.find(&bytes).is_some())
}

/// The folder of this session's programs, removed with it.
#[derive(Debug)]
pub struct Store {
    ground: Ground,
    target: PathBuf,
    folder: PathBuf,
    /// As long as this session lives, by which others know that it does. Where folders cannot be locked nobody collects any.
    lock: Option<Flock<File>>,
    last: u64,
    numbers: Vec<u64>,
}

/// Below cargo's own.
const FOLDER: [&str; 2] = ["hotrun", "run"];
/// Another session that ends removes the folder of them all when it is empty, and one that begins looks whether this one's is in use;
/// they may do so just before it is made there, or locked.
const TRIES: usize = 20;

impl Store {
    /// With a folder of this session's own, by a name that no other has or had: an earlier process may have had the same number, and
    /// another container's has it now. Those of sessions that have died are removed.
    pub fn new(target: &Path, ground: Ground) -> Result<Store> {
        let begin = || -> io::Result<_> {
            let all = ground.own(target, &FOLDER)?;
            let prefix = format!("{}-", std::process::id());
            let mut named = tempfile::Builder::new();
            named.prefix(&prefix).rand_bytes(8).permissions(Permissions::from_mode(0o700));
            let folder = named.tempdir_in(&all)?;
            let lock = lock(folder.path())?;
            Ok((all, folder.keep(), lock))
        };
        let mut begun = begin();
        for _ in 1..TRIES {
            match &begun {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock) => begun = begin(),
                Ok(_) | Err(_) => break,
            }
        }
        let (all, folder, lock) = begun.tried(format!("make a folder for programs in {}", target.display()))?;
        collect(&all);
        Ok(Store { ground, target: target.to_path_buf(), folder, lock, last: 0, numbers: Vec::new() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn publish(&mut self, program: &Program) -> Result<Published> {
        self.make_again().tried(format!("make the folder {}", self.folder.display()))?;
        self.last += 1;
        let number = self.last;
        let folder = self.folder.join(number.to_string());
        // One that is there is nobody's: what is kept in it would be written over.
        make(&folder).tried(format!("make the folder {}", folder.display()))?;
        let published = publish(number, program, &folder);
        match &published {
            Ok(_) => self.numbers.push(number),
            // As below.
            Err(_) => drop(fs::remove_dir_all(&folder)),
        }
        published
    }

    /// Puts back what was removed of that program, as `cargo clean` does it.
    ///
    /// # Errors
    /// Where that cannot be, or the program is not whole any more: whoever writes into cargo's file writes into this one.
    pub fn restore(&mut self, program: &Published) -> Result<()> {
        let (file, path, built) = (&program.file.file, program.path.display(), program.built.display());
        whole::check(file, !program.setting.runner.is_empty()).tried(format!("run {built}, kept as {path}"))?;
        self.put_back(program).tried(format!("put back {path}, which was removed"))
    }

    fn put_back(&mut self, program: &Published) -> io::Result<()> {
        self.make_again()?;
        let folder = self.folder.join(program.number.to_string());
        let inner = (!program.libraries.is_empty()).then(|| folder.join(LIBRARIES));
        for folder in std::iter::once(folder).chain(inner) {
            private::folder(&folder)?;
        }
        std::iter::once(&program.file).chain(program.libraries.values()).try_for_each(Kept::restore)
    }

    /// The folder, where it was removed. What stands in its place is not ours.
    fn make_again(&mut self) -> io::Result<()> {
        if self.lock.as_ref().map_or(self.folder.is_dir(), |lock| leads_to(&self.folder, lock)) {
            return Ok(());
        }
        self.ground.own(&self.target, &FOLDER)?;
        make(&self.folder)?;
        self.lock = lock(&self.folder)?;
        Ok(())
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

const LIBRARIES: &str = "libraries";

fn publish(number: u64, program: &Program, folder: &Path) -> Result<Published> {
    let name = program.executable.file_name().unwrap_or_else(|| "program".as_ref());
    let path = folder.join(name);
    keep(&program.executable, &path)?;
    let file = Kept::open(path.clone())?;
    let setting = program.setting.clone();
    whole::check(&file.file, !setting.runner.is_empty()).tried(format!("run {}", program.executable.display()))?;
    let libraries = keep_libraries(&program.executable, &setting, &folder.join(LIBRARIES))?;
    Ok(Published { number, path, built: program.executable.clone(), setting, file, libraries })
}

fn keep_libraries(program: &Path, setting: &Setting, folder: &Path) -> Result<BTreeMap<OsString, Kept>> {
    let built = libraries::built(program, &setting.libraries);
    if !built.is_empty() {
        make(folder).tried(format!("make the folder {}", folder.display()))?;
    }
    let mut kept = BTreeMap::new();
    for (name, library) in built {
        let path = folder.join(&name);
        // A copy: build scripts write theirs in place, and this one is mapped by a program that runs.
        copy(&library, &path).tried(format!("keep {} as {}", library.display(), path.display()))?;
        kept.insert(name, Kept::open(path)?);
    }
    Ok(kept)
}

/// A copy where the folders are on two file systems.
fn keep(file: &Path, path: &Path) -> Result<()> {
    let is_there = |error: &io::Error| error.kind() == ErrorKind::AlreadyExists;
    let linked = fs::hard_link(file, path);
    let kept = linked.or_else(|error| if is_there(&error) { Err(error) } else { copy(file, path) });
    kept.tried(format!("keep {} as {}", file.display(), path.display()))
}

/// Into a new file: never onto one that is there, which may be the same one, and never through a link.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut new = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut from, &mut new)?;
    new.set_permissions(from.metadata()?.permissions())
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)
}

/// Locks a folder, which is no link, for as long as the lock is held; the kernel lets it go with its process, however that ends, in
/// whatever container it is.
fn lock(folder: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::options().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(folder)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) if leads_to(folder, &lock) => Ok(Some(lock)),
        // Somebody else had it, and has removed it.
        Ok(_) => Err(ErrorKind::NotFound.into()),
        Err((_, Errno::EWOULDBLOCK)) => Err(ErrorKind::WouldBlock.into()),
        Err(_) => Ok(None),
    }
}

fn leads_to(folder: &Path, file: &File) -> bool {
    let is = |is: fs::Metadata| (is.dev(), is.ino());
    fs::symlink_metadata(folder).is_ok_and(|there| file.metadata().is_ok_and(|held| is(held) == is(there)))
}

/// Removes the folders that no session holds.
fn collect(all: &Path) {
    for folder in fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if let Ok(Some(lock)) = lock(&folder) {
            // What cannot be removed is tried again by the next one.
            fs::remove_dir_all(&folder).ok();
            drop(lock);
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

    /// The least that is a whole program: a header (elf(5)), and something after it.
    fn elf(text: &str) -> Vec<u8> {
        let mut header = [0; 64];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        [&header, text.as_bytes()].concat()
    }

    fn store(folder: &tempfile::TempDir) -> Store {
        fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        Store::new(folder.path(), Ground::new(folder.path())).unwrap()
    }

    fn program(path: &Path, text: &str) -> Program {
        // As a linker does it: a new file in place of the old one.
        fs::remove_file(path).ok();
        fs::write(path, elf(text)).unwrap();
        Program { executable: path.to_path_buf(), setting: Setting::default(), since: None, start_anyway: false }
    }

    #[test]
    fn a_program_outlives_the_file_it_was_built_as() {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("api");
        let mut store = store(&folder);
        let one = store.publish(&program(&built, "one")).unwrap();
        assert!(one.is_same(&program(&built, "one")), "other file, same bytes");
        assert!(!one.is_same(&program(&built, "two")));
        let elsewhere = Program {
            setting: Setting { env: vec![("A".into(), Some("1".into()))], ..Setting::default() },
            ..program(&built, "one")
        };
        assert!(!one.is_same(&elsewhere), "same bytes, another environment");
        let two = store.publish(&program(&built, "two")).unwrap();
        assert_eq!(fs::read(&one.path).unwrap(), elf("one"));
        assert_eq!(one.path.file_name(), built.file_name(), "it is called what it is called");
        // As `cargo clean` does it.
        fs::remove_dir_all(folder.path().join("hotrun")).unwrap();
        assert!(one.is_same(&program(&built, "one")));
        store.restore(&one).unwrap();
        store.restore(&two).unwrap();
        assert_eq!(fs::read(&one.path).unwrap(), elf("one"));
        store.keep(std::slice::from_ref(&two), std::iter::empty());
        assert!(!one.path.exists() && two.path.exists());
        drop(store);
        assert!(!folder.path().join("hotrun").exists(), "nothing is left");
    }

    /// Processes have the same number in two containers, and after one that was killed with its guard.
    #[test]
    fn a_folder_is_its_sessions_until_that_has_died() {
        let target = tempfile::tempdir().unwrap();
        let built = target.path().join("api");
        let build = program(&built, "one");
        let mut first = store(&target);
        first.publish(&build).unwrap();
        let mut second = store(&target);
        assert_ne!(first.folder(), second.folder());
        second.publish(&build).unwrap();
        // Even in the same one nothing is copied onto itself.
        second.last = 0;
        assert!(second.publish(&build).is_err());
        assert_eq!(fs::read(&built).unwrap(), elf("one"));
        assert!(first.folder().join("1/api").exists(), "a session that runs is let alone");
        // Killed, nothing of it but its folder is left.
        let (left, dead) = (first.folder().to_path_buf(), first.lock.take());
        std::mem::forget(first);
        drop(dead);
        let _third = store(&target);
        assert!(!left.exists() && second.folder().exists());
        assert_eq!(fs::read(&built).unwrap(), elf("one"));
    }

    /// Where all begin and end at once, each has its own.
    #[test]
    fn sessions_that_begin_while_others_end_do_not_collect_each_other() {
        let target = tempfile::tempdir().unwrap();
        let build = program(&target.path().join("api"), "one");
        drop(store(&target));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let Ok(mut store) = Store::new(target.path(), Ground::new(target.path())) else { continue };
                        let kept = store.publish(&build).unwrap();
                        assert!(kept.path.exists() && leads_to(store.folder(), store.lock.as_ref().unwrap()));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(target.path().join("hotrun/run")).into_iter().flatten().count(), 0);
    }

    #[test]
    fn a_program_that_is_not_whole_is_not_kept_and_not_run() {
        let target = tempfile::tempdir().unwrap();
        let built = target.path().join("api");
        let mut store = store(&target);
        let build = program(&built, "one");
        let kept = store.publish(&build).unwrap();
        // In place, as nobody should: it is one file with what is kept.
        fs::write(&built, "").unwrap();
        for error in [store.restore(&kept).unwrap_err(), store.publish(&build).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains(&built.display().to_string()) && error.contains("it is empty"), "{error}");
        }
        assert_eq!(fs::read_dir(store.folder()).unwrap().count(), 1, "nothing is left of what cannot be kept");
    }

    #[test]
    fn nothing_is_written_through_what_stands_in_the_place_of_a_kept_file() {
        let (target, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let build = program(&target.path().join("api"), "one");
        let mut store = store(&target);
        let kept = store.publish(&build).unwrap();
        let file = elsewhere.path().join("file");
        fs::write(&file, "other").unwrap();
        fs::remove_file(&kept.path).unwrap();
        std::os::unix::fs::symlink(&file, &kept.path).unwrap();
        store.restore(&kept).unwrap();
        assert_eq!((fs::read(&kept.path).unwrap(), fs::read_to_string(&file).unwrap()), (elf("one"), "other".into()));
        // The folder of the program, of the session, and of them all.
        let folders = [store.folder().join("1"), store.folder().to_path_buf(), target.path().join("hotrun")];
        for (depth, folder) in folders.iter().enumerate() {
            fs::remove_dir_all(folder).unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), folder).unwrap();
            assert!(store.restore(&kept).is_err(), "{depth}");
            assert!(depth == 0 || store.publish(&build).is_err(), "{depth}");
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
            fs::remove_file(folder).unwrap();
            store.restore(&kept).unwrap();
        }
        // A library's, or a copy's.
        std::os::unix::fs::symlink(&file, target.path().join("link")).unwrap();
        assert!(copy(&build.executable, &target.path().join("link")).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "other");
    }

    #[test]
    fn a_session_does_not_begin_in_what_others_have_planted() {
        let (target, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(store(&target));
        for below in ["", "/run"] {
            let ours = target.path().join(format!("hotrun{below}"));
            fs::create_dir_all(ours.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), &ours).unwrap();
            let error = Store::new(target.path(), Ground::new(target.path())).unwrap_err().to_string();
            assert!(error.contains(&format!("{} is a link", ours.display())), "{error}");
            fs::remove_file(&ours).unwrap();
        }
        // A link among the folders of sessions is none of a dead one.
        let all = target.path().join("hotrun/run");
        fs::create_dir_all(&all).unwrap();
        fs::write(elsewhere.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), all.join("1-x")).unwrap();
        let _store = store(&target);
        assert!(elsewhere.path().join("file").exists());
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
        let mut store = store(&folder);
        let one = store.publish(&build("one")).unwrap();
        assert!(one.is_same(&build("one")));
        assert!(!one.is_same(&build("two")), "same bytes, another library");
        let kept = store.folder().join("1/libraries");
        assert_eq!(fs::read_to_string(kept.join("libc.so.6")).unwrap(), "one");
        fs::remove_dir_all(folder.path().join("hotrun")).unwrap();
        store.restore(&one).unwrap();
        assert_eq!(fs::read_to_string(kept.join("libc.so.6")).unwrap(), "one", "after `cargo clean`");
        let path = format!("{}:/target/deps", kept.display());
        assert_eq!(one.environment(), [(LIBRARY_PATH.into(), Some(path.into()))]);
    }
}
