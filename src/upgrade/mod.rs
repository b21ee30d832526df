//! Room 2, hot upgrade: begins with a program and never asks where it came from. It holds the sockets, starts the
//! generations and takes them out of service.
//! Never lives here: files that change, and compilers.

mod action;
mod deaths;
mod flows;
mod gate;
mod gated;
mod generation;
mod handed;
mod handover;
mod history;
mod kin;
mod leaving;
mod libraries;
mod library;
mod live;
mod probe;
mod proc;
mod quiet;
mod ready;
mod sockets;
mod stage;
mod standing;
mod store;
mod takes;
mod whole;

use crate::config::{Config, HandOff, Ready, Strategy};
use crate::error::Result;
use crate::process::{Launcher, Setting, SocketFolder, Stdin, describe};
use crate::report::{Notice, Vintage};
use action::{Action, Timeouts};
use flows::Flows;
use generation::{Sockets, Start, Started};
use handover::Handover;
use hotrun::holder::{Holder, Said as Told};
use nix::sys::signal::Signal;
use sockets::Held;
use standing::Standing;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Published;
use takes::Takes;

pub use crate::report::Generation;
pub use generation::Said;
pub use store::Store;

/// What hot upgrade begins with.
#[derive(Debug, Clone)]
pub struct Program {
    pub executable: PathBuf,
    /// The runner, the environment and the libraries that it is started with.
    pub setting: Setting,
    /// Where the time went before it came here; none for a program that was there already.
    pub since: Option<Since>,
    /// Whether it is to be started even if the same bytes serve already.
    pub start_anyway: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Or asked for, where nothing was saved.
    pub saved: Instant,
    pub was_saved: bool,
    pub built: Instant,
}

/// What is known of the program beside its file.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// It links the `hotrun` library.
    pub library: bool,
    /// It links a client of sd_notify, so READY=1 can be waited for.
    pub notifies: bool,
}

/// Where the threads of a generation send what they see and hear.
pub type Sink = Arc<dyn Fn(Generation, Said) + Send + Sync>;

pub struct Room {
    handover: Handover<Published>,
    held: Held,
    store: Store,
    generations: BTreeMap<Generation, Started>,
    /// When a generation counts as ready because it is still there.
    alive_at: BTreeMap<Generation, Instant>,
    /// How the programs of this package come by their sockets, but for those that are found to be others.
    takes: Takes,
    notifies: bool,
    ready: Ready,
    /// How long a program that could bind is waited for until it counts as one without sockets.
    patience: Duration,
    overlap: bool,
    start: Start,
    sink: Sink,
    /// Where the time went of the program that was offered last, until it serves: only its first start is a save's.
    since: Option<(Published, Since)>,
    /// Whether those that leave go on answering.
    flows: Flows,
    /// Whether addresses were configured.
    listens: bool,
    /// Whether programs are started behind a gate.
    gates: bool,
    /// Whether the program that was ready last had no sockets at all.
    socketless: bool,
    /// Generations whose gates are kept by the guard, as this process is stopped.
    left: Vec<Generation>,
    /// What was said once.
    said: BTreeSet<&'static str>,
    said_binds_for_itself: bool,
    /// Why the newest program does not serve.
    pub standing: Standing,
    out: Vec<Notice>,
}

