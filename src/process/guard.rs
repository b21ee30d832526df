//! The guard: a small process that outlives a command killed by SIGKILL just long enough to end its children, remove its
//! folder and put the terminal back, and that minds the gates of a command that is stopped. Both halves live here.
//! Never lives here: an orderly end, which the command sees to itself.

use super::launch;
use super::seccomp::Calls;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send, sendmsg, socketpair};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, tcgetpgrp, tcsetpgrp};
use rustix::process::{PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The command's half.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    handle: Handle,
}

/// Tells the guard which groups there are.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Mutex<Option<OwnedFd>>>);

/// The most gates that one message carries: unix(7) has SCM_MAX_FD, far above the number of generations at any time.
const GATES: usize = 64;

impl Guard {
    pub fn start(left: &[&Path], kill_timeout: Duration) -> io::Result<Guard> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (mut awake, wakes) = io::pipe()?;
        let child = launch::guard_command()
            .arg(kill_timeout.as_millis().to_string())
            .args(left)
            .stdin(theirs)
            .stdout(wakes)
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0)
            .spawn()?;
        // Closed when it has seen the terminal as it is, which keys are about to change, and ignores what could end it.
        awake.read_to_end(&mut Vec::new())?;
        Ok(Guard { child, handle: Handle(Arc::new(Mutex::new(Some(ours)))) })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.handle.say("bye").ok();
        *self.handle.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // It ends as soon as it reads that; an error would mean that somebody else has reaped it.
        self.child.wait().ok();
    }
}

impl Handle {
    /// A guard that was killed guards nothing any more, which is no reason to serve nothing; the children are ended by the
    /// command all the same.
    pub fn add(&self, group: u32) -> io::Result<()> {
        match self.say(&format!("+{group}")) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    pub fn remove(&self, group: u32) {
        // As above.
        self.say(&format!("-{group}")).ok();
    }

    /// From now on, and while this process is stopped, the guard lets every call at these gates through.
    pub fn mind(&self, gates: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send("mind", gates)
    }

    /// Returns when the guard minds no gate any more; also when there is none.
    pub fn relieve(&self) {
        if self.say("relieve").is_ok()
            && let Some(channel) = &*self.channel()
        {
            // Any answer will do, and the end of the channel.
            recv(channel.as_raw_fd(), &mut [0], MsgFlags::empty()).ok();
        }
    }

    fn say(&self, words: &str) -> io::Result<()> {
        self.send(words, &[])
    }

    fn send(&self, words: &str, gates: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(channel) = &*self.channel() else { return Ok(()) };
        let gates: Vec<RawFd> = gates.iter().take(GATES).map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&gates)];
        let rights = if gates.is_empty() { &[][..] } else { &rights };
        let words = [IoSlice::new(words.as_bytes())];
        sendmsg::<()>(channel.as_raw_fd(), &words, rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    fn channel(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    let Ok(channel) = io::stdin().as_fd().try_clone_to_owned() else { return 1 };
    let mut groups: BTreeMap<i32, Option<OwnedFd>> = BTreeMap::new();
    let mut gates: Vec<Calls> = Vec::new();
    loop {
        let minded = gates.iter().map(|gate| PollFd::new(gate.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> =
            std::iter::once(PollFd::new(channel.as_fd(), PollFlags::POLLIN)).chain(minded).collect();
        // An interrupted call is repeated; no other error is possible for descriptors that are open.
        poll(&mut fds, PollTimeout::NONE).ok();
        let events: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(fds);
        let mut events = events.into_iter();
        if events.next().is_some_and(|event| !event.is_empty()) {
            let Ok((words, fds)) = super::launch::receive(&channel) else { break };
            let number = || std::str::from_utf8(words.get(1..)?).ok()?.parse().ok();
            match words.as_slice() {
                [] => break,
                b"bye" => return 0,
                b"mind" => gates = fds.into_iter().map(Calls::new).collect(),
                b"relieve" => {
                    gates.clear();
                    send(channel.as_raw_fd(), b".", MsgFlags::MSG_NOSIGNAL).ok();
                }
                [b'+', ..] => {
                    if let Some(group) = number() {
                        // The copy that waits to become the program is still there, so the pidfd is that child's.
                        let pidfd = rustix::process::Pid::from_raw(group)
                            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                        groups.insert(group, pidfd);
                    }
                }
                [b'-', ..] => drop(number().and_then(|group: i32| groups.remove(&group))),
                _ => {}
            }
            // What was seen of gates may be of others now.
            continue;
        }
        gates = gates.into_iter().zip(events).filter_map(|(gate, event)| let_through(gate, event)).collect();
    }
    end(&groups, kill_timeout);
    if let Some(terminal) = terminal {
        terminal.restore(&groups);
    }
    for path in args.map(PathBuf::from) {
        // Gone already, or never made.
        std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)).ok();
    }
    0
}

/// Lets a call through, if one has come. A gate behind which nobody is left is minded no more.
fn let_through(gate: Calls, event: PollFlags) -> Option<Calls> {
    if event.contains(PollFlags::POLLIN) {
        if let Ok(Some(call)) = gate.next() {
            gate.proceed(call.id);
        }
        return Some(gate);
    }
    (!event.contains(PollFlags::POLLHUP)).then_some(gate)
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
    /// Whose it was.
    group: Option<Pid>,
}

impl Terminal {
    fn remember() -> Option<Terminal> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&tty).ok()?;
        let group = tcgetpgrp(&tty).ok();
        Some(Terminal { tty, before, group })
    }

    /// Only when it still is as the command had set it, or a program's that the command has given it to: a shell may have taken it back
    /// already.
    fn restore(&self, groups: &BTreeMap<i32, Option<OwnedFd>>) {
        let given = tcgetpgrp(&self.tty).is_ok_and(|front| groups.contains_key(&front.as_raw()));
        if let Some(group) = self.group.filter(|_| given) {
            tcsetpgrp(&self.tty, group).ok();
            tcsetattr(&self.tty, SetArg::TCSANOW, &self.before).ok();
            return;
        }
        let mut keys = self.before.clone();
        keys.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        if tcgetattr(&self.tty)
            .is_ok_and(|now| now.local_flags == keys.local_flags && now.input_flags == keys.input_flags)
        {
            tcsetattr(&self.tty, SetArg::TCSANOW, &self.before).ok();
        }
    }
}
