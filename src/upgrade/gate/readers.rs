//! Which threads of a program sleep in a call that reads from one of its connections, and how one is woken without harm.
//! Never lives here: why that matters (`connections`).

use crate::process::descriptors;
use crate::upgrade::proc;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::RawFd;
use std::thread;

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

/// A thread that has slept in a call which reads from that descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    thread: u32,
    number: RawFd,
}

impl Readers {
    pub fn of(&mut self, place: Place) -> Option<Reader> {
        self.found.entry(place.process).or_insert_with(|| find(place.process)).get(&place.socket).copied()
    }
}

/// Does something while it is sure that the reader can be woken. Nothing where it cannot: as it has ended, as a debugger has it, or as the
/// last hold on it is just being let go.
pub fn with_hold_on<T: Send>(reader: Reader, what: impl FnOnce(&Traced) -> T + Send) -> Option<T> {
    let thread = Pid::from_raw(i32::try_from(reader.thread).ok()?);
    let trace = || {
        ptrace::seize(thread, Options::empty()).ok()?;
        Some(what(&Traced { reader, thread }))
    };
    // A tracer is a thread, and what it traces goes on when it ends (ptrace(2)), without a stop that somebody would have to wait for.
    thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, trace).ok()?.join().ok()?)
}

/// One that is traced, and goes on.
#[derive(Debug)]
pub struct Traced {
    pub reader: Reader,
    thread: Pid,
}

impl Traced {
    pub fn sleeps(&self) -> bool {
        reads(self.reader.thread) == Some(self.reader.number)
    }

    /// Whatever call it sleeps in returns with what it has, or begins anew, now or as soon as it sleeps (PTRACE_INTERRUPT).
    pub fn wake(&self) {
        ptrace::interrupt(self.thread).ok();
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
        let socket =
            proc::sockets(this).unwrap().into_iter().find(|(number, _)| *number == server.as_raw_fd()).unwrap().1;
        let place = Place { process: this, socket };
        assert_eq!(Readers::default().of(place), None);
        thread::scope(|scope| {
            scope.spawn(|| std::io::Read::read(&mut &copy, &mut [0; 9]));
            while Readers::default().of(place).is_none() {
                thread::yield_now();
            }
            drop(client);
        });
        assert_eq!(Readers::default().of(place), None);
    }
}
