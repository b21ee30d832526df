//! What is watched, and when what the user has named beside the packages is looked at: at first, and where folders have come or gone; one
//! look at a time.
//! Never lives here: the looks themselves (`watch`, `survey`), and what they mean (`sources`).

use super::found::Found;
use super::sources::Sources;
use super::survey::Survey;
use super::watch::{FileEvent, FileSink, Lookout};
use crate::process::is_passing;
use crate::report::Note;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// So many looks follow each other at once: the first, one at what was not watched meanwhile, and one at what came then.
const AT_ONCE: u32 = 3;
/// Then folders come and go all the time, and each look may take long.
const REST: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Surveys {
    runs: bool,
    /// How many are over since none was for a while.
    in_a_row: u32,
    last: Option<Instant>,
    /// The next one begins then, and not before.
    next: Option<Instant>,
    /// Something has come or gone since it began.
    again: bool,
}

impl Surveys {
    /// Whether it is worth waiting for: what comes and goes all the time has no end.
    fn is_awaited(&self) -> bool {
        self.runs && self.in_a_row < AT_ONCE
    }

    /// Something may have come or gone. Whether a look at it is to begin now.
    fn asked(&mut self, now: Instant) -> bool {
        self.again = self.runs;
        if self.runs || self.next.is_some() {
            return false;
        }
        let rested = |last: Instant| now.saturating_duration_since(last) >= REST;
        if self.last.is_none_or(rested) {
            self.in_a_row = 0;
        }
        self.may_begin(now)
    }

    /// A look is over; `is_new`: it has shown what was not watched while it was had. Whether another one is to begin now.
    fn ended(&mut self, now: Instant, is_new: bool) -> bool {
        self.runs = false;
        self.last = Some(now);
        self.in_a_row += 1;
        // What has come to a folder before it was watched made no event.
        (is_new || self.again) && self.may_begin(now)
    }

    fn may_begin(&mut self, now: Instant) -> bool {
        self.again = false;
        let is_soon = self.in_a_row < AT_ONCE;
        if !is_soon {
            self.next = Some(self.last.unwrap_or(now) + REST);
        }
        is_soon
    }

    /// A look could not be had, for a reason that passes.
    fn failed(&mut self, now: Instant) {
        self.runs = false;
        self.later(now);
    }

    fn later(&mut self, now: Instant) {
        self.next.get_or_insert(now + REST);
    }

    /// Whether a look that had to wait is to begin now.
    fn is_time(&mut self, now: Instant) -> bool {
        self.next.take_if(|next| *next <= now).is_some()
    }
}

/// The folders that are watched, and the looks at what is named beside the packages.
pub struct Watching {
    lookout: Lookout,
    surveys: Surveys,
    sink: FileSink,
}

impl Watching {
    pub fn open(sink: FileSink) -> Watching {
        Watching { lookout: Lookout::open(&sink), surveys: Surveys::default(), sink }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.lookout.deadline().into_iter().chain(self.surveys.next).min()
    }

    /// Whether a look is under way that is worth waiting for.
    pub fn is_awaited(&self) -> bool {
        self.surveys.is_awaited()
    }

    pub fn close(&mut self) {
        self.lookout.close();
    }

    /// Watches the folders of all that matters now. What there is to tell, where that cannot be had.
    pub fn watch(&mut self, now: Instant, sources: &Sources) -> Option<Note> {
        self.mind_what_was_missed(now, sources);
        self.lookout.watch(now, &sources.folders())
    }

    /// Where something could not be looked at, all is looked at once more.
    pub fn mind_what_was_missed(&mut self, now: Instant, sources: &Sources) {
        if sources.is_partial() {
            self.surveys.later(now);
        }
    }

    /// Has what is named beside the packages looked at, by a thread: it may be much. What there is to tell, where that cannot be had.
    pub fn survey(&mut self, now: Instant, sources: &Sources) -> Option<Note> {
        if self.surveys.asked(now) { self.begin_survey(now, sources) } else { None }
    }

