//! The folder for temporary files, where TMPDIR names one that cannot be used: this program starts anew without it, so that cargo, the
//! compilers, the linker and the server are given a folder that there is.
//! Never lives here: making files in it.

use crate::report::say;
use nix::unistd::{AccessFlags, access};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const TMPDIR: &str = "TMPDIR";

/// Returns where nothing is amiss; else this process goes on as the same program, without the variable.
pub fn leave_a_stale_one() {
    let Some(folder) = std::env::var_os(TMPDIR) else { return };
    let Some(why) = unusable(Path::new(&folder)) else { return };
    say::warning(format_args!("TMPDIR is {folder:?}, and {why}: going on without it"));
    let mut args = std::env::args_os();
    // Not by its path: that may have been replaced or removed since this process started.
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    let error = again.args(args).env_remove(TMPDIR).exec();
    // What needs the folder will say so.
    say::warning(format_args!("start without it: {error}"));
}

/// As above, for a process that is about to be started, where the folder was removed since this one began. A folder that the command
/// names itself is its own affair.
pub fn leave_out_a_stale_one(command: &mut Command) {
    let is_named = command.get_envs().any(|(name, _)| name == TMPDIR);
    if !is_named && std::env::var_os(TMPDIR).is_some_and(|folder| unusable(Path::new(&folder)).is_some()) {
        command.env_remove(TMPDIR);
    }
}

fn unusable(folder: &Path) -> Option<String> {
    if folder.as_os_str().is_empty() {
        return Some("that names nothing".to_owned());
    }
    match std::fs::metadata(folder) {
        Ok(is) if !is.is_dir() => Some("that is no folder".to_owned()),
        Ok(_) => {
            let refused = access(folder, AccessFlags::W_OK | AccessFlags::X_OK).err();
            refused.map(|error| format!("nothing can be put there ({})", io::Error::from(error)))
        }
        Err(error) => Some(format!("that folder cannot be had ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_named_for_a_process_is_its_own() {
        let mut command = Command::new("true");
        command.env(TMPDIR, "gone");
        leave_out_a_stale_one(&mut command);
        assert_eq!(command.get_envs().collect::<Vec<_>>(), [(TMPDIR.as_ref(), Some("gone".as_ref()))]);
    }

    #[test]
    fn a_folder_that_is_not_there_or_is_none_is_of_no_use() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(unusable(folder.path()), None);
        for name in ["", "gone", "file", "file/below"] {
            let path = if name.is_empty() { Path::new("").to_path_buf() } else { folder.path().join(name) };
            assert!(unusable(&path).is_some(), "{name}");
        }
    }
}
