//! The server with hotrun: the upgrader comes first, the listener from it, and each connection keeps the process until it
//! has ended. No probation unless `BENCH_PROBATION_MS` says so: the peers have none, and a switch is what is compared.

use hotrun::{Signal, Upgrader};
use peers::{Tell, ballast, http};
use std::time::Duration;
use std::{env, io};

fn main() -> io::Result<()> {
    let tell = Tell::started()?;
    let probation = env::var("BENCH_PROBATION_MS").ok().and_then(|said| said.parse().ok()).unwrap_or(0);
    let upgrader =
        hotrun::builder().upgrade_on(&[Signal::SIGUSR2]).probation(Duration::from_millis(probation)).init()?;
    ballast::take_on();
    serve(&upgrader, &tell)
}

#[tokio::main]
async fn serve(upgrader: &Upgrader, tell: &Tell) -> io::Result<()> {
    let mut listener = upgrader.listen("http", peers::address()?)?.into_tokio()?;
    upgrader.ready()?;
    tell.serving()?;
    while let Some((connection, _)) = listener.accept().await? {
        let draining = upgrader.draining();
        tokio::spawn(async move {
            let _ = http::serve(connection, draining).await;
        });
    }
    upgrader.drained_async().await;
    Ok(())
}
