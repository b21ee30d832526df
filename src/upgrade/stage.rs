//! The stages in which a generation can be, each with what is known of it then: part of the pure core of hot upgrade.
//! Never lives here: going from one to the next (`handover`).

use crate::report::Generation;
use std::time::{Duration, Instant};

/// What takes longer, to get ready or to leave, is told of meanwhile.
pub const SLOW: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Starting<P> {
    pub generation: Generation,
    pub program: P,
    pub since: Instant,
    /// It has an address that its successor would be refused until it is gone.
    pub bound: bool,
    pub said_slow: bool,
}

#[derive(Debug)]
pub struct Current<P> {
    pub generation: Generation,
    pub program: P,
    pub started: Instant,
    pub ready: Instant,
}

#[derive(Debug)]
pub struct Paused<P> {
    pub was: Current<P>,
    pub until: Instant,
}

#[derive(Debug)]
pub struct Leaving {
    pub step: Step,
    pub since: Instant,
    pub until: Instant,
    /// Connections, where it tells.
    pub live: Option<usize>,
    /// Whether the user is told of its end: it has served.
    pub told: bool,
    /// It has an address that others are refused until it is gone.
    pub bound: bool,
    pub said_slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Drain,
    Terminate,
    Kill,
}

/// A program that is to be started when both conditions hold.
#[derive(Debug)]
pub struct Next<P> {
    pub program: P,
    pub not_before: Instant,
    pub after: After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    Gone(Generation),
    AllGone,
}

impl Leaving {
    pub fn new(step: Step, since: Instant, timeout: Duration, told: bool) -> Leaving {
        Leaving { step, since, until: since + timeout, live: None, told, bound: false, said_slow: false }
    }

    /// Whether it is told of if it takes long.
    pub fn is_to_tell(&self) -> bool {
        self.told && !self.said_slow && self.step == Step::Drain && self.live.is_some_and(|live| live > 0)
    }

    pub fn slow_at(&self) -> Instant {
        (self.since + SLOW).min(self.until)
    }
}
