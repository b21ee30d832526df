//! What hot upgrade begins with.
//! Never lives here: where a program comes from, and the copy of it that is run (`store`).

use crate::process::Setting;
use crate::report::Timing;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Debug, Clone)]
pub struct Program {
    pub executable: PathBuf,
    /// The runner, the environment and the libraries that it is started with.
    pub setting: Setting,
    /// Where the time went before it came here; none for a program that was there already.
    pub since: Option<Since>,
    /// Whether it is to be started even if the same bytes serve already.
    pub start_anyway: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Or asked for, where nothing was saved.
    pub saved: Instant,
    pub was_saved: bool,
    pub built: Instant,
}

impl Since {
    pub fn until(self, started: Instant, ready: Instant, live: Instant) -> Timing {
        let millis = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        Timing {
            saved: self.was_saved,
            saved_to_live: millis(self.saved, live),
            compile: millis(self.saved, self.built),
            start: millis(self.built, started),
            ready: millis(started, ready),
            switch: millis(ready, live),
        }
    }
}

/// What is known of the program beside its file.
#[derive(Debug, Clone, Copy)]
pub struct Linked {
    /// It links the `hotrun` library.
    pub library: bool,
    /// It links a client of sd_notify, so READY=1 can be waited for.
    pub notifies: bool,
}
