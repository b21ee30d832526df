//! What a server calls: `init`, `listen`, `ready`, `draining`, `drained`.
//! Never lives here: the other end (`holder`), and how phases change (`control`, `state`).

use crate::bound_path::BoundPaths;
use crate::control::{self, Mouth, Pace};
use crate::environment::{self, Name, Socket};
use crate::notify::Manager;
use crate::state::{DrainGuard, Phase, State, Waiter};
use crate::wire::{self, ToHolder, PROTOCOL};
use crate::{sys, Signal, TcpListener, UdpSocket, UnixListener};
use nix::fcntl::OFlag;
use nix::sys::socket::{getsockopt, listen, sockopt, AddressFamily, Backlog, SockType};
use std::future::Future;
use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

/// How a server behaves at its end; every setting has a default that suits most.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `init`"]
pub struct Builder {
    stop_on: Vec<Signal>,
    pace: Pace,
}

/// Settings for [`init`](Builder::init).
pub fn builder() -> Builder {
    Builder {
        stop_on: vec![Signal::SIGTERM, Signal::SIGINT],
        pace: Pace { linger: Duration::from_millis(100), drain_timeout: Duration::from_secs(30) },
    }
}

/// [`builder`] with its defaults.
///
/// Call it in the first statement of `main`: it takes what was inherited out of the environment, which is only safe while
/// there is one thread, and it installs the handlers of the stop signals.
///
/// # Errors
/// As [`Builder::init`].
pub fn init() -> io::Result<Upgrader> {
    builder().init()
}

impl Builder {
    /// Signals that stop the server gracefully; the second one is in a hurry. Default: SIGTERM and SIGINT. An empty list
    /// leaves all signals alone.
    pub fn stop_on(mut self, signals: &[Signal]) -> Self {
        self.stop_on = signals.to_vec();
        self
    }

    /// How long a client that was accepted just before the end may take to send its request, before idle connections are
    /// closed. Default: 100 ms.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.pace.linger = linger;
        self
    }

    /// How long connections may go on after accepting has ended; then they are shut down. Default: 30 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.pace.drain_timeout = timeout;
        self
    }

    /// Takes over what was inherited, and starts to listen to whoever started this process. Call it once, in the first
    /// statement of `main`.
    ///
    /// # Errors
    /// `AlreadyExists` when it was called before in this process; `InvalidInput` when the environment announces descriptors
    /// that are not there; else those of the system calls for events, threads and signal handlers.
    pub fn init(self) -> io::Result<Upgrader> {
        static INIT: AtomicBool = AtomicBool::new(false);
        if INIT.swap(true, Ordering::AcqRel) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "hotrun::init was called before in this process; clone the Upgrader it returned",
            ));
        }
        let inherited = environment::take()?;
        let token = inherited.control.as_ref().map(|control| control.token);
        let manager = match &inherited.notify_socket {
            // A holder has its own channel; its NOTIFY_SOCKET is for programs that do not know that.
            Some(address) if token.is_none() => Some(Manager::at(address)?),
            Some(_) | None => None,
        };
        let state = State::new()?;
        let mouth = Arc::new(Mouth::new(inherited.control.map(|control| control.channel), manager, inherited.sockets));
        if let Some(token) = token {
            mouth.tell(&ToHolder::Hello { protocol: PROTOCOL, token, pid: std::process::id() }, None)?;
        }
        let paths = Arc::new(BoundPaths::default());
        let signals = self.catch_signals()?;
        control::listen(Arc::clone(&state), Arc::clone(&mouth), Arc::clone(&paths), signals, self.pace)?;
        Ok(Upgrader { shared: Arc::new(Shared { state, mouth, paths, generation: inherited.generation }) })
    }

    fn catch_signals(&self) -> io::Result<Option<OwnedFd>> {
        if self.stop_on.is_empty() {
            return Ok(None);
        }
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        sys::signals_to(write, &self.stop_on)?;
        Ok(Some(read))
    }
}

/// This process's part in hot upgrades. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Upgrader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Arc<State>,
    mouth: Arc<Mouth>,
    paths: Arc<BoundPaths>,
    generation: u32,
}

