//! The contract between the two ends of a hand-over: every variable name and every message byte stands here, once.
//! Never lives here: what either end does about a message (`holder` and `control`).

use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many descriptors are handed over, from number 3. sd_listen_fds(3).
pub const LISTEN_FDS: &str = "LISTEN_FDS";
/// Their names, separated by colons. sd_listen_fds_with_names(3).
pub const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
/// The process they are meant for. sd_listen_fds(3).
pub const LISTEN_PID: &str = "LISTEN_PID";
/// Where `READY=1` goes. sd_notify(3).
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// `<descriptor>:<token>` of the control channel; the token is repeated in HELLO.
pub const HOTRUN_CTL: &str = "HOTRUN_CTL";
/// Counter of programs that served these sockets, from 1.
pub const HOTRUN_GENERATION: &str = "HOTRUN_GENERATION";
/// Names, separated by colons, of the sockets that an earlier generation bound by itself. Where such a program now asks
/// for another address it means it; the other names were chosen by whoever holds the sockets, and win over the code.
pub const HOTRUN_BOUND: &str = "HOTRUN_BOUND";
/// Process number of a holder that is the same server's process before. It leaves once it has said COMMIT, and from then on
/// the sockets are the server's own to hand over; or, where `:returns` stands behind the number, it returns under its number,
/// and the server only serves until then.
pub const HOTRUN_PREDECESSOR: &str = "HOTRUN_PREDECESSOR";
/// Set where another process serves until RESUME, and this one accepts nothing before.
pub const HOTRUN_WAITS: &str = "HOTRUN_WAITS";
/// Set where whoever started this process holds every socket that it binds, without a channel, for those that come after it: its
/// queue is theirs when this process stops.
pub const HOTRUN_HELD: &str = "HOTRUN_HELD";
/// `<descriptor>:<process number>` of a server that keeps the sockets served while this one starts in the place of its
/// predecessor, under the same process number; the descriptor is the holder's end of its control channel.
pub const HOTRUN_INTERIM: &str = "HOTRUN_INTERIM";
/// Names, separated by colons, of the other files that are handed over, whose descriptors follow the control channel.
pub const HOTRUN_FILES: &str = "HOTRUN_FILES";
/// Names, separated by colons, of pieces of state: sealed memory files (memfd_create(2)) that follow the other files.
pub const HOTRUN_STATE: &str = "HOTRUN_STATE";
/// How often the service manager wants to hear from its main process, in microseconds. sd_watchdog_enabled(3).
pub const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// The process that the above is meant for. sd_watchdog_enabled(3).
pub const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Every variable of a hand-over: none of them is for the children of a server, nor for a server that another holder starts.
pub const VARIABLES: &[&str] = &[
    LISTEN_FDS,
    LISTEN_FDNAMES,
    LISTEN_PID,
    // listenfd's own addition, which it leaves behind.
    "LISTEN_FDS_FIRST_FD",
    NOTIFY_SOCKET,
    WATCHDOG_USEC,
    WATCHDOG_PID,
    HOTRUN_CTL,
    HOTRUN_GENERATION,
    HOTRUN_BOUND,
    HOTRUN_PREDECESSOR,
    HOTRUN_INTERIM,
    HOTRUN_WAITS,
    HOTRUN_HELD,
    HOTRUN_FILES,
    HOTRUN_STATE,
];

/// The first descriptor that is handed over. sd_listen_fds(3), `SD_LISTEN_FDS_START`.
pub const FIRST_FD: i32 = 3;
/// Version of the messages below.
pub const PROTOCOL: u16 = 2;
/// The longest message. A datagram over this is a fault of the sender.
const LONGEST: usize = 4096;
/// What stands for a socket without a name. sd_listen_fds_with_names(3).
pub(crate) const UNNAMED: &str = "unknown";

/// From the server to the holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToHolder {
    Hello {
        protocol: u16,
        token: u64,
        pid: u32,
    },
    /// Travels with a descriptor: the server bound something new.
    Offer {
        name: String,
    },
    /// The server uses the inherited socket of that name.
    Taken {
        name: String,
    },
    Ready,
    /// Nothing is accepted any more, until RESUME.
    Paused,
    /// Nothing is accepted any more, and `live` connections go on. Said again when the number changes.
    Draining {
        live: u32,
    },
}

