//! UDP sockets that outlive the program.
//!
//! Two processes that read from one socket share its datagrams out between them at random, so an upgrade of a UDP server
//! never overlaps cleanly: whatever this process had been told before is unknown to the next one. Protocols of single
//! datagrams (DNS, statsd) do not mind; for others, ask the command for `overlap = false`.

use crate::serving::Serving;
use crate::serving::lifecycle::{Accepting, ListenerGate};
use crate::sys::wait;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

/// A UDP socket whose receiving ends when this process must leave. Its socket is non-blocking, as
/// [`Listener`](crate::Listener)'s is.
#[derive(Debug)]
pub struct UdpSocket {
    pub(crate) inner: Arc<net::UdpSocket>,
    pub(crate) gate: Arc<ListenerGate>,
    pub(crate) serving: Arc<Serving>,
}

impl UdpSocket {
    /// Waits for the next datagram; `None` when this process must stop receiving, for good. Bytes that do not fit are lost
    /// (recv(2)). The first call says that this process is ready.
    ///
    /// # Errors
    /// Those of recvfrom(2).
    pub fn recv_from(&self, bytes: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        self.serving.upstream.ready()?;
        loop {
            if let Some(_admitted) = self.serving.state.admit(&self.gate) {
                match self.inner.recv_from(bytes) {
                    Ok(received) => return Ok(Some(received)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
            }
            if self.serving.state.wait_while_paused(&self.gate) == Accepting::Ended {
                return Ok(None);
            }
            let mut fds = [
                PollFd::new(self.inner.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.serving.state.stop_event(&self.gate), PollFlags::POLLIN),
            ];
            wait(&mut fds, PollTimeout::NONE)?;
        }
    }

    /// Sends one datagram, waiting for room in the socket's buffer.
    ///
    /// # Errors
    /// Those of sendto(2).
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        loop {
            match self.inner.send_to(bytes, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&mut [PollFd::new(self.inner.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The socket for an async runtime. It is non-blocking; stop reading at [`Upgrader::draining`](crate::Upgrader::draining).
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn into_std(self) -> io::Result<net::UdpSocket> {
        self.inner.try_clone()
    }
}
