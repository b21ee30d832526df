//! The end of a build by cargo, and what is tried where it has failed for a reason that is not the sources'.
//! Never lives here: what such a reason is (`trouble`).

use super::{BuildResult, Builder};
use crate::compile::build;
use crate::compile::last::Last;
use crate::compile::output::Told;
use crate::compile::{reason, trouble};
use crate::report::Note;
use std::path::PathBuf;

impl Builder {
    pub(super) fn cargo_ended(&mut self, outcome: build::Outcome, newer: bool) -> Option<BuildResult> {
        Some(match outcome {
            build::Outcome::Built(mut built) => {
                self.repaired = false;
                if let Some(began) = self.cargo_began {
                    self.last = Last::of(&mut built, began);
                }
                BuildResult::Built(Box::new(built), self.provenance.clone(), None)
            }
            build::Outcome::Failed { errors, mut messages } => {
                self.replay.forget("cargo's last build failed");
                let temporary = std::env::temp_dir();
                let folders: Vec<PathBuf> = self.folders.iter().cloned().chain([temporary]).collect();
                if let Some(advice) = trouble::advice(&messages, &self.cargo.build.manifest_path, &folders) {
                    messages.push(reason::unsaid(&advice));
                } else if !newer && let Some(damaged) = self.repair(&messages) {
                    return self.ask_cargo(format!("the incremental data of {damaged} was damaged"));
                }
                BuildResult::Failed { errors, messages }
            }
        })
    }

    /// Removes incremental caches that are damaged: once, as it may be something else. Of which crates.
    fn repair(&mut self, messages: &[Told]) -> Option<String> {
        let damaged = trouble::damaged(messages);
        if self.repaired || damaged.is_empty() {
            return None;
        }
        self.repaired = true;
        damaged.iter().for_each(|name| self.folders.iter().for_each(|folder| trouble::forget(folder, name)));
        let names = damaged.into_iter().collect::<Vec<_>>().join(", ");
        self.notices.push(Note::CacheDamaged { crates: names.clone() }.into());
        Some(names)
    }
}
