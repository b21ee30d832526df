//! Finds out that a program serves when it does not say so: asks the shared socket until it is the new process that
//! answers. While two processes share a queue, an answer alone proves nothing, so the kernel is asked who accepted.
//! Never lives here: what follows from it.

use super::proc;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection.
    Accept,
    /// An answer below 400 for that path.
    Http(String),
}

/// Between two tries; also how long one look at the kernel's tables may be out of date.
const PACE: Duration = Duration::from_millis(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Blocks until the process answers, or until the other end of `cancelled` is dropped. Says which.
pub fn until_ready(probe: &Probe, addresses: &[SocketAddr], pid: u32, cancelled: &Receiver<()>) -> bool {
    for address in addresses.iter().cycle() {
        if try_once(probe, *address, pid, cancelled) == Some(true) {
            return true;
        }
        if is_cancelled(cancelled) {
            return false;
        }
    }
    false
}

/// Whether it was that process which answered; `None` when nobody did.
fn try_once(probe: &Probe, address: SocketAddr, pid: u32, cancelled: &Receiver<()>) -> Option<bool> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let client = stream.local_addr().ok()?.port();
    // Before anything is asked: a server that closes after its answer takes with it whose the connection was.
    let tries = PATIENCE.as_millis() / PACE.as_millis();
    let accepted = (0..tries).find_map(|_| match proc::accepted(pid, address.port(), client) {
        Some(ours) => Some(Some(ours)),
        None => is_cancelled(cancelled).then_some(None),
    })??;
    match probe {
        Probe::Http(path) if accepted => {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            Some(answers_well(&mut stream))
        }
        Probe::Accept | Probe::Http(_) => Some(accepted),
    }
}

/// `HTTP/1.1 200 OK`: the status is below 400 (RFC 9110, 15).
fn answers_well(stream: &mut TcpStream) -> bool {
    let mut line = [0; 12];
    stream.read_exact(&mut line).is_ok() && line.starts_with(b"HTTP/1.") && matches!(line[9], b'1'..=b'3')
}

/// A wildcard address is not one to connect to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Waits a moment for it.
fn is_cancelled(cancelled: &Receiver<()>) -> bool {
    cancelled.recv_timeout(PACE) == Err(RecvTimeoutError::Disconnected)
}
