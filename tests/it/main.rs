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
mod circles;
mod cleaned;
mod cli;
mod control;
mod descendants;
mod dotenv;
mod dropped;
mod ends;
mod environment;
mod exhausted;
mod gate;
mod generations;
mod gone;
mod hostile;
mod keyboard;
mod large_watch;
mod leaks;
mod libraries;
mod link;
mod odd_places;
mod planted;
mod printing;
mod programs;
mod progress;
mod replay;
mod replay_inputs;
mod saves;
mod sessions;
mod stopped;
mod strangers;
mod switch;
mod terminal;
mod tidy;
mod under_load;
mod watching;
mod zero_change;
