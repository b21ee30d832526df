//! Listeners and connections for servers on std: accepting that stops when it must, and connections that count.
//! Never lives here: how a listener comes by its socket (`bind`), and the same for tokio (`tokio`).

use crate::serving::Serving;
use crate::serving::lifecycle::{Accepting, DrainGuard, Lifecycle, ListenerGate, Phase};
use crate::sys::wait;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::fmt;
use std::io::{self, Read, Write};
use std::net;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net as unix;
use std::sync::Arc;

/// A TCP listener that outlives the program: inherited from the one before, handed to the next.
pub type TcpListener = Listener<net::TcpListener>;
/// A Unix stream listener that outlives the program.
pub type UnixListener = Listener<unix::UnixListener>;

/// A listener whose accepting ends when this process must leave. Dropping it does not close the socket, which is the process's
/// to hand on.
///
/// Its socket is non-blocking, always: O_NONBLOCK belongs to the open file description, which the processes of an upgrade
/// share (fcntl(2)). Waiting is done in poll(2).
#[derive(Debug)]
pub struct Listener<L> {
    /// Shared with the register of what is handed over.
    pub(crate) inner: Arc<L>,
    pub(crate) gate: Arc<ListenerGate>,
    pub(crate) serving: Arc<Serving>,
}

/// What [`Listener`] can be made of: std's TCP and Unix listeners.
pub trait Accept: AsFd + sealed::Sealed {
    /// The connections it accepts.
    type Stream: AsFd + AsRawFd + fmt::Debug;
    /// The address of the other side.
    type Addr;
    #[doc(hidden)]
    fn accept_now(&self) -> io::Result<(Self::Stream, Self::Addr)>;
}

/// A connection and the address of its other side.
pub type Accepted<L> = (Conn<<L as Accept>::Stream>, <L as Accept>::Addr);

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::net::TcpListener {}
    impl Sealed for std::os::unix::net::UnixListener {}
}

impl Accept for net::TcpListener {
    type Stream = net::TcpStream;
    type Addr = net::SocketAddr;
    fn accept_now(&self) -> io::Result<(Self::Stream, Self::Addr)> {
        self.accept()
    }
}

impl Accept for unix::UnixListener {
    type Stream = unix::UnixStream;
    type Addr = unix::SocketAddr;
    fn accept_now(&self) -> io::Result<(Self::Stream, Self::Addr)> {
        self.accept()
    }
}

impl<L: Accept> Listener<L> {
    /// Waits for the next connection; `None` when this process must stop accepting, for good. While it is paused the call
    /// just takes longer.
    ///
    /// The first call says that this process is ready, as [`Upgrader::ready`](crate::Upgrader::ready) does.
    /// A client that left before it was accepted, and a moment without free descriptors or memory, are no errors here.
    ///
    /// # Errors
    /// Those of accept(2) that will not pass.
    pub fn accept(&self) -> io::Result<Option<Accepted<L>>> {
        self.serving.upstream.ready()?;
        loop {
            if let Some(admitted) = self.serving.state.admit(&self.gate) {
                match self.inner.accept_now() {
                    Ok((stream, addr)) => return Ok(Some((Conn::new(stream, &self.serving.state), addr))),
                    Err(error) => match Passing::of(&error) {
                        Some(Passing::Nobody) => {}
                        Some(Passing::GoneAgain) => continue,
                        Some(Passing::NoRoom) => {
                            drop(admitted);
                            self.wait_for_room()?;
                            continue;
                        }
                        None => return Err(error),
                    },
                }
            }
            if self.serving.state.wait_while_paused(&self.gate) == Accepting::Ended {
                return Ok(None);
            }
            self.wait_for_client()?;
        }
    }

    /// The connections, until this process must stop accepting.
    pub fn incoming(&self) -> Incoming<'_, L> {
        Incoming { listener: self }
    }

    fn wait_for_client(&self) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.inner.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.serving.state.stop_event(&self.gate), PollFlags::POLLIN),
        ];
        wait(&mut fds, PollTimeout::NONE)
    }

    /// Room appears when some connection ends, here or in another process, so there is nothing to wait for but time.
    fn wait_for_room(&self) -> io::Result<()> {
        let stop = self.serving.state.stop_event(&self.gate);
        wait(&mut [PollFd::new(stop, PollFlags::POLLIN)], PollTimeout::from(100u8))
    }
}

impl TcpListener {
    /// The listener for a framework with an accept loop of its own, which is told when to stop by
    /// [`Upgrader::accepting`](crate::Upgrader::accepting): this crate can neither pause it nor count its connections. Hold an
    /// [`Upgrader::guard`](crate::Upgrader::guard) in each, and do not leave it to the framework to end them: actix-server 2.6,
    /// for one, may cut what is live when it is told to stop gracefully (`examples/actix.rs`). The listener is non-blocking, as
    /// it must stay. Say [`ready`](crate::Upgrader::ready) when the framework runs.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn into_std(self) -> io::Result<net::TcpListener> {
        self.inner.try_clone()
    }

    /// The address it listens on, with the real port where port 0 was asked for.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<net::SocketAddr> {
        self.inner.local_addr()
    }
}

