//! What the kernel tells of other processes' sockets, by proc(5).
//! Never lives here: anything that is done about it. On a system without these files every answer is "not known".

use crate::process::{descriptors, kin};
use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use crate::process::file_id;
pub use crate::process::kin::family;

/// The kernel's names of socket states (include/net/tcp_states.h).
const LISTEN: &str = "0A";

pub fn is_datagram(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::SockType) == Ok(SockType::Datagram)
}

/// The process that has a socket on that port, as `pid 4711 (python3 -m http.server)`.
pub fn who_listens(port: u16) -> Option<String> {
    owner(&["/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"], port, &BTreeSet::new())
}

/// The process that has a socket of the same kind on that port and is none of those.
pub fn who_else_has(socket: &OwnedFd, port: u16, but: &BTreeSet<u32>) -> Option<String> {
    let udp = is_datagram(socket);
    owner(if udp { &["/proc/net/udp", "/proc/net/udp6"] } else { &["/proc/net/tcp", "/proc/net/tcp6"] }, port, but)
}

fn owner(tables: &[&str], port: u16, but: &BTreeSet<u32>) -> Option<String> {
    let inodes: BTreeSet<u64> = tables
        .iter()
        .flat_map(|table| entries(table))
        .filter(|entry| entry.local_port == port && (entry.state == LISTEN || entry.remote_port == 0))
        .map(|entry| entry.inode)
        .collect();
    let mut others = kin::processes().filter(|pid| !but.contains(pid));
    let pid = others.find(|pid| inodes.iter().any(|inode| holds(*pid, *inode)))?;
    Some(crate::report::clean::plain(&kin::name(pid)))
}

/// An address that the process or one of its children listens on, if any does.
pub fn listens(pid: u32) -> Option<String> {
    let family = family(pid);
    for table in ["tcp", "tcp6"] {
        let listening = entries(&format!("/proc/{pid}/net/{table}")).into_iter().filter(|entry| entry.state == LISTEN);
        for entry in listening {
            if family.iter().any(|pid| holds(*pid, entry.inode)) {
                return Some(format!("port {}", entry.local_port));
            }
        }
    }
    None
}

/// Sockets on which the process or one of its children listens, for TCP or at a path. The tables, which have the sockets of the whole
/// system and may be long, are only read where it may not be asked of each.
pub fn listening(pid: u32) -> BTreeSet<u64> {
    let family = family(pid).into_iter();
    let sockets: Vec<_> = family
        .flat_map(|pid| sockets(pid).into_iter().flatten().map(move |(number, inode)| (pid, number, inode)))
        .collect();
    let mut listening = BTreeSet::new();
    for (process, number, inode) in &sockets {
        match copy(*process, *number) {
            Ok(copy) if getsockopt(&copy, sockopt::AcceptConn) == Ok(true) => drop(listening.insert(*inode)),
            Ok(_) | Err(Errno::EBADF | Errno::ESRCH) => {}
            Err(_) => {
                let all = listening_in_tables(pid);
                return sockets.into_iter().map(|(_, _, inode)| inode).filter(|inode| all.contains(inode)).collect();
            }
        }
    }
    listening
}

fn listening_in_tables(pid: u32) -> BTreeSet<u64> {
    let tcp = ["tcp", "tcp6"].into_iter().flat_map(|table| entries(&format!("/proc/{pid}/net/{table}")));
    let tcp = tcp.filter(|entry| entry.state == LISTEN).map(|entry| entry.inode);
    let unix = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    tcp.chain(unix.lines().filter_map(listening_at_path)).collect()
}

/// A copy of what a process has at that number (pidfd_getfd(2)).
pub fn copy(process: u32, number: RawFd) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(Errno::ESRCH)?;
    let copied = descriptors::with(|| pidfd_open(pid, PidfdFlags::empty()))
        .and_then(|process| descriptors::with(|| pidfd_getfd(&process, number, PidfdGetfdFlags::empty())));
    copied.map_err(descriptors::errno)
}

