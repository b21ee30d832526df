//! When to build, when to end a build, and whose result counts: the pure core of hot compile.
//! Never lives here: files, cargo, a clock.

use std::time::{Duration, Instant};

/// A change that comes this soon after another belongs to it: a checkout, a save of all files, a formatter after a save.
const BURST: Duration = Duration::from_millis(30);
/// A stream of changes that does not stop is built in the middle.
const LONGEST_BURST: Duration = Duration::from_secs(1);
/// A file that has just become empty is most likely being written: it gets this long to become something.
const EMPTIED: Duration = Duration::from_millis(300);
/// Builds ended for a newer change, in a row, after which one is let through: saves faster than builds must not starve.
const MOST_CANCELLED: u32 = 3;
/// How long cargo may take to end at a request, before its group is killed.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the loop has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Action {
    Build {
        cause: String,
    },
    /// End the running build: it is out of date.
    Cancel {
        cause: String,
    },
    /// It takes no notice: kill its group.
    Kill,
    /// The result of the build that has just ended is to be used.
    Deliver,
    /// It failed, and nothing newer is on its way: say so.
    Fail,
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Built,
    /// It has given a program, and something that was saved meanwhile is not in it, or only a part of that.
    Behind,
    Failed,
}

/// How sources have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Content,
    /// All that is new is that a file has nothing in it any more, or has gone.
    Emptied,
    /// The running build has work under way that does not depend on them: to end it would be to do that again.
    Spared,
}

/// One build at most runs; what was asked for meanwhile is kept apart from it, and ten changes lead to one more build.
#[derive(Debug, Default)]
pub struct Cycle {
    state: State,
    /// Builds cancelled since the last one that came to its end.
    cancelled: u32,
    last_change: Option<Instant>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// A file has just become empty, or has gone: most likely it comes back.
    Emptied {
        cause: String,
        until: Instant,
    },
    /// A burst is under way; its end is waited for, but not for ever.
    Burst {
        cause: String,
        until: Instant,
        at_most: Instant,
    },
    Building {
        /// What has changed since it began.
        newer: Option<String>,
    },
    Cancelling {
        cause: String,
        kill_at: Option<Instant>,
    },
}

impl Cycle {
    /// Whether a build runs, or will at the next deadline.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether a build runs whose result is wanted.
    pub fn is_building(&self) -> bool {
        matches!(self.state, State::Building { .. })
    }

    /// Whether something has changed since the running build began that the next one will build.
    pub fn has_newer(&self) -> bool {
        matches!(self.state, State::Building { newer: Some(_) })
    }

