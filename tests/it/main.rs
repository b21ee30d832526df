//! One binary of integration tests: real cargo builds of real little crates, real processes, sockets and signals.
//!
//! `harness` has what they share; each other file is a subject.

mod harness;
#[allow(dead_code)] // What the demo uses of it and the tests do not.
#[path = "../../src/demo/load.rs"]
mod load;

mod under_load;
mod control;
mod tidy;
