//! Keys become words, and the terminal is always put back.

use crate::process::{lock, wait_at_most};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Rebuild,
    Upgrade,
    Back,
    Clear,
    Help,
    Quit,
}

impl Key {
    fn of(byte: u8) -> Option<Key> {
        match byte {
            b'r' => Some(Key::Rebuild),
            b'u' => Some(Key::Upgrade),
            b'b' => Some(Key::Back),
            b'c' => Some(Key::Clear),
            b'h' | b'?' => Some(Key::Help),
            b'q' => Some(Key::Quit),
            _ => None,
        }
    }
}

/// A shell says nothing to a running job that it fetches from the background, and the terminal says nothing of a key before Enter
/// is pressed. So while the terminal is another job's, it is asked whose it is each time that so many milliseconds have passed.
const LOOK_AGAIN: u16 = 300;

/// The thread ends as soon as it is woken.
const PATIENCE: Duration = Duration::from_secs(1);

const OURS: u8 = b'!';
const ANOTHERS: u8 = b'?';

/// The terminal as it was before keys were read from it; kept where a panic hook finds it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Reads keys for as long as it lives.
#[derive(Debug)]
pub struct Keys {
    thread: Option<JoinHandle<()>>,
    /// `OURS` or `ANOTHERS`: whose the terminal is now; closed to end the thread.
    wake: Option<PipeWriter>,
    /// At its end when the thread is.
    over: PipeReader,
}

impl Keys {
    /// `None` where there is nobody to press them, as standard input is no terminal. While the terminal belongs to another job it
    /// is left alone.
    pub fn listen(tell: impl Fn(Key) + Send + 'static) -> io::Result<Option<Keys>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            put_back();
            hook(panic);
        }));
        let ours = in_foreground();
        if ours {
            take();
        }
        let (woken, wake) = io::pipe()?;
        let (over, ended) = io::pipe()?;
        let thread = thread::Builder::new().spawn(move || {
            read(woken, ours, &tell);
            drop(ended);
        });
        let thread = thread.inspect_err(|_| put_back())?;
        Ok(Some(Keys { thread: Some(thread), wake: Some(wake), over }))
    }

    /// The terminal is another's for a while.
    pub fn suspend(&mut self) {
        put_back();
        self.wake(ANOTHERS);
    }

    /// It is ours again, if it is: a job that goes on in the background gets the same signal.
    pub fn resume(&mut self) {
        if in_foreground() {
            take();
            self.wake(OURS);
        }
    }

    fn wake(&mut self, whose: u8) {
        if let Some(wake) = &mut self.wake {
            // The thread has gone with its terminal, and there are no keys to read any more.
            wake.write_all(&[whose]).ok();
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.wake = None;
        // Where another process has read the key that it was about to read, it waits for the next one, and is left to that.
        if let Some(thread) = self.thread.take().filter(|_| wait_at_most(&self.over, PATIENCE)) {
            // A panic there has been told already.
            thread.join().ok();
        }
        put_back();
        *lock(&BEFORE) = None;
    }
}

fn in_foreground() -> bool {
    io::stdin().is_terminal() && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Keys come one by one and unseen; Ctrl-C stays a signal, and what others write still looks as it should.
fn take() {
    let mut before = lock(&BEFORE);
    if before.is_none() {
        // A terminal that cannot be asked is left as it is.
        *before = tcgetattr(io::stdin()).ok();
    }
    if let Some(before) = &*before {
        let mut keys = before.clone();
        keys.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // A terminal that has just gone away is heard of by SIGHUP.
        tcsetattr(io::stdin(), SetArg::TCSANOW, &keys).ok();
    }
}

fn put_back() {
    // A job in the background that touches the terminal is stopped (SIGTTOU); its terminal has been put back already.
    if let Some(before) = &*lock(&BEFORE)
        && in_foreground()
    {
        tcsetattr(io::stdin(), SetArg::TCSANOW, before).ok();
    }
}

fn read(mut woken: PipeReader, mut ours: bool, tell: &impl Fn(Key)) {
    let mut byte = [0];
    loop {
        let stdin = io::stdin();
        // What is typed meanwhile is for another job: reading it would stop this one (SIGTTIN).
        let keys = if ours { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(stdin.as_fd(), keys), PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        // An interrupted call is repeated.
        poll(&mut fds, if ours { PollTimeout::NONE } else { LOOK_AGAIN.into() }).ok();
        let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if fds[0].revents().is_some_and(|events| events.intersects(hung_up)) {
            // The terminal is gone, and no key will ever come.
            return;
        }
        let [key, wake] = fds.map(|fd| fd.any().unwrap_or(false));
        if wake {
            match woken.read(&mut byte) {
                Ok(1) => ours = byte[0] == OURS,
                Ok(_) | Err(_) => return,
            }
        } else if !ours {
            if in_foreground() {
                take();
                ours = true;
            }
        } else if key && !in_foreground() {
            ours = false;
        } else if key {
            // One byte at a time and unbuffered: what is typed ahead is found by the next poll.
            match nix::unistd::read(stdin.as_fd(), &mut byte) {
                Ok(1) => Key::of(byte[0]).into_iter().for_each(tell),
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
                // The terminal is gone.
                Ok(_) | Err(_) => return,
            }
        }
    }
}
