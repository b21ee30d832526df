//! What lies in the queue of a connection, unread by the program, and whether that wakes anybody.
//! Never lives here: what follows from it (`drain`).

use super::kernel::{METHODS, get, set};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// What lies in the queue of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lies {
    Nothing,
    /// No beginning of a request.
    Strange,
    /// The beginning of a request.
    Begun,
    /// A request that has no body, whole.
    Whole,
}

/// From now on what comes is received and acknowledged, but wakes nobody who waits for it: neither poll(2) and its likes nor a call that
/// sleeps in it, until so many bytes are there (SO_RCVLOWAT of socket(7)). A call that does not wait reads them all the same; one that
/// waits and begins only now takes what is there and sleeps on with it, whatever is given later, until it is woken (`Traced::wake`).
pub fn hold_back(connection: &TcpStream) -> Result<(), Errno> {
    set(connection, libc::SOL_SOCKET, libc::SO_RCVLOWAT, HELD_BYTES)
}

/// Whether the program has a number of bytes of its own that wakes it.
pub fn has_own_lowat(connection: &TcpStream) -> bool {
    let mut bytes = [0_u32];
    get(&connection, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &mut bytes).ok();
    // A larger one is ours, and was forgotten; the kernel has made it smaller where the buffer is.
    (2..LEAST_HELD).contains(&bytes[0])
}

/// A request with more than this is answered.
const HELD_BYTES: i32 = 1 << 20;
/// Less than half of the smallest buffer that there is (SOCK_MIN_RCVBUF).
const LEAST_HELD: u32 = 1024;

/// What is there wakes those who wait for it, as the kernel has it for this option.
pub fn give_all(connection: &TcpStream) {
    set(connection, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1).ok();
}

/// What lies in the queue.
pub fn lies_in(connection: &TcpStream) -> Lies {
    let mut there = [0; 4096];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let Ok(length @ 1..) = recv(connection.as_raw_fd(), &mut there, flags) else { return Lies::Nothing };
    let there = &there[..length];
    let first = &there[..length.min(4)];
    if !METHODS.iter().any(|method| method.starts_with(first)) {
        Lies::Strange
    } else if (first == b"GET " || first == b"HEAD") && there.ends_with(b"\r\n\r\n") {
        Lies::Whole
    } else {
        Lies::Begun
    }
}

/// Takes away what lies in the queue: how many bytes that were.
pub fn take_all(connection: &TcpStream) -> u64 {
    let mut taken = 0;
    let mut part = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = recv(connection.as_raw_fd(), &mut part, MsgFlags::MSG_DONTWAIT) {
        taken += length as u64;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::super::kernel::ConnectionState;
    use super::super::kernel::tests::pair;
    use super::super::readers::{ProcessSocket, Readers};
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::thread;

    /// Whether somebody who waits for it would be woken.
    fn wakes(server: &TcpStream) -> bool {
        let mut polled = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn what_is_held_back_wakes_nobody_until_all_is_given() {
        let (mut client, mut server) = pair();
        server.set_nonblocking(true).unwrap();
        hold_back(&server).unwrap();
        assert!(!has_own_lowat(&server));
        assert_eq!(lies_in(&server), Lies::Nothing);
        let mut length = 0;
        let parts = [(&b"GE"[..], Lies::Begun), (b"T / HTTP/1.1\r\n", Lies::Begun), (b"\r\n", Lies::Whole)];
        for (part, lies) in parts {
            client.write_all(part).unwrap();
            length += part.len() as u64;
            assert_eq!(lies_in(&server), lies);
        }
        assert!(!wakes(&server));
        let held = ConnectionState::of(&server).unwrap();
        assert_eq!((held.received, held.unread, held.dropped), (length, length, 0));
        give_all(&server);
        assert!(wakes(&server));
        assert_eq!(server.read(&mut [0; 99]).unwrap() as u64, length);
        client.write_all(b"\x81\x85abcd").unwrap();
        assert_eq!(lies_in(&server), Lies::Strange);
        assert!(wakes(&server));
    }

    #[test]
    fn a_number_of_the_programs_own_is_known() {
        let (_client, server) = pair();
        assert!(!has_own_lowat(&server));
        set(&server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 9).unwrap();
        assert!(has_own_lowat(&server));
    }

    #[test]
    fn a_call_that_began_while_all_was_held_back_sleeps_on_with_what_it_has_until_it_is_woken() {
        let (mut client, server) = pair();
        let inode = rustix::fs::fstat(&server).unwrap().st_ino;
        hold_back(&server).unwrap();
        // A process of its own: none traces itself.
        let mut reader = std::process::Command::new("cat");
        let reader = reader.stdin(server.as_fd().try_clone_to_owned().unwrap()).stdout(std::process::Stdio::piped());
        let mut child = reader.spawn().unwrap();
        let socket = ProcessSocket { process: child.id(), inode };
        let asleep = || loop {
            if let Some(reader) = Readers::default().of(socket) {
                return reader;
            }
            thread::yield_now();
        };
        asleep();
        client.write_all(b"GET /").unwrap();
        give_all(&server);
        client.write_all(b"x").unwrap();
        while ConnectionState::of(&server).unwrap().unread > 0 {
            thread::yield_now();
        }
        let reader = asleep();
        while !reader.wake() {
            thread::yield_now();
        }
        let mut came = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut came).unwrap();
        assert_eq!(&came, b"GET /x");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(reader.wake(), "there is nobody to wake");
    }

    #[test]
    fn a_call_that_sleeps_is_woken_when_all_is_given_and_reads_an_end_where_it_was_taken() {
        for given in [true, false] {
            let (mut client, server) = pair();
            let inode = rustix::fs::fstat(&server).unwrap().st_ino;
            let socket = ProcessSocket { process: std::process::id(), inode };
            let mut reader = server.try_clone().unwrap();
            let read = thread::spawn(move || reader.read(&mut [0; 99]).unwrap());
            while Readers::default().of(socket).is_none() {
                thread::yield_now();
            }
            hold_back(&server).unwrap();
            client.write_all(b"GET /").unwrap();
            assert!(Readers::default().of(socket).is_some());
            if given {
                give_all(&server);
                assert_eq!(read.join().unwrap(), 5);
            } else {
                assert_eq!(take_all(&server), 5);
                server.shutdown(std::net::Shutdown::Both).unwrap();
                assert_eq!(read.join().unwrap(), 0);
                drop(server);
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "an end, and no reset");
            }
        }
    }
}
