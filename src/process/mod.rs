//! The floor both rooms stand on: a `Command` becomes a running child in a process group of its own, which is signalled
//! as a group, ended as a group and always reaped.
//! Never lives here: what is run, and why it ends.

mod catch;
pub mod descriptors;
mod ground;
mod guard;
mod here;
mod itself;
pub mod kin;
mod launch;
pub mod orphans;
mod pass;
mod printed;
pub mod private;
mod recall;
pub mod seccomp;
mod setting;
mod socket_folder;
mod temporary;
mod terminal;

use self::descriptors::SystemError;
use crate::error::{Error, Result, Tried};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kin::Process;

pub use catch::{Catch, Caught};
pub use ground::Ground;
pub use printed::Printed;
pub use setting::{LIBRARY_PATH, Setting};
pub use socket_folder::SocketFolder;
pub use temporary::leave_a_stale_one;
pub use terminal::{Job, Terminal};

/// For what is done before it is needed (nice(2)).
const BACKGROUND: i32 = 10;

/// How long a process that was killed is waited for: it ends within a moment, unless the kernel cannot let go of it (a disk that does
/// not answer) or a debugger that is stopped itself keeps its end.
const KILLED: Duration = Duration::from_secs(2);

const NO_TASKS: &str =
    "no more processes and threads can be started: end some, or raise the limit (`ulimit -u`, pids.max of a container)";

const NO_FILES: &str =
    "no more files can be opened: end what has many open, or raise the limit (`ulimit -Hn`, fs.file-max of the system)";

/// What a child reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    Null,
    Inherit,
    /// As `Inherit`, of a terminal which it is given (`Launcher::new`).
    Terminal,
    /// A pipe, whose other end is `Running::input`.
    Pipe,
}

/// Where the calls of a child arrive that was started behind a gate (`seccomp`), or why it has none.
#[derive(Debug)]
pub enum Filter {
    Installed(OwnedFd),
    Refused(io::Error),
}

/// Starts children through this program itself: the child waits as a copy of it until the guard knows its group, takes its
/// descriptors, and only then becomes the program. So nothing runs between fork and exec (posix_spawn(3) is enough, which
/// is fast however large this process is), LISTEN_PID is the true one, and a child of a command that was just killed
/// ends by itself.
#[derive(Debug, Clone)]
pub struct Launcher(Rc<Shared>);

/// What all who start children have in common.
#[derive(Debug)]
struct Shared {
    guard: guard::Guard,
    terminal: Option<Terminal>,
    here: here::Here,
}

impl Launcher {
    /// `left`, folders and files, are removed, and children still running are ended, should this process die without doing so itself.
    /// They have `kill_timeout` to leave after SIGTERM, as have all that carry a sign with that tag (`kin`). Those that are started with
    /// `Stdin::Terminal` are given that terminal.
    pub fn new(left: &[&Path], kill_timeout: Duration, tag: &str, terminal: Option<Terminal>) -> Result<Self> {
        let guard = guard::Guard::start(left, kill_timeout, tag).tried("start the guard process")?;
        Ok(Launcher(Rc::new(Shared { guard, terminal, here: here::Here::now() })))
    }

