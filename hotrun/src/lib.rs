#![doc = include_str!("../README.md")]
//!
//! # What versions promise
//!
//! [`Signal`] is nix's, and tokio and axum stand in the interfaces of their features: a new major version of one of them is
//! one of this crate. The modules `wire` and `holder`, which are not shown here, are for `cargo hotrun` alone, and may change in
//! any version; the protocol they speak has a version of its own, and whoever speaks another is told so.

// Map of the crate. A hand-over has two ends and one contract. `wire` is the contract, `holder` the end that owns the sockets and
// has started this process, and `Upgrader` the end a server sees. A server that upgrades itself is the holder of its successor.
//
// Inside, one thread hears signals, calls, both channels and the clock (`control`), asks two machines that touch nothing
// (`succession`: what follows from what; `retirement`: what is due between the last accept and the end), and does what they
// say (`perform`, which has `start` begin a process).
//
// - `api`: what a server calls; `settings` and `request`: what it chose, and what it asks of the control thread.
// - `serving`: what is served, and whether it may accept, which listeners, connections and the control thread share.
// - `inherit`: the mirror pair of what a successor is `given` and what this process has `received`; `spawn` starts it.
// - `upstream`: what is said to whoever watches: a holder, the process before, a service manager, a pid file.

#[cfg(not(target_os = "linux"))]
compile_error!("hotrun stands on pidfds, eventfds and sealed memory files, which only Linux has");

mod api;
mod control;
mod error;
#[doc(hidden)]
pub mod holder;
mod inherit;
mod request;
mod serving;
mod settings;
mod sys;
mod upstream;
#[doc(hidden)]
pub mod wire;

/// How an upgrade goes, and how to run a server that can be upgraded: the folder `docs` of this crate.
#[doc = include_str!("../docs/upgrades.md")]
pub mod guide {
    #[doc = include_str!("../docs/systemd.md")]
    pub mod systemd {}
    #[doc = include_str!("../docs/shell.md")]
    pub mod shell {}
    #[doc = include_str!("../docs/container.md")]
    pub mod container {}
    #[doc = include_str!("../docs/rolling-update.md")]
    pub mod rolling_update {}
}

pub use api::builder::{Builder, builder, init};
pub use api::listener::{Accept, Accepted, Conn, Incoming, Listener, TcpListener, UnixListener};
pub use api::reload::{AcceptingChanges, Reload, Reloads};
#[cfg(feature = "tokio")]
pub use api::tokio;
#[cfg(feature = "tower")]
pub use api::tower;
pub use api::udp::UdpSocket;
pub use api::upgrader::{Draining, Upgrader};
pub use error::UpgradeError;
pub use nix::sys::signal::Signal;
pub use request::Successor;
pub use serving::lifecycle::{Accepting, DrainGuard, ExitReason};
pub use settings::{PidMode, Probation};
