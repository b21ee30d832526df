//! A file with the number of the process that serves, for whoever sends it signals.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// A relative path is relative to the directory the process was started in.
    pub(crate) fn at(path: &Path, directory: &Path) -> Self {
        PidFile(directory.join(path))
    }

    /// Puts this process's number there, so that a reader sees the old one or the new one whole, whatever happens.
    pub(crate) fn write(&self) -> io::Result<()> {
        let mut name = self.0.file_name().unwrap_or_default().to_owned();
        // A name that nobody has guessed: the folder may be one that others write to.
        name.push(format!(".{:016x}", RandomState::new().build_hasher().finish()));
        let temporary = self.0.with_file_name(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        let written = file
            .write_all(format!("{}\n", std::process::id()).as_bytes())
            .and_then(|()| fs::rename(&temporary, &self.0));
        if written.is_err() {
            // The error above says what matters.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes it, unless another process stands in it by now.
    pub(crate) fn remove(&self) {
        let ours = fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours {
            // Somebody else was quicker: it is gone, as it should be.
            let _ = fs::remove_file(&self.0);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_replaced_whole_and_only_ones_own_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = PidFile::at(Path::new("server.pid"), folder.path());
        fs::write(file.path(), "1\n").unwrap();
        file.remove();
        assert!(file.path().exists(), "another process's");
        file.write().unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        file.remove();
        assert!(!file.path().exists());
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(PidFile::at(Path::new("nowhere/server.pid"), Path::new("/nowhere")).write().is_err());
    }
}
