//! What a server calls: `init`, `listen`, `ready`, `draining`, `drained`.
//! Never lives here: the other end (`holder`), and how phases change (`control`, `state`).

use crate::bound_path::BoundPaths;
use crate::control::{Request, CONTROL_THREAD};
use crate::environment::{Name, Socket};
use crate::mouth::{Above, Mouth};
use crate::register::{unseal, Kind, Register};
use crate::reload::{AcceptingChanges, Reloads};
use crate::state::{DrainGuard, Phase, Place, State, Waiter};
use crate::wire::{self, ToHolder};
use crate::{sys, TcpListener, UdpSocket, UnixListener, UpgradeError};
use nix::sys::socket::{getsockopt, listen, sockopt, AddressFamily, Backlog, SockType};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::Path;
use std::pin::Pin;
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// This process's part in hot upgrades. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Upgrader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Arc<State>,
    pub(crate) mouth: Arc<Mouth>,
    pub(crate) paths: Arc<BoundPaths>,
    pub(crate) register: Arc<Register>,
    pub(crate) generation: u32,
    pub(crate) predecessor: Option<u32>,
    pub(crate) files: Mutex<HashMap<String, OwnedFd>>,
    pub(crate) inherited_state: Mutex<HashMap<String, OwnedFd>>,
}

/// The process that serves in this one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Successor {
    /// Its process number.
    pub pid: u32,
    /// Its [`Upgrader::generation`].
    pub generation: u32,
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
    /// `live` connections were shut down, as a second stop signal came, or there were too many generations
    /// ([`Builder::max_generations`](crate::Builder::max_generations)).
    Forced {
        /// Connections, and other guards, that were not finished.
        live: usize,
    },
}

