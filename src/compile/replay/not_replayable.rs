//! Why a build goes through cargo where replay would be faster, and until when that holds.
//! Never lives here: finding that out.

use crate::process::is_passing;
use std::fmt;
use std::io;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReplayable {
    /// A file says something of the project that cargo has to look at: in this build.
    Changed(PathBuf),
    /// Nothing is known of a build of cargo's: until one has been learnt from.
    NoPlan(String),
    /// The project, or what the user has set, is of a kind that is cargo's alone: as long as it is.
    Unfit(String),
    /// Something was tried and has failed, and it is not the sources' fault. `passes`: the machine had something not to give, which it may have at the
    /// next try, so it says nothing of the project.
    Failed { why: String, passes: bool },
}

impl NotReplayable {
    pub fn refused(why: String, error: &io::Error) -> NotReplayable {
        NotReplayable::Failed { why, passes: is_passing(error) }
    }

    pub fn passes(&self) -> bool {
        matches!(self, NotReplayable::Failed { passes: true, .. })
    }
}

impl fmt::Display for NotReplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReplayable::Changed(path) => write!(f, "{} changed", crate::report::short(path)),
            NotReplayable::NoPlan(why) | NotReplayable::Unfit(why) | NotReplayable::Failed { why, .. } => {
                f.write_str(why)
            }
        }
    }
}
