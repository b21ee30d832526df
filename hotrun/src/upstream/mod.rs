//! What this process says to whoever watches over it: a holder, the process before, a service manager, a pid file.
//! Never lives here: what they say (`control`).

pub(crate) mod manager;
pub(crate) mod pid_file;

use crate::error::tried;
use crate::request::{Bell, Request};
use crate::sys::{lock, wait};
use crate::upstream::manager::{Manager, extension};
use crate::upstream::pid_file::PidFile;
use crate::wire::{self, ToHolder};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How long this process waits for room in a channel, in milliseconds.
const PATIENCE: u16 = 5_000;

/// Whose the sockets are beside this process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamKind {
    Nobody,
    /// Somebody who holds them for good.
    Holder,
    /// The process before, until it has handed over.
    Predecessor,
    /// The process before, which returns under its number.
    Returning,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    channel: Option<OwnedFd>,
    kind: Mutex<UpstreamKind>,
    manager: Option<Manager>,
    pid_file: Option<PidFile>,
    bell: Bell,
    ready: AtomicBool,
    announced: AtomicBool,
    /// It must not be.
    silent: AtomicBool,
    /// The manager has been told of an upgrade or a reload, and not of its end.
    reloading: AtomicBool,
    /// Connections when the holder was last told.
    said_live: AtomicU32,
}

impl Upstream {
    pub(crate) fn new(
        channel: Option<OwnedFd>,
        kind: UpstreamKind,
        manager: Option<Manager>,
        pid_file: Option<PidFile>,
        bell: Bell,
    ) -> Self {
        Upstream {
            channel,
            kind: Mutex::new(kind),
            manager,
            pid_file,
            bell,
            ready: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            reloading: AtomicBool::new(false),
            said_live: u32::MAX.into(),
        }
    }

    pub(crate) fn kind(&self) -> UpstreamKind {
        *lock(&self.kind)
    }

    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// READY, the first time.
    ///
    /// A manager or a holder that is gone is no reason not to serve: whoever started us says what that means, by a signal.
    pub(crate) fn ready(&self) -> io::Result<()> {
        if self.ready.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // Nor is it one when that cannot be said: whoever waits for it will know better.
        let _ = self.tell(&ToHolder::Ready, None);
        let announced = self.announce_if_due();
        self.bell.ring(Request::Ready);
        announced
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// From now on the sockets are this process's alone.
    pub(crate) fn is_sole(&self) -> io::Result<()> {
        *lock(&self.kind) = UpstreamKind::Nobody;
        self.announce_if_due()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// This process will not be announced as the one that serves.
    pub(crate) fn say_nothing_more(&self) {
        self.silent.store(true, Ordering::Release);
    }

    /// Whether this process is the one that serves, as far as the outside has been told.
    pub(crate) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    fn announce_if_due(&self) -> io::Result<()> {
        let due = self.ready.load(Ordering::Acquire) && self.kind() == UpstreamKind::Nobody;
        if !due || self.silent.load(Ordering::Acquire) || self.announced.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let written = self.pid_file.as_ref().map_or(Ok(()), |file| {
            file.write().map_err(|error| tried(format_args!("write the pid file {}", file.path().display()), &error))
        });
        self.tell_manager("READY=1");
        written
    }

    /// Says it, and waits for room where the other side is slow to read. One that is gone hears nothing, which is no error: the
    /// control thread sees its end.
    pub(crate) fn tell(&self, message: &ToHolder, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if self.kind() == UpstreamKind::Nobody { Ok(()) } else { self.send(message, socket, PATIENCE) }
    }

    /// As `tell`, for the control thread, which waits for nobody: who has stopped reading learns nothing more.
    pub(crate) fn tell_if_heard(&self, message: &ToHolder) {
        if self.kind() != UpstreamKind::Nobody {
            let _ = self.send(message, None, 0);
        }
    }

    /// As long as that, in milliseconds.
    fn send(&self, message: &ToHolder, socket: Option<BorrowedFd<'_>>, patience: u16) -> io::Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        loop {
            match wire::send(channel, &message.encode(), socket.as_slice()) {
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && patience > 0 => {
                    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)];
                    wait(&mut fds, PollTimeout::from(patience))?;
                    if fds[0].any() != Some(true) {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// This process uses the inherited socket of that name, which the process before may be about to close: it hears of it
    /// also when it has handed over.
    pub(crate) fn taken(&self, name: String) {
        // Where it cannot be said, the process before says what it does to the socket, and it is undone.
        let _ = self.send(&ToHolder::Taken { name }, None, PATIENCE);
    }

    /// A service manager hears from this process.
    pub(crate) fn has_manager(&self) -> bool {
        self.manager.is_some()
    }

    pub(crate) fn draining(&self, live: usize) {
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        if self.said_live.swap(live, Ordering::AcqRel) != live {
            self.tell_if_heard(&ToHolder::Draining { live });
        }
    }

    pub(crate) fn stopping(&self, within: Duration) {
        // One on probation is not the service that stops.
        if self.is_announced() {
            self.tell_manager(&format!("STOPPING=1\n{}", extension(within)));
        }
        if let Some(file) = &self.pid_file {
            file.remove();
        }
    }

    /// An upgrade or a reload has begun.
    pub(crate) fn reloading(&self, within: Duration) {
        if let Some(manager) = self.manager.as_ref().filter(|_| self.is_announced()) {
            self.reloading.store(true, Ordering::Release);
            let _ = manager.reloading(within);
        }
    }

    /// It has come to its end, and this process still is the one that serves.
    pub(crate) fn reloaded(&self) {
        if self.reloading.swap(false, Ordering::AcqRel) && self.is_announced() {
            self.tell_manager("READY=1");
        }
    }

    /// The successor is the main process from now on, and what it says is believed.
    pub(crate) fn hand_over_to(&self, pid: u32) {
        let Some(manager) = self.manager.as_ref().filter(|_| self.announced.swap(false, Ordering::AcqRel)) else {
            return;
        };
        let _ = manager.tell(&format!("MAINPID={pid}"));
        // Else the first word of the successor may come before it is known who that is, and be dropped.
        let _ = manager.barrier();
    }

    pub(crate) fn is_alive(&self) {
        self.tell_manager("WATCHDOG=1");
    }

    fn tell_manager(&self, assignments: &str) {
        if let Some(manager) = &self.manager {
            let _ = manager.tell(assignments);
        }
    }
}

/// One line for whoever reads the log, in one piece: all generations write to one stream.
pub(crate) fn complain(text: impl std::fmt::Display) {
    let line = format!("hotrun: {text}\n");
    // Where there is no standard error stream nobody reads.
    let _ = io::stderr().write_all(line.as_bytes());
}
