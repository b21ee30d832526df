//! Where the kernel is spoken to: descriptors that arrive as numbers, signal handlers, pidfds, socket filters. Besides this
//! file only `spawn` has `unsafe`.
//! Never lives here: any decision.

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the descriptor of that number, which was put there for this process by whoever started it, and sets CLOEXEC.
///
/// # Errors
/// `EBADF` when nothing is open at that number.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the number is only borrowed for the length of the call; F_GETFD fails with EBADF when it is not open.
    let probe = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(probe, FcntlArg::F_GETFD)?;
    fcntl(probe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open (checked above), and the environment said it is meant for this process. The
    // variables are removed at the same time, so nobody else takes it again.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor of the user's making may lack it, and would be inherited by every child.
pub(crate) fn set_cloexec(fd: impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Sets O_NONBLOCK on the open file description, which every process that holds the socket shares.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A thread that panicked with the lock held has left nothing half done: each change is one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// poll(2), where a signal in between is no error: the caller looks again anyway.
pub(crate) fn wait(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends one message; the descriptors travel with it (unix(7), SCM_RIGHTS). Never blocks and never raises SIGPIPE.
pub(crate) fn send_with_fds(channel: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None) {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Receives one message and at most `most` descriptors, CLOEXEC from birth.
///
/// # Errors
/// `InvalidData` when the message or its descriptors did not fit; those that came are closed.
pub(crate) fn receive_with_fds(
    channel: BorrowedFd<'_>,
    bytes: &mut [u8],
    most: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for as many as a message can carry (unix(7), SCM_MAX_FD), so that each that comes is seen, and closed.
    let mut space = cmsg_space!([RawFd; 253]);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = loop {
        match recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            done => break done?,
        }
    };
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else knows their numbers.
            fds.extend(raw.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) || fds.len() > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message on the control channel is too long"));
    }
    Ok((message.bytes, fds))
}

/// Where the handler writes the numbers of the signals it got; -1 while there is none.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// The process it is for: a child that the user's code has forked, and that has not become its program yet, has the handler,
/// too, and what it hears is not for this process.
static SIGNAL_PROCESS: AtomicI32 = AtomicI32::new(-1);

/// Turns the signals into bytes (their numbers) on the pipe. The pipe is leaked: a handler may run until the process ends.
pub(crate) fn signals_to(pipe: OwnedFd, signals: &[Signal]) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    SIGNAL_PROCESS.store(nix::unistd::getpid().as_raw(), Ordering::Release);
    SIGNAL_PIPE.store(pipe.into_raw_fd(), Ordering::Release);
    let action = SigAction::new(SigHandler::Handler(to_pipe), SaFlags::SA_RESTART, SigSet::empty());
    for signal in signals {
        // SAFETY: the handler loads atomics and calls getpid(2) and write(2), all async-signal-safe (signal-safety(7)).
        unsafe { sigaction(*signal, &action) }?;
    }
    Ok(())
}

extern "C" fn to_pipe(signal: libc::c_int) {
    let pipe = SIGNAL_PIPE.load(Ordering::Acquire);
    let byte = signal as u8;
    if nix::unistd::getpid().as_raw() != SIGNAL_PROCESS.load(Ordering::Acquire) {
        return;
    }
    // Whoever was interrupted may be about to read errno: it is put back.
    let errno = Errno::last_raw();
    // SAFETY: the pipe was leaked by `signals_to`, so its number stays ours; it is non-blocking, and a full pipe already
    // holds news enough.
    unsafe { libc::write(pipe, std::ptr::from_ref(&byte).cast(), 1) };
    Errno::set_raw(errno);
}

/// A descriptor of that process, which becomes readable when it ends (pidfd_open(2)). The process must be a child that nobody
/// has waited for, or this one: then the number cannot be somebody else's by now.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two numbers go in and a descriptor or -1 comes out; CLOEXEC is set by the kernel.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to that very process, whoever may have its number by now (pidfd_send_signal(2)).
pub(crate) fn signal_process(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means that the kernel fills it in as kill(2) does.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, none, 0) };
    Errno::result(sent)?;
    Ok(())
}

