//! The thread that hears everything: signals, calls, the holder, the successor, the clock. It turns each into an input of
//! `succession`, and has `perform` do what that says. Its mirror image is `holder`.
//! Never lives here: what follows from what (`succession`, `retirement`), and doing it (`perform`).

mod keep_pid;
pub(crate) mod peer;
mod perform;
pub(crate) mod retirement;
pub(crate) mod succession;

use crate::control::peer::{Ancestor, Peer};
use crate::control::perform::CLAIM;
use crate::control::retirement::{Retirement, Step};
use crate::control::succession::{By, Input, Stage, Succession};
use crate::holder::Said;
use crate::request::{CONTROL_THREAD, Request};
use crate::serving::bound_path::BoundPaths;
use crate::serving::register::Register;
use crate::serving::state::{State, Why};
use crate::settings::Settings;
use crate::upstream::{Upstream, UpstreamKind, complain};
use crate::wire::{self, ToHolder, ToServer};
use crate::{PidMode, Probation, Signal, UpgradeError, sys};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

pub(crate) struct Control {
    pub(crate) state: Arc<State>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) paths: Arc<BoundPaths>,
    pub(crate) register: Arc<Register>,
    pub(crate) settings: Settings,
    pub(crate) generation: u32,
    pub(crate) succession: Succession,
    pub(crate) retirement: Retirement,
    /// A stop was asked for, by a signal or a call to this process.
    pub(crate) stop_asked: bool,
    pub(crate) upstream_open: bool,
    pub(crate) signals: Option<File>,
    pub(crate) bell: Arc<EventFd>,
    pub(crate) requests: Receiver<Request>,
    pub(crate) caller: Option<Sender<Result<crate::Successor, UpgradeError>>>,
    pub(crate) successor: Option<Peer>,
    /// Keeps the sockets served until this process does, or since this one waits to become its successor.
    pub(crate) interim: Option<Peer>,
    /// Processes of earlier generations that are still there, the oldest first.
    pub(crate) ancestors: Vec<Ancestor>,
    /// Children on their way out.
    pub(crate) children: Vec<Peer>,
    /// Readable when a later generation is in a hurry for this one to end.
    pub(crate) hurry: EventFd,
    pub(crate) next_ping: Option<Instant>,
    /// This process does not become its successor: it stays until the successor ends.
    pub(crate) stays: bool,
    /// The successor has been told that the service is to stop.
    pub(crate) stop_passed_on: bool,
    /// The process before has gone, and what it had bound and nobody here asks for until then goes, too.
    pub(crate) claim_until: Option<Instant>,
}

/// What there is to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Upstream,
    Signals,
    News,
    Bell,
    Hurry,
    SuccessorSays,
    SuccessorEnds,
    InterimSays,
    InterimEnds,
    /// An ancestor, or a child on its way out.
    Leaver,
}

impl Control {
    /// Starts the thread. It lives until the process ends.
    pub(crate) fn start(mut self) -> io::Result<()> {
        std::thread::Builder::new().name(CONTROL_THREAD.into()).spawn(move || {
            loop {
                for source in self.wait() {
                    self.hear(source);
                }
                self.look_at_the_clock();
            }
        })?;
        Ok(())
    }

