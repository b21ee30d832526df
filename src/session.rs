//! THE JOINT: one thread owns all state, takes one event at a time from one channel, and performs what the two rooms want
//! of each other. The one place that reads the clock for them.
//! Never lives here: what either room decides.

mod output;

use crate::cli;
use crate::compile::{self, Artifact, BuildSaid, FileEvent, Outbox};
use crate::config::{self, Config, DataAction, Format};
use crate::edges::control::{self, Listening, Reply};
use crate::edges::keys::{Key, Keys};
use crate::edges::message::{Request, Status};
use crate::edges::registry::{self, Registry};
use crate::edges::signals::{self, SignalRequest};
use crate::error::{Result, Tried};
use crate::process::{Ground, Launcher, SocketFolder, Stdin, Terminal, descriptors, kin, orphans};
use crate::report::{Background, Note, Notice, Reporter, ServiceId, Vintage};
use crate::upgrade::{self, Generation, Heard, Linked, Program, Since};
use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// However little happens, it is seen within this time that somebody has removed the control socket.
const IDLE: Duration = Duration::from_secs(10);

/// All that can happen.
#[derive(Debug)]
enum Event {
    Signal(SignalRequest),
    Key(Key),
    Files(FileEvent),
    Build(u64, BuildSaid),
    Generation(ServiceId, Generation, Heard),
    Control(Request, Reply),
}

/// How a session came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The user asked for it.
    Quit,
    /// By that signal.
    Signal(i32),
}

/// Runs a session to its end.
pub fn run(args: &cli::SessionArgs) -> Result<End> {
    let metadata = compile::metadata(args.manifest_path.as_deref(), args)?;
    let config = config::load(args, &metadata)?;
    let (events, inbox) = channel();
    let mut session = Session::open(&config, &metadata, &events)?;
    session.rebuild(now(), "first build");
    while !session.service.upgrade.is_over() {
        let wait = session.deadline().map_or(IDLE, |deadline| deadline.saturating_duration_since(now()).min(IDLE));
        match inbox.recv_timeout(wait) {
            Ok(event) => session.handle(event),
            Err(RecvTimeoutError::Timeout) => {}
            // Cannot be: a sender is kept here.
            Err(RecvTimeoutError::Disconnected) => break,
        }
        session.tick();
    }
    Ok(session.close())
}

struct Session {
    // Dropped in this order: the terminal is put back and the rooms end their processes before the guard is let go.
    keys: Option<Keys>,
    compile: compile::HotCompile,
    service: Service,
    launcher: Launcher,
    reporter: Background,
    began: Instant,
    end: Option<End>,
    output: config::Output,
    /// Those who are answered when there is nothing more to do.
    waiting: Vec<Waiting>,
    /// By which it is found; removed with it.
    _entry: Option<registry::Entered>,
    /// Where it is asked.
    socket: Listening,
    events: Sender<Event>,
    /// For the sockets, those on which programs say READY=1 among them; removed with it.
    private: Arc<SocketFolder>,
}

/// What is offered, started and told of one program.
struct Service {
    id: ServiceId,
    upgrade: upgrade::HotUpgrade,
    /// How the program that was offered last was built, until its times are told.
    offered: Option<Artifact>,
}

/// Somebody who is answered when there is nothing more to do.
struct Waiting {
    request: Request,
    reply: Reply,
    /// Why what was asked for cannot be done.
    refused: Option<String>,
}

