//! What a server calls.
//! Never lives here: how it comes by its sockets (`bind`), settings (`builder`), and how phases change (`control`, `lifecycle`).

use crate::api::bind;
use crate::api::reload::{AcceptingChanges, Reloads};
use crate::request::{CONTROL_THREAD, Request, Successor};
use crate::serving::Serving;
use crate::serving::lifecycle::{DrainGuard, ExitReason, Phase, Waiter};
use crate::serving::register::unseal;
use crate::serving::unclaimed::Wanted;
use crate::sys::lock;
use crate::wire;
use crate::{TcpListener, UdpSocket, UnixListener, UpgradeError};
use std::future::Future;
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};

/// This process's part in hot upgrades. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Upgrader {
    pub(crate) serving: Arc<Serving>,
}

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
    /// `InvalidInput` for a name that cannot travel (one can of 1 to 255 bytes of printable ASCII without a colon,
    /// sd_listen_fds_with_names(3)) or an inherited socket of another kind; else those of resolving and bind(2).
    pub fn listen(&self, name: &str, addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
        bind::tcp(&self.serving, name, addr)
    }

    /// As [`listen`](Upgrader::listen), with a listener made by `bind` where none of that name was inherited: for socket
    /// options of your own. As the address is not known before, an inherited one is taken whatever its address.
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen), and those of `bind`.
    pub fn listen_with(
        &self,
        name: &str,
        bind: impl FnOnce() -> io::Result<std::net::TcpListener>,
    ) -> io::Result<TcpListener> {
        bind::tcp_with(&self.serving, name, Wanted::Unknown, bind)
    }

    /// A Unix stream listener of that name, as [`listen`](Upgrader::listen). A path that a dead server left behind is taken
    /// over. The path is removed by the last generation, when it stops, if it still is the socket that was bound there.
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen).
    pub fn listen_unix(&self, name: &str, path: impl AsRef<Path>) -> io::Result<UnixListener> {
        bind::unix(&self.serving, name, path.as_ref())
    }

    /// A UDP socket of that name, as [`listen`](Upgrader::listen). What two generations do to each other's datagrams is said
    /// at [`UdpSocket`].
    ///
    /// # Errors
    /// As [`listen`](Upgrader::listen).
    pub fn bind_udp(&self, name: &str, addr: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        bind::udp(&self.serving, name, addr)
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
        self.serving.register.keep_file(name, file.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    /// The file of that name that the process before kept; `None` also when it was asked for before. To hand it on, keep it
    /// again.
    pub fn inherited_file(&self, name: &str) -> Option<OwnedFd> {
        lock(&self.serving.inherited_files).remove(name)
    }

    /// A small piece of state for every successor: session-ticket keys, counters, a cache. `produce` is called when a successor
    /// is started, on a thread of this library, and must not block. The bytes travel in a sealed memory file, and are seen by no
    /// other process. Not under `cargo hotrun`, which starts successors by itself.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot travel.
    pub fn on_handoff(&self, name: &str, produce: impl FnMut() -> Vec<u8> + Send + 'static) -> io::Result<()> {
        wire::check_name(name)?;
        self.serving.register.on_handoff(name, Box::new(produce));
        Ok(())
    }

    /// The state of that name from the process before; `None` where there is none, or when it was asked for before.
    ///
    /// # Errors
    /// `InvalidData` when what came is not a sealed file; else those of reading it.
    pub fn inherited_state(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = lock(&self.serving.inherited_state).remove(name);
        file.map(unseal).transpose()
    }

    /// Says that this process can serve: only now does the one before stop accepting. The first accept says it too, so call
    /// this only where something must be ready that comes after it.
    ///
    /// # Errors
    /// Those of writing the pid file.
    pub fn ready(&self) -> io::Result<()> {
        self.serving.upstream.ready()
    }

    /// Counts the programs that served these sockets in one session, from 1.
    pub fn generation(&self) -> u32 {
        self.serving.generation
    }

    /// Processes of this server that are there, as far as this one knows: itself, a successor, and earlier generations that
    /// finish their connections.
    pub fn generations(&self) -> usize {
        self.serving.state.generations()
    }

    /// The process that handed its sockets to this one, if it was another process.
    pub fn predecessor(&self) -> Option<u32> {
        self.serving.predecessor
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
        self.serving.upstream.bell().ring(Request::Stop);
    }

    /// Requests for new configuration ([`Builder::reload_on`](crate::Builder::reload_on)).
    pub fn reloads(&self) -> Reloads {
        Reloads::new(&self.serving.state, self.serving.upstream.bell().clone())
    }

    /// News for a framework with an accept loop of its own ([`TcpListener::into_std`](crate::TcpListener::into_std)).
    pub fn accepting(&self) -> AcceptingChanges {
        AcceptingChanges::new(&self.serving.state)
    }

    /// A layer for axum's `Router::layer` and every other server on tower: answers of HTTP/1 say `Connection: close` from the
    /// moment this process has stopped accepting (RFC 9112, 9.6), so that a busy client's next request reaches the next
    /// process at once. Without it a kept connection is closed between two answers, which a client must be ready for at any
    /// time, but may notice only when it has sent the next request.
    ///
    /// HTTP/2 forbids the header (RFC 9113, 8.2.2), and has GOAWAY, which the server sends when it is told to end. An answer
    /// that has a `Connection` header of its own, as the one that turns into a WebSocket, keeps that.
    #[cfg(feature = "tower")]
    pub fn connection_close(&self) -> crate::tower::ConnectionClose {
        crate::tower::ConnectionClose::new(self.clone())
    }

    /// Whether accepting has ended.
    pub fn is_draining(&self) -> bool {
        self.serving.state.phase() >= Phase::Lingering
    }

    /// The moment at which idle connections should end: a future, and a blocking [`wait`](Draining::wait). It comes after
    /// accepting has ended and the linger time has passed, so that a client which was accepted just before is not cut.
    pub fn draining(&self) -> Draining {
        Draining { waiter: self.serving.state.waiter(), phase: Phase::Draining }
    }

    /// The moment at which the connections that are left have been shut down, as a future; it may never come.
    pub fn drain_deadline(&self) -> Draining {
        Draining { waiter: self.serving.state.waiter(), phase: Phase::Forced }
    }

    /// Counts work that has no connection of its own until the guard is dropped.
    pub fn guard(&self) -> DrainGuard {
        self.serving.state.guard(None)
    }

    /// Live connections and other guards.
    pub fn connections(&self) -> usize {
        self.serving.state.live()
    }

    /// Blocks until this process should leave: accepting has ended and every connection is finished, or the drain timeout
    /// has passed. Return from `main` then. In async code, use [`drained_async`](Upgrader::drained_async).
    pub fn drained(&self) -> ExitReason {
        self.serving.state.wait_drained()
    }

    /// [`drained`](Upgrader::drained) for async code, with any runtime: the connections it waits for go on meanwhile, those
    /// too that the web framework no longer counts, as WebSockets.
    pub async fn drained_async(&self) -> ExitReason {
        let waiter = self.serving.state.waiter();
        std::future::poll_fn(|context| waiter.poll_drained(context)).await
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
        self.serving.upstream.bell().ring(request(sender));
        answer.recv().unwrap_or(Err(UpgradeError::Stopping))
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
        self.waiter.state.wait_for(self.phase);
    }
}

impl Clone for Draining {
    fn clone(&self) -> Self {
        Draining { waiter: self.waiter.state.waiter(), phase: self.phase }
    }
}

impl Future for Draining {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.waiter.poll_phase(context, self.phase)
    }
}
