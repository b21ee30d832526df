//! The dates of sources, by which cargo knows what has changed.
//! Never lives here: whether it has (`seen`).

use super::Sources;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

impl Sources {
    /// Dates inputs to now, so that cargo sees that they have changed: it compares times, and takes a file for old that was
    /// saved within the first milliseconds of a build. Says whether there was one.
    pub fn date_anew(&mut self, paths: &BTreeSet<PathBuf>) -> bool {
        // A file that may not be written keeps its date, and cargo its opinion.
        let inputs: Vec<&PathBuf> = paths.iter().filter(|path| self.is_input(path)).collect();
        // Where a link has led is where cargo looks.
        let led = inputs.iter().filter_map(|path| self.led.get(*path)).filter(|place| place.is_file());
        let files: BTreeSet<PathBuf> = inputs.iter().copied().chain(led).cloned().collect();
        files.into_iter().filter(|path| self.seen.date(path)).count() > 0
    }

    /// As `date_anew`, of inputs that were moved here with a date before that moment, and of those that a link has led to until now:
    /// cargo would never see that they have changed, neither now nor when it builds for another reason.
    pub fn date_the_old_anew(&mut self, paths: &BTreeSet<PathBuf>, moment: SystemTime) {
        let is_old = |path: &&PathBuf| {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            let led = self.led.get(*path);
            modified.is_ok_and(|modified| modified < moment)
                || led.is_some() && path.canonicalize().ok().as_ref() != led
        };
        let old = paths.iter().filter(is_old).cloned().collect();
        self.date_anew(&old);
    }
}
