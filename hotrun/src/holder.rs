//! The holder's end of the control channel: whoever owns the sockets and started the server. In development that is
//! `cargo hotrun`; in an upgrade it is the process before. Its mirror image is `control`.
//! Never lives here: starting the process (each holder has its own way), and deciding when to commit.

pub use crate::serving::bound_path::BoundPaths;
use crate::wire::{
    self, FIRST_FD, HOTRUN_BOUND, HOTRUN_CTL, HOTRUN_GENERATION, LISTEN_FDNAMES, LISTEN_FDS, PROTOCOL, ToHolder,
    ToServer,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt::SendTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// One server's control channel, seen from the process that holds its sockets.
///
/// Poll it for reading ([`AsFd`]) and call [`receive`](Holder::receive); nothing here blocks but that.
#[derive(Debug)]
pub struct Holder {
    channel: OwnedFd,
    token: u64,
}

/// What the server said.
#[derive(Debug)]
#[non_exhaustive]
pub enum Said {
    /// It uses the library; its process id as it sees it.
    Hello {
        /// Process id of the server, in its own pid namespace.
        pid: u32,
    },
    /// It bound a socket under that name; keep this copy, and hand it to the next one.
    Offer {
        /// The name it was bound under.
        name: String,
        /// A descriptor of the same socket.
        socket: OwnedFd,
    },
    /// It uses the inherited socket of that name.
    Taken {
        /// The name it was handed over under.
        name: String,
    },
    /// It accepts connections now, or will at once.
    Ready,
    /// It accepts nothing until [`ToServer::Resume`].
    Paused,
    /// It accepts nothing more, and this many connections go on.
    Draining {
        /// Connections that are not finished.
        live: u32,
    },
    /// The channel is closed; wait for the process.
    Closed,
}

/// A socket to hand over.
#[derive(Debug, Clone, Copy)]
pub struct Handed<'a> {
    /// The name the server asks for: 1 to 255 bytes of printable ASCII without a colon (sd_listen_fds_with_names(3)).
    pub name: &'a str,
    /// Whether an earlier generation of the program bound it, so that its address is the program's own choice.
    pub bound_by_program: bool,
}

