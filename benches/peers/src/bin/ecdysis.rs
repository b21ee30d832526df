//! The server with ecdysis, as in its `examples/tokio_echo.rs`: the builder, a stoppable listener that it hands on, a wait
//! group for the connections, a minute for them to end. Left out of it: systemd, and the second it sleeps for its tests.

use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures::StreamExt;
use peers::{Tell, ballast, http};
use std::error::Error;
use std::time::Duration;
use tokio::sync::watch;
use waitgroup::WaitGroup;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let tell = Tell::started()?;
    let mut builder = TokioEcdysisBuilder::new(SignalKind::user_defined2())?;
    builder.stop_on_signal(SignalKind::terminate())?;
    ballast::take_on();

    let mut incoming = builder.build_listen_tcp(StopOnShutdown::Yes, peers::address()?, |socket, addr| {
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    })?;
    // ecdysis stops the listeners; what tells the connections is for the server to bring.
    let (drain, draining) = watch::channel(false);
    let server = tokio::spawn(async move {
        let connections = WaitGroup::new();
        while let Some(accepted) = incoming.next().await {
            let Ok(stream) = accepted else { continue };
            let (worker, mut draining) = (connections.worker(), draining.clone());
            tokio::spawn(async move {
                let _ = http::serve(stream, async move { drop(draining.wait_for(|drain| *drain).await) }).await;
                drop(worker);
            });
        }
        drop(incoming);
        connections.wait().await;
    });

    let (_ecdysis, replaced) = builder.ready()?;
    tell.serving()?;
    replaced.await?;
    drain.send_replace(true);
    tokio::time::timeout(Duration::from_secs(60), server).await??;
    Ok(())
}
