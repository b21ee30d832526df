//! The server's end of the control channel, and the thread that listens to it and to the stop signals. Its mirror image
//! is `holder`.
//! Never lives here: accepting, and waiting for connections (`state`).

use crate::bound_path::BoundPaths;
use crate::environment::{Name, Socket};
use crate::notify::Manager;
use crate::state::{Phase, State, Why};
use crate::wire::{self, ToHolder, ToServer};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the server says to whoever watches over it: a holder, a service manager, or nobody.
#[derive(Debug)]
pub(crate) struct Mouth {
    channel: Option<OwnedFd>,
    manager: Option<Manager>,
    ready: AtomicBool,
    /// Inherited sockets that nobody has asked for yet.
    unclaimed: Mutex<Vec<Socket>>,
    /// Connections when the holder was last told.
    said_live: std::sync::atomic::AtomicU32,
}

impl Mouth {
    pub(crate) fn new(channel: Option<OwnedFd>, manager: Option<Manager>, inherited: Vec<Socket>) -> Self {
        Mouth {
            channel,
            manager,
            ready: AtomicBool::new(false),
            unclaimed: Mutex::new(inherited),
            said_live: u32::MAX.into(),
        }
    }

    pub(crate) fn unclaimed(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_holder(&self) -> bool {
        self.channel.is_some()
    }

    /// READY, the first time.
    pub(crate) fn ready(&self) -> io::Result<()> {
        if self.ready.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        if let Some(manager) = &self.manager {
            // A service manager that is gone is no reason not to serve.
            manager.tell("READY=1").ok();
        }
        // Nor is a holder that is gone; whoever started us says what that means, by a signal.
        self.tell_if_heard(&ToHolder::Ready);
        Ok(())
    }

    pub(crate) fn tell(&self, message: &ToHolder, socket: Option<&OwnedFd>) -> io::Result<()> {
        match &self.channel {
            Some(channel) => wire::send(channel, &message.encode(), socket),
            None => Ok(()),
        }
    }

    /// A holder that is gone or that has stopped reading learns nothing more; this process goes on all the same.
    pub(crate) fn tell_if_heard(&self, message: &ToHolder) {
        let _ = self.tell(message, None);
    }

    pub(crate) fn draining(&self, live: usize) {
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        if self.said_live.swap(live, Ordering::AcqRel) != live {
            self.tell_if_heard(&ToHolder::Draining { live });
        }
    }

    fn stopping(&self) {
        if let Some(manager) = &self.manager {
            let _ = manager.tell("STOPPING=1");
        }
    }
}

/// How long the steps of leaving may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// From the end of accepting until idle connections are closed.
    pub(crate) linger: Duration,
    /// From the end of accepting until the connections that are left are shut down.
    pub(crate) drain_timeout: Duration,
}

/// Starts the thread. It lives until the process ends.
pub(crate) fn listen(
    state: Arc<State>,
    mouth: Arc<Mouth>,
    paths: Arc<BoundPaths>,
    signals: Option<OwnedFd>,
    pace: Pace,
) -> io::Result<()> {
    let ears = Ears { state, mouth, paths, signals: signals.map(File::from), pace, stopped_at: None };
    std::thread::Builder::new().name("hotrun-control".into()).spawn(move || ears.listen())?;
    Ok(())
}

struct Ears {
    state: Arc<State>,
    mouth: Arc<Mouth>,
    paths: Arc<BoundPaths>,
    signals: Option<File>,
    pace: Pace,
    stopped_at: Option<Instant>,
}

impl Ears {
    fn listen(mut self) {
        let mut channel_open = self.mouth.channel.is_some();
        loop {
            // An eventfd asked for nothing never answers: it keeps the places of what is not there.
            let nothing = || PollFd::new(self.state.stop_event(), PollFlags::empty());
            let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [
                self.mouth.channel.as_ref().filter(|_| channel_open).map_or_else(nothing, |fd| wanted(fd.as_fd())),
                self.signals.as_ref().map_or_else(nothing, |fd| wanted(fd.as_fd())),
                wanted(self.state.live_event()),
            ];
            match poll(&mut fds, self.until_next_step()) {
                // Out of memory for a moment, at worst: the deadlines below are kept all the same.
                Ok(_) | Err(_) => {}
            }
            let [message, signal, live] = fds.map(|fd| fd.any().unwrap_or(false));
            if message {
                channel_open = self.hear();
            }
            if signal {
                self.signal();
            }
            if live {
                self.mouth.draining(self.state.take_live_event());
            }
            self.step();
        }
    }

    /// One message of the holder; says whether there may be more.
    fn hear(&mut self) -> bool {
        let Some(channel) = &self.mouth.channel else { return false };
        let message = match wire::receive(channel) {
            Ok(Some((bytes, _))) => ToServer::decode(&bytes),
            // The holder has gone. Whoever started us decides what that means, by a signal.
            Ok(None) | Err(_) => return false,
        };
        match message {
            Ok(ToServer::Commit) => {}
            Ok(ToServer::Pause) => {
                self.state.pause();
                self.mouth.tell_if_heard(&ToHolder::Paused);
            }
            Ok(ToServer::Resume) => self.state.resume(),
            Ok(ToServer::Drain) => self.stop(Why::Upgraded),
            Ok(ToServer::Release { name }) => {
                self.mouth.unclaimed().retain(|socket| socket.name != Name::Given(name.clone()));
            }
            Ok(ToServer::Abort { why }) => {
                eprintln!("hotrun: whoever started this server ended the hand-over: {why}");
                return false;
            }
            Err(error) => eprintln!("hotrun: {error}; ignored"),
        }
        true
    }

    /// A first stop signal is a request, a second one is in a hurry. signal(7) merges those that come at once.
    fn signal(&mut self) {
        let mut bytes = [0; 64];
        let Some(Ok(count)) = self.signals.as_mut().map(|pipe| pipe.read(&mut bytes)) else { return };
        for _ in 0..count.min(2) {
            if self.stopped_at.is_some() {
                self.state.force(true);
            } else {
                self.stop(Why::Stopped);
            }
        }
    }

    fn stop(&mut self, why: Why) {
        if self.stopped_at.is_some() {
            return;
        }
        self.state.close_gate();
        self.stopped_at = Some(now());
        // Before anybody is woken: the process may end as soon as it knows.
        if why == Why::Stopped {
            self.mouth.stopping();
            self.paths.remove();
        }
        self.mouth.draining(self.state.live());
        self.state.stop_accepting(why);
    }

    fn until_next_step(&self) -> PollTimeout {
        let Some(stopped_at) = self.stopped_at else { return PollTimeout::NONE };
        let step = match self.state.phase() {
            Phase::Lingering => self.pace.linger.min(self.pace.drain_timeout),
            Phase::Draining => self.pace.drain_timeout,
            Phase::Serving | Phase::Paused | Phase::Forced => return PollTimeout::NONE,
        };
        let left = (stopped_at + step).saturating_duration_since(now());
        // poll(2) counts whole milliseconds: one more, so that the step is due when it returns.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    fn step(&mut self) {
        let Some(stopped_at) = self.stopped_at else { return };
        let since = now().saturating_duration_since(stopped_at);
        if since >= self.pace.linger {
            self.state.drain();
        }
        if since >= self.pace.drain_timeout {
            self.state.force(false);
        }
    }
}

// The deadlines of this thread are the one place of the crate that reads a clock.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
