//! Processes as the kernel tells of them (proc(5)), and what one says to them.

use super::{LONG, until};
use std::path::Path;

/// Whether a process is still there, and no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// Whether a process runs in circles: whether it spends half as much as this thread, which does for half a second of its own time, however
/// long that takes where others run, too.
pub fn is_busy(process: u32) -> bool {
    // In hundredths of a second (proc_pid_stat(5)).
    let ticks = |of: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
    };
    let process = process.to_string();
    let (own, its) = (ticks("thread-self"), ticks(&process));
    while ticks("thread-self") - own < 50 {}
    ticks(&process) - its > 25
}

/// The threads of a process, by number, with their names; a thread has that of the one that has started it until it has its own.
pub fn threads(process: u32) -> Vec<(u32, String)> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let numbers = threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let name = |thread: u32| std::fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    numbers.map(|thread| (thread, name(thread).trim_end().to_owned())).collect()
}

/// Every process that was started with this folder as its temporary one, by a session or on its behalf.
pub fn processes(temporary: &Path) -> Vec<u32> {
    let sign = format!("TMPDIR={}\0", temporary.display());
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(sign.len()).any(|window| window == sign.as_bytes()) && is_alive(*pid)
    };
    pids.filter(ours).collect()
}

/// The process of them that was given that word as its first argument.
pub fn process(temporary: &Path, word: &str) -> u32 {
    let has_word = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(word.as_bytes())
    };
    processes(temporary).into_iter().find(has_word).unwrap_or_else(|| panic!("no process {word}"))
}

/// Its children, zombies included, each with the letter of its state (proc_pid_stat(5)).
pub fn children(pid: u32) -> Vec<(u32, char)> {
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let child = |child: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()? == pid.to_string()).then_some((child, state))
    };
    pids.filter_map(child).collect()
}

pub fn send(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Blocks until the process has ended (pidfd_open(2) becomes readable). At once when there is none of that number.
pub fn wait_for_end(pid: u32) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    let limit = PollTimeout::try_from(LONG).unwrap();
    let ended = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], limit).unwrap();
    assert_eq!(ended, 1, "process {pid:?} does not end");
}

/// Stops a process and waits until none of its threads runs: what is sent to it from now on is left unread.
pub fn freeze(pid: u32) {
    send(pid, nix::sys::signal::Signal::SIGSTOP);
    let frozen = || {
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    };
    // Only the parent is told.
    until(&format!("process {pid} does not stop"), frozen);
}

/// Waits until the process has ended and its parent has collected it: nothing of it is left, not even a zombie.
pub fn wait_until_reaped(pid: u32) {
    wait_for_end(pid);
    // Only the parent is told.
    let its_own = format!("/proc/{pid}");
    until(&format!("process {pid} is left as a zombie"), || !std::path::Path::new(&its_own).exists());
}