impl Session {
    fn open(config: &Config, metadata: &cargo_metadata::Metadata, events: &Sender<Event>) -> Result<Session> {
        let began = now();
        descriptors::prepare();
        let tell = |events: &Sender<Event>| {
            let events = events.clone();
            // The loop ends before the threads do; nobody misses what they say then.
            move |event| drop(events.send(event))
        };
        // Before there is any other thread.
        let send = tell(events);
        let terminal = if config.output.keys {
            None
        } else {
            Terminal::open(move |signal| send(Event::Signal(SignalRequest::Stop(signal))))
        };
        let reporter = output::reporter(config).tried("start a thread for what is told")?;
        let send = tell(events);
        signals::listen(move |asked| send(Event::Signal(asked))).tried("listen for signals")?;

        let private = Arc::new(SocketFolder::make()?);
        let target = config.build.target_dir.clone().unwrap_or_else(|| metadata.target_directory.clone().into());
        let store = upgrade::Store::new(&target, Ground::new(metadata.workspace_root.as_std_path()))?;
        let registry = Registry::of_user();
        let entry = registry.as_ref().map(|registry| registry.own_file());
        let mut left = vec![store.folder(), private.path()];
        left.extend(entry.as_deref().ok());
        // A program in a group of its own is stopped by the terminal when it reads from it, unless it was given it.
        let stdin = match &terminal {
            Some(_) => Stdin::Terminal,
            None if io::stdin().is_terminal() => Stdin::Null,
            None => Stdin::Inherit,
        };
        let launcher = Launcher::new(&left, config.upgrade.kill_timeout, &kin::tag(private.path()), terminal)?;

        let send = tell(events);
        let keys = if config.output.keys && config.output.format == Format::Human {
            Keys::listen(move |key| send(Event::Key(key))).tried("read keys from the terminal")?
        } else {
            None
        };

        let known = known(metadata, config);
        let (send, id) = (tell(events), config.service.clone());
        let sink: upgrade::Sink = Arc::new(move |of, heard| send(Event::Generation(id.clone(), of, heard)));
        let upgrade =
            upgrade::HotUpgrade::open(config, known, store, stdin, launcher.clone(), Arc::clone(&private), sink)?;

        let socket = control_socket(&private, events).tried("open the control socket")?;
        let entry = registry.and_then(|registry| {
            registry.enter(&registry::SessionFacts {
                root: metadata.workspace_root.clone().into(),
                manifest: config.build.manifest_path.clone(),
                package: config.build.package.clone(),
                target: format!("{} {}", config.build.target.kind(), config.build.target.name()),
                target_dir: target,
                socket: socket.path.clone(),
            })
        });

        let (files, build) = (tell(events), tell(events));
        let sinks = compile::Sinks {
            files: Arc::new(move |event| files(Event::Files(event))),
            build: Arc::new(move |number, said| build(Event::Build(number, said))),
        };
        let compile =
            compile::HotCompile::open(config, metadata, output::color(config), launcher.clone(), sinks, began)?;
        let mut session = Session {
            keys,
            compile,
            service: Service { id: config.service.clone(), upgrade, offered: None },
            launcher,
            reporter,
            began,
            end: None,
            output: config.output,
            waiting: Vec::new(),
            _entry: None,
            events: events.clone(),
            socket,
            private,
        };
        match entry {
            Ok(entry) => session._entry = Some(entry),
            Err(error) => session.tell(None, &Note::Unlisted { error: error.to_string() }.into()),
        }
        Ok(session)
    }

    fn deadline(&self) -> Option<Instant> {
        let compile = self.compile.deadline().filter(|_| self.end.is_none());
        compile.into_iter().chain(self.service.upgrade.deadline()).min()
    }

    fn handle(&mut self, event: Event) {
        let now = now();
        match event {
            Event::Signal(asked) => self.asked(now, asked),
            Event::Key(key) => self.key(now, key),
            // What comes late, when all is being ended.
            Event::Files(_) | Event::Build(..) if self.end.is_some() => {}
            Event::Files(event) => {
                let outbox = self.compile.files(now, event);
                self.perform(now, outbox);
            }
            Event::Build(number, said) => {
                let outbox = self.compile.build_said(now, number, said);
                self.perform(now, outbox);
            }
            Event::Generation(id, generation, heard) => self.service(&id).upgrade.hear(now, generation, heard),
            Event::Control(request, reply) => self.control(now, request, reply),
        }
    }

    fn tick(&mut self) {
        let now = now();
        if self.end.is_none() {
            let outbox = self.compile.tick(now);
            self.perform(now, outbox);
        }
        self.service.upgrade.tick(now);
        for notice in self.service.upgrade.take() {
            self.upgrade_told(now, &notice);
        }
        if !self.socket.path.exists() && self.private.keep_up().is_ok() {
            // Somebody has cleaned up. Where it cannot be had again, whoever asks is told that it is gone.
            if let Ok(socket) = control_socket(&self.private, &self.events) {
                self.socket = socket;
            }
        }
        if !self.waiting.is_empty() && !self.is_busy() {
            let (status, failed_rollback) = (self.status(), self.service.upgrade.take_failed_rollback());
            for Waiting { request, reply, refused } in self.waiting.drain(..) {
                let failed = failed_rollback.clone().filter(|_| request == Request::Rollback);
                reply.send(&Status { refused: refused.or(failed), ..status.clone() });
            }
        }
    }

