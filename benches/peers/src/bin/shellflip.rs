//! The server with shellflip, as in its `examples/restarter.rs`: a restart task next to the accept loop, and a shutdown
//! coordinator for the connections.
//!
//! It hands on no listeners ("this library does not provide for socket inheritance or rebinding"), so there are two ways:
//!
//! - The socket comes from systemd (`LISTEN_FDS`), which stays open in each process; the library rewrites `LISTEN_PID` for
//!   it (`fixup_systemd_env`). This is what it is made for.
//! - Without systemd each process binds its own, with `SO_REUSEPORT`.
//!
//! `SHELLFLIP_SOCKET` is the path of the restart coordination socket that its example has; without one, signals alone.

use peers::{Tell, ballast, http};
use shellflip::{RestartConfig, ShutdownCoordinator, ShutdownHandle, ShutdownSignal};
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::{env, io, net, process};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::SignalKind;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tell = Tell::started()?;
    let socket = env::var_os("SHELLFLIP_SOCKET");
    let restart = RestartConfig {
        enabled: socket.is_some(),
        coordination_socket_path: socket.unwrap_or_default().into(),
        restart_signal: SignalKind::user_defined2(),
        ..Default::default()
    };
    let mut restarted = pin!(restart.try_into_restart_task()?);
    ballast::take_on();

    let coordinator = ShutdownCoordinator::new();
    let listener = from_systemd()?.map_or_else(own, Ok)?;
    // The restart task would say it when it is polled first, which is in the next line but one.
    shellflip::startup_complete()?;
    tell.serving()?;
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                tokio::spawn(connection(stream, coordinator.handle()));
            },
            outcome = &mut restarted => {
                outcome?;
                // "To prevent new connections from being accepted, drop any listening tasks first."
                drop(listener);
                coordinator.shutdown().await;
                return Ok(());
            }
        }
    }
}

async fn connection(stream: TcpStream, handle: Arc<ShutdownHandle>) {
    let mut signal = ShutdownSignal::from(&*handle);
    let _ = http::serve(stream, async move { signal.on_shutdown().await }).await;
}

fn from_systemd() -> io::Result<Option<TcpListener>> {
    let meant_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == process::id().to_string());
    if !meant_for_us || env::var_os("LISTEN_FDS").is_none() {
        return Ok(None);
    }
    // SAFETY: by the protocol of `LISTEN_FDS` (sd_listen_fds(3)) descriptor 3 is a socket for this process to own, and
    // nothing else has taken it: this is the one place that does.
    let listener = net::TcpListener::from(unsafe { OwnedFd::from_raw_fd(3) });
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Some)
}

fn own() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(peers::address()?)?;
    socket.listen(1024)
}
