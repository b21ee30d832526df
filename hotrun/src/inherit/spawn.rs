//! Becoming another program, with chosen descriptors at chosen numbers: as a child and in place.
//! Speaks to the kernel, so it has `unsafe`. Never lives here: which program, and with what (`program`, `given`).
//!
//! The child is made as posix_spawn(3) makes it, by clone(2) with CLONE_VM and CLONE_VFORK: it runs in this process's memory
//! until it has become its program, so it costs the same however large the process is, where the time of a fork grows with it
//! and stalls all threads. It is not posix_spawn itself because that cannot make a sibling.

use crate::wire::FIRST_FD;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use std::convert::Infallible;
use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// A program to become: everything that exec wants.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) program: CString,
    pub(crate) args: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) directory: CString,
}

/// Whose child a new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// This process's, which waits for it.
    This,
    /// That of this process's own parent, which waits for it: a service manager that started this process is then as sure of
    /// the next one as of this one.
    Parents,
}

/// Starts it as a process of its own, with these descriptors from number 3 on, the standard streams of this process, and no
/// others. Returns its process number and a pidfd, which was made with it and so can be nobody else's.
///
/// # Errors
/// Those of chdir(2) and execve(2), of the new process, and of making descriptors and processes.
pub(crate) fn process(image: &Image, fds: &[BorrowedFd<'_>], parent: Parent) -> io::Result<(u32, OwnedFd)> {
    let moved = out_of_the_way(fds)?;
    let last = FIRST_FD + i32::try_from(fds.len()).map_err(|_| Errno::EMFILE)?;
    let mut pidfd: RawFd = -1;
    let mut birth = Birth {
        sources: sources(fds, &moved),
        // A list where there is one; without /proc there is none, and the kernel has a better way since Linux 5.11.
        strays: inheritable().unwrap_or_default().into_iter().filter(|number| *number >= last).collect(),
        last,
        directory: &image.directory,
        program: &image.program,
        args: pointers(&image.args),
        environment: pointers(&image.environment),
        mask: SigSet::empty(),
        failed: 0,
        in_chdir: false,
    };
    let parent = match parent {
        Parent::This => libc::SIGCHLD,
        Parent::Parents => libc::CLONE_PARENT,
    };
    // Where the new process does the little it does before exec: 64 KiB are ample.
    let mut stack = vec![MaybeUninit::<u128>::uninit(); 4096];
    // A handler that ran in the new process would run in this one's memory: none can, until there is none any more.
    SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map(|mask| birth.mask = mask)?;
    // SAFETY: CLONE_VFORK stops this thread until the new process has its program or has ended, so the stack, `birth` and what
    // that borrows outlive its use of them. What it does there is said at `be_born`.
    let pid = unsafe {
        libc::clone(
            be_born,
            stack.as_mut_ptr().add(stack.len()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | parent,
            std::ptr::from_mut(&mut birth).cast(),
            std::ptr::from_mut(&mut pidfd),
        )
    };
    let made = Errno::result(pid);
    // The mask was this thread's own a moment ago.
    birth.mask.thread_set_mask()?;
    let pid = made?;
    // SAFETY: CLONE_PIDFD has made it for this process, CLOEXEC.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if birth.failed != 0 {
        // Only one's own child can be waited for; it has ended, and leaves nothing else.
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        let error = io::Error::from_raw_os_error(birth.failed);
        let text = format!("in its directory, {}: {error}", image.directory.to_string_lossy());
        return Err(if birth.in_chdir { io::Error::new(error.kind(), text) } else { error });
    }
    Ok((pid.unsigned_abs(), pidfd))
}

/// What a new process does between its birth and its program.
struct Birth<'a> {
    /// The descriptors for number 3 and on.
    sources: Vec<RawFd>,
    /// Open descriptors that it must not have.
    strays: Vec<RawFd>,
    /// All from this number on.
    last: RawFd,
    directory: &'a CStr,
    program: &'a CStr,
    args: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    mask: SigSet,
    /// The error of the step that failed.
    failed: c_int,
    /// That step is chdir(2).
    in_chdir: bool,
}