    /// Runs the command with `fds` at the numbers from 3 and nothing else open but the standard three. Stdout and stderr are
    /// those set on the command; its standard input is `stdin`. With `gate`, the calls in which it takes sockets and connections
    /// wait for an answer.
    ///
    /// # Errors
    /// Why the program cannot be run, by execve(2).
    pub fn start(
        &self,
        command: &Command,
        stdout: Stdio,
        stderr: Stdio,
        stdin: Stdin,
        fds: &[BorrowedFd<'_>],
        gate: bool,
    ) -> Result<Running> {
        let program = command.get_program().to_string_lossy().into_owned();
        let started = self.spawn(command, stdout, stderr, stdin, fds, gate, None);
        started.map_err(|error| refused(format_args!("run {program}"), &error))
    }

    /// As `start`, for a command that is caught on its way, with pipes for its outputs.
    ///
    /// # Errors
    /// Also where nothing can be caught.
    pub fn start_and_catch(&self, command: &Command, catch: Catch) -> io::Result<Running> {
        self.spawn(command, Stdio::piped(), Stdio::piped(), Stdin::Null, &[], false, Some(catch))
    }

    pub fn terminal(&self) -> Option<&Terminal> {
        self.0.terminal.as_ref()
    }

    /// The calls at these gates are let through until `relieve`, by a process that is not stopped with this one.
    pub fn mind(&self, gates: &[BorrowedFd<'_>]) {
        // A guard that was killed minds nothing: the calls wait until this process goes on.
        self.0.guard.handle().mind(gates).ok();
    }

    pub fn relieve(&self) {
        self.0.guard.handle().relieve();
    }

    #[allow(clippy::too_many_arguments)] // All that a start is made of.
    fn spawn(
        &self,
        command: &Command,
        stdout: Stdio,
        stderr: Stdio,
        stdin: Stdin,
        fds: &[BorrowedFd<'_>],
        gate: bool,
        catch: Option<Catch>,
    ) -> io::Result<Running> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        self.0.here.regain();
        let mut shim = launch::shim(command, fds.len(), gate);
        temporary::leave_out_a_stale_one(&mut shim);
        let child = shim.process_group(0).stdin(theirs).stdout(stdout).stderr(stderr).spawn()?;
        // The command keeps the descriptors it was given until it is dropped, our copy of `theirs` among them.
        drop(shim);
        let mut running = Running::new(child, &self.0.guard)?;
        if let Some(catch) = catch {
            // It still waits to become what it is to be.
            catch.begin(running.pid())?;
        }
        let input = match stdin {
            Stdin::Null => OwnedFd::from(File::open("/dev/null")?),
            Stdin::Inherit => io::stdin().as_fd().try_clone_to_owned()?,
            Stdin::Terminal => {
                running.job =
                    self.0.terminal.as_ref().map(|terminal| terminal.enter(running.pid())).transpose()?.map(Arc::new);
                io::stdin().as_fd().try_clone_to_owned()?
            }
            Stdin::Pipe => {
                let (theirs, ours) = io::pipe()?;
                running.input = Some(ours);
                theirs.into()
            }
        };
        running.filter = launch::go(&ours, &input, fds)?;
        Ok(running)
    }
}

/// A child in a process group of its own. Dropping it kills the group and reaps the child.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    guard: guard::Handle,
    filter: Option<Filter>,
    input: Option<PipeWriter>,
    job: Option<Arc<Job>>,
    reaped: bool,
}

impl Running {
    fn new(child: Child, guard: &guard::Guard) -> io::Result<Running> {
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let running = match pidfd {
            Ok(pidfd) => {
                Running { child, pidfd, guard: guard.handle(), filter: None, input: None, job: None, reaped: false }
            }
            Err(error) => {
                let mut child = child;
                child.kill()?;
                child.wait()?;
                return Err(error.into());
            }
        };
        running.guard.add(running.pid())?;
        Ok(running)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable when the child has ended (pidfd_open(2)).
    pub fn end(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Calls that in a thread of its own when the child has ended.
    pub fn when_ended(&self, tell: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let pidfd = self.end()?;
        thread::Builder::new().spawn(move || {
            wait_for_end(&pidfd);
            tell();
        })?;
        Ok(())
    }

    /// Its filter, where it was started behind a gate; it can be taken once.
    pub fn filter(&mut self) -> Option<Filter> {
        self.filter.take()
    }

    /// Its place at the terminal, where it has one.
    pub fn job(&self) -> Option<Arc<Job>> {
        self.job.clone()
    }

    /// What it reads from, where that is a pipe; it can be taken once.
    pub fn input(&mut self) -> Option<PipeWriter> {
        self.input.take()
    }

    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    pub fn stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// It gets out of the way of what the user does. Where that is not allowed, it competes.
    pub fn to_background(&self) {
        let pid = rustix::process::Pid::from_raw(self.group().as_raw());
        rustix::process::setpriority_process(pid, BACKGROUND).ok();
    }

    /// To every process of the group. The child is not reaped yet, so the number is still its own.
    pub fn signal_group(&self, signal: Signal) {
        match killpg(self.group(), signal) {
            // Gone already, or (by setuid) no longer ours to signal: its end will be heard, or the next step is taken.
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
            Err(error) => debug_assert!(false, "killpg: {error}"),
        }
    }

    /// To the child alone.
    pub fn signal(&self, signal: Signal) {
        // As above; an ended child needs no signal.
        let _ = nix::sys::signal::kill(self.group(), signal);
    }

    /// Should this process die, they are ended, too, though they may leave their group.
    pub fn guard_too(&self, kin: &[Process]) {
        kin.iter().for_each(|kin| self.guard.add_kin(kin.pid));
    }

    /// Whether it has ended, and with success; it is not reaped by that.
    pub fn has_ended_well(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(waitid(Id::Pid(self.group()), flags), Ok(WaitStatus::Exited(_, 0)))
    }

    /// Stops the group and lets it go on: every thread that waits in a call of the kernel begins that call anew (signal(7)), and so
    /// comes to its gate.
    pub fn recall(&self) {
        if is_traced(self.pid()) {
            // A debugger decides when it stops, and its threads come to the gate with their next connection.
            return;
        }
        self.signal_group(Signal::SIGSTOP);
        recall::until_stopped(self.group());
        self.signal_group(Signal::SIGCONT);
    }

    /// Kills what is left of the group, and reaps the child: at once when it has ended, else after killing it.
    ///
    /// # Errors
    /// Also where it does not end though it was killed: it is waited for no more.
    pub fn finish(&mut self) -> io::Result<ExitStatus> {
        if !self.reaped {
            self.signal_group(Signal::SIGKILL);
            // While its number is still its own.
            if let Some(job) = self.job.take() {
                job.leave();
            }
            self.guard.remove(self.pid());
        }
        self.reaped = true;
        wait_at_most(&self.pidfd, KILLED);
        let status = self.child.try_wait()?;
        status.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "it was killed, and does not end"))
    }