    fn wait(&self) -> Vec<Source> {
        let mut sources: Vec<(Source, BorrowedFd<'_>)> = vec![
            (Source::News, self.state.news_event()),
            (Source::Bell, self.bell.as_fd()),
            (Source::Hurry, self.hurry.as_fd()),
        ];
        sources.extend(self.upstream.channel().filter(|_| self.upstream_open).map(|fd| (Source::Upstream, fd)));
        sources.extend(self.signals.as_ref().map(|fd| (Source::Signals, fd.as_fd())));
        if let Some(successor) = &self.successor {
            sources.extend(successor.channel().map(|fd| (Source::SuccessorSays, fd)));
            sources.push((Source::SuccessorEnds, successor.pidfd()));
        }
        if let Some(interim) = &self.interim {
            sources.extend(interim.channel().map(|fd| (Source::InterimSays, fd)));
            sources.push((Source::InterimEnds, interim.pidfd()));
        }
        let ancestors = self.ancestors.iter().map(|ancestor| ancestor.pidfd.as_fd());
        let leavers = ancestors.chain(self.children.iter().map(Peer::pidfd));
        sources.extend(leavers.map(|fd| (Source::Leaver, fd)));
        let mut fds: Vec<PollFd<'_>> = sources.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, self.until_next_step()) {
            Ok(_) => {}
            // Out of memory for a moment, at worst: the deadlines are kept all the same.
            Err(_) => return Vec::new(),
        }
        let mut heard: Vec<Source> =
            sources.iter().zip(&fds).filter(|(_, fd)| fd.any() == Some(true)).map(|((source, _), _)| *source).collect();
        // What a process still said comes before its end.
        heard.retain(|source| match source {
            Source::SuccessorEnds => !heard_from(&sources, &fds, Source::SuccessorSays),
            _ => true,
        });
        heard.dedup();
        heard
    }

    fn hear(&mut self, source: Source) {
        match source {
            Source::Upstream => self.hear_upstream(),
            Source::Signals => self.hear_signals(),
            Source::News => {
                self.state.take_news();
                if self.retirement.has_begun() {
                    self.upstream.draining(self.state.live());
                }
            }
            Source::Bell => {
                // Nothing to read: the requests are looked through all the same.
                let _ = self.bell.read();
                while let Ok(request) = self.requests.try_recv() {
                    self.asked(request);
                }
            }
            Source::Hurry => {
                let _ = self.hurry.read();
                if self.retirement.has_begun() {
                    self.state.force(true);
                }
            }
            // Whatever was heard before this one may have ended it, or have emptied its channel: it is looked at anew.
            Source::SuccessorSays if self.successor.as_ref().and_then(Peer::channel).is_some_and(is_readable) => {
                self.hear_successor();
            }
            Source::SuccessorEnds if self.successor.as_ref().is_some_and(|peer| is_readable(peer.pidfd())) => {
                self.input(Input::Ended);
            }
            Source::SuccessorSays | Source::SuccessorEnds => {}
            Source::InterimSays => self.hear_interim(),
            Source::InterimEnds => self.interim_ended(),
            Source::Leaver => {
                self.ancestors.retain(|ancestor| !is_readable(ancestor.pidfd.as_fd()));
                self.children.retain(|child| sys::reap(child.pidfd()).is_none() && !is_readable(child.pidfd()));
            }
        }
    }

    /// One message of whoever is above.
    fn hear_upstream(&mut self) {
        let Some(channel) = self.upstream.channel() else { return };
        let (bytes, fds) = match wire::receive(channel) {
            Ok(Some(received)) => received,
            // Whoever is above has gone. What that means to this process is said by a signal; the sockets are its own now.
            Ok(None) | Err(_) => {
                self.upstream_open = false;
                self.confirmed();
                self.wait_for_claims();
                return;
            }
        };
        match ToServer::decode(&bytes) {
            Ok(ToServer::Commit) => {
                match self.upstream.kind() {
                    UpstreamKind::Predecessor => self.confirmed(),
                    // If it has waited for this.
                    UpstreamKind::Holder => self.resume(),
                    UpstreamKind::Returning | UpstreamKind::Nobody => {}
                }
            }
            Ok(ToServer::Pause) => {
                self.state.pause(&[]);
                self.upstream.tell_if_heard(&ToHolder::Paused);
            }
            Ok(ToServer::Resume) => self.resume(),
            Ok(ToServer::Drain) => {
                self.input(Input::Dismissed);
                self.retire(Why::Upgraded);
                if self.upstream.kind() == UpstreamKind::Predecessor {
                    // Those that this process alone had: the process before knows of none.
                    self.paths.remove();
                }
            }
            Ok(ToServer::Release { name }) => {
                if !self.upstream.release(&name) {
                    // It is used here: the process before has not heard that in time.
                    self.register.open_again(&name);
                }
            }
            Ok(ToServer::Stop) => {
                if self.retirement.has_begun() && self.succession.stage() == Stage::Stopping {
                    // Said again: there is a hurry.
                    self.state.force(true);
                }
                // Nobody is told that this process serves: it does not.
                self.upstream.say_nothing_more();
                self.confirmed();
                self.input(Input::StopWanted);
            }
            Ok(ToServer::Upgrade) => self.input(Input::Wanted(By::Signal)),
            Ok(ToServer::Ancestor { generation }) => {
                if let Ok([pidfd, hurry]) = <[OwnedFd; 2]>::try_from(fds) {
                    self.ancestors.push(Ancestor { generation, pidfd, hurry });
                }
            }
            Ok(ToServer::Abort { why }) => {
                complain(format_args!("whoever started this server ended the hand-over: {why}"));
                self.upstream_open = false;
            }
            Err(error) => complain(format_args!("{error}; ignored")),
        }
    }

    /// The sockets are this process's alone.
    fn confirmed(&mut self) {
        // One that was told to leave is nobody's successor any more, whatever becomes of whoever told it.
        if self.upstream.kind() == UpstreamKind::Nobody || self.retirement.has_begun() {
            return;
        }
        if self.upstream.kind() == UpstreamKind::Holder {
            // Nobody is left who would end a pause.
            self.resume();
        }
        if let Err(error) = self.upstream.is_sole() {
            complain(error);
        }
        self.paths.own_expected();
        self.input(Input::Confirmed);
    }

    /// signal(7) merges those that come at once.
    fn hear_signals(&mut self) {
        let mut bytes = [0; 128];
        let Some(Ok(count)) = self.signals.as_mut().map(|pipe| pipe.read(&mut bytes)) else { return };
        for byte in &bytes[..count] {
            if let Ok(signal) = Signal::try_from(i32::from(*byte)) {
                self.signal(signal);
            }
        }
    }

    fn signal(&mut self, signal: Signal) {
        self.hear_out_the_successor();
        let manual = self.settings.probation == Probation::Manual;
        let starting = matches!(self.succession.stage(), Stage::Starting { .. });
        let on_probation = matches!(self.succession.stage(), Stage::Probation { .. });
        match signal {
            Signal::SIGQUIT if manual && on_probation => self.input(Input::Confirm(By::Signal)),
            // A script that was too quick must not end the service.
            Signal::SIGQUIT if manual && starting => complain("SIGQUIT: the successor is not ready yet; ignored"),
            // Nor one that was too slow.
            Signal::SIGQUIT if manual && self.succession.comes_too_late(now()) => {
                complain("SIGQUIT: the successor has just ended; ignored, and the next one stops the server");
            }
            Signal::SIGHUP if manual && (starting || on_probation) => self.input(Input::Back(By::Signal)),
            signal if self.settings.upgrade_on.contains(&signal) => self.input(Input::Wanted(By::Signal)),
            signal if self.settings.reload_on.contains(&signal) => {
                self.upstream.reloading(self.settings.ready_timeout);
                self.state.ask_for_reload();
            }
            signal if self.settings.stop_on.contains(&signal) => self.stop_wanted(),
            Signal::SIGQUIT => self.stop_wanted(),
            _ => complain(format_args!("{signal}: no successor is on probation; ignored")),
        }
    }

    fn asked(&mut self, request: Request) {
        self.hear_out_the_successor();
        // Nobody may wait for the answer any more.
        match request {
            Request::Upgrade(caller) => match self.refusal() {
                Some(error) => drop(caller.send(Err(error))),
                None => {
                    self.caller = Some(caller);
                    self.input(Input::Wanted(By::Call));
                }
            },
            Request::Confirm(caller) => drop(caller.send(self.decide(Input::Confirm(By::Call)))),
            Request::RollBack(caller) => drop(caller.send(self.decide(Input::Back(By::Call)))),
            Request::Stop => self.stop_wanted(),
            Request::Ready => {
                self.relieve_interim();
                self.wait_for_claims();
            }
            Request::Reloaded => {
                if matches!(self.succession.stage(), Stage::Serving | Stage::Relieving) {
                    self.upstream.reloaded();
                }
            }
        }
    }

    fn decide(&mut self, input: Input) -> Result<(), UpgradeError> {
        if !matches!(self.succession.stage(), Stage::Probation { .. }) {
            return Err(UpgradeError::NothingToConfirm);
        }
        self.input(input);
        Ok(())
    }

    /// A first request, or a repeated one, which is in a hurry. A process that was only draining for its successor has not
    /// been asked before; one that drains for a holder has, as that says it by this signal when its patience ends.
    fn stop_wanted(&mut self) {
        let repeated = std::mem::replace(&mut self.stop_asked, true);
        if self.retirement.has_begun() {
            if repeated && self.is_left_to_the_manager() {
                return;
            }
            if repeated || self.upstream.kind() == UpstreamKind::Holder {
                self.state.force(true);
                self.hurry_the_interim();
            } else {
                complain("connections are being finished; one more signal ends them");
                self.stop_interim();
            }
            return;
        }
        self.input(Input::StopWanted);
        if repeated {
            self.state.force(true);
        }
    }

    /// A service manager that stops a service signals all its processes, and those that are left once more when the main one has
    /// ended (systemd.kill(5), `SendSIGKILL=`): that is no hurry. It has its own way when its patience ends.
    fn is_left_to_the_manager(&self) -> bool {
        self.upstream.has_manager() && !self.upstream.is_announced()
    }

    /// What the process before had bound and nobody has asked for goes when that has gone, and this one has had its time.
    fn wait_for_claims(&mut self) {
        if !self.upstream_open && self.upstream.is_ready() && self.claim_until.is_none() {
            self.claim_until = Some(now() + CLAIM);
        }
    }

    /// It may have said that it is ready, and have clients, or it may have ended, before whatever is about to be done: nothing is
    /// handed over to one that is gone.
    fn hear_out_the_successor(&mut self) {
        while self.successor.as_ref().and_then(Peer::channel).is_some_and(is_readable) {
            self.hear_successor();
        }
        if self.successor.as_ref().is_some_and(|peer| is_readable(peer.pidfd())) {
            self.input(Input::Ended);
        }
    }

    /// One message of the successor.
    fn hear_successor(&mut self) {
        let Some(successor) = &mut self.successor else { return };
        match successor.receive() {
            Ok(Said::Hello { .. }) => successor.said_hello = true,
            Ok(Said::Taken { name }) => self.taken(&name),
            Ok(Said::Ready) => self.input(Input::Ready),
            // For the time when this process has become it. Else the successor hands it on by itself.
            Ok(Said::Offer { name, socket }) if self.settings.pid_mode == PidMode::KeepPid => {
                successor.offered.push((name, socket));
            }
            Ok(Said::Draining { .. }) if self.succession.stage() == Stage::Handed => self.stop_interim(),
            Ok(Said::Draining { .. }) => self.input(Input::Leaves),
            Ok(Said::Closed) => successor.close(),
            Ok(_) => {}
            Err(error) => {
                successor.close();
                successor.garbled = Some(error.to_string());
                self.input(Input::Garbled);
            }
        }
    }

    fn hear_interim(&mut self) {
        let Some(interim) = &mut self.interim else { return };
        match interim.receive() {
            Ok(Said::Closed) | Err(_) => interim.close(),
            // It only has to finish what it has.
            Ok(_) => {}
        }
    }

    /// Decides, and does it.
    pub(crate) fn input(&mut self, input: Input) {
        let actions = self.succession.handle(now(), input);
        for action in actions {
            self.perform(action);
        }
    }

    fn until_next_step(&self) -> PollTimeout {
        let phase = self.state.phase();
        let queued = self.retirement.is_emptying() && self.register.is_any_queued(&self.state);
        let deadlines = [
            self.succession.deadline(),
            self.retirement.deadline(phase, queued),
            self.next_ping,
            self.claim_until,
            self.children.iter().filter_map(|child| child.kill_at).min(),
            self.interim.as_ref().and_then(|interim| interim.kill_at),
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else { return PollTimeout::NONE };
        let left = next.saturating_duration_since(now());
        // poll(2) counts whole milliseconds: one more, so that the step is due when it returns.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    fn look_at_the_clock(&mut self) {
        let now = now();
        if self.succession.deadline().is_some_and(|deadline| now >= deadline) {
            self.hear_out_the_successor();
            self.input(Input::Time);
        }
        let queued = self.retirement.is_emptying() && self.register.is_any_queued(&self.state);
        match self.retirement.due(now, self.state.phase(), queued) {
            Some(Step::CloseIntake) => self.close_intake(),
            Some(Step::Shut) => self.shut(),
            Some(Step::Drain) => self.state.drain(),
            Some(Step::Force) => self.state.force(false),
            None => {}
        }
        if self.claim_until.is_some_and(|until| now >= until) {
            self.claim_until = None;
            self.upstream.drop_unclaimed();
        }
        self.kill_who_is_late(now);
        self.ping(now);
        self.become_the_successor_if_due();
        let successors = usize::from(self.successor.is_some()) + usize::from(self.interim.is_some());
        self.state.set_generations(1 + self.ancestors.len() + successors);
    }
}

fn heard_from(sources: &[(Source, BorrowedFd<'_>)], fds: &[PollFd<'_>], wanted: Source) -> bool {
    sources.iter().zip(fds).any(|((source, _), fd)| *source == wanted && fd.any() == Some(true))
}

/// Which a pidfd is when its process has ended (pidfd_open(2)).
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}

// The deadlines of this thread are the one place of the crate that reads a clock.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
