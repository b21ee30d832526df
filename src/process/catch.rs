//! A child that is caught in the moment in which it has become a certain program and has not run an instruction of it yet (ptrace(2),
//! PTRACE_O_TRACEEXEC): how it was started is read, and it is ended.
//! Never lives here: which program that is, and what is made of the answer.

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::thread;

pub type Environment = BTreeMap<OsString, OsString>;

/// How a program was about to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// With the program's own name. Where that is a script, its interpreter stands before it.
    pub args: Vec<OsString>,
    /// Empty where it may not be read, as of a program that runs with another's rights.
    pub env: Environment,
    /// What the child had in its environment when it first was a program.
    pub given: Environment,
}

/// Which start of a program is waited for, and who is told of it.
pub struct Catch {
    /// By its arguments.
    pub wanted: fn(&[OsString]) -> bool,
    pub tell: Box<dyn FnOnce(Caught) + Send>,
}

impl Catch {
    /// From now on no such start is missed. The child must not have begun to run what it was started for.
    ///
    /// # Errors
    /// Where the system does not allow it: EPERM in a container, under a debugger.
    pub fn begin(self, pid: u32) -> io::Result<()> {
        let pid = Pid::from_raw(pid as i32);
        let (mut begun, mut begins) = io::pipe()?;
        // Where there is no thread to be had, the pipe is at its end.
        thread::Builder::new().spawn(move || {
            // Only the thread that has begun it may go on with it.
            let began = ptrace::seize(pid, Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL);
            let code = began.err().map_or(0, |error| error as i32);
            // The other end is read below.
            begins.write_all(&code.to_ne_bytes()).ok();
            drop(begins);
            if began.is_ok() {
                self.follow(pid);
            }
        })?;
        let mut code = [0; 4];
        begun.read_exact(&mut code)?;
        match i32::from_ne_bytes(code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn follow(self, pid: Pid) {
        let mut given = None;
        loop {
            // Its end is left to whoever has started it.
            let seen = waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let signal = match seen {
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::PtraceEvent(_, Signal::SIGTRAP, libc::PTRACE_EVENT_EXEC)) => {
                    let args = args(pid);
                    let env = environment(pid).unwrap_or_default();
                    // One that nobody knows must not run.
                    if args.as_ref().is_ok_and(|args| !(self.wanted)(args)) {
                        given.get_or_insert(env);
                    } else {
                        let args = args.unwrap_or_default();
                        let given = given.unwrap_or_default();
                        (self.tell)(Caught { args, env, given });
                        // It has done nothing, so there is nothing that it could want to put in order.
                        kill(pid, Signal::SIGKILL).ok();
                        return;
                    }
                    None
                }
                // A stop by job control, or the news that it may be followed.
                Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP)) => None,
                // On its way to the child.
                Ok(WaitStatus::PtraceEvent(_, signal, 0)) => Some(signal),
                Ok(WaitStatus::PtraceEvent(..)) => None,
                // It has ended; or it is told of a signal that has no name, which nobody sends.
                Ok(_) | Err(Errno::ECHILD | Errno::ESRCH) => return,
                Err(_) => None,
            };
            // One that was killed meanwhile is heard of by the next look.
            ptrace::cont(pid, signal).ok();
        }
    }
}

fn args(pid: Pid) -> io::Result<Vec<OsString>> {
    Ok(words(&std::fs::read(format!("/proc/{pid}/cmdline"))?))
}

fn environment(pid: Pid) -> io::Result<Environment> {
    let pairs = words(&std::fs::read(format!("/proc/{pid}/environ"))?).into_iter().filter_map(|pair| {
        let mut bytes = pair.into_vec();
        // A name may begin with the sign, as those of some shells do.
        let at = 1 + bytes.get(1..)?.iter().position(|byte| *byte == b'=')?;
        let value = bytes.split_off(at + 1);
        bytes.truncate(at);
        Some((OsString::from_vec(bytes), OsString::from_vec(value)))
    });
    Ok(pairs.collect())
}

/// Each ends with a NUL (proc_pid_cmdline(5), proc_pid_environ(5)).
fn words(bytes: &[u8]) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    words.pop();
    words
}
