//! Paths of Unix sockets: who bound them, and who may remove them.

use crate::sys::lock;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// Paths of Unix sockets that this process answers for: it removes them when nobody serves there any more.
#[derive(Debug, Default)]
pub struct BoundPaths(Mutex<Vec<Bound>>);

#[derive(Debug)]
struct Bound {
    path: PathBuf,
    identity: Identity,
    /// False while the process before answers for it.
    ours: bool,
}

/// What tells one file from another at the same path. An inode's number is used again once the file is gone; the time of
/// birth is not (statx(2), `stx_btime`).
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Identity> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Identity { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() })
    }
}

impl BoundPaths {
    /// Binds the path, taking it over from a server that is dead: one that refuses a connection. With `ours_to_remove` this
    /// process answers for it from now on.
    ///
    /// # Errors
    /// `AddrInUse` when a server listens there, or when the path is something else than a socket; else those of bind(2).
    pub fn bind(&self, path: &Path, ours_to_remove: bool) -> io::Result<UnixListener> {
        // Two servers that find a dead one's path at once: the second must not remove what the first has just bound. Where the
        // folder cannot be opened there is no lock, and the rest is as it was.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _lock = File::open(folder).ok().and_then(locked);
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            other => other,
        }?;
        if ours_to_remove {
            self.own(path)?;
        }
        Ok(listener)
    }

    /// This process answers for the socket that stands at that path now.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn own(&self, path: &Path) -> io::Result<()> {
        self.note(path, true)
    }

    /// This process will answer for the socket that stands at that path now, once it is told to.
    pub(crate) fn expect(&self, path: &Path) -> io::Result<()> {
        self.note(path, false)
    }

    /// It answers for all that it expected.
    pub(crate) fn own_expected(&self) {
        lock(&self.0).iter_mut().for_each(|bound| bound.ours = true);
    }

    fn note(&self, path: &Path, ours: bool) -> io::Result<()> {
        // Made absolute, as the process may change its directory before it stops.
        let path = std::path::absolute(path)?;
        let bound = Bound { identity: Identity::of(&path)?, path, ours };
        lock(&self.0).push(bound);
        Ok(())
    }

    /// Somebody else answers for that path from now on.
    pub(crate) fn forget(&self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        lock(&self.0).retain(|bound| bound.path != path);
    }

    /// Removes the paths that still are the sockets this process answers for.
    pub fn remove(&self) {
        for bound in lock(&self.0).drain(..).filter(|bound| bound.ours) {
            let ours = Identity::of(&bound.path).is_ok_and(|now| now == bound.identity);
            if ours {
                // Somebody else was quicker: it is gone, as it should be.
                let _ = std::fs::remove_file(&bound.path);
            }
        }
    }
}

/// The lock of a folder, which others may have for their own purposes (systemd-tmpfiles(8)): after a second it goes without.
fn locked(mut folder: File) -> Option<Flock<File>> {
    for _ in 0..20 {
        folder = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((folder, Errno::EWOULDBLOCK)) => folder,
            Err(_) => return None,
        };
        // Nobody tells when a lock is given up, but for a call that might never return.
        let _ = poll(&mut [], PollTimeout::from(50u8));
    }
    None
}

fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && refuses(path).unwrap_or(false)
}

/// Asks without waiting: a live server whose queue is full would keep a blocking connect(2) for ever.
fn refuses(path: &Path) -> nix::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let client = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    Ok(connect(client.as_raw_fd(), &address) == Err(Errno::ECONNREFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::current_exe().unwrap().parent().unwrap().join(format!("path-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn only_a_dead_servers_path_is_taken_over_and_only_ones_own_is_removed() {
        let path = folder().join("one.sock");
        let paths = BoundPaths::default();
        let first = paths.bind(&path, true).unwrap();
        assert_eq!(paths.bind(&path, true).unwrap_err().kind(), io::ErrorKind::AddrInUse, "a live server's");
        drop(first);
        let _second = BoundPaths::default().bind(&path, false).unwrap();
        paths.remove();
        assert!(path.exists(), "another socket stands there by now");
        std::fs::remove_file(&path).unwrap();

        std::fs::write(&path, "not a socket").unwrap();
        assert!(paths.bind(&path, true).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a socket");
        std::fs::remove_file(&path).unwrap();

        let _third = paths.bind(&path, true).unwrap();
        paths.remove();
        assert!(!path.exists());
        std::fs::remove_dir_all(folder()).unwrap();
    }
}