/// From the holder to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToServer {
    /// The process before will not come back: the sockets are the server's own.
    Commit,
    /// Accept nothing until RESUME; answered by PAUSED.
    Pause,
    /// Accept, after PAUSE or where the server was started to wait for this ([`HOTRUN_WAITS`]).
    Resume,
    /// Accept nothing more, finish what is live, and leave; answered by DRAINING.
    Drain,
    /// The socket is held no more: a server that inherited it and has not asked for it closes it, so that clients are refused
    /// there and do not wait for ever.
    Release {
        /// The name it was handed over under.
        name: String,
    },
    /// The holder will have nothing to do with this server.
    Abort {
        /// The reason, for the log.
        why: String,
    },
    /// The sockets are the server's alone, as the holder has let them go, and was asked to stop: the server stops, without a loss.
    Stop,
    /// Somebody asked the holder for an upgrade while this server was the one that started: it is this server's to do.
    Upgrade,
    /// Travels with a pidfd and an eventfd: a process of an earlier generation that is still there. Writing to the eventfd
    /// tells it to hurry.
    Ancestor {
        /// Its generation.
        generation: u32,
    },
}

impl ToHolder {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            ToHolder::Hello { protocol, token, pid } => {
                let mut bytes = vec![b'H'];
                bytes.extend(protocol.to_le_bytes());
                bytes.extend(token.to_le_bytes());
                bytes.extend(pid.to_le_bytes());
                bytes
            }
            ToHolder::Offer { name } => with_text(b'O', name),
            ToHolder::Taken { name } => with_text(b'T', name),
            ToHolder::Ready => vec![b'R'],
            ToHolder::Paused => vec![b'P'],
            ToHolder::Draining { live } => {
                let mut bytes = vec![b'D'];
                bytes.extend(live.to_le_bytes());
                bytes
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        match bytes {
            [b'H', rest @ ..] if rest.len() == 14 => Ok(ToHolder::Hello {
                protocol: u16::from_le_bytes([rest[0], rest[1]]),
                token: u64::from_le_bytes([rest[2], rest[3], rest[4], rest[5], rest[6], rest[7], rest[8], rest[9]]),
                pid: u32::from_le_bytes([rest[10], rest[11], rest[12], rest[13]]),
            }),
            [b'O', rest @ ..] => Ok(ToHolder::Offer { name: name(rest)? }),
            [b'T', rest @ ..] => Ok(ToHolder::Taken { name: name(rest)? }),
            [b'R'] => Ok(ToHolder::Ready),
            [b'P'] => Ok(ToHolder::Paused),
            [b'D', a, b, c, d] => Ok(ToHolder::Draining { live: u32::from_le_bytes([*a, *b, *c, *d]) }),
            other => Err(foreign("server", other)),
        }
    }
}

impl ToServer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            ToServer::Commit => vec![b'c'],
            ToServer::Pause => vec![b'p'],
            ToServer::Resume => vec![b'r'],
            ToServer::Drain => vec![b'd'],
            ToServer::Release { name } => with_text(b'l', name),
            ToServer::Abort { why } => with_text(b'a', why),
            ToServer::Stop => vec![b's'],
            ToServer::Upgrade => vec![b'u'],
            ToServer::Ancestor { generation } => {
                let mut bytes = vec![b'e'];
                bytes.extend(generation.to_le_bytes());
                bytes
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        match bytes {
            [b'c'] => Ok(ToServer::Commit),
            [b'p'] => Ok(ToServer::Pause),
            [b'r'] => Ok(ToServer::Resume),
            [b'd'] => Ok(ToServer::Drain),
            [b'l', rest @ ..] => Ok(ToServer::Release { name: name(rest)? }),
            [b'a', why @ ..] => Ok(ToServer::Abort { why: String::from_utf8_lossy(why).into_owned() }),
            [b's'] => Ok(ToServer::Stop),
            [b'u'] => Ok(ToServer::Upgrade),
            [b'e', a, b, c, d] => Ok(ToServer::Ancestor { generation: u32::from_le_bytes([*a, *b, *c, *d]) }),
            other => Err(foreign("holder", other)),
        }
    }
}

