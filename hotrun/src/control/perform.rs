//! Doing what `succession` says: starting a successor, handing over, coming back, leaving.
//! Never lives here: when to (`succession`, `retirement`), and hearing (`control`).

use crate::control::peer::{Peer, Peers};
use crate::control::retirement::{Due, Intake, Retirement};
use crate::control::start;
use crate::control::succession::{Action, Input, Refusal, Then, UpgradeOutcome};
use crate::control::watchdog::Watchdog;
use crate::inherit::program::Program;
use crate::request::{Answer, Successor};
use crate::serving::Serving;
use crate::serving::lifecycle::{ListenerGate, Why};
use crate::serving::register::{Entry, SocketKind};
use crate::settings::{Environment, Settings};
use crate::upstream::{UpstreamKind, complain};
use crate::wire::ToServer;
use crate::{PidMode, Probation, UpgradeError, sys};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a process gets that was told to leave, on top of the time its connections have.
const GRACE: Duration = Duration::from_secs(5);

/// How long a successor that is confirmed, or alone, may still ask for a socket.
pub(crate) const CLAIM: Duration = Duration::from_secs(1);

/// All that an action is done with.
pub(crate) struct Performer {
    pub(crate) serving: Arc<Serving>,
    pub(crate) settings: Settings,
    pub(crate) program: Program,
    pub(crate) environment: Environment,
    pub(crate) peers: Peers,
    pub(crate) retirement: Retirement,
    pub(crate) watchdog: Watchdog,
    /// Waits to hear what becomes of the upgrade that is on its way.
    pub(crate) caller: Option<Answer<Successor>>,
}

impl Performer {
    /// Does it; what has come of it at once is one more input.
    #[must_use]
    pub(crate) fn perform(&mut self, now: Instant, action: Action) -> Option<Input> {
        match action {
            Action::Start => return self.start_successor(),
            Action::Pause => self.pause(),
            Action::Commit { again } => self.commit(now, again),
            Action::Lend => self.lend(now),
            Action::Resume => self.resume(),
            Action::Kill => self.peers.successor.iter().for_each(Peer::kill),
            Action::Dismiss => self.peers.tell_successor(&ToServer::Drain),
            Action::Report(outcome) => self.report(now, outcome),
            Action::Stop => self.stop(now),
            Action::StopBoth => self.stop_both(now),
            Action::PassStopOn => self.peers.tell_to_stop(),
            Action::ReleaseTaken => self.serving.register.release(&self.serving.state, |entry| entry.taken),
            Action::Force => self.serving.state.force(true),
            // One that is gone says so by the end of the channel.
            Action::AskToLeave => self.serving.upstream.draining(self.serving.state.live()),
        }
        None
    }

    fn start_successor(&mut self) -> Option<Input> {
        let settings = &self.settings;
        self.peers.make_room(settings.max_generations);
        let window = match settings.probation {
            Probation::For(window) => window,
            Probation::Manual => Duration::ZERO,
        };
        self.serving.upstream.reloading(settings.ready_timeout + window + settings.pace.drain_timeout + GRACE);
        match start::successor(&self.program, &self.environment, settings.pid_mode, &self.serving) {
            Ok(successor) => {
                self.peers.successor = Some(successor);
                None
            }
            Err(error) => {
                self.failed(error);
                Some(Input::NotStarted)
            }
        }
    }

    /// The successor accepts; this process keeps what the successor has not asked for.
    fn pause(&self) {
        let entries = self.serving.register.entries();
        let kept = entries.iter().filter(|entry| !entry.taken).map(|entry| &*entry.gate);
        self.serving.state.pause(&kept.collect::<Vec<_>>());
        if self.settings.probation == Probation::Manual {
            // It may be long; the manager need not wait for it.
            self.serving.upstream.reloaded();
        }
    }