/// How a child has ended, which leaves no zombie behind. `None` while it runs, and when somebody else has waited for it.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    // As std has it (waitpid(2)).
    match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::from_raw((code & 0xff) << 8)),
        Ok(WaitStatus::Signaled(_, signal, core)) => {
            Some(ExitStatus::from_raw(signal as i32 | if core { 0x80 } else { 0 }))
        }
        Ok(_) | Err(_) => None,
    }
}

/// How a process that is nobody's child here has ended, where the kernel tells (ioctl_pidfd(2), PIDFD_GET_INFO with
/// PIDFD_INFO_EXIT, since Linux 6.15), and whoever is its parent has waited for it.
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    /// `struct pidfd_info` of linux/pidfd.h, in its first size.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    nix::ioctl_readwrite!(get_info, 0xff, 11, Info);
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the kernel writes at most the size that is part of the request, which is that of `Info`.
    let asked = unsafe { get_info(pidfd.as_raw_fd(), &mut info) };
    (asked.is_ok() && info.mask & EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
}

/// Lets every other thread of this process, and nobody else, see a descriptor's number as a closed door: the socket behind it
/// is let go, and the number stays taken until its owner closes it.
pub(crate) fn release(socket: BorrowedFd<'_>, door: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3(2) makes the number a descriptor of `door`, whose owner stays who it was; no memory is involved.
    Errno::result(unsafe { libc::dup3(door.as_raw_fd(), socket.as_raw_fd(), libc::O_CLOEXEC) })?;
    Ok(())
}

/// The classic BPF program "drop what has SYN set, let the rest pass": `ldb [13]; jset #2, drop, pass; pass: ret -1;
/// drop: ret 0`. Byte 13 of the TCP header has the flags (RFC 9293, 3.1).
const NO_SYN: [libc::sock_filter; 4] = [
    libc::sock_filter { code: 0x30, jt: 0, jf: 0, k: 13 },
    libc::sock_filter { code: 0x45, jt: 1, jf: 0, k: 2 },
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: u32::MAX },
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 },
];

/// Takes back `refuse_new`, whichever process did that. A filter of the user's own stays.
pub(crate) fn let_in_again(listener: BorrowedFd<'_>) {
    let mut found = [libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; NO_SYN.len()];
    let same = |(one, other): (&libc::sock_filter, &libc::sock_filter)| {
        (one.code, one.jt, one.jf, one.k) == (other.code, other.jt, other.jf, other.k)
    };
    let length = filter_of(listener, &mut found);
    if length.is_ok_and(|length| length == NO_SYN.len()) && found.iter().zip(&NO_SYN).all(same) {
        let unused: libc::c_int = 0;
        // The option has no value; it is passed as others are. ENOENT, where there is no filter any more, is as it should be.
        let _ = set(listener, libc::SO_DETACH_FILTER, &unused);
    }
}

/// From now on no new connection comes into the queue of this TCP listener, and those that are under way go on (socket(7),
/// SO_ATTACH_FILTER): a client's SYN is dropped, and sent again by its kernel a second later. It acts on the socket, for all
/// processes that share it. A socket with a filter of the user's own is left alone.
pub(crate) fn refuse_new(listener: BorrowedFd<'_>) -> io::Result<()> {
    if filter_of(listener, &mut [])? != 0 {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the socket has a filter already"));
    }
    // The kernel copies the program before the call returns.
    let mut program = NO_SYN;
    set(listener, libc::SO_ATTACH_FILTER, &libc::sock_fprog { len: 4, filter: program.as_mut_ptr() })
}

/// How many instructions the filter of a socket has, which are copied to `room`; where that is empty, they are only counted.
fn filter_of(socket: BorrowedFd<'_>, room: &mut [libc::sock_filter]) -> io::Result<usize> {
    let (fd, room_for) = (socket.as_raw_fd(), room.as_mut_ptr().cast());
    // Counted in instructions, not bytes.
    let mut length = room.len() as libc::socklen_t;
    // SAFETY: the kernel writes as many instructions as there is room for, which is `length`, and fails where there are more.
    let asked = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_GET_FILTER, room_for, &mut length) };
    Errno::result(asked)?;
    Ok(length as usize)
}

fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let (value, length) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the kernel reads the value, of the size that is stated, before the call returns.
    Errno::result(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length) })?;
    Ok(())
}
