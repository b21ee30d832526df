//! What whoever started this process left for it: descriptors and variables, taken once and removed.
//! Never lives here: what is done with them (`upgrader`).

use crate::sys;
use crate::wire::{
    FIRST_FD, HOTRUN_BOUND, HOTRUN_CTL, HOTRUN_GENERATION, LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, NOTIFY_SOCKET,
};
use nix::sys::socket::{getsockopt, sockopt, SockType};
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

/// Everything that was inherited.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) sockets: Vec<Socket>,
    pub(crate) control: Option<Control>,
    pub(crate) notify_socket: Option<OsString>,
    pub(crate) generation: u32,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) name: Name,
    pub(crate) fd: OwnedFd,
    /// An earlier generation of this program chose its address.
    pub(crate) bound_by_program: bool,
}

/// The name a socket came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Given(String),
    /// None, or one that says nothing: `unknown`, `stored`, or the name of a systemd socket unit, which is what systemd
    /// sends where `FileDescriptorName=` is not set (systemd.socket(5)).
    Anonymous,
}

#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) channel: OwnedFd,
    pub(crate) token: u64,
}

/// Takes all of it out of the environment, so that no child of this process believes that it is meant.
///
/// Must be called while the process has one thread: the environment is changed.
pub(crate) fn take() -> io::Result<Inherited> {
    let taken = |name: &str| {
        let value = std::env::var_os(name);
        std::env::remove_var(name);
        value
    };
    let text = |name: &str| taken(name).and_then(|value| value.into_string().ok());
    let (count, names, pid) = (text(LISTEN_FDS), text(LISTEN_FDNAMES), text(LISTEN_PID));
    let (control, generation, bound) = (text(HOTRUN_CTL), text(HOTRUN_GENERATION), text(HOTRUN_BOUND));
    // listenfd's own addition, which it leaves behind.
    taken("LISTEN_FDS_FIRST_FD");

    let mut inherited = Inherited {
        notify_socket: taken(NOTIFY_SOCKET),
        generation: generation.and_then(|value| value.parse().ok()).unwrap_or(1),
        control: control.and_then(|value| control_channel(&value)),
        sockets: Vec::new(),
    };
    // Starters in the manner of systemfd leave LISTEN_PID out or empty.
    let pid = pid.unwrap_or_default();
    let meant_for_us = pid.is_empty() || pid == std::process::id().to_string();
    if let Some(count) = count.filter(|_| meant_for_us) {
        let count: usize = count.parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{LISTEN_FDS}={count:?} is not a number of descriptors"),
            )
        })?;
        inherited.sockets = sockets(count, names.as_deref(), bound.as_deref())?;
    }
    Ok(inherited)
}

fn sockets(count: usize, names: Option<&str>, bound: Option<&str>) -> io::Result<Vec<Socket>> {
    let mut names = names.into_iter().flat_map(|names| names.split(':'));
    let bound: Vec<&str> = bound.into_iter().flat_map(|names| names.split(':')).collect();
    let mut sockets = Vec::with_capacity(count.min(1024));
    for number in (FIRST_FD..).take(count) {
        let name = names.next().unwrap_or("");
        let fd = sys::adopt(number).map_err(|error| {
            io::Error::new(error.kind(), format!("{LISTEN_FDS}={count}, but descriptor {number} is not open: {error}"))
        })?;
        // Descriptors that are no sockets are someone else's business; they are kept open, as they may be in use by number.
        if getsockopt(&fd, sockopt::SockType).is_err() {
            std::mem::forget(fd);
            continue;
        }
        sockets.push(Socket { name: Name::of(name), bound_by_program: bound.contains(&name), fd });
    }
    Ok(sockets)
}

/// A variable that leaked from a process further up names a descriptor that is not open here, or that is something else:
/// then there is no holder.
fn control_channel(value: &str) -> Option<Control> {
    let (number, token) = value.split_once(':')?;
    let number: RawFd = number.parse().ok().filter(|number| *number >= FIRST_FD)?;
    let token = u64::from_str_radix(token, 16).ok()?;
    let channel = sys::adopt(number).ok()?;
    if getsockopt(&channel, sockopt::SockType).ok() != Some(SockType::SeqPacket) {
        std::mem::forget(channel);
        return None;
    }
    Some(Control { channel, token })
}

impl Name {
    fn of(name: &str) -> Self {
        match name {
            "" | "unknown" | "stored" => Name::Anonymous,
            unit if unit.ends_with(".socket") => Name::Anonymous,
            given => Name::Given(given.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing_are_no_names() {
        for name in ["", "unknown", "stored", "web.socket"] {
            assert_eq!(Name::of(name), Name::Anonymous, "{name:?}");
        }
        assert_eq!(Name::of("http"), Name::Given("http".into()));
    }

    #[test]
    fn a_control_variable_that_leaked_is_no_holder() {
        for value in ["", "7", "x:1", "3:", "3:zz", "0:1", "-1:1", "999999:1"] {
            assert!(control_channel(value).is_none(), "{value:?}");
        }
    }
}
