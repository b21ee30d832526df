//! Builds by cargo that no save has asked for: a doubt about the last one, or somebody's wish.
//! Never lives here: what changes mean (`sources`).

use super::Room;
use crate::report::short;
use std::time::Instant;

impl Room {
    /// Has cargo build again where it may have read what was in a source only for a moment. Replay sees that by itself.
    pub(super) fn confirm(&mut self, now: Instant) {
        if !self.cycle.is_idle() {
            // Another build reads it as it is.
            return;
        }
        let rewritten = self.sources.rewritten(self.confirms);
        let Some(path) = rewritten.first() else { return };
        let why = format!("{} was written while it was compiled", short(path));
        self.changed.extend(rewritten);
        self.saved = Some(now);
        self.confirms_next = true;
        self.ask_cargo(now, why);
    }

    pub(super) fn ask_cargo(&mut self, now: Instant, why: String) {
        self.why_cargo = Some(why.clone());
        let actions = self.cycle.asked(now, why);
        self.perform(now, actions);
    }
}
