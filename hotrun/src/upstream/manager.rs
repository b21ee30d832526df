//! A client of sd_notify(3): tells the service manager where this process stands.
//! Never lives here: when which of it is true (`upstream`, `perform`).

use crate::error::tried;
use crate::sys;
use crate::sys::wait;
use crate::wire::NOTIFY_SOCKET;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a service manager may take to read what was sent to it.
const PATIENCE_MS: u16 = 5_000;

/// The address of the service manager's socket: a path, or an abstract name after `@`.
#[derive(Debug, Clone)]
pub(crate) struct Manager(SocketAddr);

impl Manager {
    /// From the value of `NOTIFY_SOCKET`.
    pub(crate) fn at(value: &OsStr) -> io::Result<Self> {
        let address = match value.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(value),
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let named = |error| tried(format_args!("{NOTIFY_SOCKET}={}", value.to_string_lossy()), &error);
        Ok(Manager(address.map_err(named)?))
    }

    /// Sends assignments such as `READY=1`, one a line.
    pub(crate) fn tell(&self, assignments: &str) -> io::Result<()> {
        UnixDatagram::unbound()?.send_to_addr(assignments.as_bytes(), &self.0)?;
        Ok(())
    }

    /// `RELOADING=1`, with the time that `Type=notify-reload` insists on. The unit is being reloaded until the next `READY=1`;
    /// `within` keeps the manager from giving up before that.
    pub(crate) fn reloading(&self, within: Duration) -> io::Result<()> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\n{}", now.as_micros(), extension(within)))
    }

    /// Waits until everything that was sent before has been dealt with (sd_notify_barrier(3)), for five seconds at most.
    pub(crate) fn barrier(&self) -> io::Result<()> {
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&self.0)?;
        sys::send_with_fds(socket.as_fd(), b"BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        // Nobody writes: it is the end of the other side that is waited for.
        wait(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], PollTimeout::from(PATIENCE_MS))
    }
}

/// The assignment that gives this process so much more time for what it is about (sd_notify(3)).
pub(crate) fn extension(within: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", within.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(name: &str) -> (UnixDatagram, Manager) {
        let name = format!("hotrun-notify-{name}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        (socket, Manager::at(OsStr::new(&format!("@{name}"))).unwrap())
    }

    #[test]
    fn an_abstract_name_is_reached() {
        let (socket, manager) = listening("name");
        manager.tell("READY=1").unwrap();
        let mut bytes = [0; 16];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
    }

    #[test]
    fn a_reload_says_when_it_began() {
        let (socket, manager) = listening("reload");
        manager.reloading(Duration::from_secs(60)).unwrap();
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().split('\n').next().unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0 && text.ends_with("\nEXTEND_TIMEOUT_USEC=60000000"), "{text}");
    }

    #[test]
    fn a_barrier_ends_when_the_manager_has_closed_its_descriptor() {
        let (socket, manager) = listening("barrier");
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 16];
            let (length, fds) = sys::receive_with_fds(socket.as_fd(), &mut bytes, 1).unwrap();
            assert_eq!((&bytes[..length], fds.len()), (&b"BARRIER=1"[..], 1));
        });
        manager.barrier().unwrap();
        reader.join().unwrap();
    }

    #[test]
    fn a_value_that_is_no_address_is_named() {
        let error = Manager::at(OsStr::new("nonsense")).unwrap_err();
        assert!(error.to_string().contains("NOTIFY_SOCKET=nonsense"), "{error}");
    }
}