/// A line of /proc/net/unix: `Num RefCount Protocol Flags Type St Inode Path`; of the flags, __SO_ACCEPTCON (include/linux/net.h).
fn listening_at_path(line: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
    (flags & (1 << 16) != 0).then_some(fields.get(6)?.parse().ok()?)
}

/// Whether the connection between those ports was accepted by the process or one of its children. `None`: by nobody yet.
pub fn accepted(pid: u32, server_port: u16, client_port: u16) -> Option<bool> {
    let inode = ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| entries(&format!("/proc/{pid}/net/{table}")))
        .find(|entry| entry.local_port == server_port && entry.remote_port == client_port)
        // Without an inode it waits in the queue.
        .map(|entry| entry.inode)
        .filter(|inode| *inode != 0)?;
    Some(family(pid).iter().any(|pid| holds(*pid, inode)))
}

struct Entry {
    local_port: u16,
    remote_port: u16,
    state: String,
    inode: u64,
}

/// Lines of /proc/net/tcp and its likes: `sl local_address rem_address st ... inode` (proc_net(5)).
fn entries(table: &str) -> Vec<Entry> {
    let text = fs::read_to_string(table).unwrap_or_default();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            Some(Entry {
                local_port: port(fields.get(1)?)?,
                remote_port: port(fields.get(2)?)?,
                state: (*fields.get(3)?).to_owned(),
                inode: fields.get(9)?.parse().ok()?,
            })
        })
        .collect()
}

/// Where that cannot be seen, not.
pub fn holds(pid: u32, inode: u64) -> bool {
    sockets(pid).unwrap_or_default().iter().any(|(_, socket)| *socket == inode)
}

/// Whether a process runs that file.
pub fn runs(pid: u32, program: Option<(u64, u64)>) -> bool {
    program.is_some() && file_id(Path::new(&format!("/proc/{pid}/exe"))) == program
}

