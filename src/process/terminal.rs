//! A terminal that the programs of a session read from (`--no-keys`): it belongs to the group of one program at a time, as a shell gives
//! it to a job (termios(3), tcsetpgrp(3)). What is typed to end that job is for the session too, and is heard by a small process of
//! ours in the program's group. Both halves of it live here.
//! Never lives here: keys, and what follows from a signal.

use super::{itself, lock, wait_at_most};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the ear hears: the ends of a job, by the terminal (signal(7)).
const ENDS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];
/// Asks the ear for what it has heard. The kernel hands over pending signals by their numbers, and those are smaller.
const THAT_IS_ALL: Signal = Signal::SIGUSR1;

/// An ear has still to be loaded.
const STARTING: Duration = Duration::from_secs(20);

type Tell = Arc<dyn Fn(i32) + Send + Sync>;

#[derive(Clone)]
pub struct Terminal {
    state: Arc<Mutex<Foreground>>,
    tell: Tell,
}

#[derive(Debug)]
struct Foreground {
    /// As it was before any program had it.
    before: Termios,
    /// This process's group, which the shell knows.
    ours: Pid,
    /// Those of the programs, and how each had the terminal when it was taken from it. The last one is given it.
    groups: Vec<(Pid, Termios)>,
}

/// A program that reads from the terminal, as a shell has its jobs.
pub struct Job {
    group: Pid,
    terminal: Terminal,
    ear: Mutex<Option<(Child, JoinHandle<()>)>>,
    /// The terminal has asked the program to end.
    asked: Arc<AtomicBool>,
}

impl Terminal {
    /// The terminal of this process; `None` where its standard input is no terminal that controls it. From now on neither this thread nor
    /// one that it starts is stopped for touching the terminal from the background, where a shell's child is that has given it away.
    /// `tell` is called with the signal that a program's end was asked for by.
    pub fn open(tell: impl Fn(i32) + Send + Sync + 'static) -> Option<Terminal> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || tcgetpgrp(&stdin).is_err() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        background_stops().thread_block().ok()?;
        let state = Foreground { before, ours: getpgrp(), groups: Vec::new() };
        Some(Terminal { state: Arc::new(Mutex::new(state)), tell: Arc::new(tell) })
    }

    /// The program with that group is given the terminal, if it is this session's to give.
    pub fn enter(&self, pid: u32) -> io::Result<Job> {
        let group = Pid::from_raw(pid as i32);
        let mut ear = itself::command(itself::EAR)
            .process_group(group.as_raw())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let asked = Arc::new(AtomicBool::new(false));
        let job = |ear| Job { group, terminal: self.clone(), ear: Mutex::new(ear), asked: Arc::clone(&asked) };
        let Some(mut heard) = ear.stdout.take() else { return Ok(job(None)) };
        // It listens now.
        let listens = if wait_at_most(&heard, STARTING) {
            heard.read_exact(&mut [0])
        } else {
            Err(io::Error::from(io::ErrorKind::TimedOut))
        };
        let (tell, is_asked) = (Arc::clone(&self.tell), Arc::clone(&asked));
        let listener = listens.and_then(|()| thread::Builder::new().spawn(move || listen_to(heard, &is_asked, &tell)));
        let listener = listener.or_else(|error| {
            ear.kill()?;
            ear.wait()?;
            Err(error)
        })?;
        let mut state = lock(&self.state);
        let new = state.before.clone();
        state.groups.push((group, new));
        if state.is_in_front() {
            state.give(group);
        }
        Ok(job(Some((ear, listener))))
    }

    /// A child has stopped, or has ended. Whoever was stopped for reading from the terminal is given it. Says whether this process is to
    /// stop, as the program in front has.
    pub fn look(&self) -> bool {
        let mut state = lock(&self.state);
        let mut stops = false;
        for (group, _) in state.groups.clone() {
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            match waitid(Id::Pid(group), flags) {
                Ok(WaitStatus::Stopped(_, Signal::SIGTTIN | Signal::SIGTTOU)) if state.is_in_front() => {
                    state.groups.sort_by_key(|(other, _)| *other == group);
                    state.give(group);
                    killpg(group, Signal::SIGCONT).ok();
                }
                // In the background it waits for the terminal, as any job does.
                Ok(WaitStatus::Stopped(_, Signal::SIGTTIN | Signal::SIGTTOU)) => stops = true,
                Ok(WaitStatus::Stopped(..)) if state.has(group) => stops = true,
                // It runs, or its end is heard by others.
                Ok(_) | Err(_) => {}
            }
        }
        stops
    }

