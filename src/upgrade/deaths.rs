//! Programs that do not stay up: when the one before is tried, when nothing is, and what may be the reason. Part of the pure core of hot
//! upgrade.
//! Never lives here: what is started instead (`handover`).

use crate::report::{Generation, Note};
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
}

impl<P: PartialEq> Deaths<P> {
    pub fn new() -> Self {
        Deaths { of_one: 0, in_vain: 0, beside: None }
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

    pub fn given_up() -> Note {
        Note::GivenUp { starts: GIVEN_UP }
    }

    /// A start has failed while another generation serves. Where that is no chance, maybe because of the other one.
    pub fn beside(&mut self, generation: Generation, program: P, has_served: bool) -> Option<Note> {
        let again = has_served || self.beside.as_ref().is_some_and(|before| *before != program);
        self.beside = Some(program);
        again.then_some(Note::RunsOnlyOnce { generation })
    }
}
