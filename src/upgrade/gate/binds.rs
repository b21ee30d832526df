//! bind(2) and listen(2) behind a gate: the program is given the socket that is held in place of its own, and a socket that is not
//! held yet is from the moment it listens.
//! Never lives here: accept.

use super::accepts::read;
use super::connections::copy;
use super::copies::Copies;
use super::keeper::{Keeper, forbidden};
use super::listener::Listener;
use super::{Blind, Seen, address, kernel};
use crate::process::descriptors;
use crate::process::seccomp::Call;
use crate::upgrade::proc;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket, sockopt};
use rustix::net::sockopt as socket_option;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

/// `struct sockaddr_storage`; a longer address is refused by the kernel.
const LONGEST_ADDRESS: u64 = 128;

impl Keeper {
    pub(super) fn bind(&mut self, call: &Call, fd: RawFd, at: u64, length: u64) {
        match self.try_bind(call, fd, at, length) {
            Ok(Bound::ByKernel) => self.calls.proceed(call.id),
            Ok(Bound::Here) => {
                if !self.calls.succeed(call.id)
                    && let Ok(Some(inode)) = proc::socket_at(call.thread, fd)
                {
                    self.unheard.insert(call.thread, inode);
                }
            }
            Err(error) => self.calls.fail(call.id, error),
        }
    }

    fn try_bind(&mut self, call: &Call, fd: RawFd, at: u64, length: u64) -> Result<Bound, Errno> {
        if length > LONGEST_ADDRESS {
            return Ok(Bound::ByKernel);
        }
        let bytes = match read(call.thread, at, length as usize) {
            Ok(bytes) => bytes,
            Err(error) => {
                if forbidden(error) {
                    self.blind(Blind::Memory(error));
                }
                return Ok(Bound::ByKernel);
            }
        };
        let Some(wanted) = address::parse(&bytes).filter(|address| address.port() != 0) else {
            return Ok(Bound::ByKernel);
        };
        let Ok(Some(inode)) = proc::socket_at(call.thread, fd) else { return Ok(Bound::ByKernel) };
        if self.calls.is_waiting(call.id) && self.unheard.remove(&call.thread) == Some(inode) {
            return Ok(Bound::Here);
        }
        if self.used(inode).is_some() || !self.calls.is_waiting(call.id) {
            // It is bound already, as the kernel will say.
            return Ok(Bound::ByKernel);
        }
        let Some(process) = self.process(call.thread) else { return Ok(Bound::ByKernel) };
        match copy(process, fd, inode) {
            Ok(Some(own)) if is_tcp(&own) => self.bind_copy(call, process, (fd, inode), wanted, &own),
            // It is not held, but whether it gets its address is worth knowing.
            Ok(Some(own)) if is_udp(&own) => self.bind_here(&own, wanted),
            Ok(_) => Ok(Bound::ByKernel),
            Err(_) if proc::is_tcp_at(call.thread, fd) => self.bind_anew(call, process, (fd, inode), wanted),
            Err(_) => Ok(Bound::ByKernel),
        }
    }

    /// With a copy of the program's own socket at hand.
    fn bind_copy(
        &mut self,
        call: &Call,
        process: u32,
        (fd, inode): (RawFd, u64),
        wanted: SocketAddr,
        own: &OwnedFd,
    ) -> Result<Bound, Errno> {
        let v6_only = wanted.is_ipv6() && socket_option::ipv6_v6only(own).unwrap_or(false);
        let same = self.shelf.find(|held| held.is(wanted, v6_only) && held.is_to_stay());
        if let Some(held) = same.or_else(|| self.spare(wanted, v6_only)) {
            if !getsockopt(own, sockopt::ReusePort).unwrap_or(false) && self.has_open(&held) {
                // Twice the same address in one program: refused as it would be anywhere.
                return Ok(Bound::ByKernel);
            }
            let non_blocking = fcntl(own, FcntlArg::F_GETFL)? & OFlag::O_NONBLOCK.bits() != 0;
            let copies = self.copies(process, inode)?;
            kernel::make_like(&*held, own);
            let bound = self.put(call, fd, &copies, &held, non_blocking)?;
            if let Bound::ByKernel = bound {
                self.asked.insert(inode);
            }
            return Ok(bound);
        }
        self.asked.insert(inode);
        let overlapping = self.shelf.filter(|held| address::overlap((held.address, held.v6_only), (wanted, v6_only)));
        if overlapping.iter().any(|held| self.has_open(held)) {
            // As above: the kernel knows whether it may.
            return Ok(Bound::ByKernel);
        }
        // Two sockets whose addresses overlap may both be bound if both say so (socket(7), SO_REUSEPORT), until the older one is let
        // go.
        for held in &overlapping {
            setsockopt(held, sockopt::ReusePort, &true).ok();
            setsockopt(own, sockopt::ReusePort, &true).ok();
        }
        self.bind_here(own, wanted)
    }

    /// On the same socket as the program would: it is known here at once whether it has the address.
    fn bind_here(&mut self, own: &OwnedFd, wanted: SocketAddr) -> Result<Bound, Errno> {
        if wanted.port() < 1024 {
            // The right to do so is the program's or is not.
            return Ok(Bound::ByKernel);
        }
        match rustix::net::bind(own, &wanted).map_err(of_rustix) {
            Ok(()) => {
                if self.occupied.remove(&wanted) {
                    (self.tell)(Seen::Had { address: wanted });
                }
                Ok(Bound::Here)
            }
            Err(Errno::EADDRINUSE) => {
                if self.occupied.insert(wanted) {
                    let by = proc::who_else_has(own, wanted.port(), &self.all_processes());
                    (self.tell)(Seen::Occupied { address: wanted, by });
                }
                Err(Errno::EADDRINUSE)
            }
            Err(error) => Err(error),
        }
    }