/// Runs in the memory of the process that made it, whose other threads go on: so it makes system calls alone, and neither
/// allocates, locks nor panics.
extern "C" fn be_born(birth: *mut c_void) -> c_int {
    // SAFETY: `process` passes a `Birth`, which nobody else uses meanwhile.
    let birth = unsafe { &mut *birth.cast::<Birth<'_>>() };
    // SAFETY: said at each call below; the lists were made before this process was.
    unsafe {
        // SIGABRT cannot be waiting, and a C library may lock something to change it; exec resets it all the same.
        for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGABRT) {
            let mut action = MaybeUninit::<libc::sigaction>::uninit();
            if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) != 0 {
                // Number of no signal, or one that the C library keeps for itself.
                continue;
            }
            // Written by the call that has just succeeded.
            let mut action = action.assume_init();
            // Rust ignores SIGPIPE in its own programs; another program should find it as a shell would leave it.
            if action.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE {
                action.sa_sigaction = libc::SIG_DFL;
                action.sa_flags = 0;
                // Fails for those that cannot be caught, which have their default action.
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
        // The table of descriptors is this process's own: nothing of the other one's is replaced or closed.
        for (source, target) in birth.sources.iter().zip(FIRST_FD..) {
            let placed =
                if *source == target { libc::fcntl(target, libc::F_SETFD, 0) } else { libc::dup2(*source, target) };
            if placed < 0 {
                return give_up(birth);
            }
        }
        // After they were copied: somebody's listener may be among them.
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        if libc::syscall(libc::SYS_close_range, birth.last, libc::c_uint::MAX, flags) != 0 {
            for stray in &birth.strays {
                libc::close(*stray);
            }
        }
        if libc::chdir(birth.directory.as_ptr()) < 0 {
            birth.in_chdir = true;
            return give_up(birth);
        }
        libc::sigprocmask(libc::SIG_SETMASK, birth.mask.as_ref(), std::ptr::null_mut());
        libc::execve(birth.program.as_ptr(), birth.args.as_ptr(), birth.environment.as_ptr());
    }
    give_up(birth)
}

/// Leaves the reason where the other process finds it.
fn give_up(birth: &mut Birth<'_>) -> c_int {
    birth.failed = Errno::last_raw();
    // Returning from the function of clone(2) is _exit(2) with that value.
    127
}

/// From here on this thread's table of descriptors is its own, and all in it but the standard streams are closed by exec: what
/// loses that below, another thread's child does not inherit.
fn have_descriptors_of_ones_own() -> io::Result<()> {
    // Both at once (close_range(2), Linux 5.11), which the usual filters of containers allow.
    let flags = libc::CLOSE_RANGE_UNSHARE | libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: three numbers; nothing is closed before exec.
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST_FD, libc::c_uint::MAX, flags) };
    if done == 0 {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_FILES)?;
    for stray in inheritable()?.into_iter().filter(|number| *number >= FIRST_FD) {
        // SAFETY: the number was open a moment ago and only gets a flag.
        let stray = unsafe { BorrowedFd::borrow_raw(stray) };
        // It is closed already, at worst.
        let _ = fcntl(stray, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
    Ok(())
}

/// Becomes it in place: the process keeps its number, and everything else of this program is gone. Returns only an error, and
/// then only this thread's descriptors are not what they were: let it end.
pub(crate) fn in_place(image: &Image, fds: &[BorrowedFd<'_>]) -> io::Result<Infallible> {
    have_descriptors_of_ones_own()?;
    let moved = out_of_the_way(fds)?;
    for (source, target) in sources(fds, &moved).into_iter().zip(FIRST_FD..) {
        if source == target {
            // SAFETY: `fds` borrows it.
            fcntl(unsafe { BorrowedFd::borrow_raw(source) }, FcntlArg::F_SETFD(FdFlag::empty()))?;
        } else {
            // SAFETY: dup2(2) replaces what has that number in this thread's own table, where nothing is used any more but
            // what stands in `fds` and was moved out of the way.
            Errno::result(unsafe { libc::dup2(source, target) })?;
        }
    }
    let (args, environment) = (pointers(&image.args), pointers(&image.environment));
    // These two are the whole process's, and are put back where it stays.
    let directory = std::env::current_dir();
    nix::unistd::chdir(image.directory.as_c_str())?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action is no handler.
    let before = unsafe { sigaction(Signal::SIGPIPE, &default) }?;
    // SAFETY: the program is a C string, both lists are arrays of C strings that end with a null pointer. When it succeeds there
    // is no way back to anything here.
    unsafe { libc::execve(image.program.as_ptr(), args.as_ptr(), environment.as_ptr()) };
    let error = io::Error::last_os_error();
    // SAFETY: as it was a moment ago.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &before) };
    if let Ok(directory) = directory {
        let _ = std::env::set_current_dir(directory);
    }
    Err(error)
}

pub(crate) fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Copies, above the numbers that are about to be given out, of the descriptors that have one of these numbers and not their
/// own: else one of them would be replaced before it is copied.
fn out_of_the_way(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<Option<OwnedFd>>> {
    let end = FIRST_FD + i32::try_from(fds.len()).map_err(|_| Errno::EMFILE)?;
    let moved = |(fd, target): (&BorrowedFd<'_>, RawFd)| {
        let number = fd.as_raw_fd();
        if number == target || !(FIRST_FD..end).contains(&number) {
            return Ok(None);
        }
        let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(end))?;
        // SAFETY: the kernel has just made it for this process.
        Ok(Some(unsafe { OwnedFd::from_raw_fd(copy) }))
    };
    fds.iter().zip(FIRST_FD..).map(moved).collect()
}

/// The numbers of the open descriptors without CLOEXEC: somebody's library forgot, or this process inherited them so.
fn inheritable() -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(Path::new("/proc/self/fd"))? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: only asks for a flag; a number that was closed meanwhile is EBADF.
        let flags = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD);
        if flags.is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

/// The numbers to copy from.
fn sources(fds: &[BorrowedFd<'_>], moved: &[Option<OwnedFd>]) -> Vec<RawFd> {
    fds.iter().zip(moved).map(|(fd, moved)| moved.as_ref().map_or(fd.as_raw_fd(), AsRawFd::as_raw_fd)).collect()
}

/// For as long as the strings live.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn image(script: &str) -> Image {
        let args = ["sh", "-c", script].map(|arg| c_string(arg).unwrap());
        let directory = c_string("/proc/self").unwrap();
        Image { program: c_string("/bin/sh").unwrap(), args: args.into(), environment: Vec::new(), directory }
    }

    fn end(pidfd: &OwnedFd) -> String {
        let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        crate::sys::wait(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
        crate::sys::reap(pidfd.as_fd()).unwrap().to_string()
    }

    #[test]
    fn an_end_reads_as_std_writes_it() {
        for (script, expected) in [("exit 101", "exit status: 101"), ("kill -KILL $$", "signal: 9 (SIGKILL)")] {
            let (_, pidfd) = process(&image(script), &[], Parent::This).unwrap();
            assert_eq!(end(&pidfd), expected);
        }
    }

    /// In an order in which each has another's number, so that a copy in place would replace one that is still to be copied.
    #[test]
    fn descriptors_come_from_three_on_in_the_order_given_and_no_others() {
        let pipes: Vec<_> = (0..7).map(|_| nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()).collect();
        let fds: Vec<_> = pipes.iter().rev().map(|(_, write)| write.as_fd()).collect();
        let script = "for n in 3 4 5 6 7 8; do eval \"echo $n >&$n\"; done; ls /proc/self/fd | tr '\\n' ' ' >&9";
        let (_, pidfd) = process(&image(script), &fds, Parent::This).unwrap();
        assert_eq!(end(&pidfd), "exit status: 0");
        drop(fds);
        let mut heard = Vec::new();
        for (read, write) in pipes.into_iter().rev() {
            drop(write);
            let mut text = String::new();
            std::fs::File::from(read).read_to_string(&mut text).unwrap();
            heard.push(text.trim().to_owned());
        }
        assert_eq!(heard[..6], ["3", "4", "5", "6", "7", "8"]);
        // 10 is ls's own, of the folder it lists.
        assert_eq!(heard[6], "0 1 10 2 3 4 5 6 7 8 9");
    }

    #[test]
    fn what_cannot_be_run_is_an_error_and_no_process() {
        let mut nowhere = image("");
        nowhere.program = c_string("/nowhere/at/all").unwrap();
        assert_eq!(process(&nowhere, &[], Parent::This).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut lost = image("");
        lost.directory = c_string("/nowhere/at/all").unwrap();
        assert_eq!(process(&lost, &[], Parent::This).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn signals_are_as_a_shell_would_leave_them() {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let script = "cat /proc/self/status >&3";
        let (_, pidfd) = process(&image(script), &[write.as_fd()], Parent::This).unwrap();
        assert_eq!(end(&pidfd), "exit status: 0");
        drop(write);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        let set = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!((set("SigBlk:"), set("SigCgt:")), (0, 0), "{text}");
        assert_eq!(set("SigIgn:") >> (Signal::SIGPIPE as u32 - 1) & 1, 0, "{text}");
    }

    /// Its parent is that of this process, which cannot wait for it, and sees its end all the same.
    #[test]
    fn a_sibling_is_nobodys_child_here() {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        process(&image("echo $PPID >&3"), &[write.as_fd()], Parent::Parents).unwrap();
        drop(write);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text.trim(), nix::unistd::getppid().to_string());
    }
}
