//! What the integration tests share: a project on disk, a session of the command on it, and a client.
//! Every wait is for an event, with a limit so generous that only a fault reaches it.

// Each subject uses its own part of this.
#![allow(dead_code)]

pub mod limits;
pub mod plain;
mod project;
pub mod pty;
pub mod refuse;
pub mod server;
mod session;

pub use project::{Project, hotrun_dependency, target_folder};
pub use session::Session;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than a cold build of all dependencies on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

#[allow(clippy::disallowed_methods)] // The limit of a wait.
pub fn now() -> Instant {
    Instant::now()
}

/// Waits for what nobody tells of.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = now() + LONG;
    while !done() {
        assert!(now() < limit, "{what}");
        std::thread::yield_now();
    }
}

/// The threads of a process, by number, with their names; a thread has that of the one that has started it until it has its own.
pub fn threads(process: u32) -> Vec<(u32, String)> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let numbers = threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let name = |thread: u32| std::fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    numbers.map(|thread| (thread, name(thread).trim_end().to_owned())).collect()
}

/// The command under test.
pub fn command() -> std::process::Command {
    std::process::Command::new(env!("CARGO_BIN_EXE_cargo-hotrun"))
}

/// A loopback address that nobody has: not one of those that the kernel gives to clients (ip(7), `ip_local_port_range`),
/// of which there are many here, and no other test's. Another run of the tests begins elsewhere.
pub fn free_address() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let nth = || std::process::id().wrapping_mul(331).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
    let mut addresses = std::iter::repeat_with(|| SocketAddr::from(([127, 0, 0, 1], 10_000 + (nth() % 20_000) as u16)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// One request on a connection of its own; the whole answer.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The version that the server at that address answers with.
pub fn version(address: SocketAddr) -> String {
    let answer = get(address, "/").unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix("version: "));
    line.unwrap_or_else(|| panic!("no version in {answer:?}")).to_owned()
}

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

/// Where a session tells that it runs, so that others find it.
pub fn listed(session: u32) -> std::path::PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.unwrap_or_else(|| std::env::home_dir().unwrap().join(".cargo"));
    let folder = home.join("hotrun/sessions");
    let mut files = std::fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_its =
        |file: &std::path::PathBuf| file.file_name().unwrap().to_string_lossy().starts_with(&format!("{session}-"));
    files.find(is_its).unwrap_or_else(|| folder.join(format!("{session}-none")))
}

/// Where a session keeps its programs, below the folder that it builds to.
pub fn run_folder(target: &Path, session: u32) -> std::path::PathBuf {
    let all = target.join("hotrun/run");
    let mut folders = std::fs::read_dir(&all).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_its =
        |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{session}-"));
    folders.find(is_its).unwrap_or_else(|| all.join(format!("{session}-none")))
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

/// What a session with that temporary folder has left: processes and files.
pub fn leavings(temporary: &Path) -> Vec<String> {
    let command_line = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let processes = processes(temporary).into_iter();
    let mut left: Vec<String> =
        processes.map(|pid| format!("{pid}: {}", String::from_utf8_lossy(&command_line(pid)))).collect();
    left.extend(std::fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path().display().to_string()));
    left
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
