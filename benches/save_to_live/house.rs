//! All processes that this measurement starts, and those that they start: run, waited for, their CPU time, their end.
//! Orphans come here (PR_SET_CHILD_SUBREAPER, prctl(2)) and are reaped at once, as init would do it: so nothing is lost from
//! the count, and nothing is left behind.

use crate::Result;
use crate::wait::{now, pause, until};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// USER_HZ, the unit of proc_pid_stat(5): the same on all architectures in use, whatever the kernel's own.
const TICK: Duration = Duration::from_millis(10);

pub struct House {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that ended and were not asked for yet; orphans stay.
    ended: HashMap<Pid, End>,
    started: u64,
    closing: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct End {
    pub success: bool,
    pub at: Instant,
}

/// One line of /proc/PID/stat, as far as it is needed.
struct Stat {
    pid: i32,
    parent: i32,
    own: u32,
    /// Of the children that it has waited for.
    reaped: u32,
}

impl House {
    pub fn open() -> Result<House> {
        prctl::set_child_subreaper(true)?;
        let shared = Arc::new(Shared::default());
        let reaper = Arc::clone(&shared);
        Ok(House { shared, reaper: Some(std::thread::spawn(move || reaper.reap())) })
    }

    /// Starts it in a process group of its own.
    pub fn start(&self, command: &mut Command) -> Result<Pid> {
        use std::os::unix::process::CommandExt;
        command.process_group(0);
        self.spawn(command).map(|(pid, _)| pid)
    }

    fn spawn(&self, command: &mut Command) -> Result<(Pid, std::process::Child)> {
        // Held until the number is known, so that no earlier process of that number is taken for this one.
        let mut state = self.shared.state();
        let child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        state.ended.remove(&pid);
        state.started += 1;
        self.shared.changed.notify_all();
        Ok((pid, child))
    }

    /// Runs it to its end, in this process group, so that Ctrl-C reaches it; its standard output. A failure is an error.
    pub fn run(&self, command: &mut Command) -> Result<String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (pid, mut child) = self.spawn(command)?;
        let mut said = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut said)?;
        }
        match self.wait(pid, Duration::from_secs(10))? {
            Some(End { success: true, .. }) => Ok(said),
            _ => Err(format!("{command:?} failed").into()),
        }
    }

    /// Blocks until it has ended; `None` after the limit.
    pub fn wait(&self, pid: Pid, limit: Duration) -> Result<Option<End>> {
        let deadline = now() + limit;
        let mut state = self.shared.state();
        loop {
            if let Some(end) = state.ended.remove(&pid) {
                return Ok(Some(end));
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Ok(None);
            }
            // A signal of the user's is heeded in between.
            let slice = left.min(Duration::from_millis(200));
            state = self.shared.changed.wait_timeout(state, slice).unwrap_or_else(PoisonError::into_inner).0;
            drop(state);
            pause(Duration::ZERO)?;
            state = self.shared.state();
        }
    }

    pub fn has_ended(&self, pid: Pid) -> bool {
        self.shared.state().ended.contains_key(&pid)
    }

    /// What all processes below this one have used so far, ended ones included. Right at moments when none is just ending.
    pub fn cpu(&self) -> Duration {
        let own = std::process::id();
        let reaped = stat(Path::new("/proc").join(own.to_string()).as_path()).map_or(0, |stat| stat.reaped);
        let alive: u32 = descendants().iter().map(|stat| stat.own + stat.reaped).sum();
        TICK * (reaped + alive)
    }

    /// Waits until they have nothing to do: two looks in a row, 100 ms apart, at most one tick further. So nothing that one has
    /// begun is left for the turn of the next.
    pub fn settle(&self) -> Result<()> {
        let (mut before, mut quiet) = (self.cpu(), 0);
        pause(Duration::from_millis(100))?;
        until(Duration::from_secs(15), Duration::from_millis(100), || {
            let cpu = self.cpu();
            quiet = if cpu <= before + TICK { quiet + 1 } else { 0 };
            before = cpu;
            Ok((quiet == 2).then_some(()))
        })?;
        Ok(())
    }

    /// Ends all that is left.
    pub fn clear(&self) {
        // An interruption is on its way to be told already; what it must not do is to leave somebody behind.
        let end = now() + Duration::from_secs(10);
        loop {
            let left = descendants();
            if left.is_empty() || now() >= end {
                return;
            }
            for stat in left {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(stat.pid), Signal::SIGKILL);
            }
            let _ = pause(Duration::from_millis(10));
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.clear();
        self.shared.state().closing = true;
        self.shared.changed.notify_all();
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        loop {
            let started = self.state().started;
            let (pid, success) = match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code == 0),
                Ok(WaitStatus::Signaled(pid, ..)) => (pid, false),
                Err(Errno::ECHILD) => {
                    let mut state = self.state();
                    while state.started == started {
                        if state.closing {
                            return;
                        }
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    continue;
                }
                _ => continue,
            };
            let at = now();
            self.state().ended.insert(pid, End { success, at });
            self.changed.notify_all();
        }
    }
}

/// The CPU time of these processes in nanoseconds as the scheduler has it, since ticks are too coarse for idle ones.
pub fn nanos(pids: &[i32]) -> u64 {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let time = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.filter_map(time).sum()
}

/// Those below this process that run that program.
pub fn running(program: &Path) -> Vec<i32> {
    let is_it = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
    descendants().iter().map(|stat| stat.pid).filter(is_it).collect()
}

/// A figure of /proc/PID/status, in kB.
pub fn memory(pid: i32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn descendants() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut others: Vec<Stat> = entries.filter_map(|entry| stat(&entry.path())).collect();
    let mut known = vec![i32::try_from(std::process::id()).unwrap_or(0)];
    let mut below = Vec::new();
    // One generation after the other.
    while !known.is_empty() {
        let (next, rest): (Vec<Stat>, Vec<Stat>) = others.into_iter().partition(|stat| known.contains(&stat.parent));
        known = next.iter().map(|stat| stat.pid).collect();
        below.extend(next);
        others = rest;
    }
    below
}

fn stat(process: &Path) -> Option<Stat> {
    let pid = process.file_name()?.to_str()?.parse().ok()?;
    let text = fs::read_to_string(process.join("stat")).ok()?;
    // The name stands in brackets and may contain anything; the first field after it is the third.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let field = |nth: usize| fields.get(nth - 3)?.parse::<u32>().ok();
    Some(Stat {
        pid,
        parent: i32::try_from(field(4)?).ok()?,
        own: field(14)? + field(15)?,
        reaped: field(16)? + field(17)?,
    })
}
