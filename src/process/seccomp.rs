//! Seccomp user notification (seccomp_unotify(2)): the filter a child puts on itself before it becomes the program, and the
//! calls of the program that arrive through it. One of the few files with `unsafe`: the kernel is spoken to by structures.
//! Never lives here: what is answered.

use nix::errno::Errno;
use nix::libc;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The calls that are asked for; every other passes without delay.
const TRAPPED: [libc::c_long; 5] =
    [libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_io_uring_setup];

/// The kernel's name of the calling convention whose numbers `libc::SYS_*` are (linux/audit.h). Calls by another one, as of a
/// 32-bit program, pass.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00F3);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const ARCHITECTURE: Option<u32> = None;

/// A call of the program, which waits until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Of this call; no other ever has it.
    pub id: u64,
    /// The thread that waits.
    pub thread: i32,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Bind { fd: RawFd, address: u64, length: u64 },
    Listen { fd: RawFd, backlog: i32 },
    Accept { fd: RawFd, address: u64, length: u64, flags: i32 },
    IoUring,
    Other,
}

/// Filters this process, its threads to come and its children from now on, whatever they become.
///
/// # Errors
/// EINVAL on a kernel before 5.14 (which could not do all that is needed) or a processor that is not known here; ENOSYS or EPERM
/// where a container forbids it; EBUSY when somebody listens to such calls already.
pub fn install() -> io::Result<OwnedFd> {
    let architecture = ARCHITECTURE.ok_or(Errno::EINVAL)?;
    if !is_new_enough(&std::fs::read_to_string("/proc/sys/kernel/osrelease")?) {
        return Err(Errno::EINVAL.into());
    }
    let filter = filter(architecture);
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let listener = match apply(&program) {
        // An ordinary user may filter itself once it can gain no rights by exec.
        Err(Errno::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            apply(&program)?
        }
        other => other?,
    };
    Ok(listener)
}

/// Descriptors are put in place and calls answered in one step since Linux 5.14 (SECCOMP_ADDFD_FLAG_SEND). Asked for by number:
/// a filter, once in place, can be taken back by nobody.
fn is_new_enough(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 14)
}

fn apply(program: &libc::sock_fprog) -> Result<OwnedFd, Errno> {
    // Without the second flag, kernels before 5.16 would slow down every branch of the program.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: `program` and the instructions it points to live until the call has returned, and the kernel only reads them.
    let listener =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER), flags, program) };
    let listener = Errno::result(listener)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec from birth), and its number fits into an int.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) })
}

fn filter(architecture: u32) -> Vec<libc::sock_filter> {
    let load = |offset| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    };
    let is = |k, jt, jf| libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k };
    let verdict = |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    // `struct seccomp_data`: the number of the call at 0, the architecture at 4 (seccomp(2)).
    let rest = TRAPPED.len() as u8;
    let mut filter = vec![load(4), is(architecture, 0, 1 + rest), load(0)];
    for (nth, call) in (0..).zip(TRAPPED) {
        filter.push(is(call as u32, rest - nth, 0));
    }
    filter.extend([verdict(libc::SECCOMP_RET_ALLOW), verdict(libc::SECCOMP_RET_USER_NOTIF)]);
    filter
}

/// Where the calls arrive. When it is closed, calls that wait, and all later ones, fail with ENOSYS.
#[derive(Debug)]
pub struct Calls {
    listener: OwnedFd,
}

/// Larger than any version of the kernel's structures, each of which the kernel reads or writes whole.
#[repr(C, align(8))]
struct Buffer([u8; 1024]);

