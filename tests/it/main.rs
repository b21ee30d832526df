//! One binary of integration tests: real cargo builds of real little crates, real processes, sockets and signals.
//!
//! `harness` has what they share; each other file is a subject.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
#[allow(dead_code)] // What the demo uses of it and the tests do not.
#[path = "../../src/demo/load.rs"]
mod load;

mod builds;
mod cli;
mod control;
mod dotenv;
mod ends;
mod environment;
mod gate;
mod generations;
mod keyboard;
mod large_watch;
mod leaks;
mod libraries;
mod link;
mod odd_places;
mod printing;
mod programs;
mod replay;
mod replay_inputs;
mod saves;
mod sessions;
mod terminal;
mod tidy;
mod under_load;
mod watching;
mod zero_change;
