//! A terminal of the test's own, and a process in front of it.

use super::{LONG, now};
use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{Termios, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};

const ROWS: u16 = 60;
const COLUMNS: u16 = 120;

/// What the process behind the terminal sees of it, and what it is seen to do with it.
pub struct Terminal {
    master: File,
    /// Kept open, so that what was written stays to be read when the process has gone.
    slave: OwnedFd,
    child: Child,
    /// As they were before the process began.
    pub before: Termios,
    said: Arc<(Mutex<Vec<u8>>, Condvar)>,
    /// Up to where `wait_for` has read.
    read: usize,
}

impl Terminal {
    /// Runs the command as the leader of a new session, in the foreground of its terminal.
    pub fn run(mut command: Command) -> Terminal {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let slave = open(name.as_str(), flags, Mode::empty()).unwrap();
        let size = rustix::termios::Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).unwrap();
        let before = tcgetattr(slave.as_fd()).unwrap();
        let copy = || slave.try_clone().unwrap();
        command.stdin(copy()).stdout(copy()).stderr(copy()).env("TERM", "xterm-256color");
        let lead = || {
            nix::unistd::setsid()?;
            rustix::process::ioctl_tiocsctty(std::io::stdin())?;
            Ok(())
        };
        // SAFETY: only two system calls between fork and exec.
        unsafe { command.pre_exec(lead) };
        let child = command.spawn().unwrap();
        let master = File::from(OwnedFd::from(master));
        let said = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (mut ear, heard) = (master.try_clone().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO: nobody has the terminal open any more.
            while let Ok(length @ 1..) = ear.read(&mut bytes) {
                heard.0.lock().unwrap().extend_from_slice(&bytes[..length]);
                heard.1.notify_all();
            }
        });
        Terminal { master, slave, child, before, said, read: 0 }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn attributes(&self) -> Termios {
        tcgetattr(self.slave.as_fd()).unwrap()
    }

    pub fn press(&self, keys: &str) {
        (&self.master).write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the text, after all that was waited for before. Returns what stood from there up to its end.
    pub fn wait_for(&mut self, text: &str) -> String {
        let limit = now() + LONG;
        let mut said = self.said.0.lock().unwrap();
        loop {
            let rest = &said[self.read..];
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                let found = String::from_utf8_lossy(&rest[..at + text.len()]).into_owned();
                self.read += at + text.len();
                return found;
            }
            let (guard, waited) = self.said.1.wait_timeout(said, limit.saturating_duration_since(now())).unwrap();
            said = guard;
            assert!(!waited.timed_out(), "no {text:?} after {:?}", String::from_utf8_lossy(&said));
        }
    }

    /// All that was written to it so far.
    pub fn everything(&self) -> Vec<u8> {
        self.said.0.lock().unwrap().clone()
    }

    /// What stands on it, line by line; what has left it at the top is there, too.
    pub fn screen(&self) -> Vec<String> {
        let mut parser = vt100::Parser::new(NonZero::new(1000).unwrap(), NonZero::new(COLUMNS).unwrap(), 0);
        parser.process(&self.everything());
        let screen = parser.screen();
        screen.rows(0, COLUMNS).map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// Waits until the process has ended.
    pub fn finish(&mut self) -> ExitStatus {
        super::wait_for_end(self.pid());
        self.child.wait().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}
