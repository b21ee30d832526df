//! accept(2) behind a gate: the supervisor takes the connection from the queue and gives it to the caller, or makes the caller wait as
//! the kernel would.
//! Never lives here: bind and listen.

use super::Blind;
use super::address;
use super::listener::Listener;
use super::memory::{self, forbidden};
use super::supervised::Supervised;
use crate::process::descriptors::{self, errno};
use crate::process::seccomp::Call;
use crate::upgrade::proc;
use nix::errno::Errno;
use nix::libc;
use rustix::net::sockopt::{Timeout, socket_timeout};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After connections could not be taken for want of a descriptor, of which no event tells when there is one.
const REST: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub struct Accepts {
    /// Threads that wait for a connection, as they would in the kernel.
    parked: BTreeMap<i32, Parked>,
    /// No connection is taken for threads that wait until then.
    rest: Option<Instant>,
}

/// A thread that waits for a connection.
#[derive(Debug)]
struct Parked {
    socket: u64,
    /// SO_RCVTIMEO of the socket, which holds for accept, too (socket(7)).
    until: Option<Instant>,
    id: u64,
    place: Destination,
}

/// Where the caller wants the address of the peer, and how the connection is to be.
#[derive(Debug, Clone, Copy)]
struct Destination {
    thread: i32,
    address: u64,
    length: u64,
    /// How much of the address it has room for.
    room: usize,
    flags: i32,
}

/// A connection that was taken from a queue.
type Connection = (TcpStream, SocketAddr);

impl Accepts {
    pub fn accept(
        &mut self,
        now: Instant,
        program: &mut Supervised,
        call: &Call,
        (fd, address, length, flags): (RawFd, u64, u64, i32),
    ) {
        let Some(listener) = held_at(program, call, fd) else { return program.calls.proceed(call.id) };
        // The kernel says what is wrong with these.
        if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return program.calls.proceed(call.id);
        }
        let room = match room(call.thread, address, length) {
            Ok(room) => room,
            // Nothing has been taken yet that could be lost.
            Err(error) => {
                if forbidden(error) {
                    program.blind(Blind::Memory(error));
                }
                return program.calls.proceed(call.id);
            }
        };
        program.callers.process(call.thread);
        let non_blocking = listener.is_non_blocking(program.generation);
        program.accepts(now, &listener);
        let place = Destination { thread: call.thread, address, length, room, flags };
        if program.is_open(&listener) {
            match self.take(now, &listener) {
                Ok(Some(connection)) => return give(program, call.id, place, &listener, connection),
                Ok(None) => {}
                Err(error) => return program.calls.fail(call.id, error),
            }
        }
        if non_blocking {
            return program.calls.fail(call.id, Errno::EAGAIN);
        }
        let timeout = socket_timeout(&*listener, Timeout::Recv).ok().flatten();
        let until = timeout.map(|timeout| now + timeout);
        // A thread that comes again was interrupted by a signal, and has restarted the call.
        self.parked.insert(call.thread, Parked { socket: listener.inode, until, id: call.id, place });
    }

    /// Sockets whose next connection somebody waits for.
    pub fn waited_for(&self, program: &Supervised) -> Vec<Arc<Listener>> {
        if self.rest.is_some() {
            return Vec::new();
        }
        let listeners = program.uses.iter().map(|used| &used.listener);
        let waited = |listener: &&Arc<Listener>| self.parked.values().any(|parked| parked.socket == listener.inode);
        listeners.filter(waited).filter(|listener| program.is_open(listener)).map(Arc::clone).collect()
    }

    /// Connections that have come, to threads that wait for one.
    pub fn serve(&mut self, now: Instant, program: &mut Supervised, listener: &Arc<Listener>) {
        while program.is_open(listener) {
            let waits = |(_, parked): &(&i32, &Parked)| parked.socket == listener.inode;
            let Some((thread, first)) = self.parked.iter().filter(waits).min_by_key(|(_, parked)| parked.id) else {
                return;
            };
            let (thread, id, place) = (*thread, first.id, first.place);
            match self.take(now, listener) {
                Ok(Some(connection)) => {
                    self.parked.remove(&thread);
                    give(program, id, place, listener, connection);
                }
                Ok(None) => return,
                Err(error) => {
                    self.parked.remove(&thread);
                    program.calls.fail(id, error);
                }
            }
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.parked.values().filter_map(|parked| parked.until).chain(self.rest).min()
    }

    pub fn tick(&mut self, now: Instant, program: &Supervised) {
        self.parked.retain(|_, parked| {
            let late = parked.until.is_some_and(|until| until <= now);
            if late {
                program.calls.fail(parked.id, Errno::EAGAIN);
            }
            !late
        });
        if self.rest.take_if(|rest| *rest <= now).is_some() {
            program.wake_all_open();
        }
    }

    /// Those that wait are the kernel's from now on.
    pub fn leave(&mut self, program: &Supervised) {
        std::mem::take(&mut self.parked).into_values().for_each(|parked| program.calls.proceed(parked.id));
    }

    /// Nobody has come either where there is no descriptor for a connection, which stays in the queue: that is this process's trouble and
    /// not the program's.
    fn take(&mut self, now: Instant, listener: &Listener) -> Result<Option<Connection>, Errno> {
        match listener.take() {
            Err(error) if descriptors::is_out(&error) => {
                self.rest = Some(now + REST);
                Ok(None)
            }
            other => other.map_err(errno),
        }
    }
}

