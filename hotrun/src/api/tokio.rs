//! The listener and its connections for tokio, and for axum. The runtime needs its IO and its time driver
//! (`enable_all`, which `#[tokio::main]` does).

use crate::api::listener::{Listener, Passing};
use crate::serving::Serving;
use crate::serving::lifecycle::{Accepting, DrainGuard, ListenerGate, Phase, Waiter};
#[cfg(feature = "axum")]
use crate::upstream::complain;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net;
use tokio::time::Sleep;

/// A TCP listener for tokio.
pub type TcpListener = AsyncListener<net::TcpListener>;
/// A Unix stream listener for tokio.
pub type UnixListener = AsyncListener<net::UnixListener>;

/// A tokio listener whose accepting ends when this process must leave.
#[derive(Debug)]
pub struct AsyncListener<L> {
    /// Dropped when accepting ends: a registered descriptor of a shared socket would go on waking this process for
    /// connections that are for the next one (epoll(7), questions and answers, Q6).
    inner: Option<L>,
    gate: Arc<ListenerGate>,
    waiter: Waiter,
    serving: Arc<Serving>,
}

/// What [`AsyncListener`] can be made of: tokio's TCP and Unix listeners.
pub trait PollAccept: sealed::Sealed + Send + Sync + 'static {
    /// The connections it accepts.
    type Stream: AsRawFd + AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug + 'static;
    /// The address of the other side.
    type Addr: Send;
    #[doc(hidden)]
    fn poll_accept_now(&self, context: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Addr)>>;
    #[doc(hidden)]
    fn addr(&self) -> io::Result<Self::Addr>;
}

/// A connection and the address of its other side.
pub type Accepted<L> = (Conn<<L as PollAccept>::Stream>, <L as PollAccept>::Addr);

mod sealed {
    pub trait Sealed {}
    impl Sealed for tokio::net::TcpListener {}
    impl Sealed for tokio::net::UnixListener {}
}

impl PollAccept for net::TcpListener {
    type Stream = net::TcpStream;
    type Addr = std::net::SocketAddr;
    fn poll_accept_now(&self, context: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Addr)>> {
        self.poll_accept(context)
    }
    fn addr(&self) -> io::Result<Self::Addr> {
        self.local_addr()
    }
}

impl PollAccept for net::UnixListener {
    type Stream = net::UnixStream;
    type Addr = net::unix::SocketAddr;
    fn poll_accept_now(&self, context: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Addr)>> {
        self.poll_accept(context)
    }
    fn addr(&self) -> io::Result<Self::Addr> {
        self.local_addr()
    }
}

impl Listener<std::net::TcpListener> {
    /// The same listener for tokio. Call it within a runtime.
    ///
    /// # Errors
    /// Those of registering with the runtime.
    pub fn into_tokio(self) -> io::Result<TcpListener> {
        Ok(AsyncListener {
            inner: Some(net::TcpListener::from_std(self.inner.try_clone()?)?),
            gate: self.gate,
            waiter: self.serving.state.waiter(),
            serving: self.serving,
        })
    }
}

impl Listener<std::os::unix::net::UnixListener> {
    /// The same listener for tokio. Call it within a runtime.
    ///
    /// # Errors
    /// Those of registering with the runtime.
    pub fn into_tokio(self) -> io::Result<UnixListener> {
        Ok(AsyncListener {
            inner: Some(net::UnixListener::from_std(self.inner.try_clone()?)?),
            gate: self.gate,
            waiter: self.serving.state.waiter(),
            serving: self.serving,
        })
    }
}

