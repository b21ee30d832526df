//! Servers that upgrade themselves, with nobody above them but what started them. The tests are named after the points of the
//! plan they prove: load, failures, signals, hygiene, paths, draining, process numbers, service managers, sockets, programs.

#![cfg(target_os = "linux")]
// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../src/demo/load.rs"]
#[allow(dead_code)]
mod load;

mod draining;
mod failures;
mod harness;
mod hygiene;
mod killed;
mod manager;
mod numbers;
mod probation;
mod programs;
mod server;
mod signals;
mod sockets;
mod under_load;

/// How long something took is printed, never tested.
#[allow(clippy::disallowed_methods)]
fn load_now() -> std::time::Instant {
    std::time::Instant::now()
}
