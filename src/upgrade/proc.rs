//! What the kernel tells of other processes' sockets, by proc(5).
//! Never lives here: anything that is done about it. On a system without these files every answer is "not known".

use nix::sys::socket::{SockType, getsockopt, sockopt};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;

/// The kernel's names of socket states (include/net/tcp_states.h).
const LISTEN: &str = "0A";

pub fn is_datagram(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::SockType) == Ok(SockType::Datagram)
}

/// The process that has a socket on that port, as `pid 4711 (python3 -m http.server)`.
pub fn who_listens(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"];
    let inodes: BTreeSet<u64> = tables
        .iter()
        .flat_map(|table| entries(table))
        .filter(|entry| entry.local_port == port && (entry.state == LISTEN || entry.remote_port == 0))
        .map(|entry| entry.inode)
        .collect();
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.into_iter().find(|pid| inodes.iter().any(|inode| holds(*pid, *inode)))?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        command.split(|byte| *byte == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    // On one line, whatever its arguments are.
    let command = crate::report::clean::plain(words.join(" ").trim()).replace(['\n', '\t'], " ");
    Some(format!("pid {pid} ({command})"))
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

fn holds(pid: u32, inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.filter_map(|fd| fd.ok()).any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == name.as_str()))
}

/// The process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(|thread| thread.ok());
        let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .collect();
        family.extend(children);
        next += 1;
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_says_who_listens_and_who_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let us = std::process::id();
        assert!(listens(us).is_some());
        assert!(who_listens(port).unwrap().starts_with(&format!("pid {us} (")));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client_port = client.local_addr().unwrap().port();
        assert_eq!(accepted(us, port, client_port), None, "it waits in the queue");
        let _accepted = listener.accept().unwrap();
        assert_eq!(accepted(us, port, client_port), Some(true));
    }
}
