//! Why an upgrade has failed.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why there is no successor. Whatever it was, this process serves on and has not missed a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The program could not be started: not found, not executable, being written to, or no memory.
    #[non_exhaustive]
    Spawn {
        /// The file that was to be run.
        program: PathBuf,
        /// From chdir(2), execve(2) or clone(2).
        source: io::Error,
    },
    /// The successor ended before it was ready.
    #[non_exhaustive]
    Exited {
        /// Its process number.
        pid: u32,
        /// How it ended. `None` where this process is not the one that waits for it, as under a service manager, and the kernel
        /// does not tell (Linux before 6.15).
        status: Option<ExitStatus>,
    },
    /// The successor was not ready in time, and was killed.
    #[non_exhaustive]
    NotReady {
        /// Its process number.
        pid: u32,
        /// [`Builder::ready_timeout`](crate::Builder::ready_timeout).
        after: Duration,
        /// Whether it said at all that it uses this library.
        said_hello: bool,
    },
    /// The successor said something that is no message of this protocol, or of another version of it, and was killed.
    #[non_exhaustive]
    Protocol {
        /// Its process number.
        pid: u32,
        /// What was wrong.
        why: String,
    },
    /// The successor served and ended on probation; this process serves again.
    #[non_exhaustive]
    RolledBack {
        /// Its process number.
        pid: u32,
        /// As in [`Exited`](UpgradeError::Exited).
        status: Option<ExitStatus>,
    },
    /// The successor was told to leave, by [`roll_back`](crate::Upgrader::roll_back) or by a signal to either process; this
    /// process serves again.
    #[non_exhaustive]
    SentAway {
        /// Its process number.
        pid: u32,
    },
    /// Another upgrade is on its way.
    #[non_exhaustive]
    InProgress {
        /// Process number of the successor that is being started, or on probation.
        pid: Option<u32>,
    },
    /// This process has handed over already: ask its successor.
    #[non_exhaustive]
    Draining {
        /// The successor's process number.
        successor: u32,
    },
    /// This process is stopping.
    Stopping,
    /// The process before this one has not handed over for good: it may still serve again.
    OnProbation,
    /// The sockets belong to whoever started this process, such as `cargo hotrun`: ask there.
    Held,
    /// There is no successor on probation that could be confirmed or sent away.
    NothingToConfirm,
}

/// The same error, with what was tried.
pub(crate) fn tried(what: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = |status: &Option<ExitStatus>| match status {
            Some(status) => format!("ended with {status}"),
            None => "ended".to_owned(),
        };
        match self {
            UpgradeError::Spawn { program, source } => {
                write!(f, "cannot start {}: {source}", program.display())?;
                if source.kind() == io::ErrorKind::ExecutableFileBusy {
                    write!(f, "; it is being written to: put a new program in place with a rename")?;
                }
                Ok(())
            }
            UpgradeError::Exited { pid, status } => {
                write!(f, "the successor, process {pid}, {} before it was ready", ended(status))
            }
            UpgradeError::NotReady { pid, after, said_hello } => {
                write!(f, "the successor, process {pid}, was not ready after {after:?}, and was killed")?;
                if !said_hello {
                    write!(f, "; it never called hotrun::init")?;
                }
                Ok(())
            }
            UpgradeError::Protocol { pid, why } => {
                write!(f, "the successor, process {pid}, cannot be understood, and was killed: {why}")
            }
            UpgradeError::SentAway { pid } => {
                write!(f, "went back: the successor, process {pid}, was told to leave, and this process serves")
            }
            UpgradeError::RolledBack { pid, status } => {
                write!(f, "the successor, process {pid}, {} on probation; this process serves again", ended(status))
            }
            UpgradeError::InProgress { pid: Some(pid) } => write!(f, "an upgrade to process {pid} is on its way"),
            UpgradeError::InProgress { pid: None } => write!(f, "an upgrade is on its way"),
            UpgradeError::Draining { successor } => {
                write!(f, "this process has handed over to process {successor}: ask that one")
            }
            UpgradeError::Stopping => write!(f, "this process is stopping"),
            UpgradeError::OnProbation => {
                write!(f, "the process before this one may still serve again: ask when its probation is over")
            }
            UpgradeError::Held => write!(
                f,
                "the sockets belong to whoever started this process: ask there (`cargo hotrun upgrade`, or SIGUSR2 to it)"
            ),
            UpgradeError::NothingToConfirm => write!(f, "no successor is on probation"),
        }
    }
}

impl std::error::Error for UpgradeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UpgradeError::Spawn { source, .. } => Some(source),
            _ => None,
        }
    }
}
