//! Programs that do not stay up: when the one before is tried, when nothing is, and what may be the reason. Part of the pure core of hot
//! upgrade.
//! Never lives here: what is started instead (`handover`).

use crate::report::{Generation, Notice};
use std::time::{Duration, Instant};

/// A current program that dies sooner than this after it became ready has not proved itself.
const PROVED: Duration = Duration::from_secs(10);
/// Deaths in a row, each before the program proved itself, after which the one before is tried.
const KEEPS_DYING: u32 = 3;
/// And after which nothing is, until something changes.
const GIVEN_UP: u32 = 5;

#[derive(Debug)]
pub struct Deaths<P> {
    /// In a row, of a program that had not proved itself.
    of_one: u32,
    /// Starts in a row that came to nothing while nobody served.
    in_vain: u32,
    /// What did not get ready last while another one served.
    beside: Option<P>,
    advised: bool,
}

impl<P: PartialEq> Deaths<P> {
    pub fn new() -> Self {
        Deaths { of_one: 0, in_vain: 0, beside: None, advised: false }
    }

    /// Something was asked for.
    pub fn start_anew(&mut self) {
        (self.of_one, self.in_vain) = (0, 0);
    }

    /// A program is ready.
    pub fn got_ready(&mut self) {
        self.in_vain = 0;
        self.beside = None;
    }

    /// The one that served has died. Says whether that was enough.
    pub fn of_current(&mut self, now: Instant, ready: Instant) -> bool {
        self.of_one = if now.saturating_duration_since(ready) < PROVED { self.of_one + 1 } else { 1 };
        self.are_enough()
    }

    /// One that was to serve did not get ready, and nobody else serves; `again` if it is the one that served before. Says whether that
    /// was enough.
    pub fn of_start(&mut self, again: bool) -> bool {
        self.in_vain += 1;
        self.of_one += u32::from(again);
        self.are_enough()
    }

    /// The one before is tried, which has as many lives.
    pub fn fall_back<T>(&mut self, before: Option<T>) -> Option<T> {
        let before = before.filter(|_| self.of_one >= KEEPS_DYING);
        if before.is_some() {
            self.of_one = 0;
        }
        before
    }

    fn are_enough(&self) -> bool {
        self.of_one.max(self.in_vain) >= GIVEN_UP
    }

    pub fn given_up() -> Notice {
        let text = format!(
            "{GIVEN_UP} starts in a row have failed, so nothing is started before the next save, or before it is asked for. A program \
             that looks first whether its own address answers finds the socket that is held for it: that one needs `handoff = \"none\"`"
        );
        Notice::Note { text }
    }

    /// A start has failed while another generation serves. Where that is no chance, maybe because of the other one; said once.
    pub fn beside(&mut self, generation: Generation, program: P, has_served: bool) -> Option<Notice> {
        let again = has_served || self.beside.as_ref().is_some_and(|before| *before != program);
        self.beside = Some(program);
        if !again || std::mem::replace(&mut self.advised, true) {
            return None;
        }
        let text = format!(
            "generation {generation} did not get ready beside the one that serves, and not for the first time: a program that cannot run \
             twice (it takes a lock, a pid file or a database for itself, or looks whether it runs already) needs `--no-overlap`, or \
             `overlap = false` in its metadata"
        );
        Some(Notice::Note { text })
    }
}
