//! The only file of this crate with `unsafe`: descriptors that arrive as numbers, and signal handlers.
//! Never lives here: any decision.

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, FdFlag, OFlag};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::socket::{recvmsg, sendmsg, ControlMessage, ControlMessageOwned, MsgFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

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

/// Sets O_NONBLOCK on the open file description, which every process that holds the socket shares.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
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

/// Turns the signals into bytes (their numbers) on the pipe. The pipe is leaked: a handler may run until the process ends.
pub(crate) fn signals_to(pipe: OwnedFd, signals: &[Signal]) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    SIGNAL_PIPE.store(pipe.into_raw_fd(), Ordering::Release);
    let action = SigAction::new(SigHandler::Handler(to_pipe), SaFlags::SA_RESTART, SigSet::empty());
    for signal in signals {
        // SAFETY: the handler only loads an atomic and calls write(2), both async-signal-safe (signal-safety(7)).
        unsafe { sigaction(*signal, &action) }?;
    }
    Ok(())
}

extern "C" fn to_pipe(signal: nix::libc::c_int) {
    let pipe = SIGNAL_PIPE.load(Ordering::Acquire);
    let byte = signal as u8;
    // Whoever was interrupted may be about to read errno: it is put back.
    let errno = Errno::last_raw();
    // SAFETY: the pipe was leaked by `signals_to`, so its number stays ours; it is non-blocking, and a full pipe already
    // holds news enough.
    unsafe { nix::libc::write(pipe, std::ptr::from_ref(&byte).cast(), 1) };
    Errno::set_raw(errno);
}
