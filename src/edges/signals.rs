//! Signals become words.

use nix::unistd::{getpid, getppid, getsid};
use signal_hook::consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::thread;

/// What a signal asks of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalRequest {
    /// To stop: gracefully at first, at once the second time. With the signal's number.
    Stop(i32),
    /// SIGUSR1: build again.
    Rebuild,
    /// SIGUSR2: the same program as a new generation.
    Upgrade,
    /// SIGTSTP: the terminal is wanted back for a while.
    Suspend,
    Continue,
    /// SIGCHLD: a child has stopped, or ended.
    Child,
}

/// Listens for the rest of the process's life.
pub fn listen(tell: impl Fn(SignalRequest) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT, SIGCHLD])?;
    thread::Builder::new().spawn(move || {
        for signal in signals.forever() {
            tell(match signal {
                SIGUSR1 => SignalRequest::Rebuild,
                SIGUSR2 => SignalRequest::Upgrade,
                SIGTSTP => SignalRequest::Suspend,
                SIGCONT => SignalRequest::Continue,
                SIGCHLD => SignalRequest::Child,
                stop => SignalRequest::Stop(stop),
            });
        }
    })?;
    Ok(())
}

/// Whether there is a shell that may have this process go on when it is stopped: not for the first process of a container, nor for
/// one that a terminal was opened for.
pub fn can_be_continued() -> bool {
    let session = getsid(None);
    session != Ok(getpid()) && getpid().as_raw() != 1 && getsid(Some(getppid())) == session
}

/// Stops this process as the terminal's Ctrl-Z would have, until SIGCONT.
pub fn suspend() {
    // Only an unknown signal is refused.
    signal_hook::low_level::emulate_default_handler(SIGTSTP).ok();
}

/// Ends this process as the signal would have, so that whoever waits for it sees why.
pub fn die_of(signal: i32) {
    signal_hook::low_level::emulate_default_handler(signal).ok();
}
