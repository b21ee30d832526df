#![doc = include_str!("../README.md")]
//!
//! # What versions promise
//!
//! [`Signal`] is nix's, and tokio and axum stand in the interfaces of their features: a new major version of one of them is
//! one of this crate. [`wire`] and [`holder`] are the two ends of one protocol, which has a version of its own; as Rust
//! interfaces they are for `cargo hotrun`, and may change in any version.
//!
//! # Map of the crate
//!
//! A hand-over has two ends and one contract. [`wire`] is the contract, [`holder`] the end that owns the sockets and has
//! started this process, and [`Upgrader`] the end a server sees. A server that upgrades itself is the holder of its successor.
//!
//! Inside, one thread (`control`) hears signals, calls, both channels and the clock, asks two machines that touch nothing
//! (`succession`: what follows from what; `leave`: what is due between the last accept and the end), and does what they say
//! (`act`; `returning` where the process number stays). `register` has what is served, `inheritance` what a successor gets of
//! it, `spawn` how it is started, `environment` what arrives at the other side, `state` what the listeners and connections
//! look at, `mouth` what is said to whoever watches.

#[cfg(not(target_os = "linux"))]
compile_error!("hotrun stands on pidfds, eventfds and sealed memory files, which only Linux has");

mod act;
mod bound_path;
mod builder;
mod control;
mod environment;
mod error;
pub mod holder;
mod inheritance;
mod kin;
#[cfg(feature = "tower")]
mod layer;
mod leave;
mod listen;
mod mouth;
mod notify;
mod pid_file;
mod program;
mod register;
mod reload;
mod returning;
mod sockets;
mod spawn;
mod state;
mod succession;
mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;
mod udp;
mod upgrader;
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

pub use builder::{Builder, PidMode, builder, init};
pub use error::UpgradeError;
#[cfg(feature = "tower")]
pub use layer::{Closing, ClosingFuture, ConnectionClose};
pub use listen::{Accept, Accepted, Conn, Incoming, Listener, TcpListener, UnixListener};
pub use nix::sys::signal::Signal;
pub use reload::{Accepting, AcceptingChanges, Reload, Reloads};
pub use state::DrainGuard;
pub use succession::Probation;
pub use udp::UdpSocket;
pub use upgrader::{Draining, ExitReason, Successor, Upgrader};
