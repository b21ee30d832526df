//! Servers that upgrade themselves under the real systemd, before and since `Type=notify-reload`. Each test boots one of its own
//! and says that it skips where it cannot.

#![cfg(target_os = "linux")]
// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../src/demo/load.rs"]
#[allow(dead_code)]
mod load;

#[path = "../upgrade/harness.rs"]
#[allow(dead_code)]
mod harness;

#[path = "../upgrade/server.rs"]
mod server;

mod boot;
mod documented;
mod failures;
mod reloads;
mod service;
mod socket;
mod stops;
mod watchdog;

/// How long something took is printed, never tested.
#[allow(clippy::disallowed_methods)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
