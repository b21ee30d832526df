//! What is this user's alone, whatever the umask and whoever else can reach the place: folders, the sockets in them, and who is at the
//! other end of one.
//! Never lives here: what stands in such a folder, and what is said at such a socket.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, socket, sockopt};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::geteuid;
use std::fs::{DirBuilder, Permissions, set_permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use tempfile::TempDir;

const FOLDER: u32 = 0o700;
const FILE: Mode = Mode::from_bits_truncate(0o600);

/// A folder of a new name among the temporary ones.
pub fn temporary_folder(prefix: &str) -> io::Result<TempDir> {
    // From its birth: between that and a change others could have put something into it.
    let folder = tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(FOLDER)).tempdir()?;
    own(folder.path())?;
    Ok(folder)
}

/// The folder of that name, which is made if there is none.
///
/// # Errors
/// What stands there is another user's, or a link, or no folder.
pub fn folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => own(path),
    }
}

/// Whether what stands in it is to be believed: nobody but this user, and root, can have put it there.
///
/// # Errors
/// Why not, and those of open(2).
pub fn check(path: &Path) -> io::Result<()> {
    let (_, mode) = look(path)?;
    if mode & 0o022 != 0 {
        return Err(io::Error::other(format!(
            "others may write to the folder {path}; look at what stands in it, then `chmod 700 {path}`",
            path = path.display()
        )));
    }
    Ok(())
}

/// A socket that listens at that path, for this user's processes.
pub fn listener(path: &Path) -> io::Result<UnixListener> {
    let socket = bound(path, SockType::Stream)?;
    nix::sys::socket::listen(&socket, Backlog::new(128)?)?;
    Ok(UnixListener::from(socket))
}

/// One for datagrams.
pub fn datagrams(path: &Path) -> io::Result<UnixDatagram> {
    bound(path, SockType::Datagram).map(UnixDatagram::from)
}

/// Whether the other end of a connection was opened by a process of this user, or of root (unix(7), SO_PEERCRED).
pub fn is_ours(socket: impl AsFd) -> bool {
    getsockopt(&socket, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}

/// Closes a folder that is there to all others, if it is this user's.
///
/// # Errors
/// As `folder`.
pub fn own(path: &Path) -> io::Result<()> {
    let (folder, mode) = look(path)?;
    if mode & 0o777 != FOLDER {
        // By the descriptor, so that it is the folder that was looked at; one of `O_PATH` has no other way to be changed.
        set_permissions(format!("/proc/self/fd/{}", folder.as_raw_fd()), Permissions::from_mode(FOLDER))?;
    }
    Ok(())
}

/// The folder and its mode, if it is this user's.
fn look(path: &Path) -> io::Result<(OwnedFd, u32)> {
    let refused = |why: &str| io::Error::other(format!("{} {why}", path.display()));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = match open(path, flags, Mode::empty()) {
        // So says open(2) of a link, too, where a folder is wanted.
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            let link = path.symlink_metadata().is_ok_and(|is| is.is_symlink());
            let why = if link { "is a link, which is not followed" } else { "is no folder" };
            return Err(refused(why));
        }
        other => other?,
    };
    let is = fstat(&folder)?;
    if is.st_uid != geteuid().as_raw() {
        return Err(refused(&format!("belongs to another user (uid {})", is.st_uid)));
    }
    Ok((folder, is.st_mode))
}

fn bound(path: &Path, kind: SockType) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // The file that bind(2) makes has the mode of the socket, less the umask.
    fchmod(&socket, FILE)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // A umask may take from the owner, too.
    set_permissions(path, Permissions::from_mode(FILE.bits()))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_folder_is_closed_and_what_is_no_folder_of_ours_is_refused() {
        let home = temporary_folder("private-").unwrap();
        assert_eq!(mode(home.path()), 0o700);
        let path = |name: &str| home.path().join(name);
        folder(&path("new")).unwrap();
        assert_eq!(mode(&path("new")), 0o700);
        fs::set_permissions(path("new"), Permissions::from_mode(0o777)).unwrap();
        let why = check(&path("new")).unwrap_err().to_string();
        assert!(why.contains("others may write to") && why.contains("chmod 700"), "{why}");
        folder(&path("new")).unwrap();
        check(&path("new")).unwrap();
        fs::write(path("file"), "").unwrap();
        symlink(path("new"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        for (name, expected) in [("file", "is no folder"), ("link", "is a link"), ("dangling", "is a link")] {
            for refused in [folder(&path(name)), check(&path(name))] {
                let why = refused.unwrap_err().to_string();
                assert!(why.contains(expected) && why.contains(name), "{why}");
            }
        }
        assert_eq!(mode(&path("file")) & 0o100, 0, "it was left alone");
    }

    #[test]
    fn sockets_are_closed_to_others_and_know_their_own() {
        let home = temporary_folder("private-").unwrap();
        let (stream, datagram) = (home.path().join("stream"), home.path().join("datagram"));
        let listener = listener(&stream).unwrap();
        let _datagrams = datagrams(&datagram).unwrap();
        assert_eq!((mode(&stream), mode(&datagram)), (0o600, 0o600));
        let client = std::os::unix::net::UnixStream::connect(&stream).unwrap();
        assert!(is_ours(&client) && is_ours(listener.accept().unwrap().0));
    }
}