impl UnixListener {
    /// As [`TcpListener::into_std`].
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn into_std(self) -> io::Result<unix::UnixListener> {
        self.inner.try_clone()
    }

    /// The path it listens on.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.inner.local_addr()
    }
}

impl<L: AsFd> AsFd for Listener<L> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Iterator of [`Listener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a, L> {
    listener: &'a Listener<L>,
}

impl<L: Accept> Iterator for Incoming<'_, L> {
    type Item = io::Result<Conn<L::Stream>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.listener.accept() {
            Ok(Some((conn, _))) => Some(Ok(conn)),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Errors of accept(2) that pass.
pub(crate) enum Passing {
    /// The queue is empty.
    Nobody,
    /// The client left while it waited, or its network failed (accept(2), "Error handling").
    GoneAgain,
    /// No descriptor or no memory is free.
    NoRoom,
}

impl Passing {
    pub(crate) fn of(error: &io::Error) -> Option<Passing> {
        match Errno::from_raw(error.raw_os_error()?) {
            Errno::EAGAIN => Some(Passing::Nobody),
            Errno::EINTR
            | Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP => Some(Passing::GoneAgain),
            Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => Some(Passing::NoRoom),
            _ => None,
        }
    }
}

/// An accepted connection. It counts as live until it is dropped, whatever owns it by then.
#[derive(Debug)]
pub struct Conn<S> {
    // Before the stream: a connection leaves the table of live ones before its descriptor is closed.
    guard: DrainGuard,
    stream: S,
}

impl<S: AsFd + AsRawFd> Conn<S> {
    fn new(stream: S, state: &Arc<Lifecycle>) -> Self {
        Conn { guard: state.guard(Some(stream.as_raw_fd())), stream }
    }

    /// Waits between two requests: `true` when there is something to read (or the client's end of file), `false` when this
    /// process is draining and the client has sent nothing more: then [`finish`](Conn::finish) the connection.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn more(&self) -> io::Result<bool> {
        loop {
            let mut fds = [
                PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.guard.state.drain_event(), PollFlags::POLLIN),
            ];
            wait(&mut fds, PollTimeout::NONE)?;
            let [readable, draining] = fds.map(|fd| fd.any().unwrap_or(false));
            if readable || draining {
                return Ok(readable);
            }
        }
    }

    /// Whether this process has stopped accepting: an HTTP answer should say `Connection: close` then (RFC 9112, 9.6), so
    /// that the client's next request reaches the next process.
    pub fn is_draining(&self) -> bool {
        self.guard.state.phase() >= Phase::Lingering
    }

    /// The stream and its guard; the connection counts until the guard is dropped.
    ///
    /// Drop the guard before the stream: at the deadline the descriptors of the connections that still count are shut down
    /// by number.
    pub fn into_parts(self) -> (DrainGuard, S) {
        (self.guard, self.stream)
    }
}

impl<S: AsFd + AsRawFd> Conn<S>
where
    for<'a> &'a S: Read,
{
    /// Ends the connection so that the client reads an end of file after the last answer, and never a reset: closes the
    /// sending side, then reads until the client has closed its own (RFC 9112, 9.6), for a second at most.
    ///
    /// # Errors
    /// Those of shutdown(2) and read(2); a client that has gone already is none.
    pub fn finish(self) -> io::Result<()> {
        let shut = nix::sys::socket::shutdown(self.stream.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        if shut == Err(Errno::ENOTCONN) {
            return Ok(());
        }
        shut?;
        let mut scrap = [0; 4096];
        // Not a deadline but a limit of patience for each piece: 20 pieces of at most 50 ms.
        for _ in 0..20 {
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            wait(&mut fds, PollTimeout::from(50u8))?;
            if !fds[0].any().unwrap_or(false) {
                continue;
            }
            match (&self.stream).read(&mut scrap) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<S> Deref for Conn<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S> Read for Conn<S>
where
    for<'a> &'a S: Read,
{
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(bytes)
    }
}

impl<S> Write for Conn<S>
where
    for<'a> &'a S: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.stream).flush()
    }
}

/// For each stream by name: an impl for every `S` with `&S: Read` would answer `&Conn<_>: Read` by asking for
/// `&Conn<Conn<_>>: Read`, and so on, and no generic function with such a bound could be called any more (E0275).
macro_rules! shared_conn {
    ($($stream:ty),*) => {$(
        impl Read for &Conn<$stream> {
            fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                (&self.stream).read(bytes)
            }
        }

        impl Write for &Conn<$stream> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                (&self.stream).write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                (&self.stream).flush()
            }
        }
    )*};
}

shared_conn!(net::TcpStream, unix::UnixStream);

impl<S: AsFd> AsFd for Conn<S> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
