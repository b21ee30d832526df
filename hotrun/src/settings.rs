//! What a server chose, as the control thread goes by it.
//! Never lives here: how it is said (`api::builder`).

use crate::{Signal, UpgradeError};
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What becomes of the process number in an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PidMode {
    /// The successor has a number of its own (goagain's Single). The default, for a shell and for systemd, which is told.
    Handoff,
    /// The number stays (goagain's Double), for supervisors that know a service by it, such as supervisord and runit, and
    /// for the first process of a container. An interim process serves while this one drains; then this one becomes the new
    /// program in place, and the interim process drains in its turn. The default where this process is number 1, as all
    /// others end with that one (pid_namespaces(7)).
    ///
    /// It happens in [`Upgrader::drained`](crate::Upgrader::drained), so call that at the end of `main`; and it takes as long as
    /// the longest connection does, or the drain timeout.
    KeepPid,
}

/// How long the process before a new one may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probation {
    /// For that long after the new one said that it is ready; zero hands over at once.
    For(Duration),
    /// Until an operator decides: SIGQUIT or [`Upgrader::confirm`](crate::Upgrader::confirm) hands over for good, SIGHUP or
    /// [`Upgrader::roll_back`](crate::Upgrader::roll_back) goes back (nginx's way of upgrading an executable).
    Manual,
}

impl From<Duration> for Probation {
    fn from(window: Duration) -> Self {
        Probation::For(window)
    }
}

/// How long the steps of leaving may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// From the end of accepting until idle connections are closed.
    pub(crate) linger: Duration,
    /// From the end of accepting until the connections that are left are shut down.
    pub(crate) drain_timeout: Duration,
}

/// What the control thread goes by.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) pid_mode: PidMode,
    pub(crate) signals: Signals,
    pub(crate) ready_timeout: Duration,
    pub(crate) probation: Probation,
    pub(crate) max_generations: usize,
    pub(crate) pace: Pace,
    /// The program has chosen its deadline.
    pub(crate) says_deadline: bool,
    pub(crate) on_failure: Option<Hook<OnFailure>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            pid_mode: if std::process::id() == 1 { PidMode::KeepPid } else { PidMode::Handoff },
            signals: Signals {
                upgrade: vec![Signal::SIGUSR2],
                stop: vec![Signal::SIGTERM, Signal::SIGINT],
                reload: vec![],
            },
            ready_timeout: Duration::from_secs(60),
            probation: Probation::For(Duration::from_secs(5)),
            max_generations: 8,
            pace: Pace { linger: Duration::from_millis(100), drain_timeout: Duration::from_secs(30) },
            says_deadline: false,
            on_failure: None,
        }
    }
}

/// What asks for what.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    pub(crate) upgrade: Vec<Signal>,
    pub(crate) stop: Vec<Signal>,
    pub(crate) reload: Vec<Signal>,
}

/// What whoever started this process has said in the environment, and is as true of the successor.
pub(crate) struct Environment {
    pub(crate) notify_socket: Option<OsString>,
    pub(crate) watchdog: Option<Duration>,
    /// Whatever is bound here is held by whoever started this process, too.
    pub(crate) held: bool,
}

pub(crate) type OnFailure = dyn Fn(&UpgradeError) + Send + Sync;
pub(crate) type Healthy = dyn Fn() -> bool + Send + Sync;

/// A function of the user's.
pub(crate) struct Hook<F: ?Sized>(pub(crate) Arc<F>);

impl<F: ?Sized> Clone for Hook<F> {
    fn clone(&self) -> Self {
        Hook(Arc::clone(&self.0))
    }
}

impl<F: ?Sized> fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function")
    }
}
