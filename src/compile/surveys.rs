//! When what the user has named beside the packages is looked at: at first, and where folders have come or gone; one look at a time.
//! Never lives here: the look itself (`survey`), and what it means (`sources`).

use super::Room;
use super::found::Found;
use super::survey::Survey;
use super::watch::FileEvent;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// So many looks follow each other at once: the first, one at what was not watched meanwhile, and one at what came then.
const AT_ONCE: u32 = 3;
/// Then folders come and go all the time, and each look may take long.
const REST: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Surveys {
    pub runs: bool,
    in_a_row: u32,
    /// The next one begins then, and not before.
    next: Option<Instant>,
    /// Something has come or gone since it began.
    again: bool,
}

impl Surveys {
    /// Whether it is worth waiting for: what comes and goes all the time has no end.
    pub fn is_awaited(&self) -> bool {
        self.runs && self.in_a_row < AT_ONCE
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

impl Room {
    /// Has what is named beside the packages looked at, by a thread: it may be much.
    pub(super) fn survey(&mut self) {
        self.surveys.again = self.surveys.runs;
        let rests = self.surveys.next.is_some();
        let Some(job) = self.sources.survey().filter(|_| !self.surveys.runs && !rests) else { return };
        let sink = Arc::clone(&self.sinks.files);
        let look = move || sink(FileEvent::Surveyed(Box::new(job.run())));
        match thread::Builder::new().spawn(look) {
            Ok(_) => self.surveys.runs = true,
            Err(error) => {
                self.note(format!("what is named by `watch` and `data` cannot be looked at: start a thread: {error}"))
            }
        }
    }

    pub(super) fn surveyed(&mut self, now: Instant, survey: Survey) -> Found {
        self.surveys.runs = false;
        let (found, notes, is_new) = self.sources.surveyed(survey);
        notes.into_iter().for_each(|text| self.note(text));
        if is_new {
            self.watch(now);
        }
        // What has come to a folder before it was watched made no event.
        if !is_new && !self.surveys.again {
            self.surveys.in_a_row = 0;
            return found;
        }
        self.surveys.in_a_row += 1;
        if self.surveys.in_a_row < AT_ONCE {
            self.survey();
        } else {
            self.surveys.next = Some(now + REST);
        }
        found
    }

    pub(super) fn tick_surveys(&mut self, now: Instant) {
        if self.surveys.next.take_if(|next| *next <= now).is_some() {
            self.survey();
        }
    }

    pub(super) fn watch(&mut self, now: Instant) {
        if let Some(trouble) = self.lookout.watch(now, &self.sources.folders()) {
            self.note(trouble);
        }
    }
}
