//! accept(2) behind a gate: the keeper takes the connection from the queue and gives it to the caller, or makes the caller wait as the
//! kernel would.
//! Never lives here: bind and listen.

use super::address;
use super::keeper::{Keeper, forbidden, now};
use super::listener::Listener;
use super::{Blind, Seen};
use crate::process::descriptors;
use crate::process::seccomp::Call;
use crate::upgrade::proc;
use nix::errno::Errno;
use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use rustix::net::sockopt::{Timeout, socket_timeout};
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

/// A thread that waits for a connection.
#[derive(Debug)]
pub struct Parked {
    pub socket: u64,
    /// SO_RCVTIMEO of the socket, which holds for accept, too (socket(7)).
    pub until: Option<Instant>,
    pub id: u64,
    place: Place,
}

/// Where the caller wants the address of the peer, and how the connection is to be.
#[derive(Debug, Clone, Copy)]
struct Place {
    thread: i32,
    address: u64,
    length: u64,
    /// How much of the address it has room for.
    room: usize,
    flags: i32,
}

impl Keeper {
    pub(super) fn accept(&mut self, call: &Call, fd: RawFd, (address, length): (u64, u64), flags: i32) {
        let Some(listener) = self.held_at(call, fd) else { return self.calls.proceed(call.id) };
        // The kernel says what is wrong with these.
        if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return self.calls.proceed(call.id);
        }
        let room = match room(call.thread, address, length) {
            Ok(room) => room,
            // Nothing has been taken yet that could be lost.
            Err(error) => {
                if forbidden(error) {
                    self.blind(Blind::Memory(error));
                }
                return self.calls.proceed(call.id);
            }
        };
        self.process(call.thread);
        let non_blocking = listener.is_non_blocking(self.generation);
        self.accepts(&listener);
        let place = Place { thread: call.thread, address, length, room, flags };
        if self.is_open(&listener) {
            match listener.take() {
                Ok(Some(connection)) => {
                    self.give(call.id, place, &listener, connection);
                    return;
                }
                Ok(None) => {}
                // That is this process's trouble and not the program's, for which nobody has come yet.
                Err(error) if descriptors::is_out(&error) => self.rest_a_while(),
                Err(error) => {
                    return self.calls.fail(call.id, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
                }
            }
        }
        if non_blocking {
            return self.calls.fail(call.id, Errno::EAGAIN);
        }
        let timeout = socket_timeout(&*listener, Timeout::Recv).ok().flatten();
        let until = timeout.map(|timeout| now() + timeout);
        // A thread that comes again was interrupted by a signal, and has restarted the call.
        self.parked.insert(call.thread, Parked { socket: listener.inode, until, id: call.id, place });
    }