    /// Takes what such a look has shown.
    pub fn surveyed(&mut self, now: Instant, sources: &mut Sources, survey: Survey) -> Found {
        if survey.below.is_partial {
            // What was seen before still counts.
            self.surveys.failed(now);
            return Found::default();
        }
        let (mut found, is_new) = sources.surveyed(survey);
        if is_new {
            found.notes.extend(self.watch(now, sources));
        }
        if self.surveys.ended(now, is_new) {
            found.notes.extend(self.begin_survey(now, sources));
        }
        found
    }

    /// Folders came or went there: what follows from it, and what has come to them.
    pub fn folders_changed(&mut self, now: Instant, sources: &mut Sources, folders: &[PathBuf]) -> Found {
        folders.iter().for_each(|folder| self.lookout.forget(folder));
        let survey = if sources.is_near_named(folders) { self.survey(now, sources) } else { None };
        sources.follow();
        let watch = self.watch(now, sources);
        // What was put into a new folder before it was watched made no event.
        let mut found = sources.look_again();
        found.notes.extend(survey.into_iter().chain(watch));
        found
    }

    /// What was missed, if it is time for another look.
    pub fn tick(&mut self, now: Instant, sources: &mut Sources) -> Found {
        let mut found = Found::default();
        if self.surveys.is_time(now) {
            if !self.surveys.runs {
                found.notes.extend(self.begin_survey(now, sources));
            }
            found.merge(sources.look_again_if_partial());
            found.notes.extend(self.watch(now, sources));
        }
        if self.lookout.is_time(now) {
            found.merge(sources.look_again());
            if !self.surveys.runs {
                found.notes.extend(self.survey(now, sources));
            }
        }
        found
    }

    fn begin_survey(&mut self, now: Instant, sources: &Sources) -> Option<Note> {
        let job = sources.survey()?;
        let sink = Arc::clone(&self.sink);
        let look = move || sink(FileEvent::Surveyed(Box::new(job.run())));
        match thread::Builder::new().name("survey".to_owned()).spawn(look) {
            Ok(_) => self.surveys.runs = true,
            Err(error) if is_passing(&error) => self.surveys.failed(now),
            Err(error) => return Some(Note::CannotSurvey { error: error.to_string() }),
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // The beginning of the tests' own time.
mod tests {
    use super::*;

    /// How many looks there are within a minute, each of which takes a millisecond, while something comes or goes all the time: it is there
    /// after the look, or gone again by then; it does while a look is had, or between two. And whether the last one is waited for.
    fn looks_in_a_minute(is_new: bool, while_it_runs: bool) -> (u32, bool) {
        let mut surveys = Surveys::default();
        let (mut now, mut looks) = (Instant::now(), 0);
        let over = now + Duration::from_secs(60);
        let mut begins = surveys.asked(now);
        while now < over {
            now += Duration::from_millis(1);
            if begins {
                looks += 1;
                surveys.runs = true;
            }
            if surveys.runs == while_it_runs {
                begins = surveys.asked(now);
                assert!(!begins || !surveys.runs && surveys.next.is_none());
            }
            begins = if surveys.runs { surveys.ended(now, is_new) } else { begins || surveys.is_time(now) };
        }
        surveys.runs = true;
        (looks, surveys.is_awaited())
    }

    #[test]
    fn what_comes_and_goes_all_the_time_is_looked_at_now_and_then_and_waited_for_by_nobody() {
        for (is_new, while_it_runs) in [(false, true), (true, true), (true, false), (false, false)] {
            let (looks, is_awaited) = looks_in_a_minute(is_new, while_it_runs);
            assert!((31..=33).contains(&looks) && !is_awaited, "{is_new} {while_it_runs}: {looks}, {is_awaited}");
        }
    }

    #[test]
    fn what_has_come_to_rest_is_looked_at_at_once_and_waited_for() {
        let mut surveys = Surveys::default();
        let mut now = Instant::now();
        for _ in 0..5 {
            now += REST;
            assert!(surveys.asked(now));
            surveys.runs = true;
            assert!(surveys.is_awaited());
            assert!(surveys.ended(now, true), "what has come before it was watched");
            surveys.runs = true;
            assert!(!surveys.ended(now, false));
            assert_eq!(surveys.next, None);
        }
    }
}
