//! How a server comes by its sockets: the inherited one of a name, or a new one.
//! Never lives here: what becomes of them in an upgrade (`register`, `perform`).

use crate::inherit::received::{Name, Socket};
use crate::serving::register::Kind;
use crate::serving::state::ListenerGate;
use crate::upstream::UpstreamKind;
use crate::wire::{self, ToHolder};
use crate::{TcpListener, UdpSocket, UnixListener, Upgrader, sys};
use nix::sys::socket::{AddressFamily, Backlog, SockType, getsockopt, listen, sockopt};
use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Upgrader {
    /// A TCP listener of that name: the inherited one, or else a new one bound to `addr`, which the next generation inherits.
    ///
    /// Where whoever started this process chose the address of that name, that address wins. Where an earlier generation of
    /// the program chose it and the program now asks for another one, the new one is bound. A socket that came without a
    /// name (systemd without `FileDescriptorName=`, systemfd) is recognised by its address, else taken in order.
    ///
    /// Ask for all listeners before the first accept where that is possible: what an earlier generation bound and this one does
    /// not ask for within a second of the hand-over is served to the end there, and closed.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot travel ([`wire::check_name`]) or an inherited socket of another kind; else those of
    /// resolving and bind(2).
    pub fn listen(&self, name: &str, addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs().map_err(|error| named("listen", name, &error))?.collect();
        let same = |fd: &OwnedFd| tcp_addr(fd).is_some_and(|bound| addrs.iter().any(|wanted| matches(*wanted, bound)));
        let claimed = self.claim(name, Kind::Tcp, any_port(&addrs), same)?;
        self.tcp(name, claimed, || {
            let listener = net::TcpListener::bind(&addrs[..]).map_err(|error| bind_failed(name, &addrs, &error))?;
            // std asks for a short queue; during an upgrade it should hold whoever comes. listen(2) may be repeated.
            listen(&listener, Backlog::MAXCONN)?;
            Ok(listener)
        })
    }

    /// As [`listen`](Upgrader::listen), with a listener made by `bind` where none of that name was inherited: for socket
    /// options of your own. As the address is not known before, an inherited one is taken whatever its address.
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen), and those of `bind`.
    pub fn listen_with(
        &self,
        name: &str,
        bind: impl FnOnce() -> io::Result<net::TcpListener>,
    ) -> io::Result<TcpListener> {
        let claimed = self.claim(name, Kind::Tcp, true, |_| true)?;
        self.tcp(name, claimed, bind)
    }

    /// A Unix stream listener of that name, as [`listen`](Upgrader::listen). A path that a dead server left behind is taken
    /// over. The path is removed by the last generation, when it stops, if it still is the socket that was bound there.
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen).
    pub fn listen_unix(&self, name: &str, path: impl AsRef<Path>) -> io::Result<UnixListener> {
        let path = path.as_ref();
        let same = |fd: &OwnedFd| unix_path(fd).as_deref() == Some(path);
        let (inner, bound_by_program) = match self.claim(name, Kind::Unix, false, same)? {
            Some((fd, bound_by_program)) => {
                if bound_by_program && self.shared.upstream.kind() != UpstreamKind::Holder {
                    // It is gone, or somebody else's by now.
                    let _ = self.shared.paths.expect(path);
                    // It may have been handed over for good just now.
                    if self.shared.upstream.kind() == UpstreamKind::Nobody {
                        self.shared.paths.own_expected();
                    }
                }
                (unix::UnixListener::from(fd), bound_by_program)
            }
            None => {
                let bound = self.shared.paths.bind(path, self.shared.upstream.kind() != UpstreamKind::Holder);
                let listener = bound.map_err(|error| {
                    io::Error::new(error.kind(), format!("listen {name:?} on {}: {error}", path.display()))
                })?;
                listen(&listener, Backlog::MAXCONN)?;
                (self.offer(name, listener)?, true)
            }
        };
        self.listener(name, Kind::Unix, bound_by_program, std::path::absolute(path).ok(), inner)
    }

    /// A UDP socket of that name, as [`listen`](Upgrader::listen). What two generations do to each other's datagrams is said
    /// at [`UdpSocket`].
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen).
    pub fn bind_udp(&self, name: &str, addr: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs().map_err(|error| named("bind", name, &error))?.collect();
        let same = |fd: &OwnedFd| udp_addr(fd).is_some_and(|bound| addrs.iter().any(|wanted| matches(*wanted, bound)));
        let (inner, bound_by_program) = match self.claim(name, Kind::Udp, any_port(&addrs), same)? {
            Some((fd, bound_by_program)) => (net::UdpSocket::from(fd), bound_by_program),
            None => {
                let socket = net::UdpSocket::bind(&addrs[..]).map_err(|error| bind_failed(name, &addrs, &error))?;
                (self.offer(name, socket)?, true)
            }
        };
        inner.set_nonblocking(true)?;
        let inner = Arc::new(inner);
        let gate = self.shared.register.add(name, Kind::Udp, bound_by_program, None, Arc::clone(&inner) as _);
        Ok(UdpSocket {
            inner,
            gate,
            state: Arc::clone(&self.shared.state),
            upstream: Arc::clone(&self.shared.upstream),
        })
    }

    fn tcp(
        &self,
        name: &str,
        claimed: Option<(OwnedFd, bool)>,
        bind: impl FnOnce() -> io::Result<net::TcpListener>,
    ) -> io::Result<TcpListener> {
        let (inner, bound_by_program) = match claimed {
            Some((fd, bound_by_program)) => (net::TcpListener::from(fd), bound_by_program),
            None => (self.offer(name, bind()?)?, true),
        };
        self.listener(name, Kind::Tcp, bound_by_program, None, inner)
    }

    fn listener<L: AsFd + Send + Sync + 'static>(
        &self,
        name: &str,
        kind: Kind,
        bound_by_program: bool,
        path: Option<PathBuf>,
        inner: L,
    ) -> io::Result<crate::Listener<L>> {
        sys::set_nonblocking(&inner)?;
        sys::set_cloexec(&inner)?;
        let inner = Arc::new(inner);
        let gate: Arc<ListenerGate> =
            self.shared.register.add(name, kind, bound_by_program, path, Arc::clone(&inner) as _);
        if kind == Kind::Tcp && bound_by_program {
            // The process before may have been about to close it when it was asked for.
            sys::let_in_again(inner.as_fd());
        }
        let (state, upstream) = (Arc::clone(&self.shared.state), Arc::clone(&self.shared.upstream));
        Ok(crate::Listener { inner, gate, state, upstream })
    }

    /// The inherited socket for that name, if there is one, and whether an earlier generation of the program bound it.
    fn claim(
        &self,
        name: &str,
        kind: Kind,
        any_port: bool,
        same_address: impl Fn(&OwnedFd) -> bool,
    ) -> io::Result<Option<(OwnedFd, bool)>> {
        wire::check_name(name)?;
        let mut inherited = self.shared.upstream.unclaimed();
        let by_name = inherited.iter().position(|socket| socket.name == Name::Given(name.to_owned()));
        if let Some(index) = by_name {
            let socket = &inherited[index];
            if !kind.is(&socket.fd) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("the inherited socket {name:?} is not {}", kind.described()),
                ));
            }
            if !socket.bound_by_program || same_address(&socket.fd) {
                // In order: the ones after it must keep their places.
                return Ok(Some(self.claimed(inherited.remove(index))));
            }
        }
        // Not where any port will do: a socket that has a name is for whoever asks for that name.
        let same = inherited.iter().position(|socket| {
            let free = socket.name == Name::Anonymous || !any_port;
            free && kind.is(&socket.fd) && same_address(&socket.fd)
        });
        let anonymous = || inherited.iter().position(|s| s.name == Name::Anonymous && kind.is(&s.fd));
        let Some(index) = same.or_else(anonymous) else { return Ok(None) };
        Ok(Some(self.claimed(inherited.remove(index))))
    }

    fn claimed(&self, socket: Socket) -> (OwnedFd, bool) {
        match socket.name {
            Name::Given(name) => self.shared.upstream.taken(name),
            Name::Anonymous => {}
        }
        (socket.fd, socket.bound_by_program)
    }

    /// Gives the holder a copy of what was bound here.
    fn offer<S: From<OwnedFd> + Into<OwnedFd>>(&self, name: &str, socket: S) -> io::Result<S> {
        let fd: OwnedFd = socket.into();
        self.shared.upstream.tell(&ToHolder::Offer { name: name.to_owned() }, Some(fd.as_fd()))?;
        Ok(S::from(fd))
    }
}