    /// When `tick` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle | State::Building { .. } => None,
            State::Emptied { until, .. } | State::Burst { until, .. } => Some(*until),
            State::Cancelling { kill_at, .. } => *kill_at,
        }
    }

    /// The program's sources have changed.
    pub fn changed(&mut self, now: Instant, cause: String, kind: Kind) -> Vec<Action> {
        self.last_change = Some(now);
        let emptied = kind == Kind::Emptied;
        match &mut self.state {
            State::Idle if emptied => {
                self.state = State::Emptied { cause, until: now + EMPTIED };
                Vec::new()
            }
            // The leading edge: a build that turns out to be too early is cheap to end.
            State::Idle => self.build(cause),
            State::Emptied { .. } if emptied => Vec::new(),
            State::Emptied { .. } => self.build(cause),
            State::Burst { cause: latest, until, at_most } => {
                *latest = cause;
                *until = (now + if emptied { EMPTIED } else { BURST }).min(*at_most);
                Vec::new()
            }
            State::Building { newer } if kind != Kind::Content || self.cancelled >= MOST_CANCELLED => {
                *newer = Some(cause);
                Vec::new()
            }
            State::Building { .. } => {
                self.cancelled += 1;
                self.state = State::Cancelling { cause: cause.clone(), kill_at: Some(now + CANCEL_TIMEOUT) };
                vec![Action::Cancel { cause }]
            }
            State::Cancelling { cause: latest, .. } => {
                *latest = cause;
                Vec::new()
            }
        }
    }

    /// A build was asked for, whether or not something has changed.
    pub fn asked(&mut self, now: Instant, cause: String) -> Vec<Action> {
        self.changed(now, cause, Kind::Content)
    }

    /// The running build has ended.
    pub fn ended(&mut self, now: Instant, outcome: Outcome) -> Vec<Action> {
        match std::mem::take(&mut self.state) {
            State::Building { newer } => {
                // A part of what was saved is not what was saved; but saves faster than builds must not starve here either.
                let is_behind = outcome == Outcome::Behind && newer.is_some() && self.cancelled < MOST_CANCELLED;
                self.cancelled = if is_behind { self.cancelled + 1 } else { 0 };
                let mut actions = match (outcome, &newer) {
                    (Outcome::Behind, _) if is_behind => Vec::new(),
                    (Outcome::Built | Outcome::Behind, _) => vec![Action::Deliver],
                    (Outcome::Failed, None) => vec![Action::Fail],
                    // Its errors may be mended already.
                    (Outcome::Failed, Some(_)) => Vec::new(),
                };
                if let Some(cause) = newer {
                    actions.extend(self.build_after_burst(now, cause));
                }
                actions
            }
            State::Cancelling { cause, .. } => self.build_after_burst(now, cause),
            // Not asked for, so not missed.
            other @ (State::Idle | State::Emptied { .. } | State::Burst { .. }) => {
                self.state = other;
                Vec::new()
            }
        }
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Emptied { until, cause } | State::Burst { until, cause, .. } if *until <= now => {
                let cause = std::mem::take(cause);
                self.build(cause)
            }
            State::Cancelling { kill_at, .. } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
                vec![Action::Kill]
            }
            State::Idle
            | State::Emptied { .. }
            | State::Burst { .. }
            | State::Building { .. }
            | State::Cancelling { .. } => Vec::new(),
        }
    }

    /// Once a burst is known to be one, its end is waited for.
    fn build_after_burst(&mut self, now: Instant, cause: String) -> Vec<Action> {
        match self.last_change.map(|last| last + BURST) {
            Some(until) if until > now => {
                self.state = State::Burst { cause, until, at_most: now + LONGEST_BURST };
                Vec::new()
            }
            Some(_) | None => self.build(cause),
        }
    }

    fn build(&mut self, cause: String) -> Vec<Action> {
        self.state = State::Building { newer: None };
        vec![Action::Build { cause }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> Instant {
        #[allow(clippy::disallowed_methods)] // Any moment will do; the tests count from it.
        Instant::now()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn build(cause: &str) -> Vec<Action> {
        vec![Action::Build { cause: cause.into() }]
    }

    fn cancel(cause: &str) -> Vec<Action> {
        vec![Action::Cancel { cause: cause.into() }]
    }

    #[test]
    fn the_first_change_builds_at_once() {
        let mut cycle = Cycle::default();
        assert_eq!(cycle.changed(start(), "a".into(), Kind::Content), build("a"));
        assert_eq!(cycle.ended(start(), Outcome::Built), [Action::Deliver]);
        assert!(cycle.is_idle());
        assert_eq!(cycle.deadline(), None);
    }

    #[test]
    fn a_change_during_a_build_ends_it_and_the_next_one_waits_for_the_end_of_the_burst() {
        let now = start();
        let mut cycle = Cycle::default();
        let _ = cycle.changed(now, "a".into(), Kind::Content);
        assert_eq!(cycle.changed(now + ms(5), "b".into(), Kind::Content), cancel("b"));
        assert_eq!(cycle.changed(now + ms(9), "c".into(), Kind::Content), []);
        assert_eq!(cycle.ended(now + ms(10), Outcome::Failed), [], "nobody is shown what is out of date");
        assert_eq!(cycle.deadline(), Some(now + ms(39)));
        assert_eq!(cycle.tick(now + ms(39)), build("c"));
    }

    #[test]
    fn a_change_long_before_the_end_of_the_old_build_needs_no_wait() {
        let now = start();
        let mut cycle = Cycle::default();
        let _ = cycle.changed(now, "a".into(), Kind::Content);
        let _ = cycle.changed(now + ms(5), "b".into(), Kind::Content);
        assert_eq!(cycle.ended(now + ms(100), Outcome::Failed), build("b"));
    }

    #[test]
    fn a_burst_is_waited_out_but_not_for_ever() {
        let mut now = start();
        let mut cycle = Cycle::default();
        let _ = cycle.changed(now, "a".into(), Kind::Content);
        let _ = cycle.changed(now, "b".into(), Kind::Content);
        assert_eq!(cycle.ended(now, Outcome::Failed), []);
        let until = now + LONGEST_BURST;
        while now + ms(20) < until {
            now += ms(20);
            assert_eq!(cycle.changed(now, "c".into(), Kind::Content), []);
            assert_eq!(cycle.tick(now), []);
        }
        assert_eq!(cycle.deadline(), Some(until));
        assert_eq!(cycle.tick(until), build("c"));
    }

    #[test]
    fn a_build_that_takes_no_notice_is_killed() {
        let now = start();
        let mut cycle = Cycle::default();
        let _ = cycle.changed(now, "a".into(), Kind::Content);
        let _ = cycle.changed(now, "b".into(), Kind::Content);
        assert_eq!(cycle.deadline(), Some(now + CANCEL_TIMEOUT));
        assert_eq!(cycle.tick(now + CANCEL_TIMEOUT), [Action::Kill]);
        assert_eq!(cycle.deadline(), None);
        assert_eq!(cycle.ended(now + CANCEL_TIMEOUT, Outcome::Failed), build("b"));
    }

    #[test]
    fn an_emptied_file_is_given_time_to_be_filled() {
        let now = start();
        let mut cycle = Cycle::default();
        assert_eq!(cycle.changed(now, "a".into(), Kind::Emptied), []);
        assert_eq!(cycle.changed(now + ms(200), "a".into(), Kind::Content), build("a"));
        let _ = cycle.ended(now + ms(900), Outcome::Built);
        assert_eq!(cycle.changed(now + ms(1000), "a".into(), Kind::Emptied), []);
        assert_eq!(cycle.tick(now + ms(1300)), build("a"), "it stays empty: so be it");
    }

    #[test]
    fn a_save_that_does_not_concern_what_is_compiled_is_built_afterwards() {
        let now = start();
        let mut cycle = Cycle::default();
        assert_eq!(cycle.changed(now, "a".into(), Kind::Spared), build("a"), "nothing runs that could be spared");
        assert_eq!(cycle.changed(now + ms(5), "b".into(), Kind::Spared), []);
        assert_eq!(cycle.changed(now + ms(9), "c".into(), Kind::Spared), []);
        assert!(cycle.has_newer());
        assert_eq!(cycle.ended(now + ms(100), Outcome::Built), [vec![Action::Deliver], build("c")].concat());
        assert_eq!(cycle.changed(now + ms(200), "d".into(), Kind::Spared), []);
        assert_eq!(cycle.changed(now + ms(205), "e".into(), Kind::Content), cancel("e"), "this one does");
        assert_eq!(cycle.changed(now + ms(206), "f".into(), Kind::Spared), []);
        assert_eq!(cycle.ended(now + ms(300), Outcome::Failed), build("f"));
    }

    #[test]
    fn a_program_with_a_part_of_what_was_saved_is_not_used_unless_there_would_be_none() {
        let mut now = start();
        let mut cycle = Cycle::default();
        let _ = cycle.changed(now, "0".into(), Kind::Content);
        for n in 1..=MOST_CANCELLED {
            now += ms(50);
            assert_eq!(cycle.changed(now, n.to_string(), Kind::Spared), []);
            now += ms(50);
            assert_eq!(cycle.ended(now, Outcome::Behind), build(&n.to_string()));
        }
        now += ms(50);
        assert_eq!(cycle.changed(now, "last".into(), Kind::Spared), []);
        now += ms(50);
        assert_eq!(cycle.ended(now, Outcome::Behind), [vec![Action::Deliver], build("last")].concat());
        assert_eq!(cycle.ended(now, Outcome::Built), [Action::Deliver]);
    }

    #[test]
    fn saves_faster_than_builds_do_not_starve() {
        let mut now = start();
        let mut cycle = Cycle::default();
        let _ = cycle.changed(now, "0".into(), Kind::Content);
        for n in 1..=MOST_CANCELLED {
            now += ms(50);
            assert_eq!(cycle.changed(now, n.to_string(), Kind::Content), cancel(&n.to_string()));
            now += BURST;
            assert_eq!(cycle.ended(now, Outcome::Failed), build(&n.to_string()));
        }
        now += ms(50);
        assert_eq!(cycle.changed(now, "last".into(), Kind::Content), [], "this one is let through");
        now += BURST;
        let both = cycle.ended(now, Outcome::Built);
        assert_eq!(both, [vec![Action::Deliver], build("last")].concat());
    }

    proptest! {
        /// Whatever the order of saves, ends and time: at most one build runs, and after the last change a build is begun
        /// and brought to its end.
        #[test]
        fn the_last_change_is_always_built(steps in proptest::collection::vec((0..6u8, 0..400u64), 1..80)) {
            let mut now = start();
            let mut cycle = Cycle::default();
            let mut running = false;
            let mut stale = false; // a change that no build begun since has seen
            let apply = |actions: Vec<Action>, running: &mut bool, stale: &mut bool| {
                for action in actions {
                    if let Action::Build { .. } = action {
                        assert!(!*running, "two builds at once");
                        *running = true;
                        *stale = false;
                    }
                }
            };
            for (kind, millis) in steps {
                now += ms(millis);
                match kind {
                    0..=2 => {
                        stale = true;
                        let kind = [Kind::Content, Kind::Emptied, Kind::Spared][usize::from(kind)];
                        let actions = cycle.changed(now, "x".into(), kind);
                        apply(actions, &mut running, &mut stale);
                    }
                    3 | 4 if running => {
                        running = false;
                        let outcome = if kind == 3 { Outcome::Built } else { Outcome::Behind };
                        let actions = cycle.ended(now, outcome);
                        apply(actions, &mut running, &mut stale);
                    }
                    _ => {
                        let actions = cycle.tick(now);
                        apply(actions, &mut running, &mut stale);
                    }
                }
            }
            for _ in 0..6 {
                now += Duration::from_secs(3);
                let actions = cycle.tick(now);
                apply(actions, &mut running, &mut stale);
                if running {
                    running = false;
                    let actions = cycle.ended(now, Outcome::Built);
                    apply(actions, &mut running, &mut stale);
                }
            }
            prop_assert!(!stale && cycle.is_idle());
        }
    }
}
