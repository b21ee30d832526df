//! The guard: a small process that outlives a command killed by SIGKILL just long enough to end its children, remove its
//! folder and put the terminal back. Both halves live here.
//! Never lives here: an orderly end, which the command sees to itself.

use super::launch;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The command's half.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    handle: Handle,
}

/// Tells the guard which groups there are.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Mutex<Option<PipeWriter>>>);

impl Guard {
    pub fn start(folders: &[&Path], kill_timeout: Duration) -> io::Result<Guard> {
        let (reader, writer) = io::pipe()?;
        let (mut awake, wakes) = io::pipe()?;
        let child = launch::guard_command()
            .arg(kill_timeout.as_millis().to_string())
            .args(folders)
            .stdin(reader)
            .stdout(wakes)
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0)
            .spawn()?;
        // Closed when it has seen the terminal as it is, which keys are about to change, and ignores what could end it.
        awake.read_to_end(&mut Vec::new())?;
        Ok(Guard { child, handle: Handle(Arc::new(Mutex::new(Some(writer)))) })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.handle.say("bye\n").ok();
        *self.handle.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // It ends as soon as it reads that; an error would mean that somebody else has reaped it.
        self.child.wait().ok();
    }
}

impl Handle {
    /// A guard that was killed guards nothing any more, which is no reason to serve nothing; the children are ended by the
    /// command all the same.
    pub fn add(&self, group: u32) -> io::Result<()> {
        match self.say(&format!("+{group}\n")) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    pub fn remove(&self, group: u32) {
        // As above.
        self.say(&format!("-{group}\n")).ok();
    }

    fn say(&self, line: &str) -> io::Result<()> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(pipe) => pipe.write_all(line.as_bytes()),
            None => Ok(()),
        }
    }
}

/// The guard's half: listens until the command says goodbye, or is gone without a word.
pub fn watch(mut args: impl Iterator<Item = OsString>) -> i32 {
    let kill_timeout =
        args.next().and_then(|millis| millis.to_str()?.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    ignore_signals();
    let terminal = Terminal::remember();
    // Whoever started this waits for it.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        nix::unistd::dup2_stdout(null).ok();
    }
    let mut groups: BTreeMap<i32, Option<OwnedFd>> = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match (line.as_bytes().first(), line.get(1..).and_then(|number| number.parse().ok())) {
            // The copy that waits to become the program is still there, so the pidfd is that child's.
            (Some(b'+'), Some(group)) => {
                let pidfd =
                    rustix::process::Pid::from_raw(group).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                groups.insert(group, pidfd);
            }
            (Some(b'-'), Some(group)) => {
                groups.remove(&group);
            }
            _ if line == "bye" => return 0,
            _ => {}
        }
    }
    end(&groups, kill_timeout);
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    for folder in args {
        // Gone already, or never made.
        std::fs::remove_dir_all(PathBuf::from(folder)).ok();
    }
    0
}

fn end(groups: &BTreeMap<i32, Option<OwnedFd>>, kill_timeout: Duration) {
    let to_all = |signal| {
        for group in groups.keys() {
            // ESRCH: it has ended, as it should.
            killpg(Pid::from_raw(*group), signal).ok();
        }
    };
    to_all(Signal::SIGTERM);
    let timeout = PollTimeout::try_from(kill_timeout).unwrap_or(PollTimeout::MAX);
    for pidfd in groups.values().flatten() {
        // Each may use up the timeout: they leave side by side, so the first wait is nearly always the only one.
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout).ok();
    }
    to_all(Signal::SIGKILL);
}

/// What is sent to stop the command, or comes from its terminal, must not stop the guard first.
fn ignore_signals() {
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTTOU] {
        // SAFETY: no handler runs; the disposition is set before there is another thread.
        unsafe { signal(number, SigHandler::SigIgn) }.ok();
    }
}

/// The terminal as it was before the command read keys from it.
struct Terminal {
    tty: File,
    before: Termios,
}

impl Terminal {
    fn remember() -> Option<Terminal> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&tty).ok()?;
        Some(Terminal { tty, before })
    }

    /// Only when it still is as the command had set it: a shell may have taken it back already.
    fn restore(&self) {
        let mut keys = self.before.clone();
        keys.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        if tcgetattr(&self.tty)
            .is_ok_and(|now| now.local_flags == keys.local_flags && now.input_flags == keys.input_flags)
        {
            tcsetattr(&self.tty, SetArg::TCSANOW, &self.before).ok();
        }
    }
}
