//! Inherited sockets that nobody here has asked for yet.
//! Never lives here: how they came (`inherit`), and those that were asked for (`register`).

use crate::serving::register::SocketKind;
use crate::sys::lock;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Mutex;

#[derive(Debug)]
pub(crate) struct Socket {
    /// `None` where it came with none, or with one that says nothing.
    pub(crate) name: Option<String>,
    pub(crate) fd: OwnedFd,
    /// An earlier generation of this program chose its address.
    pub(crate) bound_by_program: bool,
}

/// The address that is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// Known only to a function of the user's.
    Unknown,
    Inet(&'a [SocketAddr]),
    Path(&'a Path),
}

#[derive(Debug, Default)]
pub(crate) struct Unclaimed(Mutex<Vec<Socket>>);

impl Unclaimed {
    pub(crate) fn new(inherited: Vec<Socket>) -> Self {
        Unclaimed(Mutex::new(inherited))
    }

    /// The socket for that name: the one that was given it, unless the program chose another address for it before; else one
    /// with that address; else the first without a name.
    ///
    /// # Errors
    /// `InvalidInput` when the one of that name is of another kind.
    pub(crate) fn claim(&self, name: &str, kind: SocketKind, wanted: Wanted<'_>) -> io::Result<Option<Socket>> {
        let mut sockets = lock(&self.0);
        if let Some(index) = sockets.iter().position(|socket| socket.name.as_deref() == Some(name)) {
            let socket = &sockets[index];
            if !kind.is(&socket.fd) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("the inherited socket {name:?} is not {}", kind.described()),
                ));
            }
            if !socket.bound_by_program || wanted.is_at(kind, &socket.fd) {
                return Ok(Some(sockets.remove(index)));
            }
        }
        // Not where any port will do: a socket that has a name is for whoever asks for that name.
        let same = sockets.iter().position(|socket| {
            let free = socket.name.is_none() || !wanted.is_vague();
            free && kind.is(&socket.fd) && wanted.is_at(kind, &socket.fd)
        });
        let anonymous = || sockets.iter().position(|socket| socket.name.is_none() && kind.is(&socket.fd));
        // In order: the ones after it must keep their places.
        Ok(same.or_else(anonymous).map(|index| sockets.remove(index)))
    }

    /// What an earlier generation had bound goes; what a service manager gave stays.
    pub(crate) fn drop_bound(&self) {
        lock(&self.0).retain(|socket| !socket.bound_by_program);
    }

    /// Drops the one of that name; says whether there was one.
    pub(crate) fn release(&self, name: &str) -> bool {
        let mut sockets = lock(&self.0);
        let before = sockets.len();
        sockets.retain(|socket| socket.name.as_deref() != Some(name));
        sockets.len() < before
    }

    /// Those that go on to every later program, which may want them: what a service manager gave.
    pub(crate) fn to_pass_on(&self) -> io::Result<Vec<Socket>> {
        let sockets = lock(&self.0);
        let given = sockets.iter().filter(|socket| !socket.bound_by_program);
        let copied = |Socket { name, fd, bound_by_program }: &Socket| {
            Ok(Socket { name: name.clone(), fd: fd.try_clone()?, bound_by_program: *bound_by_program })
        };
        given.map(copied).collect()
    }
}