    /// Nothing depends on how it ends any more: a thread waits for that and reaps it.
    pub fn leave(mut self) -> io::Result<Leaving> {
        let pidfd = self.end()?;
        // Where there is no thread to be had, it is dropped, and so ended, with what was to run there.
        let reaper = thread::Builder::new().spawn(move || {
            wait_for_end(&self.pidfd);
            self.finish().ok();
        })?;
        Ok(Leaving { pidfd, reaper: Some(reaper) })
    }

    fn group(&self) -> Pid {
        // A pid is at most 2^22 on Linux (proc(5), pid_max).
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.finish();
    }
}

/// A child that ends by itself. Dropping it kills what is left of it, and returns when it is reaped.
#[derive(Debug)]
pub struct Leaving {
    pidfd: OwnedFd,
    reaper: Option<JoinHandle<()>>,
}

impl Leaving {
    pub fn has_ended(&self) -> bool {
        self.reaper.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // One that has ended needs no signal.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        // The reaper's own wait has a limit, too, from then on.
        if let Some(reaper) = self.reaper.take().filter(|_| wait_at_most(&self.pidfd, KILLED)) {
            let _ = reaper.join();
        }
    }
}

#[allow(clippy::disallowed_methods)] // For the limits of waits for the kernel.
fn now() -> Instant {
    Instant::now()
}

fn wait_for_end(pidfd: &OwnedFd) {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
}

/// What has come at each of these within that time. Nothing where a signal has interrupted the call, which is to be repeated; no other error
/// is possible for descriptors that are open.
pub fn events_of(mut fds: Vec<PollFd<'_>>, timeout: PollTimeout) -> Vec<PollFlags> {
    poll(&mut fds, timeout).ok();
    fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect()
}

/// Whether it is readable, or at its end, within that time.
pub fn wait_at_most(fd: impl AsFd, limit: Duration) -> bool {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, limit) {
            Err(Errno::EINTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Whether it says nothing of what was tried: the system had no process, thread, memory, descriptor or room on a disk to give, was too busy,
/// or has killed what took too much. At the next try that may be over.
pub fn is_passing(error: &io::Error) -> bool {
    let is_full = || matches!(error.number(), Some(Errno::ENOSPC | Errno::EDQUOT));
    let was_busy = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionReset);
    has_no_tasks(error) || descriptors::is_out(error) || is_full() || was_busy
}

fn has_no_tasks(error: &io::Error) -> bool {
    matches!(error.number(), Some(Errno::EAGAIN | Errno::ENOMEM))
}

/// A process or a thread that could not be started, for what it was to do.
pub fn refused(what: impl Display, error: &io::Error) -> Error {
    let told = Error::failure(format!("{what}: {error}"));
    let told = if is_passing(error) { told.passing() } else { told };
    if has_no_tasks(error) {
        told.help(NO_TASKS)
    } else if descriptors::is_out(error) {
        told.help(NO_FILES)
    } else {
        told
    }
}

/// A thread that panicked with the lock held has left nothing half done: each change is one assignment.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a file is, whatever becomes of its name.
pub fn file_id(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|is| (is.dev(), is.ino()))
}

/// Whether a debugger is attached to it (proc_pid_status(5), TracerPid).
fn is_traced(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().filter_map(|line| line.strip_prefix("TracerPid:")).any(|tracer| tracer.trim() != "0")
}

/// Runs the hidden half when this process was started for it; `None` for a user's start.
pub fn hidden_entry(mut args: impl Iterator<Item = OsString>) -> Option<i32> {
    match args.next()?.to_str()? {
        itself::LAUNCH => Some(launch::become_program(args)),
        itself::GUARD => Some(guard::watch(args)),
        itself::EAR => Some(terminal::listen()),
        _ => None,
    }
}

/// Takes out what cargo puts into the environment of the programs it starts: the jobserver of a cargo that is waiting for
/// this process, and the package that this process was built from when it was started by `cargo run`.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_cargos) {
            command.env_remove(name);
        }
    }
}

/// The value of a variable in a child's environment that was cleaned.
pub fn inherited(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|_| !is_cargos(name))
}

fn is_cargos(name: &str) -> bool {
    matches!(name, "MAKEFLAGS" | "MFLAGS" | "CARGO_MAKEFLAGS" | "CARGO_BIN_NAME")
        || name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
}

/// `exit status 101` or `signal 11 (SIGSEGV)`, as a user would say it.
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("signal {number} ({signal})"),
            Err(_) => format!("signal {number}"),
        },
        (None, None) => "an unknown end".to_owned(),
    }
}
