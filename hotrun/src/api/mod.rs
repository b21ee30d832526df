//! What a server calls; the crate's root names what is public of it.

mod bind;
pub(crate) mod builder;
pub(crate) mod listener;
pub(crate) mod reload;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(feature = "tower")]
pub mod tower;
pub(crate) mod udp;
pub(crate) mod upgrader;