impl Room {
    /// Binds the configured sockets; they are held until the room is dropped.
    pub fn open(
        config: &Config,
        known: Known,
        store: Store,
        stdin: Stdin,
        launcher: Launcher,
        private: Arc<SocketFolder>,
        sink: Sink,
    ) -> Result<Room> {
        let held = Held::bind(&config.listen)?;
        let takes = match config.upgrade.handoff {
            HandOff::Library => Takes::Library,
            HandOff::ListenFds => Takes::ListenFds,
            HandOff::None => Takes::Nothing,
            HandOff::Bind => Takes::Bind,
            HandOff::Auto if known.library => Takes::Library,
            HandOff::Auto if !config.listen.is_empty() => Takes::ListenFds,
            // Hot compile alone has nothing to hand over.
            HandOff::Auto if config.upgrade.strategy == Strategy::Restart => Takes::Nothing,
            HandOff::Auto => Takes::Bind,
        };
        let settings = &config.upgrade;
        // A program that cannot be asked to pause would go on accepting beside the new one.
        let probation = if takes == Takes::Nothing { Duration::ZERO } else { settings.probation };
        let mut room = Room {
            handover: Handover::new(Timeouts {
                ready: settings.ready_timeout,
                probation,
                drain: settings.drain_timeout,
                limit: settings.drain_limit,
                kill: settings.kill_timeout,
            }),
            held,
            store,
            generations: BTreeMap::new(),
            alive_at: BTreeMap::new(),
            takes,
            notifies: known.notifies,
            ready: settings.ready.clone(),
            patience: settings.ready_timeout / 2,
            overlap: settings.overlap && settings.strategy == Strategy::Upgrade,
            start: Start::new(config, launcher, stdin, private),
            sink,
            since: None,
            flows: Flows::new(settings.drain_timeout.min(settings.kill_timeout)),
            listens: !config.listen.is_empty(),
            gates: true,
            socketless: false,
            left: Vec::new(),
            said: BTreeSet::new(),
            said_binds_for_itself: false,
            standing: Standing::default(),
            out: Vec::new(),
        };
        for socket in room.held.iter() {
            let (name, address) = (socket.name.clone(), socket.address.clone());
            room.out.push(Notice::Listening { name, address });
        }
        if probation != settings.probation {
            room.note("probation needs a program that can be told to pause, which this one cannot".to_owned());
        }
        for listen in config.listen.iter().filter(|listen| !listen.address.is_local()) {
            let text = format!("{} ({}) can be reached from other machines", listen.address, listen.name);
            room.out.push(Notice::Note { text });
        }
        Ok(room)
    }

    pub fn serving(&self) -> Option<Generation> {
        self.handover.current()
    }

    /// Which program it is that serves.
    pub fn vintage(&self) -> Option<Vintage> {
        self.handover.current_program().map(|program| self.handover.vintage(program))
    }

    pub fn serving_process(&self) -> Option<(Generation, u32)> {
        let generation = self.handover.current()?;
        let started = self.generations.get(&generation).filter(|started| started.ending.is_none())?;
        Some((generation, started.running.pid()))
    }

    pub fn addresses(&self) -> Vec<String> {
        self.held.iter().filter(|socket| socket.wanted).map(|socket| socket.address.clone()).collect()
    }

    /// Whether no program is being started, or is about to be, or has yet to take over.
    pub fn is_settled(&self) -> bool {
        self.handover.is_settled()
    }

    pub fn is_over(&self) -> bool {
        self.handover.is_over()
    }

    pub fn deadline(&self) -> Option<Instant> {
        let late = self.generations.values().filter_map(|started| started.terminate_at);
        let ending = self.generations.values().filter_map(|started| Some(started.ending?.until()));
        self.handover
            .deadline()
            .into_iter()
            .chain(self.alive_at.values().copied())
            .chain(late)
            .chain(ending)
            .chain(self.flows.next())
            .min()
    }

    /// What there is to tell.
    pub fn take(&mut self) -> Vec<Notice> {
        self.out.iter().for_each(|notice| self.standing.hear(notice));
        std::mem::take(&mut self.out)
    }

    /// Why the newest program does not serve, where it was tried and does not.
    pub fn trouble(&self) -> Option<String> {
        self.standing.trouble(self.vintage())
    }

    /// A program that is to serve from now on.
    pub fn offer(&mut self, now: Instant, program: &Program) {
        match self.handover.coming_program() {
            _ if program.start_anyway => {}
            Some(coming) if coming.is_same(program) => return self.handover.unchanged(),
            Some(_) => {}
            None => {
                if self.handover.current_program().is_some_and(|serving| serving.is_same(program))
                    && let Some(serving) = self.handover.current()
                {
                    self.out.push(Notice::Unchanged { serving });
                    return self.handover.unchanged();
                }
            }
        }
        // Started again for what it reads: it is no other program, and so none to go back from.
        let same = self.handover.current_program().filter(|_| program.start_anyway);
        let same = same.filter(|serving| serving.is_same(program)).cloned();
        match same.map_or_else(|| self.store.publish(program), Ok) {
            Ok(published) => {
                self.since = program.since.map(|since| (published.clone(), since));
                let actions = self.handover.offer(now, published.clone(), self.style_for(&published));
                self.perform(now, actions);
            }
            Err(error) => {
                self.handover.outdated();
                self.out.push(Notice::NotKept { why: error.to_string(), serving: self.handover.current() });
            }
        }
    }

