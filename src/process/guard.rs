//! The guard: a small process that outlives a command killed by SIGKILL just long enough to end its children, remove its
//! folder and put the terminal back, and that minds the gates of a command that is stopped. Both halves live here.
//! Never lives here: an orderly end, which the command sees to itself.

use super::kin::{self, Process};
use super::seccomp::Calls;
use super::{events_of, itself, lock, pass, wait_at_most};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, tcgetpgrp, tcsetpgrp};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The command's half.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    handle: Handle,
}

/// Tells the guard which groups there are.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Mutex<Channel>>);

#[derive(Debug)]
struct Channel {
    /// `None` at the end.
    fd: Option<OwnedFd>,
    /// What a guard that is stopped has no room for: it comes before the next word.
    unsent: VecDeque<String>,
}

/// The most gates that one message carries: unix(7) has SCM_MAX_FD, far above the number of generations at any time.
const GATES: usize = 64;

/// How long a guard is waited for. It may be stopped by somebody, which stops nothing else.
const PATIENCE: Duration = Duration::from_secs(2);
/// It has still to be loaded.
const STARTING: Duration = Duration::from_secs(20);

impl Guard {
    pub fn start(left: &[&Path], kill_timeout: Duration, tag: &str) -> io::Result<Guard> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (awake, wakes) = io::pipe()?;
        let mut child = itself::command(itself::GUARD)
            .arg(kill_timeout.as_millis().to_string())
            .arg(tag)
            .args(left)
            .stdin(theirs)
            .stdout(wakes)
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0)
            .spawn()?;
        // Closed when it has seen the terminal as it is, which keys are about to change, and ignores what could end it.
        if !wait_at_most(&awake, STARTING) {
            child.kill()?;
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let channel = Channel { fd: Some(ours), unsent: VecDeque::new() };
        Ok(Guard { child, handle: Handle(Arc::new(Mutex::new(channel))) })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.handle.say("bye").ok();
        let channel = lock(&self.handle.0).fd.take();
        if Process::of(self.child.id()).is_some_and(|guard| !guard.ends_within(PATIENCE)) {
            // It is stopped, and has nothing left to guard.
            self.child.kill().ok();
        }
        // It ends as soon as it reads that; an error would mean that somebody else has reaped it.
        self.child.wait().ok();
        drop(channel);
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

    /// A process that may leave its group.
    pub fn add_kin(&self, pid: u32) {
        // As above.
        self.say(&format!("!{pid}")).ok();
    }

    /// From now on, and while this process is stopped, the guard lets every call at these gates through.
    pub fn mind(&self, gates: &[BorrowedFd<'_>]) -> io::Result<()> {
        lock(&self.0).send("mind", gates)
    }

    /// Returns when the guard minds no gate any more; also when there is none.
    pub fn relieve(&self) {
        let answer = |flags| {
            let channel = lock(&self.0);
            let fd = channel.fd.as_ref()?;
            (flags != MsgFlags::empty() || wait_at_most(fd, PATIENCE))
                .then(|| recv(fd.as_raw_fd(), &mut [0], flags).ok().filter(|length| *length > 0))
                .flatten()
        };
        // Those that came too late, the last time.
        while answer(MsgFlags::MSG_DONTWAIT).is_some() {}
        if self.say("relieve").is_ok() {
            // Any answer will do, and the end of the channel.
            answer(MsgFlags::empty());
        }
    }

    fn say(&self, words: &str) -> io::Result<()> {
        lock(&self.0).send(words, &[])
    }
}

impl Channel {
    /// Without waiting for a guard that is stopped.
    fn send(&mut self, words: &str, gates: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        while let Some(first) = self.unsent.front() {
            match send_now(fd, first, &[]) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let sent = if self.unsent.is_empty() {
            send_now(fd, words, gates)
        } else {
            Err(io::Error::from(io::ErrorKind::WouldBlock))
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && words.starts_with(['+', '-', '!']) => {
                self.unsent.push_back(words.to_owned());
                Ok(())
            }
            sent => sent,
        }
    }
}

fn send_now(channel: &OwnedFd, words: &str, gates: &[BorrowedFd<'_>]) -> io::Result<()> {
    pass::send(channel, words.as_bytes(), &gates[..gates.len().min(GATES)], true)
}

/// The guard's half: listens until the command says goodbye, or is gone without a word.
pub fn watch(mut args: impl Iterator<Item = OsString>) -> i32 {
    let kill_timeout =
        args.next().and_then(|millis| millis.to_str()?.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    let tag = args.next().and_then(|tag| tag.into_string().ok()).unwrap_or_default();
    ignore_signals();
    let terminal = TerminalBefore::remember();
    // Whoever started this waits for it.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        nix::unistd::dup2_stdout(null).ok();
    }
    let Ok(channel) = io::stdin().as_fd().try_clone_to_owned() else { return 1 };
    let mut groups: BTreeMap<u32, Option<Process>> = BTreeMap::new();
    let mut kin: Vec<Process> = Vec::new();
    let mut gates: Vec<Calls> = Vec::new();
    loop {
        let minded = gates.iter().map(|gate| PollFd::new(gate.as_fd(), PollFlags::POLLIN));
        let fds = std::iter::once(PollFd::new(channel.as_fd(), PollFlags::POLLIN)).chain(minded).collect();
        let mut events = events_of(fds, PollTimeout::NONE).into_iter();
        if events.next().is_some_and(|event| !event.is_empty()) {
            let Ok((words, fds)) = pass::receive(&channel) else { break };
            let number = || std::str::from_utf8(words.get(1..)?).ok()?.parse::<u32>().ok();
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
                        // The copy that waits to become the program is still there, so the process is that child.
                        groups.insert(group, Process::of(group));
                    }
                }
                [b'!', ..] => {
                    kin.retain(|kin| !kin.has_ended());
                    let pid = number().filter(|pid| !kin.iter().any(|kin| kin.pid == *pid));
                    kin.extend(pid.and_then(Process::of));
                }
                [b'-', ..] => drop(number().and_then(|group| groups.remove(&group))),
                _ => {}
            }
            // What was seen of gates may be of others now.
            continue;
        }
        gates = gates.into_iter().zip(events).filter_map(|(gate, event)| let_through(gate, event)).collect();
    }
    // At once: who started the command may be waiting for the terminal already.
    if let Some(terminal) = terminal {
        terminal.restore(&groups);
    }
    let below = groups.keys().flat_map(|group| kin::family(*group).into_iter().skip(1));
    kin.extend(below.filter_map(Process::of));
    let kin = with_families(kin);
    end(&groups, &kin, kill_timeout);
    end_kin(kin, &tag, kill_timeout);
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

fn end(groups: &BTreeMap<u32, Option<Process>>, kin: &[Process], kill_timeout: Duration) {
    let to_all = |signal| {
        for group in groups.keys() {
            // ESRCH: it has ended, as it should.
            killpg(Pid::from_raw(*group as i32), signal).ok();
        }
    };
    to_all(Signal::SIGTERM);
    let outside = |kin: &&Process| !groups.keys().any(|group| kin.is_of_group(*group));
    kin.iter().filter(outside).for_each(|kin| kin.signal(Signal::SIGTERM));
    // One that was about to read from the terminal is stopped by now, as that is another's.
    to_all(Signal::SIGCONT);
    for child in groups.values().flatten() {
        // Each may use up the timeout: they leave side by side, so the first wait is nearly always the only one.
        child.ends_within(kill_timeout);
    }
    to_all(Signal::SIGKILL);
}

/// Those who were asked already, and all others that carry the sign of this session: who has left its group, or whose parent has ended.
fn end_kin(mut kin: Vec<Process>, tag: &str, kill_timeout: Duration) {
    let others: Vec<Process> =
        kin::of_session(tag).into_iter().filter(|one| !kin.iter().any(|kin| kin.pid == one.pid)).collect();
    let others = with_families(others);
    others.iter().for_each(|kin| kin.signal(Signal::SIGTERM));
    kin.extend(others);
    // When the time of one is over, so is everybody's.
    let _ = kin.iter().all(|kin| kin.ends_within(kill_timeout));
    kin.extend(kin::of_session(tag));
    kin.iter().for_each(|kin| kin.signal(Signal::SIGKILL));
}

/// With what they have started, which goes elsewhere when they end.
fn with_families(mut kin: Vec<Process>) -> Vec<Process> {
    let more: Vec<u32> = kin.iter().filter(|kin| !kin.has_ended()).flat_map(|kin| kin::family(kin.pid)).collect();
    kin.extend(more.into_iter().filter_map(Process::of));
    kin.sort_by_key(|kin| kin.pid);
    kin.dedup_by_key(|kin| kin.pid);
    kin
}

/// What is sent to stop the command, or comes from its terminal, must not stop the guard first.
fn ignore_signals() {
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTTOU] {
        // SAFETY: no handler runs; the disposition is set before there is another thread.
        unsafe { signal(number, SigHandler::SigIgn) }.ok();
    }
}

