//! Whether answers go on at the connections of a program, whatever it knows of us: nothing is done to them.
//! Never lives here: connections that are led to their end (`connections`).

use super::connections::{connection, copy};
use super::kernel;
use crate::upgrade::proc;
use nix::sys::socket::{getsockopt, sockopt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;

/// The connections at the last look, by the number that the kernel gives them.
#[derive(Debug)]
pub struct Flow {
    ports: BTreeSet<u16>,
    /// Bytes that were read by the program or have arrived at its client; none of a socket that is no such connection.
    known: BTreeMap<u64, Option<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    pub live: usize,
    /// Something was read or answered since the last look, or a connection has ended.
    pub moved: bool,
}

impl Flow {
    /// And to those on which the program listens at the first look.
    pub fn to_ports(ports: impl Iterator<Item = u16>) -> Flow {
        Flow { ports: ports.collect(), known: BTreeMap::new() }
    }

    /// What may not be looked at does not move.
    pub fn look(&mut self, processes: &BTreeSet<u32>) -> Activity {
        let of = |pid: u32| proc::sockets(pid).into_iter().flatten().map(move |(fd, inode)| (pid, fd, inode));
        let sockets = || processes.iter().flat_map(|pid| of(*pid));
        if self.known.is_empty() {
            for (pid, fd, inode) in sockets() {
                let socket = copy(pid, fd, inode).ok().flatten();
                let listens = socket.filter(|socket| getsockopt(socket, sockopt::AcceptConn).unwrap_or(false));
                let address = listens.and_then(|socket| TcpListener::from(socket).local_addr().ok());
                self.ports.extend(address.map(|address| address.port()));
            }
        }
        let mut now = BTreeMap::new();
        let (mut live, mut moved) = (0, false);
        for (pid, fd, inode) in sockets() {
            if now.contains_key(&inode) {
                continue;
            }
            let before = self.known.get(&inode).copied();
            if before == Some(None) {
                now.insert(inode, None);
                continue;
            }
            let socket = match copy(pid, fd, inode) {
                Ok(Some(socket)) => socket,
                Ok(None) => continue,
                // It is there all the same.
                Err(_) => {
                    now.extend(before.map(|before| (inode, before)));
                    continue;
                }
            };
            match connection(socket, &self.ports) {
                Some(connection) => {
                    let Some(bytes) = kernel::moved(&connection) else { continue };
                    live += 1;
                    moved |= before.flatten().is_some_and(|before| before < bytes);
                    now.insert(inode, Some(bytes));
                }
                None => drop(now.insert(inode, None)),
            }
        }
        moved |= self.known.iter().any(|(inode, bytes)| bytes.is_some() && !now.contains_key(inode));
        self.known = now;
        Activity { live, moved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    #[test]
    fn what_is_answered_read_or_ended_is_progress_and_silence_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        // One that goes elsewhere is none of its clients.
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut own = TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
        let other = elsewhere.accept().unwrap().0;
        // Of this process only the sockets to that port count: tests run beside each other.
        let mut flow = Flow::to_ports([listener.local_addr().unwrap().port()].into_iter());
        flow.known.insert(0, None);
        let this = BTreeSet::from([std::process::id()]);
        // The client's end of it has another local port.
        assert_eq!(flow.look(&this), Activity { live: 1, moved: false });
        assert_eq!(flow.look(&this), Activity { live: 1, moved: false });
        client.write_all(b"hello").unwrap();
        own.write_all(b"hello").unwrap();
        assert_eq!(flow.look(&this), Activity { live: 1, moved: false }, "nobody has read it");
        server.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(flow.look(&this), Activity { live: 1, moved: true });
        server.write_all(b"world").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(flow.look(&this), Activity { live: 1, moved: true });
        assert_eq!(flow.look(&this), Activity { live: 1, moved: false });
        drop(server);
        assert_eq!(flow.look(&this), Activity { live: 0, moved: true });
        assert_eq!(flow.look(&this), Activity { live: 0, moved: false });
        drop((own, other));
    }
}