impl Wanted<'_> {
    /// More than one socket could be meant.
    fn is_vague(self) -> bool {
        match self {
            Wanted::Unknown => true,
            Wanted::Inet(addrs) => addrs.iter().any(|addr| addr.port() == 0),
            Wanted::Path(_) => false,
        }
    }

    fn is_at(self, kind: SocketKind, fd: &OwnedFd) -> bool {
        let Ok(fd) = fd.try_clone() else { return false };
        match self {
            Wanted::Unknown => true,
            Wanted::Inet(addrs) => {
                let bound = match kind {
                    SocketKind::Tcp => TcpListener::from(fd).local_addr(),
                    SocketKind::Udp => UdpSocket::from(fd).local_addr(),
                    SocketKind::Unix => return false,
                };
                let matches = |bound: SocketAddr, wanted: &SocketAddr| {
                    wanted.ip() == bound.ip() && (wanted.port() == 0 || wanted.port() == bound.port())
                };
                bound.is_ok_and(|bound| addrs.iter().any(|wanted| matches(bound, wanted)))
            }
            Wanted::Path(path) => {
                UnixListener::from(fd).local_addr().is_ok_and(|bound| bound.as_pathname() == Some(path))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp() -> (OwnedFd, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener.into(), address)
    }

    fn given(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    /// Which of three listeners is claimed: by name, by address, in order, or none.
    #[test]
    fn a_name_comes_first_then_an_address_then_the_order() {
        let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (anonymous, http) = (None, given("http"));
        // Names, whether the program bound them, the index of the address that is asked for as "http" (or another), the outcome.
        let table = [
            ([&http, &anonymous], false, Err(elsewhere), Some(0), "whoever chose the address of a name wins"),
            ([&http, &anonymous], true, Ok(0), Some(0), "the program's own, at the same address"),
            ([&http, &anonymous], true, Err(any_port), Some(0), "any port will do"),
            ([&http, &http], true, Ok(1), Some(1), "the program's own, moved to another's address"),
            ([&http, &http], true, Err(elsewhere), None, "moved to an address that nobody has"),
            ([&anonymous, &anonymous], false, Ok(1), Some(1), "by address"),
            ([&anonymous, &anonymous], false, Err(elsewhere), Some(0), "in order"),
        ];
        for (names, bound_by_program, wanted, expected, why) in table {
            let listeners = [tcp(), tcp()];
            let addresses = listeners.each_ref().map(|(_, address)| *address);
            let sockets = listeners.into_iter().zip(names);
            let sockets = sockets.map(|((fd, _), name)| Socket { name: name.clone(), fd, bound_by_program });
            let unclaimed = Unclaimed::new(sockets.collect());
            let wanted = wanted.map_or_else(|address| address, |index: usize| addresses[index]);
            let claimed = unclaimed.claim("http", SocketKind::Tcp, Wanted::Inet(&[wanted])).unwrap();
            let address = claimed.map(|socket| TcpListener::from(socket.fd).local_addr().unwrap());
            assert_eq!(address, expected.map(|index: usize| addresses[index]), "{why}");
        }
    }

    #[test]
    fn a_socket_with_another_name_is_for_whoever_asks_for_that() {
        let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (fd, address) = tcp();
        let unclaimed = Unclaimed::new(vec![Socket { name: given("admin"), fd, bound_by_program: true }]);
        for vague in [Wanted::Unknown, Wanted::Inet(&[any_port])] {
            assert!(unclaimed.claim("http", SocketKind::Tcp, vague).unwrap().is_none(), "{vague:?}");
        }
        assert!(
            unclaimed.claim("http", SocketKind::Tcp, Wanted::Inet(&[address])).unwrap().is_some(),
            "but by its address"
        );
    }

    #[test]
    fn a_name_of_another_kind_is_an_error_and_an_anonymous_one_is_passed_over() {
        let datagrams: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let socket = |name| Socket { name, fd: datagrams.try_clone().unwrap(), bound_by_program: false };
        let unclaimed = Unclaimed::new(vec![socket(given("http")), socket(None)]);
        let refused = unclaimed.claim("http", SocketKind::Tcp, Wanted::Unknown).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert!(unclaimed.claim("admin", SocketKind::Tcp, Wanted::Unknown).unwrap().is_none());
        assert!(unclaimed.claim("dns", SocketKind::Udp, Wanted::Unknown).unwrap().is_some());
    }

    #[test]
    fn what_the_program_had_bound_is_dropped_and_what_it_was_given_is_passed_on() {
        let socket = |name: &str, bound_by_program| Socket { name: given(name), fd: tcp().0, bound_by_program };
        let unclaimed = Unclaimed::new(vec![socket("own", true), socket("given", false)]);
        assert_eq!(unclaimed.to_pass_on().unwrap().len(), 1);
        unclaimed.drop_bound();
        assert!(!unclaimed.release("own") && unclaimed.release("given") && !unclaimed.release("given"));
    }
}
