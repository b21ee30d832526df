//! When to build, when to end a build, and whose result counts: the pure core of hot compile.
//! Never lives here: files, cargo, a clock.

use super::request::BuildRequest;
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
    Build(BuildRequest),
    /// End the running build: it is out of date.
    Cancel {
        cause: String,
    },
    /// It takes no notice: kill its group.
    Kill,
}

/// What follows from the end of a build.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Ended {
    /// Its result counts, for this request: a program is to be used, a failure told. Otherwise something newer is on its way.
    pub counts: Option<BuildRequest>,
    pub next: Vec<Action>,
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildEnd {
    Built,
    /// It has given a program, and something that was saved meanwhile is not in it, or only a part of that.
    Behind,
    Failed,
}

/// How sources have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Content,
    /// All that is new is that a file has nothing in it any more, or has gone.
    Emptied,
    /// The running build has work under way that does not depend on them: to end it would be to do that again.
    Spared,
}

/// One build at most runs; what was asked for meanwhile is kept apart from it, and ten changes lead to one more build.
#[derive(Debug, Default)]
pub struct Cycle {
    state: BuildPhase,
    /// Builds cancelled since the last one that came to its end.
    cancelled: u32,
    last_change: Option<Instant>,
    /// What a build that failed, or could not even begin, leaves to the next one.
    unmet: Option<BuildRequest>,
}

#[derive(Debug, Default)]
enum BuildPhase {
    #[default]
    Idle,
    /// A file has just become empty, or has gone: most likely it comes back.
    Emptied {
        wanted: BuildRequest,
        until: Instant,
    },
    /// A burst is under way; its end is waited for, but not for ever.
    Burst {
        wanted: BuildRequest,
        until: Instant,
        at_most: Instant,
    },
    Building {
        running: BuildRequest,
        /// What has changed since it began.
        newer: Option<BuildRequest>,
    },
    Cancelling {
        wanted: BuildRequest,
        kill_at: Option<Instant>,
    },
}

