//! A build that has failed, on its way to the user: what the compilers and cargo have said, and that it has failed.
//! Never lives here: what is asked before it is told (`manifests`), and what may be done about it (`trouble`).

use super::build::Told;
use super::found::Found;
use super::output::Words;
use super::{Outbox, Room};
use crate::report::Notice;
use crate::report::clean::plain;
use std::time::Instant;

/// A build that has failed.
pub(super) struct Failure {
    pub errors: usize,
    pub messages: Vec<Told>,
    pub by_cargo: bool,
}

impl Room {
    /// Tells of a build that has failed; where the manifests have changed, when it is known what that means.
    pub(super) fn fail(&mut self, now: Instant, failure: Failure) {
        self.manifests.failed = true;
        let texts: Vec<String> = failure.messages.iter().map(|told| plain(&told.words.rendered)).collect();
        self.sources.failed(texts.iter().map(String::as_str));
        // Before it is asked what is there: what comes later makes an event.
        self.watch(now);
        if std::mem::take(&mut self.settings_changed) {
            self.ask_for_metadata(now);
            self.manifests.held = Some(failure);
        } else {
            self.tell_failure(now, failure);
        }
    }

    pub(super) fn tell_failure(&mut self, now: Instant, failure: Failure) {
        self.diagnostics(failure.messages);
        self.failed(failure.errors);
        let changed = self.sources.came_meanwhile();
        if !changed.is_empty() {
            self.found(now, Found { changed, ..Found::default() }, now);
        } else if failure.by_cargo {
            self.confirm(now);
        }
    }

    pub(super) fn failed(&mut self, errors: usize) {
        let why_cargo = self.builder.why_cargo().filter(|_| self.is_gone().is_none());
        let cause = self.cause.clone();
        // Who serves meanwhile is for the loop to say.
        self.out.push(Outbox::Tell(Notice::BuildFailed { errors, cause, why_cargo, serving: None }));
    }

    pub(super) fn diagnostics(&mut self, messages: Vec<Told>) {
        let words = messages.into_iter().map(|told| told.words);
        self.out
            .extend(words.map(|Words { rendered, message }| Outbox::Tell(Notice::Diagnostic { rendered, message })));
    }
}