    /// Where an artifact or an event goes.
    fn service(&mut self, id: &ServiceId) -> &mut Service {
        debug_assert_eq!(self.service.id, *id, "there is one as yet");
        &mut self.service
    }

    fn upgrade_told(&mut self, now: Instant, notice: &Notice) {
        self.tell_of_service(notice);
        if matches!(notice, Notice::Unchanged { .. }) {
            // It is not started.
            self.service.offered = None;
        }
        if let Notice::Serving { generation, timing: Some(timing), .. } = notice
            && let Some(artifact) = self.service.offered.take()
        {
            self.tell_of_service(&Notice::Timings(artifact.timings(*generation, timing)));
        }
        if matches!(notice, Notice::Died { .. } | Notice::StartFailed { .. }) && self.end.is_none() {
            let outbox = self.compile.died(now);
            self.perform(now, outbox);
        }
    }

    fn perform(&mut self, now: Instant, outbox: Vec<Outbox>) {
        if self.end.is_some() {
            return;
        }
        let mut outbox = VecDeque::from(outbox);
        while let Some(message) = outbox.pop_front() {
            match message {
                Outbox::Failed { service, errors, cause, why_cargo } => {
                    let serving = self.service(&service).upgrade.serving();
                    self.tell(Some(&service), &Notice::BuildFailed { errors, cause, why_cargo, serving });
                }
                Outbox::Tell(notice) => self.tell(None, &notice),
                Outbox::Building { cause } => {
                    self.service.upgrade.outdated();
                    if self.output.clear {
                        self.reporter.clear();
                    }
                    self.tell(None, &Notice::Building { package: self.compile.package().to_owned(), cause });
                }
                Outbox::Built(artifact, unread) => {
                    // Where hot compile ends and hot upgrade begins.
                    let offered = self.output.timings.then(|| artifact.clone());
                    let service = self.service(&artifact.service);
                    service.offered = offered;
                    service.upgrade.offer(now, &program(artifact));
                    outbox.extend(self.compile.read_inputs(now, &unread));
                }
                Outbox::Data(path, DataAction::Signal(signal)) => {
                    self.service.upgrade.signal(signal);
                    let (path, signal) = (crate::report::short(&path), signal.to_string());
                    self.tell_of_service(&Note::Signalled { path, signal }.into());
                }
                Outbox::Data(_, DataAction::None) => {}
            }
        }
    }

    fn asked(&mut self, now: Instant, asked: SignalRequest) {
        match asked {
            SignalRequest::Stop(signal) => self.stop(now, End::Signal(signal)),
            SignalRequest::Rebuild => self.rebuild(now, "asked for by SIGUSR1"),
            SignalRequest::Upgrade => drop(self.upgrade_again(now)),
            SignalRequest::Child if self.launcher.terminal().is_some_and(Terminal::look) => self.suspend(),
            SignalRequest::Child => {}
            SignalRequest::Suspend => self.suspend(),
            SignalRequest::Continue => {
                self.launcher.terminal().inspect(|terminal| terminal.resume());
                self.service.upgrade.resume();
                if let Some(keys) = &mut self.keys {
                    keys.resume();
                }
            }
        }
    }

    fn suspend(&mut self) {
        if let Some(terminal) = self.launcher.terminal()
            && !signals::can_be_continued()
        {
            // The program would be stopped for good.
            return terminal.resume();
        }
        if let Some(keys) = &mut self.keys {
            keys.suspend();
        }
        self.service.upgrade.suspend();
        self.launcher.terminal().inspect(|terminal| terminal.suspend());
        signals::suspend();
    }

    fn key(&mut self, now: Instant, key: Key) {
        match key {
            Key::Rebuild => self.rebuild(now, "asked for"),
            Key::Upgrade => drop(self.upgrade_again(now)),
            Key::Back => drop(self.rollback(now)),
            Key::Clear => self.reporter.clear(),
            Key::Help => self.tell(None, &Note::Keys.into()),
            Key::Quit => self.stop(now, End::Quit),
        }
    }

    fn control(&mut self, now: Instant, request: Request, reply: Reply) {
        if request == Request::Status {
            return reply.send(&self.status());
        }
        self.waiting.retain(|waiting| waiting.reply.is_wanted());
        if self.waiting.is_empty() {
            // One that failed before was not for whoever asks now.
            self.service.upgrade.take_failed_rollback();
        }
        let mut refused = None;
        match request {
            Request::Status | Request::Wait => {}
            Request::Rebuild => self.rebuild(now, "asked for"),
            Request::Upgrade => refused = self.upgrade_again(now),
            Request::Rollback => refused = self.rollback(now),
            Request::Stop => self.stop(now, End::Quit),
        }
        self.waiting.push(Waiting { request, reply, refused });
    }

