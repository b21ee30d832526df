//! The descriptors of this process: as many as the system allows, and a few that are kept for the moment when there is no other left.
//! Never lives here: what they are opened for.

use super::lock;
use nix::errno::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::error::Error;
use std::fs::File;
use std::io;
use std::sync::{Mutex, OnceLock};

/// More than one step needs at once: a folder of proc(5), the process that was found there, and a copy of its socket.
const SPARE: usize = 8;

static SPARES: Mutex<Vec<File>> = Mutex::new(Vec::new());
/// The limit that this process was started with, where it has another now.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// For a session, and before it opens anything: a number above a limit that is lowered later would be of no use as a spare. The soft
/// limit is for programs that cannot stand large numbers (select(2)), which this one can.
pub fn prepare() {
    let limit = getrlimit(Resource::Nofile);
    if let Some(before) = limit.current
        && setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_ok()
    {
        BEFORE.get_or_init(|| before);
    }
    fill(&mut lock(&SPARES));
}

/// What children are to have as their soft limit, where it is not this process's.
pub fn limit_before() -> Option<u64> {
    BEFORE.get().copied()
}

/// The limit for this process, which is about to become another program. Where it has a lower one, that is as it was meant.
pub fn limit_to(soft: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_none_or(|hard| soft <= hard) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(soft), ..limit }).ok();
    }
}

/// What needs a descriptor for a moment. Where there is none, one of those that are kept makes room for it; they are taken again at the
/// next occasion.
pub fn with<T, E: SystemError>(mut what: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    fill(&mut lock(&SPARES));
    loop {
        match what() {
            Err(error) if is_out(&error) => match lock(&SPARES).pop() {
                Some(spare) => drop(spare),
                None => return Err(error),
            },
            other => return other,
        }
    }
}

/// There is one more descriptor to be had, if there can be.
pub fn make_room() {
    with(|| File::open("/dev/null")).ok();
}

/// Whether it says that there is no descriptor left, in this process or in the whole system.
pub fn is_out(error: &impl SystemError) -> bool {
    matches!(error.number(), Some(Errno::EMFILE | Errno::ENFILE))
}

/// For whoever made a call that fails here.
pub fn errno(error: impl SystemError) -> Errno {
    error.number().unwrap_or(Errno::EIO)
}

/// An error of the system, by whatever library.
pub trait SystemError {
    fn number(&self) -> Option<Errno>;
}

impl SystemError for io::Error {
    /// Also of one that a library has put into an error of its own, as `walkdir` does: it has no number itself.
    fn number(&self) -> Option<Errno> {
        let within = || {
            let mut error: &(dyn Error + 'static) = self.get_ref()?;
            loop {
                match error.downcast_ref::<io::Error>() {
                    Some(error) => return error.number(),
                    None => error = error.source()?,
                }
            }
        };
        self.raw_os_error().map(Errno::from_raw).or_else(within)
    }
}

impl SystemError for Errno {
    fn number(&self) -> Option<Errno> {
        Some(*self)
    }
}

impl SystemError for rustix::io::Errno {
    fn number(&self) -> Option<Errno> {
        Some(Errno::from_raw(self.raw_os_error()))
    }
}

fn fill(spares: &mut Vec<File>) {
    while spares.len() < SPARE
        && let Ok(spare) = File::open("/dev/null")
    {
        spares.push(spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_tried_again_until_there_is_nothing_left_to_let_go() {
        let mut refused = 0;
        let done = with(|| {
            refused += 1;
            if refused < 4 { Err(Errno::EMFILE) } else { Ok(refused) }
        });
        assert_eq!(done, Ok(4));
        let mut tries = 0;
        let never: io::Result<()> = with(|| {
            tries += 1;
            Err(Errno::ENFILE.into())
        });
        assert!(is_out(&never.unwrap_err()));
        assert!(tries > 1, "other tests use them, too");
        tries = 0;
        let other: Result<(), Errno> = with(|| {
            tries += 1;
            Err(Errno::EPERM)
        });
        assert_eq!((other, tries), (Err(Errno::EPERM), 1));
    }

    #[test]
    fn an_error_within_an_error_of_a_library_is_known() {
        let missing = ignore::WalkBuilder::new("/nowhere").build().next().unwrap().unwrap_err();
        let missing = missing.io_error().unwrap();
        assert_eq!((missing.raw_os_error(), missing.number()), (None, Some(Errno::ENOENT)));
        assert_eq!(io::Error::other("no number at all").number(), None);
    }
}
