//! Room 2, hot upgrade: begins with a program and never asks where it came from. It holds the sockets, starts the
//! generations and takes them out of service. What becomes of a generation is decided in `handover`, which is pure, and done in
//! `generations`; this is the wire between the two.
//! Never lives here: files that change, and compilers.

mod action;
mod channel;
mod deaths;
mod flows;
mod gated;
mod generation;
mod generations;
mod handover;
mod hear;
mod history;
mod intercept;
mod libraries;
mod policy;
mod probe;
mod proc;
mod processes;
mod program;
mod readiness;
mod sockets;
mod stage;
mod standing;
mod start;
mod store;
mod whole;

use crate::config::Config;
use crate::error::Result;
use crate::process::{Launcher, SocketFolder, Stdin};
use crate::report::{Note, Notice, Vintage};
use action::{Action, Input, Style, Timeouts};
use flows::Flows;
use gated::Gated;
use generation::Started;
use generations::Generations;
use handover::Handover;
use nix::sys::signal::Signal;
use sockets::Held;
use start::Start;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Published;

pub use crate::report::Generation;
pub use hear::Heard;
pub use program::{Linked, Program, Since};
pub use store::Store;

/// Where the threads of a generation send what they see and hear.
pub type Sink = Arc<dyn Fn(Generation, Heard) + Send + Sync>;

pub struct HotUpgrade {
    handover: Handover<Published>,
    store: Store,
    generations: Generations,
    /// Whether those that leave go on answering.
    flows: Flows,
    /// Where the time went of the program that was offered last, until it serves: only its first start is a save's.
    since: Option<(Published, Since)>,
    /// The one whose gate is kept by the guard, as this process is stopped.
    left: Option<Generation>,
}

impl HotUpgrade {
    /// Binds the configured sockets; they are held until this is dropped.
    pub fn open(
        config: &Config,
        linked: Linked,
        store: Store,
        stdin: Stdin,
        launcher: Launcher,
        private: Arc<SocketFolder>,
        sink: Sink,
    ) -> Result<HotUpgrade> {
        let held = Held::bind(&config.listen)?;
        let settings = &config.upgrade;
        let mut generations =
            Generations::new(config, linked, held, Start::new(config, linked, launcher, stdin, private, sink));
        let probation = if generations.can_pause() { settings.probation } else { Duration::ZERO };
        if probation != settings.probation {
            generations.news.push(Note::NoProbation.into());
        }
        for listen in config.listen.iter().filter(|listen| !listen.address.is_local()) {
            let (address, name) = (listen.address.to_string(), listen.name.clone());
            generations.news.push(Note::Reachable { address, name }.into());
        }
        let handover = Handover::new(Timeouts {
            ready: settings.ready_timeout,
            probation,
            drain: settings.drain_timeout,
            limit: settings.drain_limit,
            kill: settings.kill_timeout,
        });
        let flows = Flows::new(settings.drain_timeout.min(settings.kill_timeout));
        Ok(HotUpgrade { handover, store, generations, flows, since: None, left: None })
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
        let processes = &self.generations.get(generation)?.processes;
        (!processes.is_ending()).then(|| (generation, processes.pid()))
    }

    pub fn addresses(&self) -> Vec<String> {
        self.generations.held.addresses()
    }

    /// Whether no program is being started, or is about to be, or has yet to take over.
    pub fn is_settled(&self) -> bool {
        self.handover.is_settled()
    }

    pub fn is_over(&self) -> bool {
        self.handover.is_over()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.handover.deadline().into_iter().chain(self.generations.deadline()).chain(self.flows.next()).min()
    }

