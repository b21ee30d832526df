//! The server without any library: a signal ends it in the middle of whatever it does, and somebody starts it again. What
//! this loses, the clients must notice.

use peers::{Tell, ballast, http};
use std::io;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let tell = Tell::started()?;
    ballast::take_on();
    let listener = TcpListener::bind(peers::address()?).await?;
    tell.serving()?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(http::serve(stream, std::future::pending()));
    }
}
