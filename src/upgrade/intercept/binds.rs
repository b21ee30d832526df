//! bind(2) and listen(2) behind a gate: the program is given the socket that is held in place of its own, and a socket that is not
//! held yet is from the moment it listens.
//! Never lives here: accept.

use super::connections::copy;
use super::copies::Copies;
use super::listener::Listener;
use super::memory::{self, forbidden};
use super::supervised::Supervised;
use super::{Blind, Seen, address, kernel};
use crate::process::descriptors::{self, errno};
use crate::process::seccomp::Call;
use crate::upgrade::proc;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket, sockopt};
use rustix::net::sockopt as socket_option;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

/// `struct sockaddr_storage`; a longer address is refused by the kernel.
const LONGEST_ADDRESS: u64 = 128;

#[derive(Debug, Default)]
pub struct Binds {
    /// Sockets for which it has asked for an address of its own choice, and which do not listen yet.
    asked: BTreeSet<u64>,
    /// Threads whose bind(2) was done for them, and that did not hear of it, and the socket: they ask again (signal(7)).
    unheard: BTreeMap<i32, u64>,
    /// Addresses that it has asked for in vain.
    occupied: BTreeSet<SocketAddr>,
    said_tied: bool,
}

/// A socket that is to be bound: of which process, at which number there, and which one.
#[derive(Debug, Clone, Copy)]
struct Own {
    process: u32,
    fd: RawFd,
    inode: u64,
}

impl Binds {
    pub fn bind(&mut self, program: &mut Supervised, call: &Call, (fd, at, length): (RawFd, u64, u64)) {
        match self.try_bind(program, call, (fd, at, length)) {
            Ok(Bound::ByKernel) => program.calls.proceed(call.id),
            Ok(Bound::Here) => {
                if !program.calls.succeed(call.id)
                    && let Ok(Some(inode)) = proc::socket_at(call.thread, fd)
                {
                    self.unheard.insert(call.thread, inode);
                }
            }
            Err(error) => program.calls.fail(call.id, error),
        }
    }

    fn try_bind(
        &mut self,
        program: &mut Supervised,
        call: &Call,
        (fd, at, length): (RawFd, u64, u64),
    ) -> Result<Bound, Errno> {
        if length > LONGEST_ADDRESS {
            return Ok(Bound::ByKernel);
        }
        let bytes = match memory::read(call.thread, at, length as usize) {
            Ok(bytes) => bytes,
            Err(error) => {
                if forbidden(error) {
                    program.blind(Blind::Memory(error));
                }
                return Ok(Bound::ByKernel);
            }
        };
        let Some(wanted) = address::parse(&bytes).filter(|address| address.port() != 0) else {
            return Ok(Bound::ByKernel);
        };
        let Ok(Some(inode)) = proc::socket_at(call.thread, fd) else { return Ok(Bound::ByKernel) };
        if program.calls.is_waiting(call.id) && self.unheard.remove(&call.thread) == Some(inode) {
            return Ok(Bound::Here);
        }
        if program.used(inode).is_some() || !program.calls.is_waiting(call.id) {
            // It is bound already, as the kernel will say.
            return Ok(Bound::ByKernel);
        }
        let Some(process) = program.callers.process(call.thread) else { return Ok(Bound::ByKernel) };
        let own = Own { process, fd, inode };
        match copy(process, fd, inode) {
            Ok(Some(copy)) if is_tcp(&copy) => self.bind_copy(program, call, own, wanted, &copy),
            // It is not held, but whether it gets its address is worth knowing.
            Ok(Some(copy)) if is_udp(&copy) => self.bind_here(program, &copy, wanted),
            Ok(_) => Ok(Bound::ByKernel),
            Err(_) if proc::is_tcp_at(call.thread, fd) => self.bind_anew(program, call, own, wanted),
            Err(_) => Ok(Bound::ByKernel),
        }
    }

