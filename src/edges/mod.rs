//! The edges: threads that turn the outside world into words for the loop. Never lives here: any decision.

pub mod control;
pub mod keys;
pub mod signals;