    /// One that was configured and that the program has not taken, where clients of the address would come: what is configured counts
    /// more than what the code says.
    fn spare(&self, wanted: SocketAddr, v6_only: bool) -> Option<Arc<Listener>> {
        let mut spare = self.uses.iter().filter(|used| used.is_spare()).map(|used| &used.listener);
        spare.find(|held| address::overlap((held.address, held.v6_only), (wanted, v6_only))).map(Arc::clone)
    }

    /// Where the program's own may not be copied: a socket of ours takes its place.
    fn bind_anew(
        &mut self,
        call: &Call,
        process: u32,
        (fd, inode): (RawFd, u64),
        wanted: SocketAddr,
    ) -> Result<Bound, Errno> {
        // Where it cannot be replaced it is not held.
        let Ok(copies) = self.copies(process, inode) else { return Ok(Bound::ByKernel) };
        let flags = proc::flags_at(call.thread, fd).unwrap_or(libc::O_CLOEXEC);
        let non_blocking = flags & libc::O_NONBLOCK != 0;
        let same = self.shelf.find(|held| held.address == wanted && held.is_to_stay());
        if let Some(held) = same.or_else(|| self.spare(wanted, false)) {
            return if self.has_open(&held) {
                Ok(Bound::ByKernel)
            } else {
                self.put(call, fd, &copies, &held, non_blocking)
            };
        }
        let family = if wanted.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let own = match descriptors::with(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)) {
            // That is this process's trouble and not the program's, whose own socket will do, though not for the next generation.
            Err(error) if descriptors::is_out(&error) => return Ok(Bound::ByKernel),
            other => other?,
        };
        // As the standard library, tokio and nearly all others do.
        setsockopt(&own, sockopt::ReuseAddr, &true)?;
        rustix::net::bind(&own, &wanted).map_err(of_rustix)?;
        let listener = Arc::new(Listener::new(own).map_err(|error| errno(&error))?);
        self.shelf.add(&listener);
        self.put(call, fd, &copies, &listener, non_blocking)
    }

    fn put(
        &mut self,
        call: &Call,
        fd: RawFd,
        copies: &Copies,
        held: &Arc<Listener>,
        non_blocking: bool,
    ) -> Result<Bound, Errno> {
        held.hand_to(self.generation, non_blocking).map_err(|error| errno(&error))?;
        if !held.is_to_stay() {
            // It is let go at this very moment.
            return Ok(Bound::ByKernel);
        }
        copies.replace(self, call, fd, held)?;
        self.use_it(held).bound = true;
        Ok(Bound::Here)
    }

    /// Whether a process of this generation has the socket still.
    fn has_open(&self, held: &Listener) -> bool {
        let used = self.uses.iter().any(|used| used.listener.inode == held.inode && !used.is_spare());
        used && self.all_processes().iter().any(|process| proc::holds(*process, held.inode))
    }

    pub(super) fn listen(&mut self, call: &Call, fd: RawFd, backlog: i32) {
        let Ok(Some(inode)) = proc::socket_at(call.thread, fd) else { return self.calls.proceed(call.id) };
        if !self.calls.is_waiting(call.id) {
            return;
        }
        if self.used(inode).is_none() {
            if !self.asked.remove(&inode) {
                // A port of the kernel's choice, or no TCP.
                return self.calls.proceed(call.id);
            }
            let Some(process) = self.process(call.thread) else { return self.calls.proceed(call.id) };
            let Ok(Some(own)) = copy(process, fd, inode) else { return self.calls.proceed(call.id) };
            let Ok(listener) = Listener::new(own).map(Arc::new) else { return self.calls.proceed(call.id) };
            // Another thread or process was quicker: sockets that share an address are one (SO_REUSEPORT), however many of them the
            // next generation will have.
            if let Some(first) =
                self.shelf.find(|held| held.is(listener.address, listener.v6_only) && held.is_to_stay())
            {
                let non_blocking = listener.is_non_blocking(self.generation);
                let copies = self.copies(process, inode);
                return match copies.and_then(|copies| self.put(call, fd, &copies, &first, non_blocking)) {
                    Ok(Bound::ByKernel) => self.calls.proceed(call.id),
                    Ok(Bound::Here) => {
                        self.listens(&first);
                        // One that does not hear of it listens once more, which changes nothing.
                        let _ = self.calls.succeed(call.id);
                    }
                    Err(error) => {
                        // A call that was interrupted comes again.
                        self.asked.insert(inode);
                        self.calls.fail(call.id, error);
                    }
                };
            }
            listener.hand_to(self.generation, listener.is_non_blocking(self.generation)).ok();
            self.shelf.add(&listener);
            self.use_it(&listener).bound = true;
        }
        let Some(used) = self.used(inode) else { return self.calls.proceed(call.id) };
        let listener = Arc::clone(&used.listener);
        // On the same socket as the program would: it is known here at once whether it listens.
        match rustix::net::listen(&*listener, backlog) {
            Ok(()) => {
                self.listens(&listener);
                let _ = self.calls.succeed(call.id);
            }
            Err(error) => self.calls.fail(call.id, of_rustix(error)),
        }
    }
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

fn of_rustix(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