impl Cycle {
    /// Whether nothing is built, and nothing will be at the next deadline.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, BuildPhase::Idle)
    }

    /// Whether a build runs whose result is wanted.
    pub fn is_building(&self) -> bool {
        matches!(self.state, BuildPhase::Building { .. })
    }

    /// Whether something has changed since the running build began that the next one will build.
    pub fn has_newer(&self) -> bool {
        matches!(self.state, BuildPhase::Building { newer: Some(_), .. })
    }

    /// When `tick` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            BuildPhase::Idle | BuildPhase::Building { .. } => None,
            BuildPhase::Emptied { until, .. } | BuildPhase::Burst { until, .. } => Some(*until),
            BuildPhase::Cancelling { kill_at, .. } => *kill_at,
        }
    }

    /// The program's sources have changed.
    pub fn changed(&mut self, now: Instant, request: BuildRequest, kind: ChangeKind) -> Vec<Action> {
        self.last_change = Some(now);
        let emptied = kind == ChangeKind::Emptied;
        self.state = match std::mem::take(&mut self.state) {
            BuildPhase::Idle if emptied => BuildPhase::Emptied { wanted: request, until: now + EMPTIED },
            // The leading edge: a build that turns out to be too early is cheap to end.
            BuildPhase::Idle => return self.build(request),
            BuildPhase::Emptied { wanted, until } if emptied => {
                BuildPhase::Emptied { wanted: both(wanted, request), until }
            }
            BuildPhase::Emptied { wanted, .. } => return self.build(both(wanted, request)),
            BuildPhase::Burst { wanted, at_most, .. } => {
                let until = (now + if emptied { EMPTIED } else { BURST }).min(at_most);
                BuildPhase::Burst { wanted: both(wanted, request), until, at_most }
            }
            BuildPhase::Building { running, newer }
                if kind != ChangeKind::Content || self.cancelled >= MOST_CANCELLED =>
            {
                BuildPhase::Building { running, newer: Some(with(newer, request)) }
            }
            BuildPhase::Building { running, newer } => {
                self.cancelled += 1;
                let cause = request.cause.clone();
                let wanted = both(running, with(newer, request));
                self.state = BuildPhase::Cancelling { wanted, kill_at: Some(now + CANCEL_TIMEOUT) };
                return vec![Action::Cancel { cause }];
            }
            BuildPhase::Cancelling { wanted, kill_at } => {
                BuildPhase::Cancelling { wanted: both(wanted, request), kill_at }
            }
        };
        Vec::new()
    }

    /// A build was asked for, whether or not something has changed.
    pub fn asked(&mut self, now: Instant, request: BuildRequest) -> Vec<Action> {
        self.changed(now, request, ChangeKind::Content)
    }

    /// The build that is being cancelled went through cargo for that reason: so does the one that follows.
    pub fn cancelled_by_cargo(&mut self, why: String) {
        if let BuildPhase::Cancelling { wanted, .. } = &mut self.state {
            wanted.why_cargo.get_or_insert(why);
        }
    }

    /// The build that was to begin cannot: all that it was made for is left to the next one.
    pub fn not_begun(&mut self) {
        if let BuildPhase::Building { running, .. } = std::mem::take(&mut self.state) {
            self.unmet = Some(BuildRequest { why_cargo: None, ..running });
        }
    }

    /// The running build has ended.
    pub fn ended(&mut self, now: Instant, end: BuildEnd) -> Ended {
        match std::mem::take(&mut self.state) {
            BuildPhase::Building { running, newer } => {
                // A part of what was saved is not what was saved; but saves faster than builds must not starve here either.
                let is_behind = end == BuildEnd::Behind && newer.is_some() && self.cancelled < MOST_CANCELLED;
                self.cancelled = if is_behind { self.cancelled + 1 } else { 0 };
                // The errors that it failed of may be mended already.
                let is_mended = end == BuildEnd::Failed && newer.is_some();
                match newer {
                    Some(newer) if is_behind || is_mended => {
                        Ended { counts: None, next: self.build_after_burst(now, both(running, newer)) }
                    }
                    newer => {
                        if end == BuildEnd::Failed && running.start_anyway {
                            self.unmet = Some(BuildRequest { start_anyway: true, ..BuildRequest::asked(now, "") });
                        }
                        let next = newer.map(|newer| self.build_after_burst(now, newer)).unwrap_or_default();
                        Ended { counts: Some(running), next }
                    }
                }
            }
            BuildPhase::Cancelling { wanted, .. } => Ended { counts: None, next: self.build_after_burst(now, wanted) },
            // Not asked for, so not missed.
            other @ (BuildPhase::Idle | BuildPhase::Emptied { .. } | BuildPhase::Burst { .. }) => {
                self.state = other;
                Ended::default()
            }
        }
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        match std::mem::take(&mut self.state) {
            BuildPhase::Emptied { until, wanted } | BuildPhase::Burst { until, wanted, .. } if until <= now => {
                self.build(wanted)
            }
            BuildPhase::Cancelling { wanted, kill_at: Some(at) } if at <= now => {
                self.state = BuildPhase::Cancelling { wanted, kill_at: None };
                vec![Action::Kill]
            }
            other @ (BuildPhase::Idle
            | BuildPhase::Emptied { .. }
            | BuildPhase::Burst { .. }
            | BuildPhase::Building { .. }
            | BuildPhase::Cancelling { .. }) => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// Once a burst is known to be one, its end is waited for.
    fn build_after_burst(&mut self, now: Instant, wanted: BuildRequest) -> Vec<Action> {
        match self.last_change.map(|last| last + BURST) {
            Some(until) if until > now => {
                self.state = BuildPhase::Burst { wanted, until, at_most: now + LONGEST_BURST };
                Vec::new()
            }
            Some(_) | None => self.build(wanted),
        }
    }

    fn build(&mut self, wanted: BuildRequest) -> Vec<Action> {
        let running = with(self.unmet.take(), wanted);
        self.state = BuildPhase::Building { running: running.clone(), newer: None };
        vec![Action::Build(running)]
    }
}

fn both(mut older: BuildRequest, newer: BuildRequest) -> BuildRequest {
    older.merge(newer);
    older
}

fn with(older: Option<BuildRequest>, newer: BuildRequest) -> BuildRequest {
    match older {
        Some(older) => both(older, newer),
        None => newer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::start;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Of a file of that name, which has changed then.
    fn saved(at: Instant, name: &str) -> BuildRequest {
        BuildRequest { changed: [name.into()].into(), was_saved: true, ..BuildRequest::asked(at, name) }
    }

    /// What is built of what is wanted: its cause is that of the last of those names, all of which have changed.
    fn build(actions: Vec<Action>) -> (String, Vec<String>) {
        match <[Action; 1]>::try_from(actions) {
            Ok([Action::Build(request)]) => {
                (request.cause, request.changed.iter().map(|path| path.display().to_string()).collect())
            }
            other => panic!("no build: {other:?}"),
        }
    }

    fn of(cause: &str, changed: &[&str]) -> (String, Vec<String>) {
        (cause.to_owned(), changed.iter().map(|name| (*name).to_owned()).collect())
    }

    fn cancel(cause: &str) -> Vec<Action> {
        vec![Action::Cancel { cause: cause.into() }]
    }

    /// The request whose result counts, and what is built next, if anything is at once.
    fn counts(ended: Ended) -> (Option<String>, Vec<Action>) {
        (ended.counts.map(|request| request.cause), ended.next)
    }

    fn outdated(ended: Ended) -> Vec<Action> {
        assert_eq!(ended.counts, None);
        ended.next
    }

    #[test]
    fn the_first_change_builds_at_once() {
        let (now, mut cycle) = (start(), Cycle::default());
        assert_eq!(build(cycle.changed(now, saved(now, "a"), ChangeKind::Content)), of("a", &["a"]));
        assert_eq!(counts(cycle.ended(now, BuildEnd::Built)), (Some("a".into()), vec![]));
        assert!(cycle.is_idle());
        assert_eq!(cycle.deadline(), None);
    }

    #[test]
    fn a_change_during_a_build_ends_it_and_the_next_one_waits_for_the_end_of_the_burst() {
        let (now, mut cycle) = (start(), Cycle::default());
        let _ = cycle.changed(now, saved(now, "a"), ChangeKind::Content);
        assert_eq!(cycle.changed(now + ms(5), saved(now, "b"), ChangeKind::Content), cancel("b"));
        assert_eq!(cycle.changed(now + ms(9), saved(now, "c"), ChangeKind::Content), []);
        assert_eq!(outdated(cycle.ended(now + ms(10), BuildEnd::Failed)), [], "nobody is shown what is out of date");
        assert_eq!(cycle.deadline(), Some(now + ms(39)));
        assert_eq!(build(cycle.tick(now + ms(39))), of("c", &["a", "b", "c"]));
    }

    #[test]
    fn a_change_long_before_the_end_of_the_old_build_needs_no_wait() {
        let (now, mut cycle) = (start(), Cycle::default());
        let _ = cycle.changed(now, saved(now, "a"), ChangeKind::Content);
        let _ = cycle.changed(now + ms(5), saved(now, "b"), ChangeKind::Content);
        assert_eq!(build(outdated(cycle.ended(now + ms(100), BuildEnd::Failed))), of("b", &["a", "b"]));
    }

    #[test]
    fn a_burst_is_waited_out_but_not_for_ever() {
        let (mut now, mut cycle) = (start(), Cycle::default());
        let _ = cycle.changed(now, saved(now, "a"), ChangeKind::Content);
        let _ = cycle.changed(now, saved(now, "b"), ChangeKind::Content);
        assert_eq!(outdated(cycle.ended(now, BuildEnd::Failed)), []);
        let until = now + LONGEST_BURST;
        while now + ms(20) < until {
            now += ms(20);
            assert_eq!(cycle.changed(now, saved(now, "c"), ChangeKind::Content), []);
            assert_eq!(cycle.tick(now), []);
        }
        assert_eq!(cycle.deadline(), Some(until));
        assert_eq!(build(cycle.tick(until)), of("c", &["a", "b", "c"]));
    }

    #[test]
    fn a_build_that_takes_no_notice_is_killed() {
        let (now, mut cycle) = (start(), Cycle::default());
        let _ = cycle.changed(now, saved(now, "a"), ChangeKind::Content);
        let _ = cycle.changed(now, saved(now, "b"), ChangeKind::Content);
        assert_eq!(cycle.deadline(), Some(now + CANCEL_TIMEOUT));
        assert_eq!(cycle.tick(now + CANCEL_TIMEOUT), [Action::Kill]);
        assert_eq!(cycle.deadline(), None);
        let ended = cycle.ended(now + CANCEL_TIMEOUT, BuildEnd::Failed);
        assert_eq!(build(outdated(ended)), of("b", &["a", "b"]));
    }

    #[test]
    fn an_emptied_file_is_given_time_to_be_filled() {
        let (now, mut cycle) = (start(), Cycle::default());
        assert_eq!(cycle.changed(now, saved(now, "a"), ChangeKind::Emptied), []);
        assert_eq!(build(cycle.changed(now + ms(200), saved(now, "a"), ChangeKind::Content)), of("a", &["a"]));
        let _ = cycle.ended(now + ms(900), BuildEnd::Built);
        assert_eq!(cycle.changed(now + ms(1000), saved(now, "a"), ChangeKind::Emptied), []);
        assert_eq!(build(cycle.tick(now + ms(1300))), of("a", &["a"]), "it stays empty: so be it");
    }

    #[test]
    fn a_save_that_does_not_concern_what_is_compiled_is_built_afterwards() {
        let (now, mut cycle) = (start(), Cycle::default());
        let first = cycle.changed(now, saved(now, "a"), ChangeKind::Spared);
        assert_eq!(build(first), of("a", &["a"]), "nothing runs that could be spared");
        assert_eq!(cycle.changed(now + ms(5), saved(now, "b"), ChangeKind::Spared), []);
        assert_eq!(cycle.changed(now + ms(9), saved(now, "c"), ChangeKind::Spared), []);
        assert!(cycle.has_newer());
        let (counted, next) = counts(cycle.ended(now + ms(100), BuildEnd::Built));
        assert_eq!((counted, build(next)), (Some("a".into()), of("c", &["b", "c"])));
        assert_eq!(cycle.changed(now + ms(200), saved(now, "d"), ChangeKind::Spared), []);
        assert_eq!(cycle.changed(now + ms(205), saved(now, "e"), ChangeKind::Content), cancel("e"), "this one does");
        assert_eq!(cycle.changed(now + ms(206), saved(now, "f"), ChangeKind::Spared), []);
        let next = outdated(cycle.ended(now + ms(300), BuildEnd::Failed));
        assert_eq!(build(next), of("f", &["b", "c", "d", "e", "f"]));
    }

    #[test]
    fn a_program_with_a_part_of_what_was_saved_is_not_used_unless_there_would_be_none() {
        let (mut now, mut cycle) = (start(), Cycle::default());
        let _ = cycle.changed(now, saved(now, "0"), ChangeKind::Content);
        for n in 1..=MOST_CANCELLED {
            now += ms(50);
            assert_eq!(cycle.changed(now, saved(now, &n.to_string()), ChangeKind::Spared), []);
            now += ms(50);
            assert_eq!(build(outdated(cycle.ended(now, BuildEnd::Behind))).0, n.to_string());
        }
        now += ms(50);
        assert_eq!(cycle.changed(now, saved(now, "last"), ChangeKind::Spared), []);
        now += ms(50);
        let (counted, next) = counts(cycle.ended(now, BuildEnd::Behind));
        assert_eq!((counted, build(next)), (Some(MOST_CANCELLED.to_string()), of("last", &["last"])));
        assert_eq!(counts(cycle.ended(now, BuildEnd::Built)), (Some("last".into()), vec![]));
    }

    #[test]
    fn saves_faster_than_builds_do_not_starve() {
        let (mut now, mut cycle) = (start(), Cycle::default());
        let _ = cycle.changed(now, saved(now, "0"), ChangeKind::Content);
        for n in 1..=MOST_CANCELLED {
            now += ms(50);
            let n = n.to_string();
            assert_eq!(cycle.changed(now, saved(now, &n), ChangeKind::Content), cancel(&n));
            now += BURST;
            assert_eq!(build(outdated(cycle.ended(now, BuildEnd::Failed))).0, n);
        }
        now += ms(50);
        assert_eq!(cycle.changed(now, saved(now, "last"), ChangeKind::Content), [], "this one is let through");
        now += BURST;
        let (counted, next) = counts(cycle.ended(now, BuildEnd::Built));
        assert_eq!((counted, build(next)), (Some(MOST_CANCELLED.to_string()), of("last", &["last"])));
    }

    #[test]
    fn a_reason_outlives_the_build_that_was_ended_for_a_newer_change() {
        let (now, mut cycle) = (start(), Cycle::default());
        let request = |why: &str| BuildRequest { start_anyway: true, ..BuildRequest::asked(now, why).by_cargo() };
        let next = |cycle: &mut Cycle| match &outdated(cycle.ended(now + ms(90), BuildEnd::Failed))[..] {
            [Action::Build(request)] => (request.why_cargo.clone(), request.start_anyway, request.settings),
            other => panic!("no build: {other:?}"),
        };
        let _ = cycle.asked(now, request("asked for"));
        let settings = BuildRequest { settings: true, ..saved(now, "a") };
        let _ = cycle.changed(now, settings, ChangeKind::Content);
        cycle.cancelled_by_cargo("only where nobody had a reason".into());
        assert_eq!(next(&mut cycle), (Some("asked for".into()), true, true));
        let _ = cycle.asked(now, request("newer"));
        assert_eq!(next(&mut cycle), (Some("newer".into()), true, true));
        let _ = cycle.ended(now + ms(90), BuildEnd::Built);
        let _ = cycle.changed(now + ms(90), saved(now, "b"), ChangeKind::Content);
        let _ = cycle.changed(now, saved(now, "c"), ChangeKind::Content);
        cycle.cancelled_by_cargo("Cargo.toml changed".into());
        assert_eq!(next(&mut cycle), (Some("Cargo.toml changed".into()), false, false));
    }

    #[test]
    fn what_was_not_built_is_left_to_the_next_build() {
        let (now, mut cycle) = (start(), Cycle::default());
        let request = BuildRequest { start_anyway: true, settings: true, ..saved(now, "a") };
        let _ = cycle.asked(now, request.by_cargo());
        cycle.not_begun();
        assert!(cycle.is_idle());
        let actions = cycle.changed(now, saved(now, "b"), ChangeKind::Content);
        let [Action::Build(running)] = &actions[..] else { panic!("{actions:?}") };
        assert!(running.start_anyway && running.settings && running.why_cargo.is_none());
        assert_eq!(build(actions), of("b", &["a", "b"]));
        let _ = cycle.ended(now, BuildEnd::Failed);
        let actions = cycle.changed(now, saved(now, "c"), ChangeKind::Content);
        let [Action::Build(running)] = &actions[..] else { panic!("{actions:?}") };
        assert!(running.start_anyway && !running.settings, "no program was started");
        assert_eq!(build(actions), of("c", &["c"]), "that failure was told");
    }

    /// Builds, and what they are made for, as a loop sees it.
    #[derive(Default)]
    struct Watched {
        cycle: Cycle,
        running: bool,
        /// What has changed since the last build whose result counts.
        wanted: BTreeSet<PathBuf>,
        /// A change that no build begun since has seen.
        stale: bool,
    }

    impl Watched {
        fn perform(&mut self, actions: Vec<Action>) {
            for action in actions {
                if let Action::Build(request) = action {
                    assert!(!self.running, "two builds at once");
                    assert_eq!(request.changed, self.wanted, "a build is of all that has changed");
                    (self.running, self.stale) = (true, false);
                }
            }
        }

        fn end(&mut self, now: Instant, end: BuildEnd) {
            self.running = false;
            let ended = self.cycle.ended(now, end);
            for path in ended.counts.into_iter().flat_map(|request| request.changed) {
                assert!(self.wanted.remove(&path), "it was told before");
            }
            self.perform(ended.next);
        }
    }

    proptest! {
        /// Whatever the order of saves, ends and time: at most one build runs, each is of all that has changed since one counted, and
        /// after the last change a build is begun and brought to its end.
        #[test]
        fn the_last_change_is_always_built(steps in proptest::collection::vec((0..6u8, 0..400u64), 1..80)) {
            let (mut now, mut watched) = (start(), Watched::default());
            for (number, (kind, millis)) in steps.into_iter().enumerate() {
                now += ms(millis);
                match kind {
                    0..=2 => {
                        watched.stale = true;
                        watched.wanted.insert(number.to_string().into());
                        let kind = [ChangeKind::Content, ChangeKind::Emptied, ChangeKind::Spared][usize::from(kind)];
                        let actions = watched.cycle.changed(now, saved(now, &number.to_string()), kind);
                        watched.perform(actions);
                    }
                    3 | 4 if watched.running => {
                        watched.end(now, if kind == 3 { BuildEnd::Built } else { BuildEnd::Behind });
                    }
                    _ => {
                        let actions = watched.cycle.tick(now);
                        watched.perform(actions);
                    }
                }
            }
            for _ in 0..6 {
                now += Duration::from_secs(3);
                let actions = watched.cycle.tick(now);
                watched.perform(actions);
                if watched.running {
                    watched.end(now, BuildEnd::Built);
                }
            }
            prop_assert!(!watched.stale && watched.cycle.is_idle() && watched.wanted.is_empty());
        }
    }
}