impl<L: PollAccept> AsyncListener<L> {
    /// Waits for the next connection; `None` when this process must stop accepting, for good. Cancel safe. The first call
    /// says that this process is ready.
    ///
    /// # Errors
    /// Those of accept(2) that will not pass.
    pub async fn accept(&mut self) -> io::Result<Option<Accepted<L>>> {
        self.serving.upstream.ready()?;
        loop {
            match poll_fn(|context| self.poll_accept(context)).await {
                Ok(Some(accepted)) => return Ok(Some(accepted)),
                Ok(None) => {
                    self.inner = None;
                    return Ok(None);
                }
                Err(error) => match Passing::of(&error) {
                    Some(Passing::Nobody | Passing::GoneAgain) => {}
                    Some(Passing::NoRoom) => self.wait_for_room().await,
                    None => return Err(error),
                },
            }
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<Accepted<L>>>> {
        let Some(inner) = &self.inner else { return Poll::Ready(Ok(None)) };
        // Registered first: a change between the two looks wakes this task.
        if self.poll_ended(context).is_ready() {
            return Poll::Ready(Ok(None));
        }
        let Some(_admitted) = self.serving.state.admit(&self.gate) else { return Poll::Pending };
        let (stream, addr) = ready!(inner.poll_accept_now(context))?;
        // Counted before accepting can be stopped: nobody may see no connections while this one is on its way.
        let guard = self.serving.state.guard(Some(stream.as_raw_fd()));
        Poll::Ready(Ok(Some((Conn { guard, stream, closing: Closing::No }, addr))))
    }

    /// Ready when this listener will never accept again; the task is woken at every change.
    fn poll_ended(&self, context: &Context<'_>) -> Poll<()> {
        self.waiter.poll(context, |inner| (inner.accepting(&self.gate) == Accepting::Ended).then_some(()))
    }

    /// Room appears when some connection ends, here or in another process, so there is nothing to wait for but time.
    async fn wait_for_room(&self) {
        let mut time = pin!(tokio::time::sleep(Duration::from_millis(100)));
        poll_fn(|context| {
            if self.poll_ended(context).is_ready() {
                return Poll::Ready(());
            }
            time.as_mut().poll(context)
        })
        .await;
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// `NotConnected` once accepting has ended; else those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<L::Addr> {
        match &self.inner {
            Some(inner) => inner.addr(),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "this process has stopped accepting")),
        }
    }
}

/// An accepted connection. It counts as live until it is dropped, also when it has become a WebSocket.
#[derive(Debug)]
pub struct Conn<S> {
    // Before the stream: a connection leaves the table of live ones before its descriptor is closed.
    guard: DrainGuard,
    stream: S,
    closing: Closing,
}

#[derive(Debug)]
enum Closing {
    No,
    /// The sending side is closed; the client has until then to close its own.
    Reading(Pin<Box<Sleep>>),
    Done,
}

impl<S> Conn<S> {
    /// Whether this process has stopped accepting: answers should say `Connection: close` then.
    pub fn is_draining(&self) -> bool {
        self.guard.state.phase() >= Phase::Lingering
    }

    /// The stream inside, for its socket options.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conn<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Conn<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Closes the sending side. In a process that is draining it then reads until the client has closed its own (RFC 9112,
    /// 9.6), for a second at most: a client whose next request was just under way reads an end of file between two answers,
    /// and not a reset.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.closing {
                Closing::No => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
                    this.closing = if this.guard.state.phase() >= Phase::Lingering {
                        Closing::Reading(Box::pin(tokio::time::sleep(Duration::from_secs(1))))
                    } else {
                        Closing::Done
                    };
                }
                Closing::Reading(limit) => {
                    // First, as somebody who never stops sending is not waited for either.
                    if limit.as_mut().poll(context).is_ready() {
                        this.closing = Closing::Done;
                        continue;
                    }
                    let mut scrap = [0; 1024];
                    let mut buffer = ReadBuf::new(&mut scrap);
                    let read = Pin::new(&mut this.stream).poll_read(context, &mut buffer);
                    let more = match read {
                        Poll::Ready(Ok(())) => !buffer.filled().is_empty(),
                        // The client has reset its side: there is nobody left to be careful for.
                        Poll::Ready(Err(_)) => false,
                        Poll::Pending => return Poll::Pending,
                    };
                    if !more {
                        this.closing = Closing::Done;
                    }
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(feature = "axum")]
impl<L: PollAccept> axum::serve::Listener for AsyncListener<L> {
    type Io = Conn<L::Stream>;
    type Addr = L::Addr;

    /// Stays pending once accepting has ended, as axum ends its loop by the future it is given.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match AsyncListener::accept(self).await {
                Ok(Some(accepted)) => return accepted,
                Ok(None) => std::future::pending().await,
                Err(error) => {
                    complain(format_args!("accept: {error}; trying again"));
                    self.wait_for_room().await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        AsyncListener::local_addr(self)
    }
}

/// The address of a client, for axum's `ConnectInfo<PeerAddr>` with
/// `into_make_service_with_connect_info::<PeerAddr>()`; what `SocketAddr` is for axum's own listener.
#[cfg(feature = "axum")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub std::net::SocketAddr);

#[cfg(feature = "axum")]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, TcpListener>> for PeerAddr {
    fn connect_info(stream: axum::serve::IncomingStream<'_, TcpListener>) -> Self {
        PeerAddr(*stream.remote_addr())
    }
}
