//! What the servers have in common, so that they differ in nothing but how they are upgraded. Never lives here: a library
//! that upgrades.

pub mod ballast;
pub mod http;
mod tell;

pub use tell::Tell;

use std::io;
use std::net::SocketAddr;

/// Where to listen: `BENCH_ADDR`.
pub fn address() -> io::Result<SocketAddr> {
    let said = std::env::var("BENCH_ADDR").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    said.parse().map_err(|error| io::Error::other(format!("BENCH_ADDR {said:?}: {error}")))
}