impl Kind {
    /// Asks the kernel, as a name says nothing about what is behind it.
    fn is(self, fd: &OwnedFd) -> bool {
        let Ok(kind) = getsockopt(fd, sockopt::SockType) else { return false };
        let listening = getsockopt(fd, sockopt::AcceptConn) == Ok(true);
        let unix =
            nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(fd))
                .ok()
                .and_then(|address| nix::sys::socket::SockaddrLike::family(&address))
                == Some(AddressFamily::Unix);
        match self {
            Kind::Tcp => kind == SockType::Stream && listening && !unix,
            Kind::Unix => kind == SockType::Stream && listening && unix,
            Kind::Udp => kind == SockType::Datagram && !unix,
        }
    }

    fn described(self) -> &'static str {
        match self {
            Kind::Tcp => "a listening TCP socket",
            Kind::Unix => "a listening Unix stream socket",
            Kind::Udp => "a UDP socket",
        }
    }
}

fn matches(wanted: SocketAddr, bound: SocketAddr) -> bool {
    wanted.ip() == bound.ip() && (wanted.port() == 0 || wanted.port() == bound.port())
}

fn any_port(addrs: &[SocketAddr]) -> bool {
    addrs.iter().any(|addr| addr.port() == 0)
}

fn tcp_addr(fd: &OwnedFd) -> Option<SocketAddr> {
    net::TcpListener::from(fd.try_clone().ok()?).local_addr().ok()
}

fn udp_addr(fd: &OwnedFd) -> Option<SocketAddr> {
    net::UdpSocket::from(fd.try_clone().ok()?).local_addr().ok()
}

fn unix_path(fd: &OwnedFd) -> Option<std::path::PathBuf> {
    let address = unix::UnixListener::from(fd.try_clone().ok()?).local_addr().ok()?;
    address.as_pathname().map(Path::to_path_buf)
}

fn named(what: &str, name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {name:?}: {error}"))
}

fn bind_failed(name: &str, addrs: &[SocketAddr], error: &io::Error) -> io::Error {
    let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    io::Error::new(error.kind(), format!("bind {name:?} to {}: {error}", addrs.join(" or ")))
}