impl Calls {
    pub fn new(listener: OwnedFd) -> Calls {
        // Caller and supervisor take turns, so each wakes the other on its own processor; since Linux 6.6, and without it they are only
        // slower (seccomp_unotify(2), SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP).
        let flags: libc::c_ulong = 1;
        // SAFETY: the flags are the argument itself.
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) };
        Calls { listener }
    }

    /// The next call, once the descriptor is readable. `None`: it was taken back, as by a signal.
    pub fn next(&self) -> Result<Option<Call>, Errno> {
        let mut buffer = Buffer([0; 1024]);
        // SAFETY: the buffer is zeroed, as the kernel demands, aligned, and larger than what it writes.
        let done = unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut buffer) };
        match Errno::result(done) {
            Ok(_) => {}
            Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error),
        }
        // SAFETY: the kernel has written such a structure at the beginning of the aligned buffer.
        let told: libc::seccomp_notif = unsafe { std::ptr::from_ref(&buffer).cast::<libc::seccomp_notif>().read() };
        let args = told.data.args;
        // Descriptors and flags are ints: the upper half of the register is not theirs.
        let int = |arg: u64| arg as u32 as i32;
        let accept = |flags| What::Accept { fd: int(args[0]), address: args[1], length: args[2], flags };
        let what = match libc::c_long::from(told.data.nr) {
            libc::SYS_bind => What::Bind { fd: int(args[0]), address: args[1], length: args[2] & 0xFFFF_FFFF },
            libc::SYS_listen => What::Listen { fd: int(args[0]), backlog: int(args[1]) },
            libc::SYS_accept => accept(0),
            libc::SYS_accept4 => accept(int(args[3])),
            libc::SYS_io_uring_setup => What::IoUring,
            _ => What::Other,
        };
        Ok(Some(Call { id: told.id, thread: told.pid as i32, what }))
    }

    /// Whether the call still waits. What was read of its process under its number before this says yes was its own.
    pub fn is_waiting(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one u64.
        let done = unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &id) };
        Errno::result(done).is_ok()
    }

    /// The kernel does what was asked.
    pub fn proceed(&self, id: u64) {
        self.send(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// The call is over, and has succeeded with 0. Whether its thread hears of that: one that a signal has called away asks again, for what
    /// is done already.
    pub fn succeed(&self, id: u64) -> bool {
        self.send(id, 0, 0, 0)
    }

    pub fn fail(&self, id: u64, error: Errno) {
        self.send(id, 0, -(error as i32), 0);
    }

    /// Puts a copy of the descriptor at that number of the process, in place of what is there; the call still waits.
    pub fn place(&self, id: u64, fd: BorrowedFd<'_>, number: RawFd, close_on_exec: bool) -> Result<(), Errno> {
        self.add(id, fd, Some(number), close_on_exec).map(drop)
    }

    /// The call succeeds with the number of a copy of the descriptor, at once.
    pub fn give(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> Result<(), Errno> {
        self.add(id, fd, None, close_on_exec).map(drop)
    }

    fn add(&self, id: u64, fd: BorrowedFd<'_>, number: Option<RawFd>, close_on_exec: bool) -> Result<RawFd, Errno> {
        let flags = if number.is_some() { libc::SECCOMP_ADDFD_FLAG_SETFD } else { libc::SECCOMP_ADDFD_FLAG_SEND };
        let add = libc::seccomp_notif_addfd {
            id,
            flags: flags as u32,
            srcfd: fd.as_raw_fd() as u32,
            newfd: number.unwrap_or(0) as u32,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the kernel reads one such structure, whose size is part of the request's number.
        Errno::result(unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &add) })
    }

    /// A call that does not wait any more needs no answer: its thread was ended or went to serve a signal.
    fn send(&self, id: u64, value: i64, error: i32, flags: u32) -> bool {
        let mut buffer = Buffer([0; 1024]);
        let answer = libc::seccomp_notif_resp { id, val: value, error, flags };
        const { assert!(size_of::<libc::seccomp_notif_resp>() <= size_of::<Buffer>()) };
        // SAFETY: it fits into the aligned buffer.
        unsafe { std::ptr::from_mut(&mut buffer).cast::<libc::seccomp_notif_resp>().write(answer) };
        // SAFETY: the kernel reads one such structure, in whatever later version of it zeroes follow.
        unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &buffer) == 0 }
    }
}

impl AsFd for Calls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_new_enough_by_its_number() {
        for (release, enough) in [
            ("5.14.0", true),
            ("6.18.44-fc", true),
            ("5.13.19-generic", false),
            ("4.19", false),
            ("", false),
            ("10.0", true),
        ] {
            assert_eq!(is_new_enough(release), enough, "{release}");
        }
    }
}
