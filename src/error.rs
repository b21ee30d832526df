//! The one error of the command: what was tried on what, what would help, and the exit code that says which kind it was.
//! Never lives here: printing. `main` prints the one error that ends the program.

use crate::report::one_line;
use std::fmt;

/// Documented in the README; scripts may rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed that has no code of its own; `demo`: a request was lost.
    Failure = 1,
    /// Arguments or configuration that mean nothing.
    Usage = 2,
    /// An address to listen on cannot be had.
    Address = 3,
    /// Cargo cannot be run, or the project cannot be read.
    Project = 4,
}

#[derive(Debug)]
pub struct Error {
    what: String,
    help: Option<String>,
    exit: Exit,
    passes: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A sentence on one line, whatever the names in it have.
    pub fn new(exit: Exit, what: impl AsRef<str>) -> Self {
        Error { what: one_line(what.as_ref()), help: None, exit, passes: false }
    }

    pub fn usage(what: impl AsRef<str>) -> Self {
        Error::new(Exit::Usage, what)
    }

    pub fn failure(what: impl AsRef<str>) -> Self {
        Error::new(Exit::Failure, what)
    }

    /// The same, with how it came to it before.
    pub fn after(mut self, before: impl AsRef<str>) -> Self {
        self.what = format!("{}, and {}", one_line(before.as_ref()), self.what);
        self
    }

    /// What another program has said of it, on as many lines as that has.
    pub fn saying(mut self, words: &str) -> Self {
        self.what = format!("{}: {words}", self.what);
        self
    }

    /// What to do about it, in one sentence.
    pub fn help(mut self, help: impl AsRef<str>) -> Self {
        self.help = Some(one_line(help.as_ref()));
        self
    }

    /// It says nothing of what was tried: the machine had no descriptor, process or memory to give, which it may have at the next try.
    pub fn passing(mut self) -> Self {
        self.passes = true;
        self
    }

    pub fn passes(&self) -> bool {
        self.passes
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        match &self.help {
            Some(help) => write!(f, "\n    help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Names what was tried when the system refuses it.
pub trait Tried<T> {
    fn tried(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Tried<T> for std::result::Result<T, E> {
    fn tried(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::failure(format!("{what}: {error}")))
    }
}
