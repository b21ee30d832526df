//! A server in all its generations: starts the first, replaces the one that serves, and hears from each where it is in
//! its life. Waits are for events and have an end.

use crate::contender::{Contender, Means, Socket};
use crate::now;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before it counts as hung. ecdysis kills a successor that is not ready after five seconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The times of one replacement.
#[derive(Debug)]
pub struct Switch {
    pub old: u32,
    pub new: u32,
    pub signalled: Instant,
    /// The new program's `main` has begun.
    pub started: Instant,
    /// The new process says that it accepts.
    pub serving: Instant,
    /// The old process has ended.
    pub gone: Instant,
}

#[derive(Debug)]
pub struct Processes {
    pub addr: SocketAddr,
    pub contender: &'static Contender,
    program: PathBuf,
    ballast_mb: u32,
    current: u32,
    /// As systemd keeps it: open for as long as the service exists.
    inherited: Option<TcpListener>,
    tell: UnixListener,
    alive: Vec<Process>,
    events: VecDeque<Event>,
    dir: TempDir,
}

#[derive(Debug)]
struct Process {
    stream: UnixStream,
    text: String,
    pid: Option<u32>,
    gone: bool,
}

#[derive(Debug)]
struct Event {
    what: What,
    pid: u32,
    at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Started,
    Serving,
    Gone,
}

impl Processes {
    /// Returns when the first process serves.
    pub fn start(programs: &Path, contender: &'static Contender, ballast_mb: u32) -> io::Result<Processes> {
        let dir = tempfile::tempdir()?;
        let tell = UnixListener::bind(dir.path().join("tell"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let mut processes = Processes {
            addr,
            contender,
            program: programs.join(contender.program),
            ballast_mb,
            current: 0,
            // Otherwise closed again: it was there to find a free port.
            inherited: (contender.socket == Socket::FromSystemd).then_some(listener),
            tell,
            alive: Vec::new(),
            events: VecDeque::new(),
            dir,
        };
        processes.spawn()?;
        let deadline = now() + PATIENCE;
        loop {
            let event = processes.next(deadline)?;
            match event.what {
                What::Started => {}
                What::Serving => {
                    processes.current = event.pid;
                    return Ok(processes);
                }
                What::Gone => return Err(io::Error::other("the first process left before it served")),
            }
        }
    }

    /// Returns when the new process serves and the old one has ended.
    pub fn replace(&mut self) -> io::Result<Switch> {
        let (signal, start_it_again) = match self.contender.means {
            Means::Signal => (Signal::SIGUSR2, false),
            Means::KillAndStart => (Signal::SIGTERM, true),
            Means::Nothing => return Err(io::Error::other("it is to be left alone")),
        };
        let old = self.current;
        let (mut started, mut serving, mut gone) = (None, None, None);
        let signalled = now();
        kill(pid(old), signal)?;
        let deadline = signalled + PATIENCE;
        loop {
            if let (Some(started), Some((new, serving)), Some(gone)) = (started, serving, gone) {
                self.current = new;
                return Ok(Switch { old, new, signalled, started, serving, gone });
            }
            let event = self.next(deadline).map_err(|error| {
                let seen = [("has started", started.is_some()), ("serves", serving.is_some())];
                let seen = seen.map(|(what, seen)| format!("the new one {what}: {seen}")).join(", ");
                io::Error::other(format!("{error}; {seen}, the old one has left: {}", gone.is_some()))
            })?;
            match event.what {
                What::Started => started = Some(event.at),
                What::Serving => serving = Some((event.pid, event.at)),
                What::Gone if event.pid == old => {
                    gone = Some(event.at);
                    if start_it_again {
                        self.spawn()?;
                    }
                }
                What::Gone => return Err(io::Error::other("the new process left")),
            }
        }
    }

    fn spawn(&self) -> io::Result<()> {
        let mut command = match &self.inherited {
            None => {
                let mut command = Command::new(&self.program);
                command.stdin(Stdio::null()).env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
                command
            }
            Some(listener) => {
                // The shell puts it where systemd would, as descriptor 3, and becomes the server.
                let mut command = Command::new("/bin/sh");
                command.args(["-c", r#"exec "$0" 3<&0 </dev/null"#]).arg(&self.program);
                command.stdin(OwnedFd::from(listener.try_clone()?));
                // shellflip makes this its own process identifier.
                command.env("LISTEN_FDS", "1").env("LISTEN_PID", "auto");
                command
            }
        };
        command.env_remove("NOTIFY_SOCKET");
        command.env("BENCH_ADDR", self.addr.to_string());
        command.env("BENCH_TELL", self.dir.path().join("tell"));
        command.env("BALLAST_MB", self.ballast_mb.to_string());
        if self.contender.coordination {
            command.env("SHELLFLIP_SOCKET", self.dir.path().join("restart"));
        }
        // Reaped like those that it will start: when its stream ends.
        #[allow(clippy::zombie_processes)]
        command.stdout(Stdio::null()).spawn()?;
        Ok(())
    }

    fn next(&mut self, deadline: Instant) -> io::Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.hear(deadline)?;
        }
    }

    fn hear(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing heard in {PATIENCE:?}")));
        }
        let streams = self.alive.iter().map(|process| process.stream.as_fd());
        let all = std::iter::once(self.tell.as_fd()).chain(streams);
        let mut polled: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let at = now();
        let spoke: Vec<bool> = polled.iter().map(|polled| polled.any() == Some(true)).collect();
        for (process, _) in self.alive.iter_mut().zip(&spoke[1..]).filter(|(_, spoke)| **spoke) {
            process.hear(at, &mut self.events);
        }
        self.alive.retain(|process| !process.gone);
        if spoke[0] {
            let (stream, _) = self.tell.accept()?;
            self.alive.push(Process { stream, text: String::new(), pid: None, gone: false });
        }
        Ok(())
    }
}

impl Process {
    fn hear(&mut self, at: Instant, events: &mut VecDeque<Event>) {
        let mut bytes = [0; 256];
        let length = self.stream.read(&mut bytes).unwrap_or(0);
        if length == 0 {
            self.gone = true;
            if let Some(pid) = self.pid {
                events.push_back(Event { what: What::Gone, pid, at });
                reap(pid);
            }
            return;
        }
        self.text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        while let Some((line, rest)) = self.text.split_once('\n') {
            let said = line.split_once(' ').and_then(|(what, pid)| Some((what, pid.parse().ok()?)));
            let event = match said {
                Some(("started", pid)) => Some(Event { what: What::Started, pid, at }),
                Some(("serving", pid)) => Some(Event { what: What::Serving, pid, at }),
                _ => None,
            };
            self.pid = event.as_ref().map(|event| event.pid).or(self.pid);
            events.extend(event);
            self.text = rest.to_owned();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for pid in self.alive.iter().filter_map(|process| process.pid) {
            let _ = kill(self::pid(pid), Signal::SIGKILL);
            reap(pid);
        }
    }
}

/// The process is ending, so this is no wait to speak of. Where it is not a child of this one, its parent sees to it.
fn reap(pid: u32) {
    let _ = waitpid(self::pid(pid), None);
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(pid as i32)
}
