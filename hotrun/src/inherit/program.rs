//! Which program the next generation is: the one this process was started as, found anew.
//! Never lives here: starting it (`spawn`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// As it was named on the command line, or by [`Builder::program`](crate::Builder::program).
    pub(crate) name: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Where this process was started, which relative names begin at.
    pub(crate) home: PathBuf,
    /// Where the next one is to start.
    pub(crate) directory: PathBuf,
}

impl Program {
    /// What this process was started as. `by_peer`: by one that has found it by the same name, which may lead elsewhere by now.
    pub(crate) fn of_this_process(by_peer: bool) -> io::Result<Self> {
        let mut args = std::env::args_os();
        let home = working_directory()?;
        let name = PathBuf::from(args.next().unwrap_or_default());
        let executable = Path::new("/proc/self/exe");
        let mut program = Program { name, args: args.collect(), directory: home.clone(), home };
        // A login shell, or a starter with a name of its own: the first argument says nothing then.
        let says_it = by_peer || program.find().is_ok_and(|found| is_same_file(&found, executable));
        if let Some(found) = std::fs::read_link(executable).ok().filter(|_| !says_it) {
            // Another program has come to its place since it was started (proc_pid_exe(5)).
            let text = found.as_os_str().as_bytes();
            program.name =
                text.strip_suffix(b" (deleted)").map_or(found.clone(), |name| OsStr::from_bytes(name).into());
        }
        Ok(program)
    }

    /// Where it is now. Links are followed when it is run, so one that leads to a new release is enough.
    pub(crate) fn find(&self) -> io::Result<PathBuf> {
        if self.name.as_os_str().as_bytes().contains(&b'/') {
            return Ok(self.home.join(&self.name));
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        in_path(&path, &self.home, &self.name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no executable {} in PATH", self.name.display()))
        })
    }
}

/// execvp(3).
fn in_path(path: &OsStr, directory: &Path, name: &Path) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| directory.join(folder).join(name)).find(|file| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// The directory as whoever started this process named it, where that is known: a link on the way to it may lead to another
/// release next time (pwd(1), -L).
fn working_directory() -> io::Result<PathBuf> {
    let here = std::env::current_dir()?;
    let named = std::env::var_os("PWD").map(PathBuf::from);
    Ok(named.filter(|named| named.is_absolute() && is_same_file(named, &here)).unwrap_or(here))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_where_it_was_started() {
        let program = Program::of_this_process(false).unwrap();
        assert!(is_same_file(&program.find().unwrap(), Path::new("/proc/self/exe")));
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_from_the_first_directory() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("server"), "").unwrap();
        let find = |name: &str| in_path(OsStr::new("/nowhere:."), folder.path(), Path::new(name));
        assert_eq!(find("server"), None, "not executable");
        std::fs::set_permissions(folder.path().join("server"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find("server"), Some(folder.path().join("./server")));
        let home = folder.path().to_owned();
        let program =
            Program { name: "./server".into(), args: vec![], directory: home.join("elsewhere"), home: home.clone() };
        assert_eq!(program.find().unwrap(), home.join("./server"), "the program is where it was");
    }
}
