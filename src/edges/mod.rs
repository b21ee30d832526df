//! The edges: threads that turn the outside world into words for the loop. Never lives here: any decision.

pub mod control;
mod find;
pub mod keys;
pub mod message;
pub mod registry;
pub mod signals;
mod visitors;
