//! Room 1, hot compile: watches what the program is made of, builds, and ends in an `Artifact`.
//! Never lives here: what becomes of it. This room does not know that programs are run.

mod advice;
mod allowance;
mod asked;
mod build;
mod builder;
mod cycle;
mod dep_info;
mod found;
mod gone;
mod hot_compile;
mod last;
mod launch;
mod link;
mod lock;
mod manifests;
mod named;
mod outbox;
mod output;
mod packages;
mod places;
mod progress;
mod project;
mod reason;
mod repair;
mod replay;
mod request;
mod rewritten;
mod scripts;
mod seen;
mod sources;

mod stamp;
mod survey;
mod underway;
mod walk;
mod watch;
mod watching;

use crate::error::Result;
use cargo_metadata::Metadata;
use std::ffi::OsString;
use std::sync::Arc;

pub use hot_compile::HotCompile;
pub use outbox::{Artifact, Outbox};
pub use project::{depends_on, metadata};
pub use watch::FileEvent;

/// What is said in the course of builds.
#[derive(Debug)]
pub enum BuildSaid {
    Cargo(build::CargoSaid),
    /// A compiler of a crate, by the crate's number.
    Rustc(usize, replay::RustcSaid),
    /// What cargo's last build has taught.
    Learnt(Box<Result<replay::Plan, replay::NotReplayable>>),
    /// What `cargo metadata` says now; the number is that of the question.
    Metadata(Box<Result<Metadata>>),
}

/// Where it goes; the number is that of the run.
pub type BuildSink = Arc<dyn Fn(u64, BuildSaid) + Send + Sync>;

/// Runs as the wrapper of rustc or as the linker, when this process was started as one.
pub fn hidden_entry(args: impl Fn() -> Vec<OsString>) -> Option<i32> {
    link::hidden_entry(args().into_iter()).or_else(|| replay::call::hidden_entry(args().into_iter()))
}

/// Where this room's threads send what they see and hear.
pub struct Sinks {
    pub files: watch::FileSink,
    pub build: BuildSink,
}

/// Any moment will do; tests count from it.
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
fn start() -> std::time::Instant {
    std::time::Instant::now()
}