    /// With a copy of the program's own socket at hand.
    fn bind_copy(
        &mut self,
        program: &mut Supervised,
        call: &Call,
        own: Own,
        wanted: SocketAddr,
        copy: &OwnedFd,
    ) -> Result<Bound, Errno> {
        let v6_only = wanted.is_ipv6() && socket_option::ipv6_v6only(copy).unwrap_or(false);
        let same = program.shelf.find(|held| held.is(wanted, v6_only) && held.is_to_stay());
        if let Some(held) = same.or_else(|| program.spare((wanted, v6_only))) {
            if !getsockopt(copy, sockopt::ReusePort).unwrap_or(false) && program.has_open(&held) {
                // Twice the same address in one program: refused as it would be anywhere.
                return Ok(Bound::ByKernel);
            }
            let non_blocking = fcntl(copy, FcntlArg::F_GETFL)? & OFlag::O_NONBLOCK.bits() != 0;
            let copies = self.copies(program, own)?;
            kernel::make_like(&*held, copy);
            let bound = put(program, call, own.fd, &copies, (&held, non_blocking))?;
            if let Bound::ByKernel = bound {
                self.asked.insert(own.inode);
            }
            return Ok(bound);
        }
        self.asked.insert(own.inode);
        let overlapping =
            program.shelf.filter(|held| address::overlap((held.address, held.v6_only), (wanted, v6_only)));
        if overlapping.iter().any(|held| program.has_open(held)) {
            // As above: the kernel knows whether it may.
            return Ok(Bound::ByKernel);
        }
        // Two sockets whose addresses overlap may both be bound if both say so (socket(7), SO_REUSEPORT), until the older one is let
        // go.
        for held in &overlapping {
            setsockopt(held, sockopt::ReusePort, &true).ok();
            setsockopt(copy, sockopt::ReusePort, &true).ok();
        }
        self.bind_here(program, copy, wanted)
    }