    /// What there is to tell.
    pub fn take(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.generations.news)
    }

    /// Why the newest program does not serve, where it was tried and does not.
    pub fn trouble(&self) -> Option<String> {
        self.handover.standing.trouble(self.vintage())
    }

    /// Why the last rollback has come to nothing after it had begun: told once.
    pub fn take_failed_rollback(&mut self) -> Option<String> {
        self.handover.standing.take_failed_rollback()
    }

    /// Something newer is being built.
    pub fn outdated(&mut self) {
        self.handover.standing.outdated();
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
                    self.generations.news.push(Notice::Unchanged { serving });
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
                let style = self.style(Some(&published));
                let actions = self.handover.offer(now, published, style);
                self.perform(now, actions);
            }
            Err(error) => {
                let (why, serving) = (error.to_string(), self.handover.current());
                self.handover.not_kept(&why);
                self.generations.news.push(Notice::NotKept { why, serving });
            }
        }
    }

    /// The same program as a new generation, without a build.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn again(&mut self, now: Instant) -> Result<(), String> {
        let style = self.style(None);
        self.handover.again(now, style).map(|actions| self.perform(now, actions))
    }

    /// The program before this one; asked for again, the one before that.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn rollback(&mut self, now: Instant) -> Result<(), String> {
        let style = self.style(self.handover.earlier());
        self.handover.rollback(now, style).map(|actions| self.perform(now, actions))
    }

    pub fn stop(&mut self, now: Instant) {
        self.generations.hurry_drains();
        let actions = self.handover.stop(now);
        self.perform(now, actions);
    }

    pub fn force(&mut self, now: Instant) {
        self.generations.hurry_ends(now);
        let actions = self.handover.force(now);
        self.perform(now, actions);
    }

    pub fn tick(&mut self, now: Instant) {
        self.look_at_flows(now);
        let actions = self.handover.tick(now);
        self.perform(now, actions);
        for generation in self.generations.look(now, self.handover.roles().starting) {
            self.is_ready(now, generation);
        }
        self.generations.terminate_late_ones(now);
        for generation in self.generations.ending() {
            self.exited(now, generation);
        }
        self.generations.let_go(self.handover.roles());
    }

    /// To the process of the serving generation.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(current) = self.handover.current() {
            self.generations.signal(current, signal);
        }
    }

    /// This process is about to be stopped: the server goes on, and takes its connections itself meanwhile.
    pub fn suspend(&mut self) {
        // What one that is starting asks for must be answered here, and waits.
        self.left = self.handover.current();
        let calls = self.left().and_then(|(_, gate)| gate.leave().ok());
        self.generations.start.launcher.mind(calls.as_slice());
    }

    /// This process goes on, if it was stopped after `suspend`.
    pub fn resume(&mut self) {
        if self.left.is_none() {
            return;
        }
        self.generations.start.launcher.relieve();
        if let Some((started, gate)) = self.left() {
            gate.come_back();
            started.processes.recall();
        }
        self.left = None;
    }

    fn left(&self) -> Option<(&Started, &Gated)> {
        let started = self.generations.get(self.left?)?;
        Some((started, started.gate.as_ref()?))
    }

    /// What a generation's threads have seen or heard.
    pub fn hear(&mut self, now: Instant, generation: Generation, heard: Heard) {
        let Some(input) = self.generations.hear(now, self.handover.roles(), generation, heard) else { return };
        match input {
            Input::Bound => self.handover.bound(generation),
            Input::Ready => self.is_ready(now, generation),
            Input::StoppedAccepting => self.stopped_accepting(now, generation),
            Input::Live(live) => self.handover.live(generation, live),
            Input::Leaves(live) => {
                self.handover.live(generation, live);
                let actions = self.handover.leaves(now, generation);
                self.perform(now, actions);
                self.stopped_accepting(now, generation);
            }
            Input::Drained => {
                let actions = self.handover.drained(now, generation);
                self.perform(now, actions);
            }
            Input::Exited => self.exited(now, generation),
        }
    }

    fn style(&self, program: Option<&Published>) -> Style {
        self.generations.style(self.handover.roles(), program)
    }

    fn is_ready(&mut self, now: Instant, generation: Generation) {
        if !self.generations.got_ready(now, generation) {
            return;
        }
        let actions = self.handover.ready(now, generation);
        if !actions.is_empty() {
            self.generations.takes_over(self.handover.roles(), generation);
        }
        self.perform(now, actions);
    }

    fn stopped_accepting(&mut self, now: Instant, generation: Generation) {
        let actions = self.handover.stopped_accepting(generation);
        self.perform(now, actions);
    }

    fn exited(&mut self, now: Instant, generation: Generation) {
        if self.generations.is_outlived(now, self.handover.roles(), generation) {
            return self.stopped_accepting(now, generation);
        }
        let Some(ended) = self.generations.ended(generation) else { return };
        if ended.is_done && self.handover.current().is_none() {
            // It needed no time to get ready.
            let actions = self.handover.ready(now, generation);
            self.perform(now, actions);
        }
        let actions = self.handover.exited(now, generation, &ended.text, ended.serves);
        self.perform(now, actions);
        let kept: Vec<Published> = self.handover.programs().cloned().collect();
        self.store.keep(&kept, self.generations.programs());
    }

    fn perform(&mut self, now: Instant, actions: Vec<Action<Published>>) {
        for action in actions {
            let roles = self.handover.roles();
            match action {
                Action::Start { generation, program } => self.start(now, generation, program),
                Action::Admit(generation) => self.generations.admit(generation),
                Action::Pause(generation) => {
                    if !self.generations.pause(roles, generation) {
                        self.stopped_accepting(now, generation);
                    }
                }
                Action::Resume(generation) => self.generations.resume(generation),
                Action::Drain(generation) => {
                    if !self.generations.drain(now, roles, generation) {
                        self.stopped_accepting(now, generation);
                    }
                }
                Action::Terminate(generation) => self.generations.terminate(now, generation),
                Action::Kill(generation) => self.generations.kill(generation),
                Action::Live(generation) => self.is_live(now, generation),
                Action::Tell(notice) => self.generations.news.push(notice),
            }
        }
    }

    fn start(&mut self, now: Instant, generation: Generation, program: Published) {
        let roles = self.handover.roles();
        let restored = self.store.restore(&program);
        match restored.and_then(|()| self.generations.start(now, roles, generation, program)) {
            Ok(()) if self.generations.can_pause() => {}
            Ok(()) => self.handover.without_probation(),
            Err(error) => {
                let actions = self.handover.not_started(now, generation, &error.to_string());
                self.perform(now, actions);
            }
        }
    }

    fn is_live(&mut self, now: Instant, generation: Generation) {
        let Some(started) = self.generations.get(generation) else { return };
        let ready = started.ready_at.unwrap_or(now);
        let since = self.since.take_if(|(program, _)| *program == started.program);
        let timing = since.map(|(_, since)| since.until(started.at, ready, now));
        self.generations.tell_serving(generation, self.handover.vintage(&started.program), timing);
    }

    /// Also in the moment in which one would be ended: it is not where it goes on answering.
    fn look_at_flows(&mut self, now: Instant) {
        let process = |generation| Some((generation, self.generations.get(generation)?.processes.pid()));
        let leaving = self.handover.leaving().filter_map(process).collect();
        let at_once = self.handover.deadline().is_some_and(|deadline| deadline <= now);
        for (generation, live) in self.flows.look(now, &leaving, &self.generations.held.tcp_addresses(), at_once) {
            self.handover.progress(now, generation, live);
        }
    }
}