/// Sends one datagram and the descriptors that travel with it.
pub(crate) fn send(channel: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = sys::send_with_fds(channel.as_fd(), bytes, fds)?;
    debug_assert_eq!(sent, bytes.len(), "a datagram is sent whole or not at all");
    Ok(())
}

/// Receives one datagram and the descriptors that came with it, two at most; `None` is the other end's end.
pub(crate) fn receive(channel: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let (length, fds) = match sys::receive_with_fds(channel.as_fd(), &mut bytes, 2) {
        // The other end was killed with messages of ours unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        other => other?,
    };
    if length == 0 {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some((bytes, fds)))
}

/// Whether a name can travel in `LISTEN_FDNAMES`: 1 to 255 bytes of printable ASCII without a colon
/// (sd_listen_fds_with_names(3)).
///
/// # Errors
/// `InvalidInput`, with the reason.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    let why = if name.is_empty() {
        "is empty"
    } else if name == UNNAMED {
        "stands for a socket without one"
    } else if name.len() > 255 {
        "is longer than 255 bytes"
    } else if name.contains(':') {
        "has a colon"
    } else if !name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        "has a character that is not printable ASCII"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the socket name {name:?} {why}")))
}

fn with_text(kind: u8, text: &str) -> Vec<u8> {
    let mut end = text.len().min(LONGEST - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = vec![kind];
    bytes.extend(&text.as_bytes()[..end]);
    bytes
}

fn name(bytes: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a socket name on the control channel is not UTF-8"))?;
    check_name(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(text.to_owned())
}

fn foreign(sender: &str, bytes: &[u8]) -> io::Error {
    let start = &bytes[..bytes.len().min(16)];
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the {sender} sent {} bytes that are no hotrun message, starting {start:?}", bytes.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_as_it_was_sent() {
        let to_holder = [
            ToHolder::Hello { protocol: PROTOCOL, token: u64::MAX - 7, pid: 4711 },
            ToHolder::Offer { name: "http".into() },
            ToHolder::Taken { name: "admin".into() },
            ToHolder::Ready,
            ToHolder::Paused,
            ToHolder::Draining { live: 70_000 },
        ];
        for message in to_holder {
            assert_eq!(ToHolder::decode(&message.encode()).unwrap(), message);
        }
        let to_server = [
            ToServer::Commit,
            ToServer::Pause,
            ToServer::Resume,
            ToServer::Drain,
            ToServer::Release { name: "old".into() },
            ToServer::Abort { why: "protocol 9, here 1".into() },
            ToServer::Stop,
            ToServer::Upgrade,
            ToServer::Ancestor { generation: 70_000 },
        ];
        for message in to_server {
            assert_eq!(ToServer::decode(&message.encode()).unwrap(), message);
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let garbage: [&[u8]; 8] = [b"", b"H", b"H12", b"O", b"O\xff\xfe", b"Oa:b", b"D1", b"READY=1"];
        for bytes in garbage {
            assert!(ToHolder::decode(bytes).is_err(), "{bytes:?}");
            assert!(ToServer::decode(bytes).is_err(), "{bytes:?}");
        }
        for first in 0..=255u8 {
            for length in 0..20 {
                let mut bytes = vec![first];
                bytes.resize(1 + length, first.wrapping_mul(31));
                let _ = ToHolder::decode(&bytes);
                let _ = ToServer::decode(&bytes);
            }
        }
    }

    #[test]
    fn a_long_reason_is_shortened_between_two_characters() {
        let why = "ü".repeat(LONGEST);
        assert!(ToServer::Abort { why }.encode().len() <= LONGEST);
    }

    #[test]
    fn names_that_cannot_travel_are_refused() {
        for (name, good) in [
            ("http", true),
            ("a b", true),
            ("", false),
            ("a:b", false),
            ("ä", false),
            ("a\n", false),
            ("unknown", false),
        ] {
            assert_eq!(check_name(name).is_ok(), good, "{name:?}");
        }
        assert!(check_name(&"x".repeat(255)).is_ok());
        assert!(check_name(&"x".repeat(256)).is_err());
    }
}