    /// On the same socket as the program would: it is known here at once whether it has the address.
    fn bind_here(&mut self, program: &Supervised, own: &OwnedFd, wanted: SocketAddr) -> Result<Bound, Errno> {
        if wanted.port() < 1024 {
            // The right to do so is the program's or is not.
            return Ok(Bound::ByKernel);
        }
        match rustix::net::bind(own, &wanted).map_err(errno) {
            Ok(()) => {
                if self.occupied.remove(&wanted) {
                    (program.tell)(Seen::Had { address: wanted });
                }
                Ok(Bound::Here)
            }
            Err(Errno::EADDRINUSE) => {
                if self.occupied.insert(wanted) {
                    let by = proc::who_else_has(own, wanted.port(), &program.callers.all());
                    (program.tell)(Seen::Occupied { address: wanted, by });
                }
                Err(Errno::EADDRINUSE)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the program's own may not be copied: a socket of ours takes its place.
    fn bind_anew(
        &mut self,
        program: &mut Supervised,
        call: &Call,
        own: Own,
        wanted: SocketAddr,
    ) -> Result<Bound, Errno> {
        // Where it cannot be replaced it is not held.
        let Ok(copies) = self.copies(program, own) else { return Ok(Bound::ByKernel) };
        let flags = proc::flags_at(call.thread, own.fd).unwrap_or(libc::O_CLOEXEC);
        let non_blocking = flags & libc::O_NONBLOCK != 0;
        let same = program.shelf.find(|held| held.address == wanted && held.is_to_stay());
        if let Some(held) = same.or_else(|| program.spare((wanted, false))) {
            return if program.has_open(&held) {
                Ok(Bound::ByKernel)
            } else {
                put(program, call, own.fd, &copies, (&held, non_blocking))
            };
        }
        let family = if wanted.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let new = match descriptors::with(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)) {
            // That is this process's trouble and not the program's, whose own socket will do, though not for the next generation.
            Err(error) if descriptors::is_out(&error) => return Ok(Bound::ByKernel),
            other => other?,
        };
        // As the standard library, tokio and nearly all others do.
        setsockopt(&new, sockopt::ReuseAddr, &true)?;
        rustix::net::bind(&new, &wanted).map_err(errno)?;
        let listener = Arc::new(Listener::new(new).map_err(errno)?);
        program.shelf.add(&listener);
        put(program, call, own.fd, &copies, (&listener, non_blocking))
    }

    /// Before anything is changed. Where one of them cannot be reached, the socket cannot be replaced, which is told.
    fn copies(&mut self, program: &Supervised, own: Own) -> Result<Copies, Errno> {
        let copies = Copies::of(own.process, own.inode, &program.callers.all());
        if copies.is_err() && !std::mem::replace(&mut self.said_tied, true) {
            (program.tell)(Seen::Tied);
        }
        copies
    }

    pub fn listen(&mut self, now: Instant, program: &mut Supervised, call: &Call, (fd, backlog): (RawFd, i32)) {
        let Ok(Some(inode)) = proc::socket_at(call.thread, fd) else { return program.calls.proceed(call.id) };
        if !program.calls.is_waiting(call.id) {
            return;
        }
        if program.used(inode).is_none() {
            if !self.asked.remove(&inode) {
                // A port of the kernel's choice, or no TCP.
                return program.calls.proceed(call.id);
            }
            let Some(process) = program.callers.process(call.thread) else { return program.calls.proceed(call.id) };
            let Ok(Some(own)) = copy(process, fd, inode) else { return program.calls.proceed(call.id) };
            let Ok(listener) = Listener::new(own).map(Arc::new) else { return program.calls.proceed(call.id) };
            // Another thread or process was quicker: sockets that share an address are one (SO_REUSEPORT), however many of them the
            // next generation will have.
            if let Some(first) =
                program.shelf.find(|held| held.is(listener.address, listener.v6_only) && held.is_to_stay())
            {
                let non_blocking = listener.is_non_blocking(program.generation);
                let copies = self.copies(program, Own { process, fd, inode });
                return match copies.and_then(|copies| put(program, call, fd, &copies, (&first, non_blocking))) {
                    Ok(Bound::ByKernel) => program.calls.proceed(call.id),
                    Ok(Bound::Here) => {
                        program.listens(now, &first);
                        // One that does not hear of it listens once more, which changes nothing.
                        let _ = program.calls.succeed(call.id);
                    }
                    Err(error) => {
                        // A call that was interrupted comes again.
                        self.asked.insert(inode);
                        program.calls.fail(call.id, error);
                    }
                };
            }
            listener.hand_to(program.generation, listener.is_non_blocking(program.generation)).ok();
            program.shelf.add(&listener);
            program.use_it(&listener).bound = true;
        }
        let Some(used) = program.used(inode) else { return program.calls.proceed(call.id) };
        let listener = Arc::clone(&used.listener);
        // On the same socket as the program would: it is known here at once whether it listens.
        match rustix::net::listen(&*listener, backlog) {
            Ok(()) => {
                program.listens(now, &listener);
                let _ = program.calls.succeed(call.id);
            }
            Err(error) => program.calls.fail(call.id, errno(error)),
        }
    }
}

/// The held socket takes the place of the program's own.
fn put(
    program: &mut Supervised,
    call: &Call,
    fd: RawFd,
    copies: &Copies,
    (held, non_blocking): (&Arc<Listener>, bool),
) -> Result<Bound, Errno> {
    held.hand_to(program.generation, non_blocking).map_err(errno)?;
    if !held.is_to_stay() {
        // It is let go at this very moment.
        return Ok(Bound::ByKernel);
    }
    copies.replace(&program.calls, call, fd, held)?;
    program.use_it(held).bound = true;
    Ok(Bound::Here)
}

enum Bound {
    ByKernel,
    Here,
}

fn is_tcp(socket: &OwnedFd) -> bool {
    let tcp = rustix::net::ipproto::TCP;
    socket_option::socket_type(socket).is_ok_and(|kind| kind == rustix::net::SocketType::STREAM)
        && socket_option::socket_protocol(socket).is_ok_and(|protocol| protocol == Some(tcp))
}

fn is_udp(socket: &OwnedFd) -> bool {
    let udp = rustix::net::ipproto::UDP;
    socket_option::socket_protocol(socket).is_ok_and(|protocol| protocol == Some(udp))
}
