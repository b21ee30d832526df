//! The processes that a program has started, and those that they have: below it, or orphans of its that have come to this process
//! (`orphans`). They are known by what stands in their environment from their start on, and by having been seen below it.
//! Never lives here: when they are ended.

use super::{descriptors, wait_at_most};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// In the environment of a program and of all that it starts: which session and which generation it is of.
pub const SIGN: &str = "HOTRUN_SESSION";

/// Of the session with that private folder, whose name is no other's.
pub fn tag(private: &Path) -> String {
    private.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The value for that generation of the session with that tag, which no other has.
pub fn sign(tag: &str, generation: u64) -> String {
    format!("{tag}.{generation}")
}

/// The most looks at processes that come and go all the time.
const LOOKS: u32 = 10;
/// The most characters of a command line that are told.
const NAME: usize = 120;

/// A process, whoever has its number later.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    pub fn of(pid: u32) -> Option<Process> {
        let pidfd = pidfd_open(rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        Some(Process { pid, pidfd })
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
            // One that has ended needs none, and one that is another user's (setuid) is told of at the end.
            pidfd_send_signal(&self.pidfd, signal).ok();
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    pub fn ends_within(&self, limit: Duration) -> bool {
        wait_at_most(&self.pidfd, limit)
    }

    pub fn is_of_group(&self, group: u32) -> bool {
        let pid = |pid: u32| Pid::from_raw(pid as i32);
        getpgid(Some(pid(self.pid))) == Ok(pid(group))
    }
}

/// What descends from a child of this process that is not reaped yet.
#[derive(Debug)]
pub struct Descent {
    child: u32,
    sign: String,
    /// Seen below it, and when each was started: one without an environment of its own is known as an orphan, too.
    seen: BTreeMap<u32, u64>,
}

impl Descent {
    pub fn new(child: u32, sign: String) -> Descent {
        Descent { child, sign, seen: BTreeMap::new() }
    }

    /// Without the child itself.
    pub fn look(&mut self) -> Vec<Process> {
        let mut kin = Vec::new();
        // One whose parent ends between two reads is below neither of those who have it: the same are to be seen twice.
        for _ in 0..LOOKS {
            let pids = self.pids();
            kin = pids.iter().copied().filter_map(Process::of).collect();
            // What has another's number by now is not among them a second time.
            let still = self.pids();
            self.seen.extend(still.iter().filter_map(|pid| Some((*pid, started_at(*pid)?))));
            kin.retain(|kin| still.contains(&kin.pid) && !kin.has_ended());
            if still == pids && kin.len() == pids.len() {
                break;
            }
        }
        if kin.is_empty() {
            // The kernel's lists of children may leave out one while another ends (proc_pid_task_children(5)); what stands in all
            // environments does not.
            let carriers = processes().filter(|pid| carries(*pid, |value| value == self.sign.as_bytes()));
            kin = carriers
                .filter(|pid| *pid != self.child)
                .filter_map(Process::of)
                .filter(|kin| !kin.has_ended())
                .collect();
        }
        kin
    }

    fn pids(&self) -> BTreeSet<u32> {
        let was_seen = |pid: &u32| self.seen.get(pid).is_some_and(|at| started_at(*pid) == Some(*at));
        let ours = |pid: &u32| was_seen(pid) || carries(*pid, |value| value == self.sign.as_bytes());
        let orphans = adopted().into_iter().filter(ours).flat_map(family);
        family(self.child).into_iter().chain(orphans).filter(|pid| *pid != self.child).collect()
    }
}

/// Orphans that have come to this process: the children of its first thread, which starts none (`orphans::adopt`).
pub fn adopted() -> Vec<u32> {
    let us = std::process::id();
    children(format!("/proc/self/task/{us}/children"))
}

/// All processes of a session, wherever they are.
pub fn of_session(tag: &str) -> Vec<Process> {
    let its = |pid: &u32| {
        carries(*pid, |value| value.strip_prefix(tag.as_bytes()).is_some_and(|generation| generation.starts_with(b".")))
    };
    // Looked at again when nobody else can have its number any more.
    processes().filter(its).filter_map(Process::of).filter(|kin| its(&kin.pid)).collect()
}

pub fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The process and all below it.
pub fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        let threads = descriptors::with(|| fs::read_dir(format!("/proc/{pid}/task"))).into_iter().flatten().flatten();
        let more: Vec<u32> = threads.flat_map(|thread| children(thread.path().join("children"))).collect();
        family.extend(more);
        next += 1;
    }
    family
}

/// `pid 4711 (python3 -m http.server)`, on one line, with whatever else the command line has in it.
pub fn name(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let line: String = words.join(" ").trim().replace(['\n', '\r', '\t'], " ").chars().take(NAME).collect();
    format!("pid {pid} ({line})")
}

fn children(file: impl AsRef<Path>) -> Vec<u32> {
    let text = descriptors::with(|| fs::read_to_string(&file)).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether its environment, as it was at its start, has a sign that is wanted (proc_pid_environ(5)).
fn carries(pid: u32, wanted: impl Fn(&[u8]) -> bool) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let value = |pair: &[u8]| pair.strip_prefix(SIGN.as_bytes())?.strip_prefix(b"=").map(&wanted);
    environment.split(|byte| *byte == 0).any(|pair| value(pair) == Some(true))
}

/// In ticks since the machine was started, of one that runs (proc_pid_stat(5), 22); a zombie has ended.
pub fn started_at(pid: u32) -> Option<u64> {
    let stat = stat(format!("/proc/{pid}/stat"))?;
    (!["Z", "X"].contains(&stat.first()?.as_str())).then(|| stat.get(19)?.parse().ok())?
}

/// Of a process or a thread, from the third on: those behind the name, which may have blanks and brackets of its own
/// (proc_pid_stat(5)).
pub fn stat(file: impl AsRef<Path>) -> Option<Vec<String>> {
    let stat = fs::read_to_string(file).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}
