//! Which threads of a program sleep in a call that reads from one of its connections.
//! Never lives here: why that matters (`connections`).

use crate::process::descriptors;
use crate::upgrade::proc;
use nix::libc::{self, c_long};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::RawFd;

/// A socket of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub process: u32,
    pub socket: u64,
}

/// Those of one look. Who slept where is found once, as there may be as many threads as connections.
#[derive(Debug, Default)]
pub struct Readers {
    /// By process: a thread for a socket.
    found: BTreeMap<u32, BTreeMap<u64, Reader>>,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    thread: u32,
    number: RawFd,
}

impl Readers {
    /// Whether a thread sleeps there now.
    pub fn sleeps_in(&mut self, place: Place) -> bool {
        let readers = self.found.entry(place.process).or_insert_with(|| find(place.process));
        readers.get(&place.socket).is_some_and(|reader| reads(reader.thread) == Some(reader.number))
    }
}

fn find(process: u32) -> BTreeMap<u64, Reader> {
    let sockets: BTreeMap<RawFd, u64> = proc::sockets(process).into_iter().flatten().collect();
    let threads = descriptors::with(|| fs::read_dir(format!("/proc/{process}/task"))).into_iter().flatten().flatten();
    let reader = |thread: u32| {
        let number = reads(thread)?;
        Some((*sockets.get(&number)?, Reader { thread, number }))
    };
    threads.filter_map(|thread| reader(thread.file_name().to_str()?.parse().ok()?)).collect()
}

/// The descriptor from which a thread reads, if it sleeps in that.
fn reads(thread: u32) -> Option<RawFd> {
    let call = descriptors::with(|| fs::read_to_string(format!("/proc/{thread}/syscall"))).ok()?;
    in_call(&call)
}

/// `0 0x5 0x7f04c8000b70 0x2000 ...`: the call and its arguments, of a thread that sleeps in one (proc_pid_syscall(5)).
fn in_call(line: &str) -> Option<RawFd> {
    const READING: [c_long; 4] = [libc::SYS_read, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmsg];
    let mut words = line.split_whitespace();
    let call: c_long = words.next()?.parse().ok()?;
    let number = words.next()?.strip_prefix("0x")?;
    READING.contains(&call).then(|| RawFd::from_str_radix(number, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_line_names_the_descriptor_that_is_read_from() {
        let line = |call: c_long| format!("{call} 0x1f 0x7f04c8000b70 0x2000 0x0 0x0 0x0 0x7ffd 0x7f04\n");
        assert_eq!(in_call(&line(libc::SYS_recvfrom)), Some(31));
        assert_eq!(in_call(&line(libc::SYS_read)), Some(31));
        for other in [&line(libc::SYS_write), "running\n", "-1 0x7ffd 0x7f04\n", "", "0", "0 5", "x 0x5"] {
            assert_eq!(in_call(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_thread_that_sleeps_in_a_read_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        // As servers have it for reading and for writing.
        let copy = server.try_clone().unwrap();
        let this = std::process::id();
        let socket = proc::sockets(this).unwrap().into_iter().find(|(number, _)| *number == server.as_raw_fd()).unwrap().1;
        let place = Place { process: this, socket };
        assert!(!Readers::default().sleeps_in(place));
        std::thread::scope(|scope| {
            scope.spawn(|| std::io::Read::read(&mut &copy, &mut [0; 9]));
            while !Readers::default().sleeps_in(place) {
                std::thread::yield_now();
            }
            drop(client);
        });
        assert!(!Readers::default().sleeps_in(place));
    }
}