    fn is_busy(&self) -> bool {
        if self.end.is_some() {
            return !self.service.upgrade.is_over();
        }
        !self.compile.is_idle() || !self.service.upgrade.is_settled()
    }

    fn status(&self) -> Status {
        let serving = self.service.upgrade.serving_process();
        let troubles = self.compile.trouble().map(str::to_owned).into_iter().chain(self.service.upgrade.trouble());
        let troubles: Vec<String> = troubles.filter(|_| self.end.is_none()).collect();
        Status {
            package: self.compile.package().to_owned(),
            service: self.service.id.name().to_owned(),
            generation: serving.map(|(generation, _)| generation),
            pid: serving.map(|(_, pid)| pid),
            addresses: self.service.upgrade.addresses(),
            busy: self.is_busy(),
            trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
            rolled_back: self.service.upgrade.vintage() == Some(Vintage::RolledBack),
            refused: None,
            stopped: self.end.is_some() && self.service.upgrade.is_over(),
        }
    }

    fn rebuild(&mut self, now: Instant, cause: &str) {
        if self.end.is_none() {
            let outbox = self.compile.rebuild(now, cause);
            self.perform(now, outbox);
        }
    }

    /// Why it cannot be done, if it cannot.
    fn upgrade_again(&mut self, now: Instant) -> Option<String> {
        let why = self.service.upgrade.again(now).err()?;
        Some(self.refuse(Request::Upgrade, why))
    }

    fn rollback(&mut self, now: Instant) -> Option<String> {
        let why = self.service.upgrade.rollback(now).err()?;
        Some(self.refuse(Request::Rollback, why))
    }

    fn refuse(&mut self, request: Request, why: String) -> String {
        let asked = request.word();
        let refused = format!("{asked} is not possible: {why}");
        self.tell_of_service(&Notice::Refused { asked: asked.to_owned(), why });
        refused
    }

    /// Gracefully; when it is asked for again, at once.
    fn stop(&mut self, now: Instant, end: End) {
        if self.end.is_some() {
            self.service.upgrade.force(now);
            return;
        }
        self.end = Some(end);
        let cause = match end {
            End::Quit => "asked for".to_owned(),
            End::Signal(number) => nix::sys::signal::Signal::try_from(number)
                .map_or_else(|_| number.to_string(), |signal| signal.to_string()),
        };
        self.tell(None, &Notice::Stopping { cause });
        self.compile.close();
        self.service.upgrade.stop(now);
    }

    fn close(mut self) -> End {
        let left = orphans::left().iter().map(|left| crate::report::clean::plain(left)).collect();
        self.tell(None, &Notice::Stopped { left });
        self.end.unwrap_or(End::Quit)
    }

    fn tell_of_service(&mut self, notice: &Notice) {
        self.tell(Some(&self.service.id.clone()), notice);
    }

    /// Of the whole session, if of no service.
    fn tell(&mut self, service: Option<&ServiceId>, notice: &Notice) {
        let at = now().saturating_duration_since(self.began);
        self.reporter.tell(at, service, notice);
    }
}

fn control_socket(private: &SocketFolder, events: &Sender<Event>) -> io::Result<Listening> {
    let events = events.clone();
    control::listen(private.path(), move |request, reply| drop(events.send(Event::Control(request, reply))))
}

/// The one line in which an artifact becomes a program.
fn program(artifact: compile::Artifact) -> Program {
    let since = Some(Since { saved: artifact.saved, was_saved: artifact.was_saved, built: artifact.build_ended });
    let start_anyway = artifact.start_anyway;
    Program { executable: artifact.executable, setting: artifact.setting, since, start_anyway }
}

fn known(metadata: &cargo_metadata::Metadata, config: &Config) -> Linked {
    let depends_on = |name| compile::depends_on(metadata, &config.build.package_id, name);
    Linked {
        library: depends_on("hotrun"),
        // Not libsystemd: loggers for the journal bring it along.
        notifies: depends_on("sd-notify"),
    }
}

#[allow(clippy::disallowed_methods)] // The loop's clock, the one that the cores are told.
fn now() -> Instant {
    Instant::now()
}
