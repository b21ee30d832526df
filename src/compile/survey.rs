//! A look at all that the user has named beside the packages (`watch`, `data`): it may be very much, so that it is walked in a thread
//! of its own, and again only where folders come or go. What is beyond all measure is refused, with a number.
//! Never lives here: what follows from it (`sources`).

use super::named::{Named, Refused};
use super::seen::Look;
use super::walk::{Below, Passed};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Of so many files what is in them is read; of more only their stamps are known, so that the first save that leaves one as it was is
/// taken for a change.
pub const MOST_READ: usize = 2_000;

/// All that is needed to look.
#[derive(Debug)]
pub struct SurveyJob {
    /// What is in the files is compared with nothing but the first look.
    pub is_first: bool,
    pub named: Named,
    pub made: [PathBuf; 2],
    pub packages: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
pub struct Survey {
    pub below: Below,
    pub looks: Vec<(PathBuf, Look)>,
    pub refused: Vec<Refused>,
}

impl SurveyJob {
    pub fn run(&self) -> Survey {
        let made = [self.made[0].as_path(), self.made[1].as_path()];
        let packages = self.packages.clone();
        let passed = Passed { made, packages, ignore: &self.named.ignore, apart: &[] };
        let (below, refused) = self.named.below(&passed);
        let looks = below.files.iter().enumerate().map(|(number, path)| {
            let look = if self.is_first && number < MOST_READ { Look::at(path) } else { Look::by_stamp(path) };
            (path.clone(), look)
        });
        Survey { looks: looks.collect(), below, refused }
    }
}
