//! Becoming another program, with chosen descriptors at chosen numbers: as a child (posix_spawn(3)) and in place (execve(2)).
//! Speaks to the kernel, so it has `unsafe`. Never lives here: which program, and with what (`program`, `bequest`).

use crate::wire::FIRST_FD;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::libc;
use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
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

/// Starts it as a child, with these descriptors from number 3 on, the standard streams of this process, and no others.
/// Returns its process number.
///
/// `posix_spawn` and not `fork`: the time a fork takes grows with the memory of the process, and stalls all its threads.
///
/// # Errors
/// Those of chdir(2) and execve(2), of the child, and of making descriptors.
pub(crate) fn child(image: &Image, fds: &[BorrowedFd<'_>]) -> io::Result<u32> {
    let moved = out_of_the_way(fds)?;
    let mut actions = Actions::new()?;
    let sources = fds.iter().zip(&moved).map(|(fd, moved)| moved.as_ref().map_or(fd.as_raw_fd(), AsRawFd::as_raw_fd));
    for (source, target) in sources.zip(FIRST_FD..) {
        // Where both are one number this takes CLOEXEC off, in the child alone.
        actions.dup2(source, target)?;
    }
    let last = FIRST_FD + i32::try_from(fds.len()).map_err(|_| Errno::EMFILE)?;
    for stray in inheritable()?.into_iter().filter(|number| *number >= last) {
        actions.close(stray)?;
    }
    actions.chdir(&image.directory)?;
    let mut attributes = Attributes::new()?;
    // Rust ignores it in its own programs; another program should find it as a shell would leave it.
    attributes.reset(Signal::SIGPIPE)?;
    let (args, environment) = (pointers(&image.args), pointers(&image.environment));
    let mut pid = 0;
    // SAFETY: the program is a C string, both lists are arrays of C strings that end with a null pointer, and all of them,
    // the actions and the attributes live until the call returns, which is after the child has become its program.
    let failed = unsafe {
        libc::posix_spawn(
            &mut pid,
            image.program.as_ptr(),
            actions.0.as_ptr(),
            attributes.0.as_ptr(),
            args.as_ptr(),
            environment.as_ptr(),
        )
    };
    succeeded(failed)?;
    Ok(pid.unsigned_abs())
}

/// Becomes it in place: the process keeps its number, and everything else of this program is gone. Returns only an error; the
/// descriptors of the other threads are untouched by it.
pub(crate) fn in_place(image: &Image, fds: &[BorrowedFd<'_>]) -> io::Result<Infallible> {
    // From here on this thread has descriptors of its own: what loses CLOEXEC below, another thread's child does not inherit.
    unshare(CloneFlags::CLONE_FILES)?;
    let moved = out_of_the_way(fds)?;
    let sources = fds.iter().zip(&moved).map(|(fd, moved)| moved.as_ref().map_or(fd.as_raw_fd(), AsRawFd::as_raw_fd));
    let last = FIRST_FD + i32::try_from(fds.len()).map_err(|_| Errno::EMFILE)?;
    let strays: Vec<RawFd> = inheritable()?.into_iter().filter(|number| *number >= last).collect();
    for stray in strays {
        // SAFETY: the number was open a moment ago and only gets a flag; nobody closes it in this thread's own table.
        let stray = unsafe { BorrowedFd::borrow_raw(stray) };
        // It is closed already, at worst.
        let _ = fcntl(stray, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
    for (source, target) in sources.zip(FIRST_FD..) {
        if source == target {
            // SAFETY: `fds` borrows it.
            fcntl(unsafe { BorrowedFd::borrow_raw(source) }, FcntlArg::F_SETFD(FdFlag::empty()))?;
        } else {
            // SAFETY: dup2(2) replaces what has that number in this thread's own table, where nothing is used any more but
            // what stands in `fds` and was moved out of the way.
            Errno::result(unsafe { libc::dup2(source, target) })?;
        }
    }
    nix::unistd::chdir(image.directory.as_c_str())?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action is no handler.
    unsafe { sigaction(Signal::SIGPIPE, &default) }?;
    let (args, environment) = (pointers(&image.args), pointers(&image.environment));
    // SAFETY: as in `child`. When it succeeds there is no way back to anything here.
    unsafe { libc::execve(image.program.as_ptr(), args.as_ptr().cast(), environment.as_ptr().cast()) };
    Err(io::Error::last_os_error())
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

/// For as long as the strings live.
fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

/// The posix_spawn family returns its error, and does not set `errno`.
fn succeeded(error: libc::c_int) -> io::Result<()> {
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// What the child does between its birth and its program.
struct Actions(MaybeUninit<libc::posix_spawn_file_actions_t>);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: it is made here, and destroyed once, by `drop`.
        succeeded(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        Ok(Actions(actions))
    }

    fn dup2(&mut self, source: RawFd, target: RawFd) -> io::Result<()> {
        // SAFETY: initialised in `new`; the rest are numbers.
        succeeded(unsafe { libc::posix_spawn_file_actions_adddup2(self.0.as_mut_ptr(), source, target) })
    }

    fn close(&mut self, number: RawFd) -> io::Result<()> {
        // SAFETY: as `dup2`.
        succeeded(unsafe { libc::posix_spawn_file_actions_addclose(self.0.as_mut_ptr(), number) })
    }

    fn chdir(&mut self, directory: &CStr) -> io::Result<()> {
        // SAFETY: initialised in `new`; the path is copied before the call returns.
        succeeded(unsafe { libc::posix_spawn_file_actions_addchdir_np(self.0.as_mut_ptr(), directory.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

struct Attributes(MaybeUninit<libc::posix_spawnattr_t>);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: it is made here, and destroyed once, by `drop`.
        succeeded(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        Ok(Attributes(attributes))
    }

    /// The child has the default action for that signal.
    fn reset(&mut self, signal: Signal) -> io::Result<()> {
        let set = SigSet::from(signal);
        // SAFETY: initialised in `new`; the set is copied before the call returns.
        succeeded(unsafe { libc::posix_spawnattr_setsigdefault(self.0.as_mut_ptr(), set.as_ref()) })?;
        // SAFETY: initialised in `new`.
        succeeded(unsafe {
            libc::posix_spawnattr_setflags(self.0.as_mut_ptr(), libc::POSIX_SPAWN_SETSIGDEF as libc::c_short)
        })
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and not used after this.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
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

    fn end(pid: u32) -> Option<nix::sys::wait::WaitStatus> {
        let pidfd = crate::sys::pidfd(pid).unwrap();
        crate::listen::wait(
            &mut [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)],
            nix::poll::PollTimeout::NONE,
        )
        .unwrap();
        crate::sys::reap(pidfd.as_fd())
    }

    /// In an order in which each has another's number, so that a copy in place would replace one that is still to be copied.
    #[test]
    fn descriptors_come_from_three_on_in_the_order_given_and_no_others() {
        let pipes: Vec<_> = (0..7).map(|_| nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()).collect();
        let fds: Vec<_> = pipes.iter().rev().map(|(_, write)| write.as_fd()).collect();
        let script = "for n in 3 4 5 6 7 8; do eval \"echo $n >&$n\"; done; ls /proc/self/fd | tr '\\n' ' ' >&9";
        let pid = child(&image(script), &fds).unwrap();
        assert!(matches!(end(pid), Some(nix::sys::wait::WaitStatus::Exited(_, 0))));
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
        assert_eq!(child(&nowhere, &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut lost = image("");
        lost.directory = c_string("/nowhere/at/all").unwrap();
        assert_eq!(child(&lost, &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
