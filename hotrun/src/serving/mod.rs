//! What is served here, and whether it may accept: shared by listeners, connections and the control thread.
//! Never lives here: why that changes (`control`).

pub(crate) mod bound_path;
pub(crate) mod lifecycle;
pub(crate) mod register;
pub(crate) mod unclaimed;

use crate::upstream::Upstream;
use bound_path::BoundPaths;
use lifecycle::Lifecycle;
use register::Register;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use unclaimed::Unclaimed;

/// All that the parts of this library share in one process.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) state: Arc<Lifecycle>,
    pub(crate) upstream: Upstream,
    pub(crate) register: Register,
    pub(crate) unclaimed: Unclaimed,
    pub(crate) paths: BoundPaths,
    pub(crate) generation: u32,
    pub(crate) predecessor: Option<u32>,
    pub(crate) inherited_files: Mutex<HashMap<String, OwnedFd>>,
    pub(crate) inherited_state: Mutex<HashMap<String, OwnedFd>>,
}