impl Upgrader {
    pub(crate) fn new(shared: Shared) -> Self {
        Upgrader { shared: Arc::new(shared) }
    }

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
                if bound_by_program && self.shared.mouth.above() != Above::Holder {
                    // It is gone, or somebody else's by now.
                    let _ = self.shared.paths.expect(path);
                    // It may have been handed over for good just now.
                    if self.shared.mouth.above() == Above::Nobody {
                        self.shared.paths.own_expected();
                    }
                }
                (unix::UnixListener::from(fd), bound_by_program)
            }
            None => {
                let bound = self.shared.paths.bind(path, self.shared.mouth.above() != Above::Holder);
                let listener = bound.map_err(|error| {
                    io::Error::new(error.kind(), format!("listen {name:?} on {}: {error}", path.display()))
                })?;
                listen(&listener, Backlog::MAXCONN)?;
                (self.offer(name, listener)?, true)
            }
        };
        self.listener(name, Kind::Unix, bound_by_program, inner)
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
        let place = self.shared.register.add(name, Kind::Udp, bound_by_program, Arc::clone(&inner) as _);
        Ok(UdpSocket { inner, place, state: Arc::clone(&self.shared.state), mouth: Arc::clone(&self.shared.mouth) })
    }

    /// Hands a file of any kind to every successor of this process: a log, a lock, a pipe, a device. The successor finds it with
    /// [`inherited_file`](Upgrader::inherited_file). A second one of the same name replaces the first.
    ///
    /// It is the open file description that travels, with its offset, its status flags and its locks (dup(2)). Not under
    /// `cargo hotrun`, which starts successors by itself.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot travel; else those of dup(2).
    pub fn keep_file(&self, name: &str, file: impl AsFd) -> io::Result<()> {
        wire::check_name(name)?;
        self.shared.register.keep_file(name, file.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    /// The file of that name that the process before kept; `None` also when it was asked for before. To hand it on, keep it
    /// again.
    pub fn inherited_file(&self, name: &str) -> Option<OwnedFd> {
        self.shared.files.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// A small piece of state for every successor: session-ticket keys, counters, a cache. `produce` is called when a successor
    /// is started, on a thread of this library, and must not block. The bytes travel in a sealed memory file, and are seen by no
    /// other process. Not under `cargo hotrun`, which starts successors by itself.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot travel.
    pub fn on_handoff(&self, name: &str, produce: impl FnMut() -> Vec<u8> + Send + 'static) -> io::Result<()> {
        wire::check_name(name)?;
        self.shared.register.on_handoff(name, Box::new(produce));
        Ok(())
    }

    /// The state of that name from the process before; `None` where there is none, or when it was asked for before.
    ///
    /// # Errors
    /// `InvalidData` when what came is not a sealed file; else those of reading it.
    pub fn inherited_state(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = self.shared.inherited_state.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        file.map(unseal).transpose()
    }

    /// Says that this process can serve: only now does the one before stop accepting. The first accept says it too, so call
    /// this only where something must be ready that comes after it.
    ///
    /// # Errors
    /// Those of writing the pid file.
    pub fn ready(&self) -> io::Result<()> {
        self.shared.mouth.ready()
    }

    /// Counts the programs that served these sockets in one session, from 1.
    pub fn generation(&self) -> u32 {
        self.shared.generation
    }

    /// Processes of this server that are there, as far as this one knows: itself, a successor, and earlier generations that
    /// finish their connections.
    pub fn generations(&self) -> usize {
        self.shared.state.generations()
    }

    /// The process that handed its sockets to this one, if it was another process.
    pub fn predecessor(&self) -> Option<u32> {
        self.shared.predecessor
    }

    /// Starts the new program, hands it every socket, and blocks until it serves or has failed. From then on this process
    /// accepts nothing; it drains at once or when the [probation](crate::Builder::probation) is over. In async code, call it on a
    /// blocking thread.
    ///
    /// # Errors
    /// Every [`UpgradeError`]; whatever it is, this process serves on.
    pub fn upgrade(&self) -> Result<Successor, UpgradeError> {
        self.ask(Request::Upgrade)
    }

    /// Ends the probation of a successor that serves: it stays, and this process drains.
    ///
    /// # Errors
    /// [`UpgradeError::NothingToConfirm`].
    pub fn confirm(&self) -> Result<(), UpgradeError> {
        self.ask(Request::Confirm)
    }

    /// Ends the probation of a successor that serves: this process serves again, and the successor finishes its connections and
    /// leaves.
    ///
    /// # Errors
    /// [`UpgradeError::NothingToConfirm`].
    pub fn roll_back(&self) -> Result<(), UpgradeError> {
        self.ask(Request::RollBack)
    }

    /// Stops gracefully, as a stop signal does; a second call is in a hurry.
    pub fn stop(&self) {
        self.shared.mouth.bell().ring(Request::Stop);
    }

    /// Requests for new configuration ([`Builder::reload_on`](crate::Builder::reload_on)).
    pub fn reloads(&self) -> Reloads {
        Reloads::new(&self.shared.state, self.shared.mouth.bell().clone())
    }

    /// News for a framework with an accept loop of its own ([`TcpListener::into_std`]).
    pub fn accepting(&self) -> AcceptingChanges {
        AcceptingChanges::new(&self.shared.state)
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

    /// Asks the thread that decides, and waits for its answer.
    fn ask<T>(
        &self,
        request: impl FnOnce(mpsc::Sender<Result<T, UpgradeError>>) -> Request,
    ) -> Result<T, UpgradeError> {
        if std::thread::current().name() == Some(CONTROL_THREAD) {
            // A hook of the user's runs there: it would wait for itself.
            return Err(UpgradeError::InProgress { pid: None });
        }
        let (sender, answer) = mpsc::channel();
        self.shared.mouth.bell().ring(request(sender));
        answer.recv().unwrap_or(Err(UpgradeError::Stopping))
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
        self.listener(name, Kind::Tcp, bound_by_program, inner)
    }

    fn listener<L: AsFd + Send + Sync + 'static>(
        &self,
        name: &str,
        kind: Kind,
        bound_by_program: bool,
        inner: L,
    ) -> io::Result<crate::Listener<L>> {
        sys::set_nonblocking(&inner)?;
        sys::set_cloexec(&inner)?;
        let inner = Arc::new(inner);
        let place: Arc<Place> = self.shared.register.add(name, kind, bound_by_program, Arc::clone(&inner) as _);
        let (state, mouth) = (Arc::clone(&self.shared.state), Arc::clone(&self.shared.mouth));
        Ok(crate::Listener { inner, place, state, mouth })
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
        let mut inherited = self.shared.mouth.unclaimed();
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
            Name::Given(name) => self.shared.mouth.taken(name),
            Name::Anonymous => {}
        }
        (socket.fd, socket.bound_by_program)
    }

    /// Gives the holder a copy of what was bound here.
    fn offer<S: From<OwnedFd> + Into<OwnedFd>>(&self, name: &str, socket: S) -> io::Result<S> {
        let fd: OwnedFd = socket.into();
        self.shared.mouth.tell(&ToHolder::Offer { name: name.to_owned() }, Some(fd.as_fd()))?;
        Ok(S::from(fd))
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