    /// The same program as a new generation, without a build.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn again(&mut self, now: Instant) -> Result<(), String> {
        self.handover.again(now, self.style()).map(|actions| self.perform(now, actions))
    }

    /// The program before this one; asked for again, the one before that.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn rollback(&mut self, now: Instant) -> Result<(), String> {
        let style = self.handover.earlier().map_or_else(|| self.style(), |program| self.style_for(program));
        let actions = self.handover.rollback(now, style);
        actions.map(|actions| self.perform(now, actions))
    }

    pub fn stop(&mut self, now: Instant) {
        self.hurry_drains();
        let actions = self.handover.stop(now);
        self.perform(now, actions);
    }

    pub fn force(&mut self, now: Instant) {
        self.hurry_kin(now);
        let actions = self.handover.force(now);
        self.perform(now, actions);
    }

    pub fn tick(&mut self, now: Instant) {
        self.look_at_flows(now);
        let actions = self.handover.tick(now);
        self.perform(now, actions);
        let alive: Vec<Generation> = self.alive_at.iter().filter(|(_, at)| **at <= now).map(|(g, _)| *g).collect();
        for generation in alive {
            self.still_alive(now, generation);
        }
        self.ask_late_ones(now);
        self.look_at_kin(now);
        self.let_go();
    }

    /// To the process of the serving generation.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(started) = self.handover.current().and_then(|current| self.generations.get(&current)) {
            started.signal(signal);
        }
    }

    /// What a generation's thread has seen or heard.
    pub fn said(&mut self, now: Instant, generation: Generation, said: Said) {
        match said {
            Said::Library(told) => self.library_said(now, generation, told),
            Said::Foreign(text) => self.note(format!("generation {generation}: {text}")),
            Said::Notified if matches!(self.ready, Ready::Auto | Ready::Notify) => {
                self.is_ready(now, generation);
            }
            Said::Notified => {}
            Said::Probed => self.is_ready(now, generation),
            Said::Gate(seen) => self.gate_saw(now, generation, seen),
            Said::Exited => self.exited(now, generation),
        }
    }

    fn stopped_accepting(&mut self, now: Instant, generation: Generation) {
        let actions = self.handover.stopped_accepting(generation);
        self.perform(now, actions);
    }

    fn is_ready(&mut self, now: Instant, generation: Generation) {
        self.alive_at.remove(&generation);
        // One whose own process has ended does not serve, whatever is left of it.
        let started = self.generations.get_mut(&generation).filter(|started| started.ending.is_none());
        let Some(started) = started else { return };
        started.stop_probing();
        started.ready_at.get_or_insert(now);
        let socketless = matches!(started.takes, Takes::Bind | Takes::Nothing)
            && started.listens.is_empty()
            && started.seen.is_empty()
            && proc::listening(started.running.pid()).is_empty();
        let says_hello = started.said_hello;
        let actions = self.handover.ready(now, generation);
        if !actions.is_empty() {
            self.socketless = socketless;
            // Only what serves tells something of the package.
            if says_hello && self.takes == Takes::Nothing && self.start.handoff == HandOff::Auto {
                self.takes = Takes::Library;
            }
            self.settle_handed(generation);
            self.held.new_owner();
            self.adopt(generation);
            self.pass_on();
        }
        self.perform(now, actions);
    }

    fn exited(&mut self, now: Instant, generation: Generation) {
        self.alive_at.remove(&generation);
        if self.waits_for_kin(now, generation) {
            return self.stopped_accepting(now, generation);
        }
        let Some(mut started) = self.generations.remove(&generation) else { return };
        let (mut end, end_is_success) = match started.running.finish() {
            Ok(status) => (describe(status), status.success()),
            Err(error) => (format!("its end cannot be told: {error}"), false),
        };
        let went_away = started.background.is_some();
        if let Some(background) = &started.background {
            end = format!("{end}: {background}");
            self.advise_foreground();
        }
        // Closed before anything else is started: a successor may want the addresses.
        started.offered.clear();
        self.held.keep_up();
        let is_known = started.gate.is_some() || started.takes == Takes::Nothing;
        let has_none = started.listens.is_empty() && started.seen.is_empty();
        let came_to_its_end = end_is_success && !went_away && is_known && has_none;
        if came_to_its_end && self.held.is_empty() && self.handover.current().is_none() {
            // It needed no time to get ready.
            let actions = self.handover.ready(now, generation);
            self.perform(now, actions);
        }
        if self.takes == Takes::Nothing && !self.generations.values().any(|started| started.said_hello) {
            // Held for nobody, they would be refused to the program, which binds for itself now.
            self.held.forget_bound();
        }
        let serves = started.takes != Takes::Nothing && !self.held.is_empty() && !went_away;
        let actions = self.handover.exited(now, generation, &end, serves);
        self.perform(now, actions);
        let kept: Vec<Published> = self.handover.programs().cloned().collect();
        self.store.keep(&kept, self.generations.values().map(|started| &started.program));
    }

    fn perform(&mut self, now: Instant, actions: Vec<Action<Published>>) {
        for action in actions {
            match action {
                Action::Start { generation, program } => self.start(now, generation, program),
                Action::Commit(generation) => {
                    self.tell(generation, Holder::resume);
                    self.open_gate(generation);
                }
                Action::Pause(generation) => {
                    self.tell(generation, Holder::pause);
                    if !self.close_gate(generation) {
                        self.stopped_if_mute(now, generation);
                    }
                }
                Action::Resume(generation) => {
                    self.held.restore();
                    self.tell(generation, Holder::resume);
                    self.open_gate(generation);
                }
                Action::Drain(generation) => self.drain(now, generation),
                Action::Terminate(generation) => {
                    if !self.end_at_gate(generation) {
                        self.terminate(now, generation);
                    }
                }
                Action::Kill(generation) => self.kill(generation),
                Action::Live(generation) => self.live(now, generation),
                Action::Tell(notice) => self.out.push(notice),
            }
        }
    }

    fn start(&mut self, now: Instant, generation: Generation, program: Published) {
        let takes = self.takes_of(&program);
        if takes == Takes::Nothing && !self.generations.values().any(|started| started.said_hello) {
            self.held.forget_bound();
        }
        self.held.beside_library(self.generations.values().any(|started| started.takes == Takes::Library));
        let handed: Vec<_> = match takes {
            Takes::Nothing | Takes::Bind => Vec::new(),
            Takes::Library | Takes::ListenFds => self.held.iter().collect(),
        };
        let behind = (self.gates && matches!(takes, Takes::ListenFds | Takes::Bind)).then_some(&self.held.shelf);
        // A probe that asks for an answer is a client as any other.
        let answers = match &self.ready {
            Ready::Http(_) => true,
            Ready::Accept => takes == Takes::Library,
            Ready::Auto | Ready::Notify | Ready::Delay(_) => false,
        };
        let waits = self.handover.current().is_some() && !answers;
        let sockets = Sockets { takes, handed: &handed, behind, waits };
        let restored = self.store.restore(&program);
        match restored.and_then(|()| self.start.run(generation, program, &sockets, &self.sink)) {
            Ok((mut started, refused)) => {
                // Whether one that is not of TCP is taken is not seen.
                let others = handed.iter().filter(|socket| takes == Takes::ListenFds && socket.end.tcp().is_none());
                started.taken.extend(others.map(|socket| socket.name.clone()));
                if let Some(error) = refused {
                    self.gate_refused(&mut started, &error);
                }
                self.out.push(Notice::Starting { generation, pid: started.running.pid() });
                let gone = self.start.file_is_gone();
                gone.into_iter().for_each(|text| self.note(text));
                self.generations.insert(generation, started);
                self.watch_for_ready(now, generation);
            }
            Err(error) => {
                let actions = self.handover.not_started(now, generation, &error.to_string());
                self.perform(now, actions);
            }
        }
    }

    fn stopped_if_mute(&mut self, now: Instant, generation: Generation) {
        if self.generations.get(&generation).is_none_or(|started| !started.said_hello) {
            self.stopped_accepting(now, generation);
        }
    }

    fn tell(&mut self, generation: Generation, order: generation::Order) {
        let Some(started) = self.generations.get_mut(&generation) else { return };
        if started.said_hello {
            // One that is gone, or hangs, is heard of by its end or its deadline.
            order(&started.holder).ok();
        } else {
            started.untold = Some(order);
        }
    }

    fn note(&mut self, text: String) {
        self.out.push(Notice::Note { text });
    }
}
