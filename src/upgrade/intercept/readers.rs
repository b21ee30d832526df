//! Which threads of a program sleep in a call that reads from one of its connections, and how one is woken without harm.
//! Never lives here: why that matters (`connections`).

use crate::process::descriptors;
use crate::upgrade::proc;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::RawFd;
use std::thread;

/// A socket of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessSocket {
    pub process: u32,
    pub inode: u64,
}

/// Who slept where at some time: with a thread for each connection, it is the same one again.
#[derive(Debug, Default)]
pub struct Readers {
    known: BTreeMap<ProcessSocket, Reader>,
    /// Those that were asked at this look: there may be as many threads as connections.
    asked: BTreeSet<u32>,
}

/// A thread that has slept in a call which reads from that descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    process: u32,
    thread: u32,
    number: RawFd,
}

impl Readers {
    pub fn new_look(&mut self) {
        self.asked.clear();
        self.known.retain(|_, reader| reader.is_there() && !reader.reads_elsewhere());
    }

    pub fn of(&mut self, socket: ProcessSocket) -> Option<Reader> {
        if !self.known.contains_key(&socket) && self.asked.insert(socket.process) {
            self.known.extend(find(socket.process));
        }
        self.known.get(&socket).copied()
    }
}

impl Reader {
    /// Its number may be another's by now.
    fn is_there(&self) -> bool {
        i32::try_from(self.thread).is_ok_and(|thread| proc::process_of(thread) == Some(self.process))
    }

    /// Another thread may read there by now.
    fn reads_elsewhere(&self) -> bool {
        reads(self.thread).is_some_and(|number| number != self.number)
    }

    /// Whatever call it sleeps in returns with what it has, or begins anew. Whether that is done, or needs not be.
    pub fn wake(&self) -> bool {
        !self.is_there() || with_hold_on(*self, Traced::wake).is_some()
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

    /// Now, or as soon as it would sleep (PTRACE_INTERRUPT); not from another call, which might take that for a signal's.
    pub fn wake(&self) {
        if sleeps_in(self.reader.thread).is_none_or(|call| reads_from(&call) == Some(self.reader.number)) {
            ptrace::interrupt(self.thread).ok();
        }
    }
}

fn find(process: u32) -> Vec<(ProcessSocket, Reader)> {
    let sockets: BTreeMap<RawFd, u64> = proc::sockets(process).into_iter().flatten().collect();
    let threads = descriptors::with(|| fs::read_dir(format!("/proc/{process}/task"))).into_iter().flatten().flatten();
    let reader = |thread: u32| {
        let number = reads(thread)?;
        Some((ProcessSocket { process, inode: *sockets.get(&number)? }, Reader { process, thread, number }))
    };
    threads.filter_map(|thread| reader(thread.file_name().to_str()?.parse().ok()?)).collect()
}

/// The descriptor from which a thread reads, if it sleeps in that.
fn reads(thread: u32) -> Option<RawFd> {
    reads_from(&sleeps_in(thread)?)
}

/// `0 0x5 0x7f04c8000b70 0x2000 ...`: the call and its arguments, of a thread that sleeps in one (proc_pid_syscall(5)).
fn sleeps_in(thread: u32) -> Option<String> {
    let call = descriptors::with(|| fs::read_to_string(format!("/proc/{thread}/syscall"))).ok()?;
    call.starts_with(|first: char| first.is_ascii_digit()).then_some(call)
}

fn reads_from(call: &str) -> Option<RawFd> {
    const READING: [c_long; 4] = [libc::SYS_read, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmsg];
    let mut words = call.split_whitespace();
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
        assert_eq!(reads_from(&line(libc::SYS_recvfrom)), Some(31));
        assert_eq!(reads_from(&line(libc::SYS_read)), Some(31));
        for other in [&line(libc::SYS_write), "running\n", "-1 0x7ffd 0x7f04\n", "", "0", "0 5", "x 0x5"] {
            assert_eq!(reads_from(other), None, "{other:?}");
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
        let sockets = proc::sockets(this).unwrap();
        let (_, inode) = *sockets.iter().find(|(number, _)| *number == server.as_raw_fd()).unwrap();
        let socket = ProcessSocket { process: this, inode };
        assert_eq!(Readers::default().of(socket), None);
        thread::scope(|scope| {
            scope.spawn(|| std::io::Read::read(&mut &copy, &mut [0; 9]));
            while Readers::default().of(socket).is_none() {
                thread::yield_now();
            }
            drop(client);
        });
        assert_eq!(Readers::default().of(socket), None);
    }
}
