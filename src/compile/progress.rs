//! What is told of a build while it takes its time, and when: what cargo does, and whom it waits for.
//! Never lives here: a clock, and how it is shown.

use super::build::{CargoSaid, is_status};
use super::lock::Look;
use crate::report::{Holder, Notice, clean};
use std::time::{Duration, Instant};

/// A build that is over before that needs no word.
const FIRST: Duration = Duration::from_secs(3);
/// Where a server writes its own lines, ours are few.
const EVERY: Duration = Duration::from_secs(10);

/// The running build, as far as there is something to tell of it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many units there are: guessed from the graph at first, then counted.
    units: usize,
    began: Option<Instant>,
    next: Option<Instant>,
    done: usize,
    /// As cargo says it: `Updating index`, `Compiling syn v2.0.1`.
    doing: Option<String>,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// As cargo says it: `file lock on build directory`.
    what: String,
    since: Instant,
    /// It was seen among those that wait.
    seen: bool,
    holder: Option<Holder>,
    told: bool,
}

impl Pace {
    pub fn new(units: usize) -> Pace {
        Pace { units, ..Pace::default() }
    }

    pub fn began(&mut self, now: Instant) {
        *self = Pace { began: Some(now), next: Some(now + FIRST), ..Pace::new(self.units) };
    }

    pub fn ended(&mut self) {
        *self = Pace::new(self.units);
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether cargo has said that it does anything yet, or waits.
    pub fn is_busy(&self) -> bool {
        self.doing.is_some() || self.waiting.is_some()
    }

    /// What there is to tell of the running cargo's word.
    pub fn said(&mut self, now: Instant, said: &CargoSaid) -> Vec<Notice> {
        let (is_news, over) = self.hear(now, said);
        over.into_iter().chain(is_news.then(|| self.progress())).collect()
    }

    /// That many units are compiled.
    pub fn counted(&mut self, done: usize) -> Notice {
        self.units = self.units.max(done);
        self.done = done;
        self.progress()
    }

    fn progress(&self) -> Notice {
        Notice::Progress {
            done: self.done,
            total: self.units,
            doing: self.doing.clone(),
            waiting: self.waiting.as_ref().map(|waiting| waiting.what.clone()),
        }
    }

    /// Cargo's word. Whether it is worth showing, and what it waited for until now, if that was told.
    fn hear(&mut self, now: Instant, said: &CargoSaid) -> (bool, Option<Notice>) {
        let line = match said {
            CargoSaid::Cargo(line) => clean::plain(line),
            CargoSaid::Message(_) => return (false, self.goes_on(now)),
            CargoSaid::Caught(_) | CargoSaid::OutputClosed | CargoSaid::Exited => return (false, None),
        };
        if !is_status(&line) {
            return (false, None);
        }
        let line = line.trim();
        // It does not: what is built is caught on its way (`launch`).
        if line.starts_with("Running ") {
            return (false, None);
        }
        if let Some(waiting) = line.strip_prefix("Blocking ") {
            let what = waiting.strip_prefix("waiting for ").unwrap_or(waiting).to_owned();
            self.waiting = Some(Waiting { what, since: now, seen: false, holder: None, told: false });
            self.next = self.next.map(|next| next.min(now + FIRST));
            return (true, None);
        }
        let over = self.goes_on(now);
        // Where it stands is nobody's question here.
        self.doing = Some(line.split(" (").next().unwrap_or(line).to_owned());
        (true, over)
    }

    fn goes_on(&mut self, now: Instant) -> Option<Notice> {
        let waited = self.waiting.take()?;
        let took = millis(now.saturating_duration_since(waited.since));
        waited.told.then_some(Notice::WaitOver { waiting: waited.what, waited: took })
    }

    /// What is to be said now, if anything. `look` is asked when it is waited for somebody.
    pub fn tick(&mut self, now: Instant, look: impl FnOnce() -> Look) -> Option<Notice> {
        self.next.take_if(|next| *next <= now)?;
        self.next = Some(now + EVERY);
        if let Some(waiting) = &mut self.waiting {
            match look() {
                Look::Waits(holder) => {
                    waiting.seen = true;
                    waiting.holder = holder;
                }
                // It has got it, though it has not said anything since.
                Look::Nothing if waiting.seen => return self.goes_on(now),
                Look::Nothing => {}
            }
            waiting.told = true;
        }
        let since = |at: Instant| millis(now.saturating_duration_since(at));
        Some(Notice::StillBuilding {
            done: self.done,
            total: self.units,
            took: since(self.began?),
            doing: self.doing.clone(),
            waiting: self.waiting.as_ref().map(|waiting| waiting.what.clone()),
            waited: self.waiting.as_ref().map(|waiting| since(waiting.since)),
            holder: self.waiting.as_ref().and_then(|waiting| waiting.holder.clone()),
        })
    }
}

pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::start;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn line(line: &str) -> CargoSaid {
        CargoSaid::Cargo(line.to_owned())
    }

