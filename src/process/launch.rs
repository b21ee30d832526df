//! The start of a child, both halves: what this process sends, and what the waiting copy of it does before it becomes the
//! program. One of the few files with `unsafe`: descriptors are moved by number.
//! Never lives here: choosing the program.

use super::{Filter, descriptors, is_passing, itself, pass, seccomp, terminal};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

const GATE: &str = "gate";
const NO_GATE: &str = "no-gate";
/// Of the limit of descriptors.
const AS_IT_IS: &str = "as-it-is";
const FIRST_FD: RawFd = hotrun::wire::FIRST_FD;

/// This program, told to become `command` once it has its descriptors, and behind a gate if so wanted.
pub fn shim(command: &Command, fds: usize, gate: bool) -> Command {
    let mut shim = itself::command(itself::LAUNCH);
    let gate = if gate { GATE } else { NO_GATE };
    let limit = descriptors::limit_before().map_or_else(|| AS_IT_IS.to_owned(), |limit| limit.to_string());
    shim.arg(fds.to_string()).arg(gate).arg(limit).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shim.env(name, value),
            None => shim.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        shim.current_dir(folder);
    }
    shim
}

/// Hands the waiting copy its descriptors and waits until it has become the program. Returns its gate, if it was to have one.
pub fn go(channel: &OwnedFd, stdin: &OwnedFd, fds: &[BorrowedFd<'_>]) -> io::Result<Option<Filter>> {
    let all: Vec<BorrowedFd<'_>> = std::iter::once(stdin.as_fd()).chain(fds.iter().copied()).collect();
    for batch in all.chunks(pass::MOST) {
        pass::send(channel, b"fds", batch, false)?;
    }
    // It takes a millisecond. A disk that does not answer must not stop this process for ever.
    setsockopt(channel, ReceiveTimeout, &TimeVal::seconds(20))?;
    let mut gate = None;
    loop {
        let (told, mut fds) = pass::receive(channel).map_err(|error| match error.kind() {
            // By that limit; as the error it is, it says that the system has no process to give.
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it has not begun within 20 s"),
            _ => error,
        })?;
        match (told.as_slice(), fds.pop()) {
            // Closed by exec.
            ([], _) => return Ok(gate),
            ([b'g'], Some(calls)) => gate = Some(Filter::Installed(calls)),
            // Without a descriptor to put it into, the kernel leaves it out (unix(7), MSG_CTRUNC).
            ([b'g'], None) => return Err(Errno::EMFILE.into()),
            ([b'r', error @ ..], _) => gate = Some(Filter::Refused(error_from(error))),
            (error, _) => return Err(error_from(error)),
        }
    }
}

fn error_from(bytes: &[u8]) -> io::Error {
    match bytes.try_into() {
        Ok(number) => io::Error::from_raw_os_error(i32::from_ne_bytes(number)),
        Err(_) => io::Error::from(io::ErrorKind::InvalidData),
    }
}

/// What the waiting copy does; returns where that fails.
pub fn become_program(mut args: impl Iterator<Item = OsString>) -> i32 {
    let count = args.next().and_then(|count| count.to_str()?.parse().ok());
    let gate = args.next().is_some_and(|gate| gate == GATE);
    let limit = args.next().and_then(|limit| limit.to_str()?.parse().ok());
    let (Some(count), Some(program)) = (count, args.next()) else { return 127 };
    let above = FIRST_FD + i32::try_from(count).unwrap_or(i32::MAX - FIRST_FD);
    let Ok(channel) = move_above(io::stdin().as_fd(), above) else { return 127 };
    let mut command = Command::new(program);
    let Err(error) = exec(&channel, count, above, gate, limit, command.args(args));
    // Without a listener there is nobody to tell.
    let _ = pass::send(&channel, &number_of(&error), &[], false);
    127
}

fn exec(
    channel: &OwnedFd,
    count: usize,
    above: RawFd,
    gate: bool,
    limit: Option<u64>,
    command: &mut Command,
) -> io::Result<std::convert::Infallible> {
    terminal::as_usual()?;
    // A server must not outlive the command; the guard ends those that take no notice. prctl(2), PR_SET_PDEATHSIG.
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    command.stdin(place(take(channel, 1 + count)?, above)?);
    if let Some(limit) = limit {
        descriptors::limit_to(limit);
    }
    if gate {
        // Last: from here on nothing is called that would wait at the gate.
        close_gate(channel)?;
    }
    // Empty, it is left so: a runner may start the program as a child.
    let left_open = std::env::var_os(hotrun::wire::LISTEN_PID).is_some_and(|pid| pid.is_empty());
    if std::env::var_os(hotrun::wire::LISTEN_FDS).is_some() && !left_open {
        command.env(hotrun::wire::LISTEN_PID, std::process::id().to_string());
    }
    Err(command.exec())
}

/// Filters this process, and tells the command where the calls arrive, or why there is no gate.
fn close_gate(channel: &OwnedFd) -> io::Result<()> {
    match seccomp::install() {
        Ok(calls) => pass::send(channel, b"g", &[calls.as_fd()], false),
        // At the next start there may be one.
        Err(error) if is_passing(&error) => Err(error),
        Err(error) => pass::send(channel, &[&b"r"[..], &number_of(&error)].concat(), &[], false),
    }
}

fn number_of(error: &io::Error) -> [u8; 4] {
    error.raw_os_error().unwrap_or(Errno::EIO as i32).to_ne_bytes()
}

/// Receives that many descriptors; the end of the channel means that whoever started this process is gone.
fn take(channel: &OwnedFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut fds = Vec::with_capacity(count);
    while fds.len() < count {
        let (told, more) = pass::receive(channel)?;
        match (told.is_empty(), more.is_empty()) {
            (true, _) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            (false, true) => return Err(Errno::EMFILE.into()),
            (false, false) => {}
        }
        fds.extend(more);
    }
    Ok(fds)
}

/// Puts all but the first at the numbers from 3; the first is the standard input to be.
fn place(fds: Vec<OwnedFd>, above: RawFd) -> io::Result<OwnedFd> {
    // None may stand where another belongs.
    let moved = fds.iter().map(|fd| move_above(fd.as_fd(), above)).collect::<io::Result<Vec<_>>>()?;
    drop(fds);
    let mut moved = moved.into_iter();
    let stdin = moved.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    for (number, fd) in (FIRST_FD..).zip(moved) {
        // SAFETY: the numbers from 3 up to `above` belong to nobody in this process: it has done nothing but receive, and
        // what it received was moved above them. The copy is left open on purpose, for the program.
        let placed = unsafe { nix::unistd::dup2_raw(fd, number) }?;
        std::mem::forget(placed);
    }
    // Whatever else this process may have inherited ends with exec.
    let flags = nix::libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: only sets a flag on open descriptors (close_range(2)); a kernel before 5.11 refuses, and then they were all
    // opened CLOEXEC by this program anyway.
    unsafe { nix::libc::syscall(nix::libc::SYS_close_range, above as u32, u32::MAX, flags) };
    Ok(stdin)
}

fn move_above(fd: BorrowedFd<'_>, above: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(above))?;
    // SAFETY: the kernel has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