/// The socket at that number of the caller, if it is one that is held.
fn held_at(program: &mut Supervised, call: &Call, fd: RawFd) -> Option<Arc<Listener>> {
    let inode = match proc::socket_at(call.thread, fd) {
        Ok(inode) => inode?,
        Err(error) => {
            program.blind(Blind::Memory(errno(error)));
            return None;
        }
    };
    if !program.calls.is_waiting(call.id) {
        return None;
    }
    if let Some(used) = program.used(inode) {
        return Some(Arc::clone(&used.listener));
    }
    let listener = program.shelf.find(|held| held.inode == inode)?;
    program.use_it(&listener);
    Some(listener)
}

fn give(program: &mut Supervised, id: u64, place: Destination, listener: &Listener, (connection, peer): Connection) {
    if !program.calls.is_waiting(id) {
        return take_back(listener, (connection, peer));
    }
    match place.write(peer) {
        Ok(()) => {}
        Err(error) if forbidden(error) => {
            program.blind(Blind::Memory(error));
            take_back(listener, (connection, peer));
            return program.calls.fail(id, Errno::ECONNABORTED);
        }
        // As in the kernel, which has closed the connection by then.
        Err(error) => return program.calls.fail(id, error),
    }
    let close_on_exec = place.flags & libc::SOCK_CLOEXEC != 0;
    let given = match connection.set_nonblocking(place.flags & libc::SOCK_NONBLOCK != 0) {
        Ok(()) => program.calls.give(id, connection.as_fd(), close_on_exec),
        Err(error) => Err(errno(error)),
    };
    match given {
        Ok(()) => {}
        // The thread was ended, or went to serve a signal.
        Err(Errno::ENOENT) => take_back(listener, (connection, peer)),
        // It has no room for a descriptor: the connection stays in the queue.
        Err(error) => {
            program.calls.fail(id, error);
            take_back(listener, (connection, peer));
        }
    }
}

/// The next one who asks will have it, and is told that there is something to ask for.
fn take_back(listener: &Listener, connection: Connection) {
    listener.give_back(connection);
    listener.wake();
}

impl Destination {
    /// The address is cut off where the caller has no room for it, and its full length is told (accept(2)).
    fn write(&self, peer: SocketAddr) -> Result<(), Errno> {
        if self.address == 0 {
            return Ok(());
        }
        let bytes = address::bytes(peer);
        let part = bytes.len().min(self.room);
        memory::write(self.thread, self.address, &bytes[..part])?;
        memory::write(self.thread, self.length, &(bytes.len() as u32).to_ne_bytes())
    }
}

/// How much of the address of a peer the caller has room for.
fn room(thread: i32, address: u64, length: u64) -> Result<usize, Errno> {
    if address == 0 {
        return Ok(0);
    }
    let length = memory::read(thread, length, 4)?;
    Ok(u32::from_ne_bytes(length.try_into().map_err(|_| Errno::EFAULT)?) as usize)
}
