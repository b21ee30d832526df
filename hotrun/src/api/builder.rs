//! How a server behaves in an upgrade, in a reload and at its end, and the start of it all.

use crate::control::Control;
use crate::control::peer::{Peer, Peers};
use crate::control::perform::Performer;
use crate::control::retirement::Retirement;
use crate::control::succession::{Stage, Succession};
use crate::control::watchdog::Watchdog;
use crate::inherit::program::Program;
use crate::inherit::received::{self, Inherited, Predecessor};
use crate::request::Bell;
use crate::serving::Serving;
use crate::serving::bound_path::BoundPaths;
use crate::serving::lifecycle::Lifecycle;
use crate::serving::register::Register;
use crate::serving::unclaimed::Unclaimed;
use crate::settings::{Environment, Healthy, Hook, PidMode, Probation, Settings};
use crate::upstream::manager::Manager;
use crate::upstream::pid_file::PidFile;
use crate::upstream::{Upstream, UpstreamKind};
use crate::wire::{PROTOCOL, ToHolder};
use crate::{Signal, UpgradeError, Upgrader, sys};
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// The settings of a server; every one has a default that suits most.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// let up = hotrun::builder()
///     .reload_on(&[hotrun::Signal::SIGHUP])
///     .drain_timeout(std::time::Duration::from_secs(60))
///     .init()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "nothing happens before `init`"]
pub struct Builder {
    program: Option<PathBuf>,
    args: Option<Vec<OsString>>,
    current_dir: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    healthy: Option<Hook<Healthy>>,
    settings: Settings,
}

/// `Duration::MAX` means for ever, and cannot be added to any time.
fn bounded(duration: Duration) -> Duration {
    const LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    duration.min(LIFE)
}

/// Settings for [`init`](Builder::init).
pub fn builder() -> Builder {
    Builder::default()
}

/// [`builder`] with its defaults.
///
/// Call it in the first statement of `main`: it takes what was inherited out of the environment, which is only safe while
/// there is one thread, and it installs the handlers of its signals.
///
/// # Errors
/// As [`Builder::init`].
pub fn init() -> io::Result<Upgrader> {
    builder().init()
}