    pub(crate) fn resume(&self) {
        let entries = self.serving.register.entries();
        let gates: Vec<&ListenerGate> = entries.iter().map(|entry| &*entry.gate).collect();
        self.serving.state.resume(&gates);
        self.serving.upstream.reloaded();
    }

    fn commit(&mut self, now: Instant, again: bool) {
        // The last sign of life of this process, which the manager may take a while to follow to the next one.
        self.watchdog.ping(now, &self.serving.upstream);
        self.watchdog.rest();
        if let Some(successor) = &self.peers.successor {
            self.serving.upstream.hand_over_to(successor.pid);
            self.peers.introduce_to_successor(self.serving.generation);
            self.peers.tell_successor(&ToServer::Commit);
            if again {
                self.peers.tell_successor(&ToServer::Upgrade);
            }
        }
        self.forget_paths_of_taken();
        self.stop_accepting(now, Why::Upgraded);
        self.serving.register.release(&self.serving.state, |entry| entry.taken);
    }

    /// The successor serves until this process returns, which needs its sockets again.
    fn lend(&mut self, now: Instant) {
        // Where nothing has to be finished here, the next one is the new program's to send.
        self.watchdog.ping(now, &self.serving.upstream);
        self.serving.state.hold(true);
        self.forget_paths_of_taken();
        self.stop_accepting(now, Why::Upgraded);
    }

    fn stop(&mut self, now: Instant) {
        if let Some(caller) = self.caller.take() {
            let _ = caller.send(Err(UpgradeError::Stopping));
        }
        self.give_up_successor(None);
        self.leave_the_stop_to_the_interim(now);
        self.retire(now, Why::Stopped);
    }

    /// The service is to stop while it is still open which of the two processes is to stay. Each finishes what it has; what waits
    /// in the queues is the successor's, where it has asked for them.
    fn stop_both(&mut self, now: Instant) {
        self.peers.tell_successor(&ToServer::Stop);
        // Whoever started this process knows the service by its number: it stays as long as the service does.
        self.serving.state.hold(self.settings.pid_mode == PidMode::KeepPid);
        self.forget_paths_of_taken();
        self.stop_accepting(now, Why::Stopped);
        self.serving.register.release(&self.serving.state, |entry| entry.taken);
    }

    /// This process has returned, and does not serve yet: the interim one stops for the whole service.
    fn leave_the_stop_to_the_interim(&mut self, now: Instant) {
        let Some(interim) = self.peers.interim.as_mut().filter(|interim| interim.kill_at.is_none()) else { return };
        self.serving.state.admit_only(&[]);
        self.serving.state.shut();
        self.serving.register.release(&self.serving.state, |_| true);
        // One that is gone has left already.
        let _ = interim.holder.tell(&ToServer::Stop);
        interim.kill_at = Some(now + 2 * self.settings.pace.drain_timeout + GRACE);
    }

    /// This process serves: the one that kept the sockets served may leave.
    pub(crate) fn relieve_interim(&mut self, now: Instant) {
        if let Some(interim) = &mut self.peers.interim {
            // One that is gone has left already.
            let _ = interim.holder.tell(&ToServer::Drain);
            interim.kill_at = Some(now + self.settings.pace.drain_timeout + GRACE);
        }
    }

    /// Stops serving: because of a successor, or for good.
    pub(crate) fn retire(&mut self, now: Instant, why: Why) {
        if !self.retirement.has_begun() {
            self.stop_accepting(now, why);
        }
    }

