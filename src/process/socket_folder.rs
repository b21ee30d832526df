//! The folder for this session's sockets: this user's alone, where the path is short enough for a socket, and made again where somebody
//! has cleaned it away.
//! Never lives here: the sockets.

use super::private;
use crate::error::{Error, Result};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The most bytes of a socket's path (unix(7), `sun_path`), without the zero at its end.
const LONGEST: usize = 107;
/// The longest name in the folder: the number of a generation.
const NAME: usize = 1 + 20;
const PREFIX: &str = "hotrun-";
const RANDOM: usize = 8;

/// Removed when dropped.
#[derive(Debug)]
pub struct SocketFolder {
    path: PathBuf,
}

impl SocketFolder {
    /// In the temporary folder, else where that is on every system. Not in the user's own (XDG_RUNTIME_DIR), which is gone for good when
    /// they log out, and the session need not be.
    pub fn make() -> Result<SocketFolder> {
        SocketFolder::in_one_of([std::env::temp_dir(), PathBuf::from("/tmp")].into_iter())
    }

    fn in_one_of(places: impl Iterator<Item = PathBuf>) -> Result<SocketFolder> {
        let mut refused = Vec::new();
        for place in places {
            let tried = match std::path::absolute(&place) {
                Ok(place) if !is_short(&place) => Err("its path is too long for that of a socket".to_owned()),
                Ok(place) => folder_in(&place).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match tried {
                Ok(path) => return Ok(SocketFolder { path }),
                Err(why) => refused.push(format!("{}: {why}", place.display())),
            }
        }
        let error = Error::failure(format!("make a folder for sockets: {}", refused.join("; ")));
        Err(error.help("set TMPDIR to a folder of yours with a short path"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it again, by its name, where it is gone; also the temporary folder in which it was, but nothing above that. Says whether
    /// that was so.
    pub fn keep_up(&self) -> io::Result<bool> {
        let was_there = self.path.symlink_metadata().is_ok();
        match private::folder(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let above = self.path.parent().unwrap_or(Path::new("/"));
                DirBuilder::new().mode(0o700).create(above)?;
                private::folder(&self.path)?;
            }
            done => done?,
        }
        Ok(!was_there)
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        // What is not this user's alone is not ours.
        if private::own(&self.path).is_ok() {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

fn folder_in(place: &Path) -> io::Result<PathBuf> {
    let mode = fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix(PREFIX).rand_bytes(RANDOM).permissions(mode).tempdir_in(place)?;
    // A umask may take from the owner, too.
    private::own(made.path())?;
    Ok(made.keep())
}

fn is_short(place: &Path) -> bool {
    place.as_os_str().len() + 1 + PREFIX.len() + RANDOM + NAME <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_place_that_is_too_long_or_of_no_use_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let long = place.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        let places = [long.clone(), place.path().join("gone"), place.path().to_path_buf()];
        let private = SocketFolder::in_one_of(places.into_iter()).unwrap();
        assert_eq!(private.path().parent(), Some(place.path()));
        assert_eq!(fs::metadata(private.path()).unwrap().mode() & 0o777, 0o700);
        drop(private);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        let error = SocketFolder::in_one_of([long].into_iter()).unwrap_err().to_string();
        assert!(error.contains("too long") && error.contains("help: set TMPDIR"), "{error}");
    }

    #[test]
    fn the_longest_place_has_room_for_the_longest_name() {
        let place = tempfile::tempdir().unwrap();
        let rest = LONGEST - NAME - RANDOM - PREFIX.len() - 1;
        let longest = place.path().join("x".repeat(rest - place.path().as_os_str().len() - 1));
        fs::create_dir(&longest).unwrap();
        let private = SocketFolder::in_one_of([longest].into_iter()).unwrap();
        UnixDatagram::bind(private.path().join(u64::MAX.to_string())).unwrap();
    }

    #[test]
    fn it_is_made_again_with_the_folder_it_was_in_and_nothing_planted_is_taken_for_it() {
        let above = tempfile::tempdir().unwrap();
        let place = above.path().join("temporary");
        fs::create_dir(&place).unwrap();
        let private = SocketFolder::in_one_of([place.clone()].into_iter()).unwrap();
        assert!(!private.keep_up().unwrap());
        fs::remove_dir_all(&place).unwrap();
        assert!(private.keep_up().unwrap());
        for planted in [above.path().to_path_buf(), above.path().join("gone")] {
            fs::remove_dir(private.path()).unwrap();
            std::os::unix::fs::symlink(&planted, private.path()).unwrap();
            private.keep_up().unwrap_err();
            fs::remove_file(private.path()).unwrap();
            private.keep_up().unwrap();
        }
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("file"), "").unwrap();
        fs::remove_dir(private.path()).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), private.path()).unwrap();
        drop(private);
        assert!(elsewhere.path().join("file").exists(), "what a link leads to is left alone");
    }
}