impl Holder {
    /// Makes a channel. The second value is the server's end: it belongs into the new process right after the sockets,
    /// that is at number 3 + their count, and nowhere else.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn new() -> io::Result<(Holder, OwnedFd)> {
        let (channel, server) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // A server that is stopped reads nothing, and there is room for so many messages only.
        setsockopt(&channel, SendTimeout, &TimeVal::seconds(1))?;
        // Keys of the hasher come from the system's random source. The token keeps out a leaked variable, not an enemy:
        // the channel has no name that anyone could connect to.
        let token = RandomState::new().build_hasher().finish();
        Ok((Holder { channel, token }, server))
    }

    /// The variables the new process needs beside its descriptors. `LISTEN_PID` is not among them, as only the process
    /// itself knows its number before exec: set it there for programs that insist on it (sd_listen_fds(3)).
    pub fn environment(&self, sockets: &[Handed<'_>], generation: u64) -> Vec<(&'static str, String)> {
        let mut variables = vec![self.control_variable(sockets.len()), (HOTRUN_GENERATION, generation.to_string())];
        variables.extend(socket_variables(sockets));
        variables
    }

    /// The one that tells of the channel, which stands after so many sockets.
    pub(crate) fn control_variable(&self, sockets: usize) -> (&'static str, String) {
        let number: RawFd = FIRST_FD.saturating_add(i32::try_from(sockets).unwrap_or(i32::MAX));
        (HOTRUN_CTL, format!("{number}:{:x}", self.token))
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// `InvalidData` for a message that is none, a wrong token or an unknown version of the protocol: the server is then
    /// told why ([`ToServer::Abort`]) and is not to be trusted further. Else those of recvmsg(2).
    pub fn receive(&self) -> io::Result<Said> {
        let Some((bytes, mut fds)) = wire::receive(&self.channel)? else { return Ok(Said::Closed) };
        match ToHolder::decode(&bytes)? {
            ToHolder::Hello { protocol, token, pid } => {
                match protocol.cmp(&PROTOCOL) {
                    Ordering::Less => {
                        return Err(self.refuse(format!(
                            "its library hotrun is older than this holder's (protocol {protocol}, here {PROTOCOL}): build it \
                             with the newer one"
                        )));
                    }
                    Ordering::Greater => {
                        return Err(self.refuse(format!(
                            "its library hotrun is newer than this holder's (protocol {protocol}, here {PROTOCOL}): update \
                             what has started it"
                        )));
                    }
                    Ordering::Equal => {}
                }
                if token != self.token {
                    return Err(self.refuse("it was not started for this channel".to_owned()));
                }
                Ok(Said::Hello { pid })
            }
            ToHolder::Offer { name } => match fds.pop() {
                Some(socket) => Ok(Said::Offer { name, socket }),
                None => Err(self.refuse(format!("it offered {name:?} without a socket"))),
            },
            ToHolder::Taken { name } => Ok(Said::Taken { name }),
            ToHolder::Ready => Ok(Said::Ready),
            ToHolder::Paused => Ok(Said::Paused),
            ToHolder::Draining { live } => Ok(Said::Draining { live }),
        }
    }

    /// Says that to the server.
    ///
    /// # Errors
    /// `BrokenPipe` when it is gone.
    pub fn tell(&self, message: &ToServer) -> io::Result<()> {
        wire::send(&self.channel, &message.encode(), &[])
    }

    /// A process of an earlier generation is still there: its pidfd, and the eventfd that makes it hurry.
    pub(crate) fn introduce(&self, generation: u32, pidfd: BorrowedFd<'_>, hurry: BorrowedFd<'_>) -> io::Result<()> {
        wire::send(&self.channel, &ToServer::Ancestor { generation }.encode(), &[pidfd, hurry])
    }

    /// The end of a channel that this process had before it became another program.
    pub(crate) fn adopted(channel: OwnedFd) -> Holder {
        Holder { channel, token: 0 }
    }

    fn refuse(&self, why: String) -> io::Error {
        // The server may be gone already; the error below says what matters.
        let _ = self.tell(&ToServer::Abort { why: why.clone() });
        io::Error::new(io::ErrorKind::InvalidData, format!("a server on the control channel was refused: {why}"))
    }
}

/// The variables that tell of the sockets.
pub(crate) fn socket_variables(sockets: &[Handed<'_>]) -> Vec<(&'static str, String)> {
    if sockets.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = sockets.iter().map(|socket| socket.name).collect();
    let bound: Vec<&str> = sockets.iter().filter(|s| s.bound_by_program).map(|s| s.name).collect();
    vec![(LISTEN_FDS, sockets.len().to_string()), (LISTEN_FDNAMES, names.join(":")), (HOTRUN_BOUND, bound.join(":"))]
}

impl AsFd for Holder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{receive, send};

    fn hello(holder: &Holder) -> ToHolder {
        ToHolder::Hello { protocol: PROTOCOL, token: holder.token, pid: 1 }
    }

    #[test]
    fn the_two_ends_meet() {
        let (holder, server) = Holder::new().unwrap();
        send(&server, &hello(&holder).encode(), &[]).unwrap();
        assert!(matches!(holder.receive().unwrap(), Said::Hello { pid: 1 }));
        let socket = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        send(&server, &ToHolder::Offer { name: "http".into() }.encode(), &[socket.as_fd()]).unwrap();
        assert!(matches!(holder.receive().unwrap(), Said::Offer { name, .. } if name == "http"));
        holder.tell(&ToServer::Drain).unwrap();
        let (bytes, none) = receive(&server).unwrap().unwrap();
        assert_eq!(ToServer::decode(&bytes).unwrap(), ToServer::Drain);
        assert!(none.is_empty());
        drop(server);
        assert!(matches!(holder.receive().unwrap(), Said::Closed));
        assert_eq!(holder.tell(&ToServer::Commit).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_stranger_is_refused_and_told_why() {
        let hello = |protocol, token| ToHolder::Hello { protocol, token, pid: 1 };
        let strangers: [(&dyn Fn(u64) -> ToHolder, &str); 4] = [
            (
                &|token| hello(PROTOCOL - 1, token),
                "its library hotrun is older than this holder's (protocol 1, here 2)",
            ),
            (
                &|token| hello(PROTOCOL + 1, token),
                "its library hotrun is newer than this holder's (protocol 3, here 2)",
            ),
            (&|token| hello(PROTOCOL, token ^ 1), "it was not started for this channel"),
            (&|_| ToHolder::Offer { name: "http".into() }, "it offered \"http\" without a socket"),
        ];
        for (message, expected) in strangers {
            let (holder, server) = Holder::new().unwrap();
            send(&server, &message(holder.token).encode(), &[]).unwrap();
            let error = holder.receive().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(expected), "{error}");
            let (bytes, _) = receive(&server).unwrap().unwrap();
            let told = ToServer::decode(&bytes).unwrap();
            assert!(matches!(&told, ToServer::Abort { why } if why.starts_with(expected)), "{told:?}");
        }
    }

    #[test]
    fn the_variables_count_from_three() {
        let (holder, _server) = Holder::new().unwrap();
        let sockets =
            [Handed { name: "http", bound_by_program: true }, Handed { name: "admin", bound_by_program: false }];
        let environment = holder.environment(&sockets, 7);
        let value = |name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()).unwrap();
        assert_eq!(value("LISTEN_FDS"), "2");
        assert_eq!(value("LISTEN_FDNAMES"), "http:admin");
        assert_eq!(value("HOTRUN_BOUND"), "http");
        assert_eq!(value("HOTRUN_GENERATION"), "7");
        assert!(value("HOTRUN_CTL").starts_with("5:"));
    }
}
