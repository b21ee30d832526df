//! What whoever started this process left for it: descriptors and variables, taken once and removed.
//! Never lives here: what is done with them (`api`).

use crate::error::tried;
use crate::serving::unclaimed::Socket;
use crate::sys;
use crate::wire::{
    FIRST_FD, HOTRUN_BOUND, HOTRUN_CTL, HOTRUN_FILES, HOTRUN_GENERATION, HOTRUN_HELD, HOTRUN_INTERIM,
    HOTRUN_PREDECESSOR, HOTRUN_STATE, HOTRUN_WAITS, LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, NOTIFY_SOCKET, UNNAMED,
    VARIABLES, WATCHDOG_PID, WATCHDOG_USEC,
};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

/// Everything that was inherited.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) sockets: Vec<Socket>,
    /// Other files, by name.
    pub(crate) files: HashMap<String, OwnedFd>,
    /// Sealed memory files, by name.
    pub(crate) state: HashMap<String, OwnedFd>,
    pub(crate) control: Option<Control>,
    /// The holder is the process before.
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) interim: Option<Interim>,
    pub(crate) notify_socket: Option<OsString>,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) generation: u32,
    /// Whatever this process binds is somebody else's, too, who serves it when this process has stopped.
    pub(crate) held: bool,
    /// Another process accepts until this one is told that it is its turn.
    pub(crate) waits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) pid: u32,
    /// It serves again, under its number, when it has become the new program.
    pub(crate) returns: bool,
}

/// A server that this process started when it was another program, and which serves until this one does.
#[derive(Debug)]
pub(crate) struct Interim {
    pub(crate) channel: OwnedFd,
    pub(crate) pid: u32,
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
    let mut taken: HashMap<&str, OsString> = HashMap::new();
    for &name in VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            taken.insert(name, value);
        }
        std::env::remove_var(name);
    }
    let text = |name: &str| taken.get(name).and_then(|value| value.to_str());
    let number = |name: &str| text(name).and_then(|value| value.parse::<u32>().ok());
    let own_pid = std::process::id();

    let mut inherited = Inherited {
        notify_socket: taken.get(NOTIFY_SOCKET).cloned(),
        watchdog: text(WATCHDOG_USEC)
            .and_then(|value| value.parse().ok())
            .filter(|usec| *usec > 0 && text(WATCHDOG_PID).is_none_or(|pid| pid == own_pid.to_string()))
            .map(Duration::from_micros),
        generation: number(HOTRUN_GENERATION).unwrap_or(1),
        control: text(HOTRUN_CTL).and_then(control_channel),
        held: text(HOTRUN_HELD).is_some(),
        waits: text(HOTRUN_WAITS).is_some(),
        ..Inherited::default()
    };
    let given = |name: &str| text(name).into_iter().flat_map(|names| names.split(':')).filter(|name| !name.is_empty());
    // Starters in the manner of systemfd leave LISTEN_PID out or empty.
    let meant_for_us = text(LISTEN_PID).is_none_or(|pid| pid.is_empty() || pid == own_pid.to_string());
    let mut last = FIRST_FD;
    if let Some(count) = text(LISTEN_FDS).filter(|_| meant_for_us) {
        let count: usize = count.parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{LISTEN_FDS}={count:?} is not a number of descriptors"),
            )
        })?;
        let from_peer = text(HOTRUN_CTL).or(text(HOTRUN_INTERIM)).is_some();
        inherited.sockets = sockets(count, text(LISTEN_FDNAMES), text(HOTRUN_BOUND), from_peer)?;
        last = FIRST_FD.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
    }
    if let Some(interim) = text(HOTRUN_INTERIM).and_then(interim) {
        inherited.interim = Some(interim);
    } else if inherited.control.is_some() {
        inherited.predecessor = text(HOTRUN_PREDECESSOR).and_then(|value| {
            let pid = value.strip_suffix(":returns");
            Some(Predecessor { pid: pid.unwrap_or(value).parse().ok()?, returns: pid.is_some() })
        });
    } else {
        // Files come behind a channel, and from nobody who has none.
        return Ok(inherited);
    }
    let mut numbers = last.saturating_add(1)..;
    let mut adopt = |name: &str| {
        let number = numbers.next().unwrap_or(RawFd::MAX);
        let handed =
            |error| tried(format_args!("{name:?} was handed over, but descriptor {number} is not open"), &error);
        sys::adopt(number).map(|fd| (name.to_owned(), fd)).map_err(handed)
    };
    inherited.files = given(HOTRUN_FILES).map(&mut adopt).collect::<io::Result<_>>()?;
    inherited.state = given(HOTRUN_STATE).map(&mut adopt).collect::<io::Result<_>>()?;
    Ok(inherited)
}

