//! What is served here, and whether it may accept: shared by listeners, connections and the control thread.

pub(crate) mod bound_path;
pub(crate) mod register;
pub(crate) mod state;