/// The process to which a thread belongs.
pub fn process_of(thread: i32) -> Option<u32> {
    let status = descriptors::with(|| fs::read_to_string(format!("/proc/{thread}/status"))).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

pub fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether it has any descriptor: one that is ending has closed all at once.
pub fn has_descriptors(pid: u32) -> bool {
    descriptors::with(|| fs::read_dir(format!("/proc/{pid}/fd"))).is_ok_and(|mut fds| fds.next().is_some())
}

/// The sockets among the descriptors of a process: number and inode. One that has ended, or may not be looked into, has none.
///
/// # Errors
/// That there is no descriptor left to look with.
pub fn sockets(pid: u32) -> io::Result<Vec<(RawFd, u64)>> {
    let fds = match descriptors::with(|| fs::read_dir(format!("/proc/{pid}/fd"))) {
        Err(error) if descriptors::is_out(&error) => return Err(error),
        Err(_) => return Ok(Vec::new()),
        Ok(fds) => fds,
    };
    let socket = |fd: fs::DirEntry| {
        let number = fd.file_name().to_str()?.parse().ok()?;
        Some((number, inode_of(&fs::read_link(fd.path()).ok()?)?))
    };
    Ok(fds.filter_map(|fd| socket(fd.ok()?)).collect())
}

/// The socket that a thread has at that number.
///
/// # Errors
/// EACCES for a process that may not be looked into.
pub fn socket_at(thread: i32, number: RawFd) -> io::Result<Option<u64>> {
    match fs::read_link(format!("/proc/{thread}/fd/{number}")) {
        Ok(link) => Ok(inode_of(&link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the socket at that number is one of TCP: the kernel names the protocol of a socket in an attribute of its file.
pub fn is_tcp_at(thread: i32, number: RawFd) -> bool {
    let mut name = [0; 32];
    let read = rustix::fs::getxattr(format!("/proc/{thread}/fd/{number}"), "system.sockprotoname", &mut name);
    read.is_ok_and(|length| matches!(name[..length].strip_suffix(b"\0"), Some(b"TCP" | b"TCPv6")))
}

/// The flags of a descriptor, as of open(2), O_CLOEXEC among them (proc_pid_fdinfo(5)).
pub fn flags_at(thread: i32, number: RawFd) -> Option<i32> {
    let info = descriptors::with(|| fs::read_to_string(format!("/proc/{thread}/fdinfo/{number}"))).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    i32::from_str_radix(flags.trim(), 8).ok()
}

/// An entry of an epoll set of a process: the number of the set, and what it was told to watch.
#[derive(Debug, PartialEq, Eq)]
pub struct Watched {
    pub set: RawFd,
    /// What the file was called when it was added.
    pub number: RawFd,
    pub events: u32,
    pub data: u64,
}

/// The epoll sets of a process that watch what it has at that number.
pub fn watched(pid: u32, number: RawFd) -> Vec<Watched> {
    let (Ok(fds), Ok(file)) = (
        descriptors::with(|| fs::read_dir(format!("/proc/{pid}/fd"))),
        fs::metadata(format!("/proc/{pid}/fd/{number}")),
    ) else {
        return Vec::new();
    };
    // As the kernel has it within (include/linux/kdev_t.h).
    let device = (nix::sys::stat::major(file.dev()) << 20) | nix::sys::stat::minor(file.dev());
    let sets = fds.filter_map(|fd| {
        let fd = fd.ok()?;
        let is_set = fs::read_link(fd.path()).ok()?.as_os_str() == "anon_inode:[eventpoll]";
        is_set.then(|| fd.file_name().to_str()?.parse().ok())?
    });
    sets.flat_map(|set: RawFd| {
        let info = descriptors::with(|| fs::read_to_string(format!("/proc/{pid}/fdinfo/{set}"))).unwrap_or_default();
        let of_file = |line: &str| in_set(line).filter(|entry| (entry.inode, entry.device) == (file.ino(), device));
        let entries = info.lines().filter_map(of_file);
        entries.map(|InSet { number, events, data, .. }| Watched { set, number, events, data }).collect::<Vec<_>>()
    })
    .collect()
}

struct InSet {
    number: RawFd,
    events: u32,
    data: u64,
    inode: u64,
    device: u64,
}

/// `tfd:        5 events:       19 data:      7f0000001234  pos:0 ino:1d2c sdev:8` (proc_pid_fdinfo(5)).
fn in_set(line: &str) -> Option<InSet> {
    let line = line.replace(':', " ");
    let fields: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| fields.iter().position(|field| *field == name).and_then(|at| fields.get(at + 1).copied());
    let hex = |name: &str| u64::from_str_radix(value(name)?, 16).ok();
    Some(InSet {
        number: value("tfd")?.parse().ok()?,
        events: u32::try_from(hex("events")?).ok()?,
        data: hex("data")?,
        inode: hex("ino")?,
        device: hex("sdev")?,
    })
}

/// `socket:[4711]`
fn inode_of(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_kernel_says_who_listens_and_who_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let us = std::process::id();
        assert!(listens(us).is_some());
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (tcp, at_path) =
            (listener.as_fd().try_clone_to_owned().unwrap(), unix.as_fd().try_clone_to_owned().unwrap());
        let inode = |socket: OwnedFd| fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        let all = [inode(tcp), inode(at_path)];
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let connection = inode(client.into());
        for found in [listening(us), listening_in_tables(us)] {
            assert!(all.iter().all(|inode| found.contains(inode)) && !found.contains(&connection));
        }
        drop(listener.accept().unwrap());
        assert!(who_listens(port).unwrap().starts_with(&format!("pid {us} (")));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client_port = client.local_addr().unwrap().port();
        assert_eq!(accepted(us, port, client_port), None, "it waits in the queue");
        let _accepted = listener.accept().unwrap();
        assert_eq!(accepted(us, port, client_port), Some(true));
    }
}