/// Why [`Upgrader::drained`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// Another process serves now, and every connection here is finished.
    Upgraded,
    /// A stop was asked for, and every connection is finished.
    Stopped,
    /// `live` connections were shut down, as the drain timeout had passed.
    DeadlineExceeded {
        /// Connections, and other guards, that were not finished.
        live: usize,
    },
    /// `live` connections were shut down, as a second stop signal came.
    Forced {
        /// Connections, and other guards, that were not finished.
        live: usize,
    },
}

impl Upgrader {
    /// A TCP listener of that name: the inherited one, or else a new one bound to `addr`, of which the holder gets a copy for
    /// the next generation.
    ///
    /// Where whoever started this process chose the address of that name, that address wins. Where an earlier generation of
    /// the program chose it and the program now asks for another one, the new one is bound. A socket that came without a
    /// name (systemd without `FileDescriptorName=`, systemfd) is recognised by its address, else taken in order.
    ///
    /// Ask for all listeners before the first accept where that is possible: what an earlier generation bound and this one has
    /// not asked for is let go once that generation has left.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot travel ([`wire::check_name`]) or an inherited socket of another kind; else those of
    /// resolving and bind(2).
    pub fn listen(&self, name: &str, addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs().map_err(|error| named("listen", name, &error))?.collect();
        let same = |fd: &OwnedFd| tcp_addr(fd).is_some_and(|bound| addrs.iter().any(|wanted| matches(*wanted, bound)));
        let inner = match self.claim(name, Kind::Tcp, any_port(&addrs), same)? {
            Some(fd) => net::TcpListener::from(fd),
            None => {
                let listener = net::TcpListener::bind(&addrs[..]).map_err(|error| bind_failed(name, &addrs, &error))?;
                // std asks for a short queue; during an upgrade it should hold whoever comes. listen(2) may be repeated.
                listen(&listener, Backlog::MAXCONN)?;
                self.offer(name, listener)?
            }
        };
        self.listener(inner)
    }

