//! How a server comes by its sockets: the inherited one of a name, or a new one.
//! Never lives here: what becomes of them in an upgrade (`register`, `perform`).

use crate::error::tried;
use crate::serving::Serving;
use crate::serving::register::SocketKind;
use crate::serving::unclaimed::{Socket, Wanted};
use crate::upstream::UpstreamKind;
use crate::wire::{self, ToHolder};
use crate::{TcpListener, UdpSocket, UnixListener, sys};
use nix::sys::socket::{Backlog, listen};
use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) fn tcp(serving: &Arc<Serving>, name: &str, addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let addrs: Vec<SocketAddr> =
        addr.to_socket_addrs().map_err(|error| tried(format_args!("listen {name:?}"), &error))?.collect();
    tcp_with(serving, name, Wanted::Inet(&addrs), || {
        let listener = net::TcpListener::bind(&addrs[..]).map_err(|error| bind_failed(name, &addrs, &error))?;
        // std asks for a short queue; during an upgrade it should hold whoever comes. listen(2) may be repeated.
        listen(&listener, Backlog::MAXCONN)?;
        Ok(listener)
    })
}

pub(crate) fn unix(serving: &Arc<Serving>, name: &str, path: impl AsRef<Path>) -> io::Result<UnixListener> {
    let path = path.as_ref();
    let is_held = serving.upstream.kind() == UpstreamKind::Holder;
    let (inner, bound_by_program) = match claim(serving, name, SocketKind::Unix, Wanted::Path(path))? {
        Some(Socket { fd, bound_by_program, .. }) => {
            if bound_by_program && !is_held {
                // It is gone, or somebody else's by now.
                let _ = serving.paths.expect(path);
                // It may have been handed over for good just now.
                if serving.upstream.kind() == UpstreamKind::Nobody {
                    serving.paths.own_expected();
                }
            }
            (unix::UnixListener::from(fd), bound_by_program)
        }
        None => {
            let bound = serving.paths.bind(path, !is_held);
            let listener =
                bound.map_err(|error| tried(format_args!("listen {name:?} on {}", path.display()), &error))?;
            listen(&listener, Backlog::MAXCONN)?;
            (offer(serving, name, listener)?, true)
        }
    };
    listener(serving, name, SocketKind::Unix, bound_by_program, std::path::absolute(path).ok(), inner)
}

pub(crate) fn udp(serving: &Arc<Serving>, name: &str, addr: impl ToSocketAddrs) -> io::Result<UdpSocket> {
    let addrs: Vec<SocketAddr> =
        addr.to_socket_addrs().map_err(|error| tried(format_args!("bind {name:?}"), &error))?.collect();
    let (inner, bound_by_program) = match claim(serving, name, SocketKind::Udp, Wanted::Inet(&addrs))? {
        Some(Socket { fd, bound_by_program, .. }) => (net::UdpSocket::from(fd), bound_by_program),
        None => {
            let socket = net::UdpSocket::bind(&addrs[..]).map_err(|error| bind_failed(name, &addrs, &error))?;
            (offer(serving, name, socket)?, true)
        }
    };
    inner.set_nonblocking(true)?;
    let inner = Arc::new(inner);
    let gate = serving.register.add(name, SocketKind::Udp, bound_by_program, None, Arc::clone(&inner) as _);
    Ok(UdpSocket { inner, gate, serving: Arc::clone(serving) })
}

/// As `tcp`, with a listener made by `bind` where none was inherited.
pub(crate) fn tcp_with(
    serving: &Arc<Serving>,
    name: &str,
    wanted: Wanted<'_>,
    bind: impl FnOnce() -> io::Result<net::TcpListener>,
) -> io::Result<TcpListener> {
    let (inner, bound_by_program) = match claim(serving, name, SocketKind::Tcp, wanted)? {
        Some(Socket { fd, bound_by_program, .. }) => (net::TcpListener::from(fd), bound_by_program),
        None => (offer(serving, name, bind()?)?, true),
    };
    listener(serving, name, SocketKind::Tcp, bound_by_program, None, inner)
}

fn listener<L: AsFd + Send + Sync + 'static>(
    serving: &Arc<Serving>,
    name: &str,
    kind: SocketKind,
    bound_by_program: bool,
    path: Option<PathBuf>,
    inner: L,
) -> io::Result<crate::Listener<L>> {
    sys::set_nonblocking(&inner)?;
    sys::set_cloexec(&inner)?;
    let inner = Arc::new(inner);
    let gate = serving.register.add(name, kind, bound_by_program, path, Arc::clone(&inner) as _);
    if kind == SocketKind::Tcp && bound_by_program {
        // The process before may have been about to close it when it was asked for.
        sys::let_in_again(inner.as_fd());
    }
    Ok(crate::Listener { inner, gate, serving: Arc::clone(serving) })
}

/// The inherited socket for that name, if there is one, of which whoever handed it over hears.
fn claim(serving: &Arc<Serving>, name: &str, kind: SocketKind, wanted: Wanted<'_>) -> io::Result<Option<Socket>> {
    wire::check_name(name)?;
    let claimed = serving.unclaimed.claim(name, kind, wanted)?;
    if let Some(Socket { name: Some(name), .. }) = &claimed {
        serving.upstream.taken(name.clone());
    }
    Ok(claimed)
}

/// Gives the holder a copy of what was bound here.
fn offer<S: From<OwnedFd> + Into<OwnedFd>>(serving: &Arc<Serving>, name: &str, socket: S) -> io::Result<S> {
    let fd: OwnedFd = socket.into();
    serving.upstream.tell(&ToHolder::Offer { name: name.to_owned() }, Some(fd.as_fd()))?;
    Ok(S::from(fd))
}

fn bind_failed(name: &str, addrs: &[SocketAddr], error: &io::Error) -> io::Error {
    let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    tried(format_args!("bind {name:?} to {}", addrs.join(" or ")), error)
}