    fn holder() -> Holder {
        Holder { pid: 7, command: "cargo check".into() }
    }

    #[test]
    fn a_short_build_needs_no_word_and_a_long_one_few() {
        let (now, mut pace) = (start(), Pace::new(9));
        assert_eq!(pace.deadline(), None);
        pace.began(now);
        assert_eq!(pace.deadline(), Some(now + FIRST));
        assert_eq!(pace.tick(now + secs(1), || Look::Nothing), None);
        assert!(pace.hear(now, &line("   Compiling syn v2.0.1 (/far/away)")).0);
        pace.done = 3;
        let Some(Notice::StillBuilding { done: 3, total: 9, took: 3000, doing, waiting: None, .. }) =
            pace.tick(now + FIRST, || Look::Nothing)
        else {
            panic!("nothing is said")
        };
        assert_eq!(doing.as_deref(), Some("Compiling syn v2.0.1"));
        assert_eq!(pace.deadline(), Some(now + FIRST + EVERY));
        pace.ended();
        assert_eq!((pace.deadline(), pace.tick(now + secs(60), || Look::Nothing)), (None, None));
    }

    #[test]
    fn who_is_waited_for_is_told_and_that_it_is_over() {
        let (now, mut pace) = (start(), Pace::new(9));
        pace.began(now);
        assert!(pace.tick(now + FIRST, || Look::Nothing).is_some());
        let later = now + secs(5);
        assert_eq!(pace.hear(later, &line("    Blocking waiting for file lock on build directory")), (true, None));
        assert_eq!(pace.deadline(), Some(later + FIRST), "earlier than it would be otherwise");
        let told = pace.tick(later + FIRST, || Look::Waits(Some(holder())));
        let Some(Notice::StillBuilding { waiting: Some(what), waited: Some(3000), holder: Some(by), .. }) = told else {
            panic!("{told:?}")
        };
        assert_eq!((what.as_str(), by), ("file lock on build directory", holder()));
        let over = Notice::WaitOver { waiting: what, waited: 4000 };
        assert_eq!(pace.hear(later + secs(4), &line("   Compiling api v0.1.0")), (true, Some(over)));
        assert!(pace.waiting.is_none());
    }

    #[test]
    fn a_wait_that_is_over_is_seen_without_a_word_of_cargos() {
        let (now, mut pace) = (start(), Pace::new(9));
        pace.began(now);
        pace.hear(now, &line("    Blocking waiting for file lock on build directory"));
        // Where nothing is to be seen, it is waited for as long as cargo does not say otherwise.
        assert!(matches!(
            pace.tick(now + FIRST, || Look::Nothing),
            Some(Notice::StillBuilding { waited: Some(_), .. })
        ));
        let next = now + FIRST + EVERY;
        assert!(matches!(pace.tick(next, || Look::Waits(None)), Some(Notice::StillBuilding { holder: None, .. })));
        assert!(matches!(pace.tick(next + EVERY, || Look::Nothing), Some(Notice::WaitOver { waited: 23_000, .. })));
        assert!(matches!(
            pace.tick(next + EVERY + EVERY, || Look::Nothing),
            Some(Notice::StillBuilding { waiting: None, .. })
        ));
    }

    #[test]
    fn a_wait_that_nobody_was_told_of_is_over_without_a_word() {
        let (now, mut pace) = (start(), Pace::new(9));
        pace.began(now);
        pace.hear(now, &line("    Blocking waiting for file lock on package cache"));
        assert_eq!(pace.hear(now + secs(1), &line("    Updating index")), (true, None));
        assert!(pace.is_busy());
    }
}
