//! Doing what `succession` says: starting a successor, handing over, coming back, leaving.
//! Never lives here: when to (`succession`, `retirement`), and hearing (`control`).

use crate::control::peer::{Ancestor, Peer};
use crate::control::retirement::Left;
use crate::control::succession::{Action, By, Input, Outcome, Stage};
use crate::control::{Control, now};
use crate::error::exit_status;
use crate::holder::Holder;
use crate::inherit::given::Inheritance;
use crate::inherit::spawn;
use crate::inherit::spawn::Parent;
use crate::serving::register::{Entry, Kind};
use crate::serving::state::{ListenerGate, Why};
use crate::settings::{Healthy, Hook};
use crate::upstream::{UpstreamKind, complain};
use crate::wire::{HOTRUN_HELD, HOTRUN_PREDECESSOR, NOTIFY_SOCKET, WATCHDOG_USEC};
use crate::{PidMode, Probation, UpgradeError, sys};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// What a process gets that was told to leave, on top of the time its connections have.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long a successor that is confirmed, or alone, may still ask for a socket.
pub(crate) const CLAIM: Duration = Duration::from_secs(1);

impl Control {
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Start => self.start_successor(),
            Action::Pause => self.pause(),
            Action::Commit { again } => self.commit(again),
            Action::Resume => self.resume(),
            Action::Kill => {
                if let Some(successor) = &self.successor {
                    successor.kill();
                }
            }
            Action::Dismiss => {
                if let Some(successor) = &self.successor {
                    // One that is gone has left already.
                    let _ = successor.holder.drain();
                }
            }
            Action::Report(outcome) => self.report(outcome),
            Action::Stop => {
                if let Some(caller) = self.caller.take() {
                    let _ = caller.send(Err(UpgradeError::Stopping));
                }
                self.forget_successor(None);
                self.leave_the_stop_to_the_interim();
                self.retire(Why::Stopped);
            }
            Action::StopBoth => self.stop_both(),
            // One that is gone says so by the end of the channel.
            Action::AskToLeave => self.upstream.draining(self.state.live()),
        }
    }

    fn start_successor(&mut self) {
        self.make_room();
        let settings = &self.settings;
        let window = match settings.probation {
            Probation::For(window) => window,
            Probation::Manual => Duration::ZERO,
        };
        self.upstream.reloading(settings.ready_timeout + window + settings.pace.drain_timeout + GRACE);
        match self.spawn() {
            Ok(successor) => {
                self.successor = Some(successor);
                self.input(Input::Started);
            }
            Err(error) => {
                self.input(Input::NotStarted);
                self.failed(error);
            }
        }
    }

    fn spawn(&self) -> Result<Peer, UpgradeError> {
        let program = &self.settings.program;
        let named = |source| UpgradeError::Spawn { program: program.name().to_owned(), source };
        let found = program.find().map_err(named)?;
        let generation = self.generation + 1;
        let (holder, theirs) = Holder::new().map_err(named)?;
        let inheritance = Inheritance::gather(&self.register, &self.upstream).map_err(named)?;
        let (name, value) = holder.control_variable(inheritance.handed().len());
        let mut variables = vec![(name, value.into())];
        // The one in between is not the main process for a moment, and has nothing to say.
        let own = std::process::id();
        match self.settings.pid_mode {
            PidMode::Handoff => {
                variables.push((HOTRUN_PREDECESSOR, own.to_string().into()));
                variables.extend(self.manager_variables());
            }
            PidMode::KeepPid => variables.push((HOTRUN_PREDECESSOR, format!("{own}:returns").into())),
        }
        if self.settings.held {
            variables.push((HOTRUN_HELD, "1".into()));
        }
        let image = inheritance.image(program, &found, generation, variables).map_err(named)?;
        // A service manager hears the end of its own children at once, and of no others; the kernel has none for process 1.
        let managed = self.settings.notify_socket.is_some() && self.settings.pid_mode == PidMode::Handoff;
        let parent = if managed && own != 1 { Parent::Parents } else { Parent::This };
        let started = spawn::process(&image, &inheritance.descriptors(theirs.as_fd()), parent);
        let (pid, pidfd) = started.map_err(|source| UpgradeError::Spawn { program: found, source })?;
        Ok(Peer::new(holder, pidfd, pid, generation))
    }

    pub(crate) fn manager_variables(&self) -> Vec<(&'static str, OsString)> {
        let manager = self.settings.notify_socket.iter().map(|address| (NOTIFY_SOCKET, address.clone()));
        let watchdog = self.settings.watchdog.iter().map(|every| (WATCHDOG_USEC, every.as_micros().to_string().into()));
        manager.chain(watchdog).collect()
    }

    /// So many generations may be there at once; the oldest has had its time.
    fn make_room(&mut self) {
        // This process and the next one.
        let room = self.settings.max_generations.saturating_sub(2);
        self.ancestors.sort_by_key(|ancestor| ancestor.generation);
        let too_many = self.ancestors.len().saturating_sub(room);
        self.ancestors.iter().take(too_many).for_each(Ancestor::hurry);
    }

    /// The successor accepts; this process keeps what the successor has not asked for.
    fn pause(&mut self) {
        let entries = self.register.entries();
        self.state.pause(&not_taken(&entries));
        if self.settings.probation == Probation::Manual {
            // It may be long; the manager need not wait for it.
            self.upstream.reloaded();
        }
    }

    pub(crate) fn resume(&mut self) {
        let entries = self.register.entries();
        let gates: Vec<&ListenerGate> = entries.iter().map(|entry| &*entry.gate).collect();
        self.state.resume(&gates);
        self.upstream.reloaded();
    }

    fn commit(&mut self, again: bool) {
        // The last sign of life of this process, which the manager may take a while to follow to the next one.
        self.next_ping = None;
        self.ping(now());
        let Some(successor) = &self.successor else { return };
        let keeps_pid = self.settings.pid_mode == PidMode::KeepPid;
        let holder = &successor.holder;
        // A successor that has just ended hears none of this; its end is seen by its pidfd.
        if !keeps_pid {
            self.upstream.hand_over_to(successor.pid);
            self.next_ping = None;
            for ancestor in &self.ancestors {
                let _ = holder.introduce(ancestor.generation, ancestor.pidfd.as_fd(), ancestor.hurry.as_fd());
            }
            if let Ok(own) = sys::pidfd(std::process::id()) {
                let _ = holder.introduce(self.generation, own.as_fd(), self.hurry.as_fd());
            }
        }
        let _ = holder.commit();
        if again && !keeps_pid {
            let _ = holder.pass_on_upgrade();
        }
        self.release_what_is_taken(Why::Upgraded);
    }

    /// The service is to stop, while it is still open which of the two processes is to stay. Each finishes what it has; what waits
    /// in the queues is the successor's, where it has asked for them.
    fn stop_both(&mut self) {
        if let Some(successor) = &self.successor {
            // One that has just ended is seen by its pidfd.
            let _ = successor.holder.stop();
        }
        (self.stays, self.stop_passed_on) = (true, true);
        self.release_what_is_taken(Why::Stopped);
    }

    /// Stops accepting; the sockets that the successor has asked for are its own from now on.
    fn release_what_is_taken(&mut self, why: Why) {
        let keeps_pid = self.settings.pid_mode == PidMode::KeepPid;
        let entries = self.register.entries();
        for entry in entries.iter().filter(|entry| entry.taken && entry.kind == Kind::Unix) {
            if let Some(path) = &entry.path {
                self.paths.forget(path);
            }
        }
        // Whoever started this process knows the service by its number: it stays as long as the service does.
        self.state.hold(keeps_pid);
        self.stop_accepting(why, &entries);
        // A process that returns needs them again.
        if !keeps_pid || self.stays {
            self.register.release(&self.state, |entry| entry.taken);
        }
    }

    /// Stops serving: because of a successor, or for good.
    pub(crate) fn retire(&mut self, why: Why) {
        if self.retirement.has_begun() {
            return;
        }
        let entries = self.register.entries();
        self.stop_accepting(why, &entries);
    }

    fn stop_accepting(&mut self, why: Why, entries: &[Entry]) {
        // Nobody else serves these: their queues must be empty before they are closed.
        let alone = why == Why::Stopped && self.upstream.kind() == UpstreamKind::Nobody;
        let nobody_else = alone || self.successor.is_some();
        let is_left = |entry: &Entry| nobody_else && self.is_own(entry) && !entry.taken;
        let exempt: Vec<&ListenerGate> =
            entries.iter().filter(|entry| is_left(entry)).map(|entry| &*entry.gate).collect();
        let left = match why {
            _ if exempt.is_empty() => Left::None,
            Why::Upgraded => Left::OpenFor(CLAIM),
            Why::Stopped => Left::Closed,
        };
        if left == Left::Closed {
            self.register.close_intake(is_left);
        }
        // On probation others were, too.
        entries.iter().filter(|entry| !is_left(entry)).for_each(|entry| self.state.no_longer_exempt(&entry.gate));
        self.state.admit_only(&exempt);
        if self.upstream.kind() == UpstreamKind::Holder && !self.settings.says_deadline {
            // It sees whether answers go on, and ends this process when they do not.
            self.retirement.without_deadline();
        }
        self.retirement.begin(now(), left);
        // Before anybody is woken: the process may end as soon as it knows.
        if why == Why::Stopped {
            self.upstream.stopping(self.settings.pace.drain_timeout + GRACE);
            self.paths.remove();
        }
        self.upstream.draining(self.state.live());
        self.state.stop_accepting(why, &exempt);
        if left == Left::None {
            self.state.shut();
        }
    }

    /// Whether it is this server's to close: the queue of what others hold, too, is theirs, and what is done to the one socket is done to
    /// it in all processes.
    fn is_own(&self, entry: &Entry) -> bool {
        entry.bound_by_program && !(self.settings.held && entry.kind == Kind::Tcp)
    }

    /// The successor has asked for that socket, maybe late.
    pub(crate) fn taken(&mut self, name: &str) {
        self.register.take(name, &self.state);
        if self.succession.stage() != Stage::Handed {
            return;
        }
        let entries = self.register.entries();
        if let Some(path) = entries.iter().find(|entry| entry.name == name).and_then(|entry| entry.path.as_ref()) {
            self.paths.forget(path);
        }
        if self.settings.pid_mode == PidMode::Handoff {
            self.register.release(&self.state, |entry| entry.taken);
        }
        if entries.iter().all(|entry| entry.taken || !entry.bound_by_program) {
            self.retirement.shut(now());
            self.state.shut();
        }
    }

    /// The successor has had its time to ask for the sockets that are left.
    pub(crate) fn close_intake(&mut self) {
        let names = self.register.close_intake(|entry| self.is_own(entry) && !entry.taken);
        if let Some(successor) = &self.successor {
            for name in names {
                // One that is gone has let them go already.
                let _ = successor.holder.release(&name);
            }
        }
        // Those that were taken are somebody else's by now.
        self.paths.remove();
    }

    /// The queues that nobody else serves are empty.
    pub(crate) fn shut(&mut self) {
        self.state.shut();
        self.register.release(&self.state, |entry| !entry.taken);
    }

    fn report(&mut self, outcome: Outcome) {
        let (pid, generation) =
            self.successor.as_ref().map_or((0, 0), |successor| (successor.pid, successor.generation));
        let error = match outcome {
            Outcome::Serves => {
                if let Some(caller) = self.caller.take() {
                    let _ = caller.send(Ok(crate::Successor { pid, generation }));
                }
                return;
            }
            Outcome::Remembered => {
                complain("an upgrade is on its way; one more will follow it");
                return;
            }
            Outcome::Refused(By::Signal) => {
                if let Some(error) = self.refusal() {
                    complain(format_args!("no upgrade: {error}"));
                }
                return;
            }
            // The caller has been told.
            Outcome::Refused(By::Call) | Outcome::NothingToConfirm(_) => return,
            Outcome::Orphaned => {
                self.orphaned();
                return;
            }
            Outcome::Ended => UpgradeError::Exited { pid, status: self.how_it_ended() },
            Outcome::NotReady => UpgradeError::NotReady {
                pid,
                after: self.settings.ready_timeout,
                said_hello: self.successor.as_ref().is_some_and(|successor| successor.said_hello),
            },
            Outcome::Garbled => {
                let why = self.successor.as_mut().and_then(|successor| successor.garbled.take());
                UpgradeError::Protocol { pid, why: why.unwrap_or_default() }
            }
            Outcome::RolledBack => UpgradeError::RolledBack { pid, status: self.how_it_ended() },
            Outcome::SentAway => UpgradeError::SentAway { pid },
        };
        let leaves_by_itself = outcome == Outcome::SentAway;
        self.forget_successor(leaves_by_itself.then(|| now() + self.settings.pace.drain_timeout + GRACE));
        self.failed(error);
    }

    fn how_it_ended(&self) -> Option<std::process::ExitStatus> {
        let pidfd = self.successor.as_ref()?.pidfd();
        // A sibling is not this process's to wait for.
        sys::reap(pidfd).and_then(exit_status).or_else(|| sys::exit_status(pidfd))
    }

    /// It is only watched until it is gone.
    fn forget_successor(&mut self, kill_at: Option<Instant>) {
        if let Some(mut successor) = self.successor.take() {
            successor.kill_at = kill_at;
            successor.offered.clear();
            self.children.push(successor);
            // Whatever it had asked for, this process alone serves now.
            self.register.forget_taken();
        }
    }

    fn failed(&mut self, error: UpgradeError) {
        self.upstream.reloaded();
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
    fn orphaned(&mut self) {
        let status = self.how_it_ended();
        // It may have had a successor of its own, or have been stopped.
        let as_it_should = self.stop_asked || self.stays || status.is_some_and(|status| status.success());
        let status = status.map_or_else(String::new, |status| format!(" with {status}"));
        if let Some(successor) = self.successor.take().filter(|_| !as_it_should) {
            complain(format_args!("process {}, which served in this one's place, has ended{status}", successor.pid));
        }
        self.state.hold(false);
    }

    /// Why an upgrade that is asked for now cannot be.
    pub(crate) fn refusal(&self) -> Option<UpgradeError> {
        let pid = self.successor.as_ref().map(|successor| successor.pid);
        match self.succession.stage() {
            Stage::Serving => None,
            Stage::Held | Stage::Interim => Some(UpgradeError::Held),
            Stage::Unconfirmed => Some(UpgradeError::OnProbation),
            // It is a part of an upgrade that is not over.
            Stage::Relieving => Some(UpgradeError::InProgress { pid: Some(std::process::id()) }),
            Stage::Starting { .. } | Stage::Probation { .. } => Some(UpgradeError::InProgress { pid }),
            Stage::Handed if self.settings.pid_mode == PidMode::KeepPid => Some(UpgradeError::InProgress { pid }),
            Stage::Handed => Some(UpgradeError::Draining { successor: pid.unwrap_or(0) }),
            Stage::Stopping | Stage::AskedToLeave => Some(UpgradeError::Stopping),
        }
    }

    pub(crate) fn kill_who_is_late(&mut self, now: Instant) {
        for peer in self.children.iter_mut().chain(&mut self.interim) {
            if peer.kill_at.is_some_and(|kill_at| now >= kill_at) {
                peer.kill_at = None;
                peer.kill();
            }
        }
    }

    /// WATCHDOG=1, while the server says that it is well.
    pub(crate) fn ping(&mut self, now: Instant) {
        let Some(every) = self.settings.watchdog.filter(|_| self.upstream.is_announced()) else { return };
        if self.next_ping.is_none_or(|next| now >= next) {
            // It is the user's, and runs on the thread that hears the signals.
            let is_well = |healthy: &Hook<Healthy>| catch_unwind(AssertUnwindSafe(|| healthy.0()));
            if self.settings.healthy.as_ref().is_none_or(|healthy| is_well(healthy).unwrap_or(false)) {
                self.upstream.is_alive();
            }
            // Half of it, as sd_watchdog_enabled(3) advises.
            self.next_ping = Some(now + every / 2);
        }
    }
}

fn not_taken(entries: &[Entry]) -> Vec<&ListenerGate> {
    entries.iter().filter(|entry| !entry.taken).map(|entry| &*entry.gate).collect()
}
