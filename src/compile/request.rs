//! What a build is made for, as a value: it waits in the cycle, is merged with what comes meanwhile, and comes back with the build's end.
//! Never lives here: when it is built (`cycle`).

use super::found::Found;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// A sentence part: `src/routes.rs changed`, `asked for`.
    pub cause: String,
    /// When a file was saved, or else the build was asked for: from then on it is counted how long it takes.
    pub saved: Instant,
    pub was_saved: bool,
    /// Inputs that have changed since the last build whose result counts.
    pub changed: BTreeSet<PathBuf>,
    /// It goes through cargo, for this reason.
    pub why_cargo: Option<String>,
    /// It is only for a doubt about the build before.
    pub confirms: bool,
    /// Something has changed that is for the running program: it is started again even if the bytes are the same.
    pub start_anyway: bool,
    /// Something has changed that says what is built or how.
    pub settings: bool,
}

impl BuildRequest {
    /// Nobody has saved anything for it.
    pub fn asked(now: Instant, cause: impl Into<String>) -> BuildRequest {
        BuildRequest {
            cause: cause.into(),
            saved: now,
            was_saved: false,
            changed: BTreeSet::new(),
            why_cargo: None,
            confirms: false,
            start_anyway: false,
            settings: false,
        }
    }

    /// Of files that were seen to have changed then.
    pub fn of(found: Found, at: Instant, cause: String) -> BuildRequest {
        BuildRequest {
            was_saved: true,
            changed: found.changed.into_iter().collect(),
            start_anyway: found.start_anyway,
            settings: found.settings,
            ..BuildRequest::asked(at, cause)
        }
    }

    /// The same, by cargo in any case: for that reason.
    pub fn by_cargo(self) -> BuildRequest {
        BuildRequest { why_cargo: Some(self.cause.clone()), ..self }
    }

    /// Another build for the same save, by cargo in any case: for that reason.
    pub fn again(&self, cause: impl Into<String>) -> BuildRequest {
        BuildRequest { was_saved: self.was_saved, ..BuildRequest::asked(self.saved, cause) }.by_cargo()
    }

    /// One build for both. It is told by what came last, and forgets nothing of what the older one needs.
    pub fn merge(&mut self, newer: BuildRequest) {
        let older = std::mem::replace(self, newer);
        self.changed.extend(older.changed);
        self.why_cargo = self.why_cargo.take().or(older.why_cargo);
        self.start_anyway |= older.start_anyway;
        self.settings |= older.settings;
    }
}