    /// Before this process is stopped: the shell finds the terminal as it gave it.
    pub fn suspend(&self) {
        let mut state = lock(&self.state);
        if state.is_in_front() {
            state.keep_attributes();
            state.take_back();
        }
    }

    /// This process goes on, and so does the program that it stopped with.
    pub fn resume(&self) {
        let mut state = lock(&self.state);
        let Some(group) = state.groups.last().map(|(group, _)| *group) else { return };
        if state.is_in_front() {
            state.give(group);
        }
        // ESRCH: it has ended meanwhile, which is heard by others.
        killpg(group, Signal::SIGCONT).ok();
    }
}

impl Foreground {
    fn front() -> Option<Pid> {
        tcgetpgrp(io::stdin()).ok()
    }

    fn has(&self, group: Pid) -> bool {
        Foreground::front() == Some(group)
    }

    /// Whether the terminal is this session's: a shell has not given it to another job.
    fn is_in_front(&self) -> bool {
        Foreground::front()
            .is_some_and(|front| front == self.ours || self.groups.iter().any(|(group, _)| *group == front))
    }

    fn give(&mut self, group: Pid) {
        self.keep_attributes();
        let Some((_, attributes)) = self.groups.iter().find(|(other, _)| *other == group) else { return };
        match tcsetpgrp(io::stdin(), group) {
            Ok(()) => drop(tcsetattr(io::stdin(), SetArg::TCSANOW, attributes)),
            // It has just gone away, which is heard by others.
            Err(_) => self.take_back(),
        }
    }

    fn keep_attributes(&mut self) {
        let front = Foreground::front();
        if let Some((_, kept)) = self.groups.iter_mut().find(|(group, _)| front == Some(*group))
            && let Ok(attributes) = tcgetattr(io::stdin())
        {
            *kept = attributes;
        }
    }

    fn take_back(&self) {
        // A terminal that has just gone away is heard of by SIGHUP.
        tcsetpgrp(io::stdin(), self.ours).ok();
        tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before).ok();
    }

    fn left(&mut self, group: Pid) {
        let had = self.has(group);
        self.groups.retain(|(other, _)| *other != group);
        if had {
            // What it has set for itself is not what the next one expects.
            self.take_back();
            if let Some((next, _)) = self.groups.last().cloned() {
                self.give(next);
                // It may have been stopped for reading from the terminal.
                killpg(next, Signal::SIGCONT).ok();
            }
        }
    }
}

impl Job {
    /// What was heard in the group is told before this returns; for the moment in which its program has ended, and nobody knows yet
    /// why.
    pub fn hear_out(&self) {
        let ear = lock(&self.ear).take();
        let Some((mut ear, listener)) = ear else { return };
        let pid = Pid::from_raw(ear.id() as i32);
        kill(pid, THAT_IS_ALL).ok();
        // It may have been stopped with its group.
        kill(pid, Signal::SIGCONT).ok();
        // A panic there has been told already.
        listener.join().ok();
        // It has closed its output, as it ends. An error would mean that somebody else has reaped it.
        ear.wait().ok();
    }

    /// Whether the program was asked to end by the terminal, and may be about to.
    pub fn was_asked_to_end(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// The program has ended, but its number is still its own. The one before it has the terminal again, or this process.
    pub fn leave(&self) {
        self.hear_out();
        lock(&self.terminal.state).left(self.group);
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.fmt(f)
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.group.fmt(f)
    }
}

/// What a session does to itself for the terminal's sake is not its children's.
pub fn as_usual() -> io::Result<()> {
    Ok(background_stops().thread_unblock()?)
}

/// What a job in the background is sent that touches the terminal.
fn background_stops() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTTOU);
    set
}

fn listen_to(mut heard: ChildStdout, asked: &AtomicBool, tell: &Tell) {
    let mut signal = [0];
    while heard.read_exact(&mut signal).is_ok() {
        asked.store(true, Ordering::Release);
        tell(i32::from(signal[0]));
    }
}

/// The ear: says what the group is sent by the terminal, and is not moved by it.
pub fn listen() -> i32 {
    let mut wanted = SigSet::empty();
    wanted.extend(ENDS.into_iter().chain([THAT_IS_ALL]));
    let heard = || -> io::Result<()> {
        SigSet::all().thread_block()?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        let mut out = io::stdout().lock();
        let mut say = |byte| out.write_all(&[byte]).and_then(|()| out.flush());
        say(0)?;
        loop {
            match wanted.wait() {
                Ok(THAT_IS_ALL) => return Ok(()),
                Ok(signal) => say(signal as u8)?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    // Nobody is left to tell.
    i32::from(heard().is_err())
}