    /// A Unix stream listener of that name, as [`listen`](Upgrader::listen). A path that a dead server left behind is taken
    /// over. Without a holder, the path is removed when this process stops, if it still is the socket that was bound here.
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen).
    pub fn listen_unix(&self, name: &str, path: impl AsRef<Path>) -> io::Result<UnixListener> {
        let path = path.as_ref();
        let inner = match self.claim(name, Kind::Unix, false, |fd| unix_path(fd).as_deref() == Some(path))? {
            Some(fd) => unix::UnixListener::from(fd),
            None => {
                let bound = self.shared.paths.bind(path, !self.shared.mouth.has_holder());
                let listener = bound.map_err(|error| {
                    io::Error::new(error.kind(), format!("listen {name:?} on {}: {error}", path.display()))
                })?;
                listen(&listener, Backlog::MAXCONN)?;
                self.offer(name, listener)?
            }
        };
        self.listener(inner)
    }

    /// A UDP socket of that name, as [`listen`](Upgrader::listen). What two generations do to each other's datagrams is said
    /// at [`UdpSocket`].
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen).
    pub fn bind_udp(&self, name: &str, addr: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs().map_err(|error| named("bind", name, &error))?.collect();
        let same = |fd: &OwnedFd| udp_addr(fd).is_some_and(|bound| addrs.iter().any(|wanted| matches(*wanted, bound)));
        let inner = match self.claim(name, Kind::Udp, any_port(&addrs), same)? {
            Some(fd) => net::UdpSocket::from(fd),
            None => {
                let socket = net::UdpSocket::bind(&addrs[..]).map_err(|error| bind_failed(name, &addrs, &error))?;
                self.offer(name, socket)?
            }
        };
        inner.set_nonblocking(true)?;
        Ok(UdpSocket { inner, state: Arc::clone(&self.shared.state), mouth: Arc::clone(&self.shared.mouth) })
    }

    /// Says that this process can serve: only now does the one before stop accepting. The first accept says it too, so call
    /// this only where something must be ready that comes after it.
    ///
    /// # Errors
    /// Those of sending to whoever started this process.
    pub fn ready(&self) -> io::Result<()> {
        self.shared.mouth.ready()
    }

    /// Counts the programs that served these sockets in one session, from 1.
    pub fn generation(&self) -> u32 {
        self.shared.generation
    }

    /// Whether accepting has ended.
    pub fn is_draining(&self) -> bool {
        self.shared.state.phase() >= Phase::Lingering
    }

    /// The moment at which idle connections should end: a future, and a blocking [`wait`](Draining::wait). It comes after
    /// accepting has ended and the linger time has passed, so that a client which was accepted just before is not cut.
    pub fn draining(&self) -> Draining {
        Draining { waiter: self.shared.state.waiter(), phase: Phase::Draining }
    }

    /// The moment at which the connections that are left have been shut down, as a future; it may never come.
    pub fn drain_deadline(&self) -> Draining {
        Draining { waiter: self.shared.state.waiter(), phase: Phase::Forced }
    }

    /// Counts work that has no connection of its own until the guard is dropped.
    pub fn guard(&self) -> DrainGuard {
        self.shared.state.guard(None)
    }

    /// Live connections and other guards.
    pub fn connections(&self) -> usize {
        self.shared.state.live()
    }

    /// Blocks until this process should leave: accepting has ended and every connection is finished, or the drain timeout
    /// has passed. Return from `main` then. In async code, use [`drained_async`](Upgrader::drained_async).
    pub fn drained(&self) -> ExitReason {
        let reason = self.shared.state.wait_drained();
        self.shared.mouth.tell_if_heard(&ToHolder::Bye);
        reason
    }

    /// [`drained`](Upgrader::drained) for async code, with any runtime: the connections it waits for go on meanwhile, those
    /// too that the web framework no longer counts, as WebSockets.
    pub async fn drained_async(&self) -> ExitReason {
        let waiter = self.shared.state.waiter();
        let reason = std::future::poll_fn(|context| waiter.poll_drained(context)).await;
        self.shared.mouth.tell_if_heard(&ToHolder::Bye);
        reason
    }

    fn listener<L: AsFd>(&self, inner: L) -> io::Result<crate::Listener<L>> {
        sys::set_nonblocking(&inner)?;
        Ok(crate::Listener { inner, state: Arc::clone(&self.shared.state), mouth: Arc::clone(&self.shared.mouth) })
    }

    /// The inherited socket for that name, if there is one.
    fn claim(
        &self,
        name: &str,
        kind: Kind,
        any_port: bool,
        same_address: impl Fn(&OwnedFd) -> bool,
    ) -> io::Result<Option<OwnedFd>> {
        wire::check_name(name)?;
        let mut inherited = self.inherited();
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
                let socket = inherited.swap_remove(index);
                self.shared.mouth.tell(&ToHolder::Taken { name: name.to_owned() }, None)?;
                return Ok(Some(socket.fd));
            }
        }
        // Not where any port will do: a socket that has a name is for whoever asks for that name.
        let same = inherited.iter().position(|socket| {
            let free = socket.name == Name::Anonymous || !any_port;
            free && kind.is(&socket.fd) && same_address(&socket.fd)
        });
        let anonymous = || inherited.iter().position(|s| s.name == Name::Anonymous && kind.is(&s.fd));
        let Some(index) = same.or_else(anonymous) else { return Ok(None) };
        // In order: the ones after it must keep their places.
        let socket = inherited.remove(index);
        match socket.name {
            Name::Given(given) => self.shared.mouth.tell(&ToHolder::Taken { name: given }, None)?,
            Name::Anonymous => {}
        }
        Ok(Some(socket.fd))
    }

    /// Gives the holder a copy of what was bound here.
    fn offer<S: From<OwnedFd> + Into<OwnedFd>>(&self, name: &str, socket: S) -> io::Result<S> {
        let fd: OwnedFd = socket.into();
        self.shared.mouth.tell(&ToHolder::Offer { name: name.to_owned() }, Some(&fd))?;
        Ok(S::from(fd))
    }

    fn inherited(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.shared.mouth.unclaimed()
    }
}

/// A moment in the life of this process, from [`Upgrader::draining`] and [`Upgrader::drain_deadline`].
#[derive(Debug)]
pub struct Draining {
    waiter: Waiter,
    phase: Phase,
}

impl Draining {
    /// Blocks until then.
    pub fn wait(&self) {
        self.waiter.state().wait_for(self.phase);
    }
}

impl Clone for Draining {
    fn clone(&self) -> Self {
        Draining { waiter: self.waiter.state().waiter(), phase: self.phase }
    }
}

impl Future for Draining {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll_phase(context, self.phase)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tcp,
    Unix,
    Udp,
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
