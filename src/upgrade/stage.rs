//! The stages in which a generation can be, each with what is known of it then: part of the pure core of hot upgrade.
//! Never lives here: going from one to the next (`handover`).

use super::action::Timeouts;
use crate::report::{Generation, Notice};
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

/// The new one is live as soon as the old one has stopped accepting, and accepts nothing before.
#[derive(Debug)]
pub struct Announced {
    pub new: Generation,
    pub old: Generation,
    /// When the new one accepts though the old one has said nothing: it hangs.
    pub admit_at: Instant,
    pub admitted: bool,
}

impl Announced {
    pub fn deadline(&self) -> Option<Instant> {
        (!self.admitted).then_some(self.admit_at)
    }

    /// The new one, if it is to accept though the old one hangs.
    pub fn waits_no_longer(&mut self, now: Instant) -> Option<Generation> {
        self.deadline().filter(|at| *at <= now)?;
        self.admitted = true;
        Some(self.new)
    }
}

#[derive(Debug)]
pub struct Leaving {
    pub step: Step,
    pub since: Instant,
    pub until: Instant,
    /// When it is ended that makes no progress from its beginning on.
    due: Instant,
    /// When it is ended whatever it does.
    limit: Instant,
    /// Connections, where it tells.
    pub live: Option<usize>,
    /// Those that were found at the last look from outside.
    found: usize,
    /// Whether the user is told of its end: it has served.
    pub told: bool,
    /// It has an address that others are refused until it is gone.
    pub bound: bool,
    said_slow: bool,
    said_on: bool,
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
    pub fn new(step: Step, since: Instant, timeouts: &Timeouts, told: bool) -> Leaving {
        let due = since + time(step, timeouts);
        let limit = (since + timeouts.limit).max(due);
        let (live, found, bound, said_slow, said_on) = (None, 0, false, false, false);
        Leaving { step, since, until: due, due, limit, live, found, told, bound, said_slow, said_on }
    }

    pub fn next_step(&mut self, now: Instant, step: Step, timeouts: &Timeouts) {
        (self.step, self.until) = (step, now + time(step, timeouts));
    }

    /// Bytes were answered, or connections have ended: it has its time from now on once more.
    pub fn progress(&mut self, now: Instant, found: usize, timeouts: &Timeouts) {
        self.found = found;
        self.until = self.until.max((now + time(self.step, timeouts)).min(self.limit));
    }

    /// What is waited for, where that takes long.
    pub fn tell(&mut self, now: Instant, generation: Generation) -> Option<Notice> {
        self.tell_at().filter(|at| *at <= now)?;
        let goes_on = self.due <= now;
        (self.said_slow, self.said_on) = (true, goes_on);
        let limit = goes_on.then(|| millis(self.limit.saturating_duration_since(self.since)));
        let after = millis(now.saturating_duration_since(self.since));
        Some(Notice::Draining { generation, live: self.waited_for(), after, limit })
    }

    pub fn tell_at(&self) -> Option<Instant> {
        if !self.told || self.said_on || self.step != Step::Drain || self.waited_for() == 0 {
            return None;
        }
        Some(if self.said_slow { self.due } else { self.due.min(self.since + SLOW) })
    }

    fn waited_for(&self) -> usize {
        self.live.unwrap_or(self.found)
    }
}

fn time(step: Step, timeouts: &Timeouts) -> Duration {
    match step {
        Step::Drain => timeouts.drain,
        Step::Terminate => timeouts.kill,
        Step::Kill => Duration::ZERO,
    }
}

pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
