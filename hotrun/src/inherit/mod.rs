//! The mirror pair: what a successor is `given`, and what this process has `received`.

pub(crate) mod given;
pub(crate) mod program;
pub(crate) mod received;
pub(crate) mod spawn;