impl Builder {
    /// The program that an upgrade starts: a path, relative to the directory this process was started in, or a name to look
    /// for in `PATH`. Default: the one this process was started as, looked up anew and with links followed anew, so that a new
    /// file at the old place, or a link that leads elsewhere, is the new program.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// The arguments of the new program, without its name. Default: those of this process.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// The working directory of the new program: better absolute, as a relative one is relative to the directory each generation
    /// was started in. Default: the one this process was started in.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(directory.into());
        self
    }

    /// A file that has the number of the process that serves, and is replaced whole when that changes. Removed at a stop.
    /// Default: none.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pid_file = Some(path.into());
        self
    }

    /// What becomes of the process number. Default: [`PidMode::Handoff`], and [`PidMode::KeepPid`] in process 1.
    pub fn pid_mode(mut self, mode: PidMode) -> Self {
        self.settings.pid_mode = mode;
        self
    }

    /// Signals that ask for an upgrade. Default: SIGUSR2. An empty list leaves it to [`Upgrader::upgrade`].
    pub fn upgrade_on(mut self, signals: &[Signal]) -> Self {
        self.settings.signals.upgrade = signals.to_vec();
        self
    }

    /// Signals that stop the server gracefully; the second one is in a hurry. Default: SIGTERM and SIGINT.
    pub fn stop_on(mut self, signals: &[Signal]) -> Self {
        self.settings.signals.stop = signals.to_vec();
        self
    }

    /// Signals that ask for new configuration, which [`Upgrader::reloads`] tells of. Default: none; SIGHUP is the usual one.
    pub fn reload_on(mut self, signals: &[Signal]) -> Self {
        self.settings.signals.reload = signals.to_vec();
        self
    }

    /// How long a successor may take to be ready; then it is killed. Default: 60 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.settings.ready_timeout = bounded(timeout);
        self
    }

    /// How long this process keeps everything after its successor was ready, and comes back if that dies. Default: 5 s.
    pub fn probation(mut self, probation: impl Into<Probation>) -> Self {
        self.settings.probation = match probation.into() {
            Probation::For(window) => Probation::For(bounded(window)),
            Probation::Manual => Probation::Manual,
        };
        self
    }

    /// How many processes of this server may be there at once, the one that serves and those that finish their connections;
    /// the oldest is made to hurry when there would be more. At least 2. Default: 8.
    pub fn max_generations(mut self, most: usize) -> Self {
        self.settings.max_generations = most.max(2);
        self
    }

    /// How long a client that was accepted just before the end may take to send its request, before idle connections are
    /// closed. Default: 100 ms.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.pace.linger = bounded(linger);
        self
    }

    /// How long connections may go on after accepting has ended; then they are shut down. Default: 30 s; in development, where
    /// `cargo hotrun` sees whether answers go on and ends the process, as long as that lets them.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        (self.settings.pace.drain_timeout, self.settings.says_deadline) = (bounded(timeout), true);
        self
    }

    /// Asked before each `WATCHDOG=1` to a service manager that wants them (systemd's `WatchdogSec=`): `false` leaves it out,
    /// and the manager restarts the service. It runs on a thread of this library, so look there at what your own threads
    /// last did. Default: always `true`.
    pub fn healthy(mut self, healthy: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.healthy = Some(Hook(Arc::new(healthy)));
        self
    }

    /// Told of every upgrade that has failed, or that was rolled back. It runs on the thread that hears the signals, so it must
    /// not block; calls to the [`Upgrader`] that would wait for that thread fail there. Default: a line on standard error.
    pub fn on_failure(mut self, hook: impl Fn(&UpgradeError) + Send + Sync + 'static) -> Self {
        self.settings.on_failure = Some(Hook(Arc::new(hook)));
        self
    }

    /// Takes over what was inherited, and starts to listen to signals and to whoever started this process. Call it once, in
    /// the first statement of `main`.
    ///
    /// # Errors
    /// `AlreadyExists` when it was called before in this process; `InvalidInput` when the environment announces descriptors
    /// that are not there; else those of the system calls for events, threads and signal handlers.
    pub fn init(self) -> io::Result<Upgrader> {
        static INIT: AtomicBool = AtomicBool::new(false);
        if INIT.swap(true, Ordering::AcqRel) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "hotrun::init was called before in this process; clone the Upgrader it returned",
            ));
        }
        let mut inherited = received::take()?;
        let program = self.next_program(inherited.control.is_some() || inherited.interim.is_some())?;
        let pid_file = self.pid_file.as_ref().map(|path| PidFile::at(path, &program.home));
        let token = inherited.control.as_ref().map(|control| control.token);
        let interim = inherited.interim.and_then(|interim| Peer::adopted(interim.channel, interim.pid).ok());
        let (kind, stage) = match inherited.predecessor {
            Some(Predecessor { returns: false, .. }) => (UpstreamKind::Predecessor, Stage::Unconfirmed),
            Some(Predecessor { returns: true, .. }) => (UpstreamKind::Returning, Stage::Interim),
            None if token.is_some() => (UpstreamKind::Holder, Stage::Held),
            None if interim.is_some() => (UpstreamKind::Nobody, Stage::Relieving),
            None => (UpstreamKind::Nobody, Stage::Serving),
        };
        let manager = match &inherited.notify_socket {
            // A holder has its own channel; its NOTIFY_SOCKET is for programs that do not know that.
            Some(address) if kind != UpstreamKind::Holder => Some(Manager::at(address)?),
            Some(_) | None => None,
        };
        let event = |flags| EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | flags);
        let (sender, requests) = mpsc::channel();
        let bell = Bell { event: Arc::new(event(EfdFlags::EFD_SEMAPHORE)?), requests: sender };
        let state = Lifecycle::new()?;
        if kind == UpstreamKind::Holder && inherited.waits {
            state.pause(&[]);
        }
        let channel = inherited.control.take().map(|control| control.channel);
        let upstream = Upstream::new(channel, kind, manager, pid_file, bell.clone());
        if let Some(token) = token {
            upstream.tell(&ToHolder::Hello { protocol: PROTOCOL, token, pid: std::process::id() }, None)?;
        }
        state.hold(interim.is_some());
        let serving = Arc::new(Serving {
            state,
            upstream,
            register: Register::default(),
            unclaimed: Unclaimed::new(inherited.sockets),
            paths: BoundPaths::default(),
            generation: inherited.generation,
            predecessor: inherited.predecessor.map(|predecessor| predecessor.pid),
            inherited_files: Mutex::new(inherited.files),
            inherited_state: Mutex::new(inherited.state),
        });
        let Builder { settings, healthy, .. } = self;
        let signals = catch_signals(&settings)?;
        let Inherited { notify_socket, watchdog, held, .. } = inherited;
        Control {
            succession: Succession::new(stage, settings.ready_timeout, settings.probation, settings.pid_mode),
            performer: Performer {
                serving: Arc::clone(&serving),
                retirement: Retirement::new(settings.pace),
                settings,
                program,
                environment: Environment { notify_socket, watchdog, held },
                peers: Peers::new(interim, event(EfdFlags::empty())?),
                watchdog: Watchdog::new(watchdog, healthy),
                caller: None,
            },
            upstream_open: kind != UpstreamKind::Nobody,
            signals,
            bell: bell.event,
            requests,
            claim_until: None,
        }
        .start()?;
        Ok(Upgrader { serving })
    }

    /// `by_peer`: a process of this server has started this one.
    fn next_program(&self, by_peer: bool) -> io::Result<Program> {
        let mut program = Program::of_this_process(by_peer)?;
        if let Some(name) = &self.program {
            program.name.clone_from(name);
        }
        if let Some(args) = &self.args {
            program.args.clone_from(args);
        }
        if let Some(directory) = &self.current_dir {
            program.directory = program.home.join(directory);
        }
        Ok(program)
    }
}

fn catch_signals(Settings { signals, probation, .. }: &Settings) -> io::Result<Option<File>> {
    let mut all = [&signals.stop[..], &signals.upgrade, &signals.reload].concat();
    if *probation == Probation::Manual {
        all.extend([Signal::SIGQUIT, Signal::SIGHUP]);
    }
    if all.is_empty() {
        return Ok(None);
    }
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    sys::signals_to(write, &all)?;
    Ok(Some(File::from(read)))
}