    fn stop_accepting(&mut self, now: Instant, why: Why) {
        let Serving { state, upstream, register, paths, .. } = &*self.serving;
        let entries = register.entries();
        // Nobody else serves these: their queues must be empty before they are closed.
        let alone = why == Why::Stopped && upstream.kind() == UpstreamKind::Nobody;
        let nobody_else = alone || self.peers.successor.is_some();
        let is_left = |entry: &Entry| nobody_else && self.is_own(entry) && !entry.taken;
        let exempt: Vec<&ListenerGate> =
            entries.iter().filter(|entry| is_left(entry)).map(|entry| &*entry.gate).collect();
        let intake = match why {
            _ if exempt.is_empty() => Intake::Shut(now),
            Why::Upgraded => Intake::Open(now + CLAIM),
            Why::Stopped => Intake::Closed(now),
        };
        if intake == Intake::Closed(now) {
            register.close_intake(is_left);
        }
        // On probation others were, too.
        entries.iter().filter(|entry| !is_left(entry)).for_each(|entry| state.no_longer_exempt(&entry.gate));
        state.admit_only(&exempt);
        if upstream.kind() == UpstreamKind::Holder && !self.settings.says_deadline {
            // It sees whether answers go on, and ends this process when they do not.
            self.retirement.without_deadline();
        }
        self.retirement.begin(now, intake);
        // Before anybody is woken: the process may end as soon as it knows.
        if why == Why::Stopped {
            upstream.stopping(self.settings.pace.drain_timeout + GRACE);
            paths.remove();
        }
        upstream.draining(state.live());
        state.stop_accepting(why, &exempt);
        if exempt.is_empty() {
            state.shut();
        }
    }

    /// Whether its queue is this server's to close. What is done to a socket is done to it in all processes that have it.
    fn is_own(&self, entry: &Entry) -> bool {
        entry.bound_by_program && !(self.environment.held && entry.kind == SocketKind::Tcp)
    }

    fn forget_paths_of_taken(&self) {
        for entry in self.serving.register.entries().iter().filter(|entry| entry.taken) {
            if let Some(path) = &entry.path {
                self.serving.paths.forget(path);
            }
        }
    }

    /// The successor has asked for that socket, maybe after it was handed over to.
    pub(crate) fn taken(&mut self, now: Instant, name: &str, handed: Option<Then>) {
        let Serving { state, register, .. } = &*self.serving;
        register.take(name, state);
        let Some(then) = handed else { return };
        self.forget_paths_of_taken();
        if then.is_for_good() {
            register.release(state, |entry| entry.taken);
        }
        let entries = register.entries();
        if entries.iter().all(|entry| entry.taken || !entry.bound_by_program) {
            self.retirement.shut(now);
            state.shut();
        }
    }

    /// The step of leaving that is due.
    pub(crate) fn go_on_leaving(&mut self, now: Instant) {
        let Serving { state, register, .. } = &*self.serving;
        let queued = self.retirement.is_emptying() && register.is_any_queued(state);
        match self.retirement.due(now, state.phase(), queued) {
            Some(Due::CloseIntake) => self.close_intake(),
            // The queues that nobody else serves are empty.
            Some(Due::Shut) => {
                state.shut();
                register.release(state, |entry| !entry.taken);
            }
            Some(Due::Drain) => state.drain(),
            Some(Due::Force) => state.force(false),
            None => {}
        }
    }