fn sockets(count: usize, names: Option<&str>, bound: Option<&str>, from_peer: bool) -> io::Result<Vec<Socket>> {
    let mut names = names.into_iter().flat_map(|names| names.split(':'));
    let bound: Vec<&str> = bound.into_iter().flat_map(|names| names.split(':')).collect();
    let mut sockets = Vec::with_capacity(count.min(1024));
    for number in (FIRST_FD..).take(count) {
        let name = names.next().unwrap_or("");
        let said = |error| tried(format_args!("{LISTEN_FDS}={count}, but descriptor {number} is not open"), &error);
        let fd = sys::adopt(number).map_err(said)?;
        // Descriptors that are no sockets are someone else's business; they are kept open, as they may be in use by number.
        if getsockopt(&fd, sockopt::SockType).is_err() {
            std::mem::forget(fd);
            continue;
        }
        sockets.push(Socket { name: meaning(name, from_peer), bound_by_program: bound.contains(&name), fd });
    }
    Ok(sockets)
}

/// A variable that leaked from a process further up names a descriptor that is not open here, or that is something else:
/// then there is no holder.
fn control_channel(value: &str) -> Option<Control> {
    let (number, token) = value.split_once(':')?;
    let token = u64::from_str_radix(token, 16).ok()?;
    Some(Control { channel: channel(number)?, token })
}

fn interim(value: &str) -> Option<Interim> {
    let (number, pid) = value.split_once(':')?;
    let pid = pid.parse().ok()?;
    Some(Interim { channel: channel(number)?, pid })
}

fn channel(number: &str) -> Option<OwnedFd> {
    let number: RawFd = number.parse().ok().filter(|number| *number >= FIRST_FD)?;
    let channel = sys::adopt(number).ok()?;
    if getsockopt(&channel, sockopt::SockType).ok() != Some(SockType::SeqPacket) {
        std::mem::forget(channel);
        return None;
    }
    Some(channel)
}

/// `unknown`, `stored` and the name of a systemd socket unit say nothing: systemd sends them where `FileDescriptorName=` is not
/// set (systemd.socket(5)). `from_peer`: whoever gave it the name is a process of this library, and means it.
fn meaning(name: &str, from_peer: bool) -> Option<String> {
    let says_nothing = match name {
        "" | UNNAMED => true,
        name => !from_peer && (name == "stored" || name.ends_with(".socket")),
    };
    (!says_nothing).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing_are_no_names() {
        for name in ["", "unknown", "stored", "web.socket"] {
            assert_eq!(meaning(name, false), None, "{name:?}");
        }
        for name in ["http", "stored", "web.socket"] {
            assert_eq!(meaning(name, true).as_deref(), Some(name));
        }
        assert_eq!(meaning("http", false).as_deref(), Some("http"));
    }

    #[test]
    fn a_control_variable_that_leaked_is_no_holder() {
        for value in ["", "7", "x:1", "3:", "3:zz", "0:1", "-1:1", "999999:1"] {
            assert!(control_channel(value).is_none(), "{value:?}");
        }
    }
}
