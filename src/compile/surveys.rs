//! When what the user has named beside the packages is looked at: at first, and where folders have come or gone; one look at a time.
//! Never lives here: the look itself (`survey`), and what it means (`sources`).

use super::Room;
use super::found::Found;
use super::survey::Survey;
use super::watch::FileEvent;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Surveys {
    pub runs: bool,
    /// Something has come or gone since it began.
    again: bool,
}

impl Room {
    /// Has what is named beside the packages looked at, by a thread: it may be much.
    pub(super) fn survey(&mut self) {
        self.surveys.again = self.surveys.runs;
        let Some(job) = self.sources.survey().filter(|_| !self.surveys.runs) else { return };
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
        if is_new || self.surveys.again {
            self.survey();
        }
        found
    }

    pub(super) fn watch(&mut self, now: Instant) {
        if let Some(trouble) = self.lookout.watch(now, &self.sources.folders()) {
            self.note(trouble);
        }
    }
}