    /// When the next one is.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let Serving { state, register, .. } = &*self.serving;
        let queued = self.retirement.is_emptying() && register.is_any_queued(state);
        self.retirement.deadline(state.phase(), queued)
    }

    /// The successor has had its time to ask for the sockets that are left.
    fn close_intake(&self) {
        for name in self.serving.register.close_intake(|entry| self.is_own(entry) && !entry.taken) {
            self.peers.tell_successor(&ToServer::Release { name });
        }
        // Those that were taken are somebody else's by now.
        self.serving.paths.remove();
    }

    /// Becomes the new program in place; returns where that is not possible. The successor serves then, and this process stays as
    /// whoever watches it knows it, until that one ends.
    pub(crate) fn become_the_successor(&self) {
        let Some(successor) = &self.peers.successor else { return };
        let Err(error) = start::in_place(&self.program, &self.environment, successor, &self.serving);
        let (name, pid) = (self.program.name.display(), successor.pid);
        complain(format_args!("cannot start {name} in the place of this process: {error}; process {pid} serves"));
    }

    fn report(&mut self, now: Instant, outcome: UpgradeOutcome) {
        let (pid, generation) =
            self.peers.successor.as_ref().map_or((0, 0), |successor| (successor.pid, successor.generation));
        let error = match outcome {
            UpgradeOutcome::Serves => {
                if let Some(caller) = self.caller.take() {
                    let _ = caller.send(Ok(Successor { pid, generation }));
                }
                return;
            }
            UpgradeOutcome::Remembered => return complain("an upgrade is on its way; one more will follow it"),
            UpgradeOutcome::Finishing => return complain("connections are being finished; one more signal ends them"),
            UpgradeOutcome::Refused(why) => return complain(format_args!("no upgrade: {}", self.refused(why))),
            UpgradeOutcome::Orphaned { expected } => return self.orphaned(expected),
            UpgradeOutcome::Ended => UpgradeError::Exited { pid, status: self.how_it_ended() },
            UpgradeOutcome::NotReady => UpgradeError::NotReady {
                pid,
                after: self.settings.ready_timeout,
                said_hello: self.peers.successor.as_ref().is_some_and(|successor| successor.said_hello),
            },
            UpgradeOutcome::Garbled => {
                let why = self.peers.successor.as_mut().and_then(|successor| successor.garbled.take());
                UpgradeError::Protocol { pid, why: why.unwrap_or_default() }
            }
            UpgradeOutcome::RolledBack => UpgradeError::RolledBack { pid, status: self.how_it_ended() },
            UpgradeOutcome::SentAway => UpgradeError::SentAway { pid },
        };
        let leaves_by_itself = outcome == UpgradeOutcome::SentAway;
        self.give_up_successor(leaves_by_itself.then(|| now + self.settings.pace.drain_timeout + GRACE));
        self.failed(error);
    }

    fn how_it_ended(&self) -> Option<std::process::ExitStatus> {
        let pidfd = self.peers.successor.as_ref()?.pidfd();
        // A sibling is not this process's to wait for.
        sys::reap(pidfd).or_else(|| sys::exit_status(pidfd))
    }

    fn give_up_successor(&mut self, kill_at: Option<Instant>) {
        if self.peers.give_up_successor(kill_at) {
            // Whatever it had asked for, this process alone serves now.
            self.serving.register.forget_taken();
        }
    }

    fn failed(&mut self, error: UpgradeError) {
        self.serving.upstream.reloaded();
        match &self.settings.on_failure {
            // It is the user's, and runs on the thread that hears the signals.
            Some(hook) => drop(catch_unwind(AssertUnwindSafe(|| hook.0(&error)))),
            None => complain(format_args!("upgrade: {error}")),
        }
        if let Some(caller) = self.caller.take() {
            let _ = caller.send(Err(error));
        }
    }

    /// The successor has ended after everything was handed over to it.
    fn orphaned(&mut self, expected: bool) {
        let status = self.how_it_ended();
        // It may have had a successor of its own.
        let as_it_should = expected || status.is_some_and(|status| status.success());
        let status = status.map_or_else(String::new, |status| format!(" with {status}"));
        if let Some(successor) = self.peers.successor.take().filter(|_| !as_it_should) {
            complain(format_args!("process {}, which served in this one's place, has ended{status}", successor.pid));
        }
        self.serving.state.hold(false);
    }

    /// Why an upgrade that is asked for now cannot be, as its caller is told.
    pub(crate) fn refused(&self, why: Refusal) -> UpgradeError {
        let pid = self.peers.successor.as_ref().map(|successor| successor.pid);
        match why {
            Refusal::Held => UpgradeError::Held,
            Refusal::OnProbation => UpgradeError::OnProbation,
            Refusal::InProgress => UpgradeError::InProgress { pid },
            Refusal::Returning => UpgradeError::InProgress { pid: Some(std::process::id()) },
            Refusal::HandedOver => UpgradeError::Draining { successor: pid.unwrap_or(0) },
            Refusal::Stopping => UpgradeError::Stopping,
        }
    }
}
