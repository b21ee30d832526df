//! The thread that hears everything: signals, calls, the holder, the successor, the clock. It turns each into an input of
//! `succession`, and has `perform` do what that says. Its mirror image is `holder`.
//! Never lives here: what follows from what (`succession`, `retirement`), and doing it (`perform`).

pub(crate) mod peer;
pub(crate) mod perform;
pub(crate) mod retirement;
mod start;
pub(crate) mod succession;
pub(crate) mod watchdog;

use crate::holder::Said;
use crate::request::{CONTROL_THREAD, Request};
use crate::serving::Serving;
use crate::serving::lifecycle::Why;
use crate::upstream::{UpstreamKind, complain};
use crate::wire::{self, ToHolder, ToServer};
use crate::{PidMode, Probation, Signal, UpgradeError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use peer::{Ancestor, Peer};
use perform::{CLAIM, Performer};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use succession::{Asker, Input, Stage, Succession, Then};

pub(crate) struct Control {
    pub(crate) succession: Succession,
    pub(crate) performer: Performer,
    pub(crate) upstream_open: bool,
    pub(crate) signals: Option<File>,
    pub(crate) bell: Arc<EventFd>,
    pub(crate) requests: Receiver<Request>,
    /// The process before has gone, and what it had bound and nobody here asks for until then goes, too.
    pub(crate) claim_until: Option<Instant>,
}

/// What there is to hear.
#[derive(Debug, Clone, Copy)]
enum Source {
    SuccessorSays,
    SuccessorEnds,
    Bell,
    Hurry,
    Upstream,
    Signals,
    InterimSays,
    InterimEnds,
    AncestorEnds(usize),
    LeaverEnds(usize),
    News,
}

impl Control {
    /// Starts the thread. It lives until the process ends.
    pub(crate) fn start(mut self) -> io::Result<()> {
        std::thread::Builder::new().name(CONTROL_THREAD.into()).spawn(move || {
            loop {
                match self.wait() {
                    Some(source) => self.hear(source),
                    None => self.all_is_heard(),
                }
                self.look_at_the_clock();
            }
        })?;
        Ok(())
    }

    /// The first that has something to say; `None` when nothing has, and time has passed.
    fn wait(&self) -> Option<Source> {
        let sources = self.sources();
        // The first is looked at last: what an operator has seen of the successor before a signal, this process sees, too.
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().rev().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        // A signal in between is no news: its number comes through the pipe.
        while poll(&mut fds, self.until_next_step()) == Err(Errno::EINTR) {}
        let heard = sources.iter().zip(fds.iter().rev()).find(|(_, fd)| fd.any() == Some(true));
        heard.map(|((source, _), _)| *source)
    }

    /// In order of priority: nothing is handed over to a successor that has ended, or denied to one that has become ready, so
    /// what it says comes before whatever is asked, and its end after what it said. What changes only numbers comes last.
    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>)> {
        let Performer { serving, peers, .. } = &self.performer;
        let mut sources = Vec::new();
        if let Some(successor) = &peers.successor {
            sources.extend(successor.channel().map(|fd| (Source::SuccessorSays, fd)));
            sources.push((Source::SuccessorEnds, successor.pidfd()));
        }
        sources.extend([(Source::Bell, self.bell.as_fd()), (Source::Hurry, peers.hurry.as_fd())]);
        sources.extend(serving.upstream.channel().filter(|_| self.upstream_open).map(|fd| (Source::Upstream, fd)));
        sources.extend(self.signals.as_ref().map(|fd| (Source::Signals, fd.as_fd())));
        if let Some(interim) = &peers.interim {
            sources.extend(interim.channel().map(|fd| (Source::InterimSays, fd)));
            sources.push((Source::InterimEnds, interim.pidfd()));
        }
        let ancestors = peers.ancestors.iter().map(|ancestor| ancestor.pidfd.as_fd());
        sources.extend(ancestors.enumerate().map(|(index, fd)| (Source::AncestorEnds(index), fd)));
        let leaving = peers.leaving.iter().map(Peer::pidfd);
        sources.extend(leaving.enumerate().map(|(index, fd)| (Source::LeaverEnds(index), fd)));
        sources.push((Source::News, serving.state.news_event()));
        sources
    }

    fn hear(&mut self, source: Source) {
        match source {
            Source::SuccessorSays => self.hear_successor(),
            Source::SuccessorEnds => self.input(Input::Ended),
            Source::Bell => {
                // One of the count, for one request.
                let _ = self.bell.read();
                if let Ok(request) = self.requests.try_recv() {
                    self.asked(request);
                }
            }
            Source::Hurry => {
                let _ = self.performer.peers.hurry.read();
                if self.succession.is_over() {
                    self.serving().state.force(true);
                }
            }
            Source::Upstream => self.hear_upstream(),
            Source::Signals => {
                let mut byte = [0];
                if let Some(Ok(1)) = self.signals.as_mut().map(|pipe| pipe.read(&mut byte)) {
                    if let Ok(signal) = Signal::try_from(i32::from(byte[0])) {
                        self.signal(signal);
                    }
                }
            }
            Source::InterimSays => {
                let Some(interim) = &mut self.performer.peers.interim else { return };
                match interim.holder.receive() {
                    Ok(Said::Closed) | Err(_) => interim.close(),
                    // It only has to finish what it has.
                    Ok(_) => {}
                }
            }
            Source::InterimEnds => {
                self.performer.peers.interim_ended();
                self.serving().state.hold(false);
                self.input(Input::Confirmed);
            }
            Source::AncestorEnds(index) => drop(self.performer.peers.ancestors.remove(index)),
            Source::LeaverEnds(index) => self.performer.peers.leaver_ended(index),
            Source::News => {
                let Serving { state, upstream, .. } = self.serving();
                state.take_news();
                if self.succession.is_over() {
                    upstream.draining(state.live());
                }
            }
        }
    }

    /// One message of the successor.
    fn hear_successor(&mut self) {
        let Some(successor) = &mut self.performer.peers.successor else { return };
        match successor.holder.receive() {
            Ok(Said::Hello { .. }) => successor.said_hello = true,
            Ok(Said::Taken { name }) => self.performer.taken(now(), &name, self.succession.handed()),
            Ok(Said::Ready) => self.input(Input::Ready),
            // For the time when this process has become it. Else the successor hands it on by itself.
            Ok(Said::Offer { name, socket }) if self.performer.settings.pid_mode == PidMode::KeepPid => {
                successor.offered.push((name, socket));
            }
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

    /// One message of the holder, or of the process before.
    fn hear_upstream(&mut self) {
        let upstream = &self.serving().upstream;
        let Some(channel) = upstream.channel() else { return };
        let (bytes, fds) = match wire::receive(channel) {
            Ok(Some(received)) => received,
            // It has gone. What that means to this process is said by a signal; the sockets are its own now.
            Ok(None) | Err(_) => {
                self.upstream_open = false;
                self.confirmed();
                self.wait_for_claims();
                return;
            }
        };
        match ToServer::decode(&bytes) {
            Ok(ToServer::Commit) => self.confirmed(),
            Ok(ToServer::Pause) => {
                self.serving().state.pause(&[]);
                upstream.tell_if_heard(&ToHolder::Paused);
            }
            Ok(ToServer::Resume) => self.performer.resume(),
            Ok(ToServer::Drain) => {
                self.input(Input::Dismissed);
                self.performer.retire(now(), Why::Upgraded);
                if self.serving().upstream.kind() == UpstreamKind::Predecessor {
                    // Those that this process alone had: the process before knows of none.
                    self.serving().paths.remove();
                }
            }
            Ok(ToServer::Release { name }) => {
                if !self.serving().unclaimed.release(&name) {
                    // It is used here: the process before has not heard that in time.
                    self.serving().register.open_again(&name);
                }
            }
            Ok(ToServer::Stop) => {
                // Nobody is told that this process serves: it does not.
                upstream.say_nothing_more();
                self.is_sole();
                self.input(Input::StopPassedOn);
            }
            Ok(ToServer::Upgrade) => self.input(Input::Wanted),
            Ok(ToServer::Ancestor { generation }) => {
                if let Ok([pidfd, hurry]) = <[OwnedFd; 2]>::try_from(fds) {
                    self.performer.peers.ancestors.push(Ancestor { generation, pidfd, hurry });
                }
            }
            Ok(ToServer::Abort { why }) => {
                let (version, protocol) = (env!("CARGO_PKG_VERSION"), wire::PROTOCOL);
                complain(format_args!(
                    "whoever started this server ended the hand-over: {why} (this is the library hotrun {version}, protocol \
                     {protocol})"
                ));
                self.upstream_open = false;
            }
            Err(error) => complain(format_args!("{error}; ignored")),
        }
    }

    fn confirmed(&mut self) {
        if self.is_sole() {
            self.input(Input::Confirmed);
        }
    }

    /// The sockets are this process's alone; says whether that is new.
    fn is_sole(&self) -> bool {
        let Serving { upstream, paths, .. } = self.serving();
        // One that was told to leave is nobody's successor any more, whatever becomes of whoever told it.
        if upstream.kind() == UpstreamKind::Nobody || self.succession.is_over() {
            return false;
        }
        if upstream.kind() == UpstreamKind::Holder {
            // Nobody is left who would end a pause.
            self.performer.resume();
        }
        if let Err(error) = upstream.is_sole() {
            complain(error);
        }
        paths.own_expected();
        true
    }

    /// What the process before had bound and nobody has asked for goes when that has gone, and this one has had its time.
    fn wait_for_claims(&mut self) {
        if !self.upstream_open && self.serving().upstream.is_ready() && self.claim_until.is_none() {
            self.claim_until = Some(now() + CLAIM);
        }
    }

    fn signal(&mut self, signal: Signal) {
        let settings = &self.performer.settings;
        let manual = settings.probation == Probation::Manual;
        let starting = matches!(self.succession.stage(), Stage::Starting { .. });
        let on_probation = matches!(self.succession.stage(), Stage::Probation { .. });
        match signal {
            Signal::SIGQUIT if manual && on_probation => self.input(Input::Confirm),
            // A script that was too quick must not end the service.
            Signal::SIGQUIT if manual && starting => complain("SIGQUIT: the successor is not ready yet; ignored"),
            // Nor one that was too slow.
            Signal::SIGQUIT if manual && self.succession.comes_too_late(now()) => {
                complain("SIGQUIT: the successor has just ended; ignored, and the next one stops the server");
            }
            Signal::SIGHUP if manual && (starting || on_probation) => self.input(Input::Back),
            signal if settings.signals.upgrade.contains(&signal) => self.input(Input::Wanted),
            signal if settings.signals.reload.contains(&signal) => {
                self.serving().upstream.reloading(settings.ready_timeout);
                self.serving().state.ask_for_reload();
            }
            signal if settings.signals.stop.contains(&signal) => self.stop_wanted(),
            Signal::SIGQUIT => self.stop_wanted(),
            _ => complain(format_args!("{signal}: no successor is on probation; ignored")),
        }
    }

    fn asked(&mut self, request: Request) {
        // Nobody may wait for the answer any more.
        match request {
            Request::Upgrade(caller) => match self.succession.refusal() {
                Some(why) => drop(caller.send(Err(self.performer.refused(why)))),
                None => {
                    self.performer.caller = Some(caller);
                    self.input(Input::Wanted);
                }
            },
            Request::Confirm(caller) => drop(caller.send(self.decide(Input::Confirm))),
            Request::RollBack(caller) => drop(caller.send(self.decide(Input::Back))),
            Request::Stop => self.stop_wanted(),
            Request::Ready => {
                self.performer.relieve_interim(now());
                self.wait_for_claims();
            }
            Request::Reloaded => {
                if matches!(self.succession.stage(), Stage::Serving | Stage::Relieving) {
                    self.serving().upstream.reloaded();
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

    fn stop_wanted(&mut self) {
        let upstream = &self.serving().upstream;
        let asker = match upstream.kind() {
            UpstreamKind::Holder => Asker::Holder,
            _ if upstream.has_manager() && !upstream.is_announced() => Asker::Manager,
            UpstreamKind::Nobody | UpstreamKind::Predecessor | UpstreamKind::Returning => Asker::Anybody,
        };
        self.input(Input::StopWanted(asker));
    }

    /// Decides, and does it.
    fn input(&mut self, input: Input) {
        let now = now();
        for action in self.succession.handle(now, input) {
            if let Some(come_of_it) = self.performer.perform(now, action) {
                self.input(come_of_it);
            }
        }
    }

    fn serving(&self) -> &Serving {
        &self.performer.serving
    }

    /// Nothing has happened that should be known before the time counts, or before this process goes.
    fn all_is_heard(&mut self) {
        self.input(Input::Time);
        if self.is_to_return() {
            self.performer.become_the_successor();
            self.input(Input::CannotReturn);
        }
    }

    /// Everything is finished here, the successor serves, and the number of this process must not end.
    fn is_to_return(&self) -> bool {
        let Performer { serving, peers, .. } = &self.performer;
        // Children on their way out would be nobody's to wait for.
        self.succession.handed() == Some(Then::Returns)
            && serving.state.is_finished()
            && peers.successor.is_some()
            && peers.leaving.is_empty()
    }

    fn until_next_step(&self) -> PollTimeout {
        if self.is_to_return() {
            return PollTimeout::ZERO;
        }
        let performer = &self.performer;
        let deadlines = [
            self.succession.deadline(),
            performer.next_step(),
            performer.watchdog.next(),
            self.claim_until,
            performer.peers.next_kill(),
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else { return PollTimeout::NONE };
        let left = next.saturating_duration_since(now());
        // poll(2) counts whole milliseconds: one more, so that the step is due when it returns.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    /// What is due whatever else has happened.
    fn look_at_the_clock(&mut self) {
        let now = now();
        self.performer.go_on_leaving(now);
        if self.claim_until.take_if(|until| now >= *until).is_some() {
            self.serving().unclaimed.drop_bound();
        }
        let Performer { serving, peers, watchdog, .. } = &mut self.performer;
        peers.kill_who_is_late(now);
        watchdog.ping_if_due(now, &serving.upstream);
        serving.state.set_generations(peers.count());
    }
}

// The deadlines of this thread are the one place of the crate that reads a clock.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