/// The terminal as it was before the command read keys from it.
struct TerminalBefore {
    tty: File,
    before: Termios,
    /// Whose it was.
    group: Option<Pid>,
}

impl TerminalBefore {
    fn remember() -> Option<TerminalBefore> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&tty).ok()?;
        let group = tcgetpgrp(&tty).ok();
        Some(TerminalBefore { tty, before, group })
    }

    /// Only when it still is as the command had set it, or a program's that the command has given it to: a shell may have taken it back
    /// already.
    fn restore(&self, groups: &BTreeMap<u32, Option<Process>>) {
        let given = tcgetpgrp(&self.tty).is_ok_and(|front| groups.contains_key(&front.as_raw().unsigned_abs()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_guard_that_is_stopped_and_it_hears_all_of_it_later() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let handle = Handle(Arc::new(Mutex::new(Channel { fd: Some(ours), unsent: VecDeque::new() })));
        let said: Vec<String> =
            (0..5000).map(|nth| if nth % 2 == 0 { format!("+{nth}") } else { format!("-{nth}") }).collect();
        for words in &said {
            handle.say(words).unwrap();
        }
        assert!(!lock(&handle.0).unsent.is_empty());
        assert!(handle.mind(&[]).is_err());
        let mut heard = Vec::new();
        while heard.len() < said.len() {
            let mut bytes = [0; 16];
            match recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => heard.push(String::from_utf8(bytes[..length].to_vec()).unwrap()),
                // What was kept is sent before anything new.
                Err(_) => handle.remove(0),
            }
            heard.retain(|words| words != "-0");
        }
        assert_eq!(heard, said);
    }
}