    /// The socket at that number of the caller, if it is one that is held.
    fn held_at(&mut self, call: &Call, fd: RawFd) -> Option<Arc<Listener>> {
        let inode = match proc::socket_at(call.thread, fd) {
            Ok(inode) => inode?,
            Err(error) => {
                self.blind(Blind::Memory(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)));
                return None;
            }
        };
        if !self.calls.is_waiting(call.id) {
            return None;
        }
        if let Some(used) = self.used(inode) {
            return Some(Arc::clone(&used.listener));
        }
        let listener = self.shelf.find(|held| held.inode == inode)?;
        self.use_it(&listener);
        Some(listener)
    }

    fn accepts(&mut self, listener: &Arc<Listener>) {
        if let Some(used) = self.used(listener.inode).filter(|used| !used.accepts) {
            used.accepts = true;
            self.listens(listener);
            self.forget_closed(listener);
            let all = self.uses.iter().filter(|used| used.listens).all(|used| used.accepts);
            (self.tell)(Seen::Accepts { all });
        }
    }

    /// Connections that have come, to threads that wait for one.
    pub(super) fn serve_parked(&mut self, listener: &Arc<Listener>) {
        while self.is_open(listener) {
            let waits = |(_, parked): &(&i32, &Parked)| parked.socket == listener.inode;
            let Some((thread, first)) = self.parked.iter().filter(waits).min_by_key(|(_, parked)| parked.id) else {
                return;
            };
            let (thread, id, place) = (*thread, first.id, first.place);
            match listener.take() {
                Ok(Some(connection)) => {
                    self.parked.remove(&thread);
                    self.give(id, place, listener, connection);
                }
                Ok(None) => return,
                Err(error) if descriptors::is_out(&error) => return self.rest_a_while(),
                Err(error) => {
                    self.parked.remove(&thread);
                    self.calls.fail(id, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
                }
            }
        }
    }

    /// Those whose time is over.
    pub(super) fn release_late(&mut self, now: Instant) {
        let calls = &self.calls;
        self.parked.retain(|_, parked| {
            let late = parked.until.is_some_and(|until| until <= now);
            if late {
                calls.fail(parked.id, Errno::EAGAIN);
            }
            !late
        });
    }

    fn give(&mut self, id: u64, place: Place, listener: &Listener, (connection, peer): (TcpStream, SocketAddr)) {
        if !self.calls.is_waiting(id) {
            return self.take_back(listener, (connection, peer));
        }
        match place.write(peer) {
            Ok(()) => {}
            Err(error) if forbidden(error) => {
                self.blind(Blind::Memory(error));
                self.take_back(listener, (connection, peer));
                return self.calls.fail(id, Errno::ECONNABORTED);
            }
            // As in the kernel, which has closed the connection by then.
            Err(error) => return self.calls.fail(id, error),
        }
        let close_on_exec = place.flags & libc::SOCK_CLOEXEC != 0;
        let given = match connection.set_nonblocking(place.flags & libc::SOCK_NONBLOCK != 0) {
            Ok(()) => self.calls.give(id, connection.as_fd(), close_on_exec),
            Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
        };
        match given {
            Ok(()) => {}
            // The thread was ended, or went to serve a signal.
            Err(Errno::ENOENT) => self.take_back(listener, (connection, peer)),
            // It has no room for a descriptor: the connection stays in the queue.
            Err(error) => {
                self.calls.fail(id, error);
                self.take_back(listener, (connection, peer));
            }
        }
    }

    /// The next one who asks will have it, and is told that there is something to ask for.
    fn take_back(&mut self, listener: &Listener, connection: (TcpStream, SocketAddr)) {
        listener.give_back(connection);
        listener.wake();
    }
}

impl Place {
    /// The address is cut off where the caller has no room for it, and its full length is told (accept(2)).
    fn write(&self, peer: SocketAddr) -> Result<(), Errno> {
        if self.address == 0 {
            return Ok(());
        }
        let bytes = address::bytes(peer);
        let part = bytes.len().min(self.room);
        write(self.thread, self.address, &bytes[..part])?;
        write(self.thread, self.length, &(bytes.len() as u32).to_ne_bytes())
    }
}

/// How much of the address of a peer the caller has room for.
fn room(thread: i32, address: u64, length: u64) -> Result<usize, Errno> {
    if address == 0 {
        return Ok(0);
    }
    let length = read(thread, length, 4)?;
    Ok(u32::from_ne_bytes(length.try_into().map_err(|_| Errno::EFAULT)?) as usize)
}

/// Memory of a thread that waits at the gate (process_vm_readv(2)). The caller sees to it that it does.
///
/// # Errors
/// EFAULT for an address that is none; EPERM where it is not allowed.
pub(super) fn read(thread: i32, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let from = [RemoteIoVec { base: address as usize, len: length }];
    let read = process_vm_readv(Pid::from_raw(thread), &mut [IoSliceMut::new(&mut bytes)], &from)?;
    if read == length { Ok(bytes) } else { Err(Errno::EFAULT) }
}

fn write(thread: i32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let to = [RemoteIoVec { base: address as usize, len: bytes.len() }];
    let written = process_vm_writev(Pid::from_raw(thread), &[IoSlice::new(bytes)], &to)?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
}
