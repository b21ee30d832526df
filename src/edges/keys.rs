//! Keys become words, and the terminal is always put back.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::io::{self, IsTerminal, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

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

/// The terminal as it was before keys were read from it; kept where a panic hook finds it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Reads keys for as long as it lives.
#[derive(Debug)]
pub struct Keys {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
}

impl Keys {
    /// `None` where there is nobody to press them: standard input is no terminal, or it belongs to another job.
    pub fn listen(tell: impl Fn(Key) + Send + 'static) -> io::Result<Option<Keys>> {
        if !in_foreground() {
            return Ok(None);
        }
        *before() = Some(tcgetattr(io::stdin())?);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            put_back();
            hook(panic);
        }));
        take();
        let (stopped, stop) = io::pipe()?;
        let thread = thread::spawn(move || read(&stopped, &tell));
        Ok(Some(Keys { thread: Some(thread), stop: Some(stop) }))
    }

    /// The terminal is another's for a while.
    pub fn suspend(&self) {
        put_back();
    }

    /// It is ours again, if it is.
    pub fn resume(&self) {
        if in_foreground() {
            take();
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been told already.
            thread.join().ok();
        }
        put_back();
        *before() = None;
    }
}

fn in_foreground() -> bool {
    io::stdin().is_terminal() && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Keys come one by one and unseen; Ctrl-C stays a signal, and what others write still looks as it should.
fn take() {
    if let Some(before) = &*before() {
        let mut keys = before.clone();
        keys.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // A terminal that has just gone away is heard of by SIGHUP.
        tcsetattr(io::stdin(), SetArg::TCSANOW, &keys).ok();
    }
}

fn put_back() {
    if let Some(before) = &*before() {
        tcsetattr(io::stdin(), SetArg::TCSANOW, before).ok();
    }
}

fn before() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(stopped: &PipeReader, tell: &impl Fn(Key)) {
    let mut byte = [0];
    loop {
        let stdin = io::stdin();
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        // An interrupted call is repeated.
        poll(&mut fds, PollTimeout::NONE).ok();
        let [key, stopped] = fds.map(|fd| fd.any().unwrap_or(false));
        if stopped {
            return;
        }
        if !key {
            continue;
        }
        // One byte at a time, unbuffered enough: what is typed ahead of a poll is read by the next ones.
        match nix::unistd::read(stdin.as_fd(), &mut byte) {
            Ok(1) => Key::of(byte[0]).into_iter().for_each(tell),
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
            // The terminal is gone.
            Ok(_) | Err(_) => return,
        }
    }
}
