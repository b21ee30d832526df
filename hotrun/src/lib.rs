#![doc = include_str!("../README.md")]
//!
//! # Map of the crate
//!
//! A hand-over has two ends and one contract. [`wire`] is the contract, [`holder`] the end that owns the sockets and has
//! started this process, and [`Upgrader`] the end a server sees.

#[cfg(not(unix))]
compile_error!("hotrun hands descriptors from process to process, which only Unix systems can");

mod bound_path;
mod control;
mod environment;
pub mod holder;
mod listen;
mod notify;
mod state;
mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;
mod udp;
mod upgrader;
pub mod wire;

pub use listen::{Accept, Accepted, Conn, Incoming, Listener, TcpListener, UnixListener};
pub use nix::sys::signal::Signal;
pub use state::DrainGuard;
pub use udp::UdpSocket;
pub use upgrader::{builder, init, Builder, Draining, ExitReason, Upgrader};
