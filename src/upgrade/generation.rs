//! One generation of the server: how it is started, and the thread that sees and hears it.
//! Never lives here: what becomes of it (`handover`).

use super::gate::{Gate, Seen, Shelf};
use super::handed::Own;
use super::kin::Ending;
use super::probe::{self, Probe};
use super::proc;
use super::sockets::{Endpoint, Socket};
use super::store::Published;
use super::takes::Takes;
use super::{Generation, Sink};
use crate::config::{Config, HandOff, Run};
use crate::error::{Result, Tried};
use crate::process::kin::{self, Descent, Kin};
use crate::process::{self, Launcher, Place, Running, SocketFolder, Stdin, clean_environment, descriptors, private};
use crate::report::HandOver;
use hotrun::holder::{Handed, Holder, Said as Told};
use hotrun::wire;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// What a generation's thread sees and hears.
#[derive(Debug)]
pub enum Said {
    /// On the control channel.
    Library(Told),
    /// Something that is no message of the library.
    Foreign(String),
    /// `READY=1`, by sd_notify(3).
    Notified,
    /// It answers.
    Probed,
    /// At its gate.
    Gate(Seen),
    /// Its process has ended; nothing more is heard.
    Exited,
}

/// How every generation is started.
#[derive(Debug)]
pub struct Start {
    pub launcher: Launcher,
    pub handoff: HandOff,
    /// How long a program may take to end.
    pub kill_timeout: Duration,
    run: Run,
    package: String,
    stdin: Stdin,
    stdout_is_ours: bool,
    /// For the sockets on which programs say READY=1.
    private: Arc<SocketFolder>,
    /// What stood in the file of variables when it was last there.
    of_file: Option<Vec<(String, String)>>,
    /// By which its processes are known (`process::kin`).
    tag: String,
}

/// What a program with the library is told.
pub type Order = fn(&Holder) -> io::Result<()>;

/// How a generation comes by its sockets.
#[derive(Debug, Clone, Copy)]
pub struct Sockets<'a> {
    pub takes: Takes,
    /// Those it has from the start.
    pub handed: &'a [&'a Socket],
    /// Where those are that it finds at its gate, if it is to have one.
    pub behind: Option<&'a Arc<Shelf>>,
    /// Whether it is given no connection before it is the current one.
    pub waits: bool,
}

/// A generation whose process runs.
#[derive(Debug)]
pub struct Started {
    pub running: Running,
    pub holder: Arc<Holder>,
    pub program: Published,
    /// The program's file, which `cargo clean` takes the name of.
    pub file: Option<(u64, u64)>,
    /// All that it has started.
    pub descent: Descent,
    /// Its own process has ended, and others of it have not.
    pub ending: Option<Ending>,
    /// It has gone into the background, as who.
    pub background: Option<String>,
    pub takes: Takes,
    /// What it could not be told last, as it has not said hello: it is when it does.
    pub untold: Option<Order>,
    pub by: HandOver,
    /// Where it has one, which is not where the calls of the program were let through unseen.
    pub gate: Option<Gate>,
    /// It takes connections past its gate.
    pub blind: bool,
    /// The listening sockets it was seen to have, by inode.
    pub listens: Vec<u64>,
    /// Its gate leads it to its end.
    pub drains_at_gate: bool,
    /// When its program began to run.
    pub at: Instant,
    /// When it was first known to be ready.
    pub ready_at: Option<Instant>,
    pub offered: Vec<(String, Endpoint)>,
    pub taken: BTreeSet<String>,
    pub said_hello: bool,
    /// It has said READY, or asked for a connection, so that it has its sockets.
    pub accepts: bool,
    pub said_draining: bool,
    /// When it is asked to leave that is about to leave by itself.
    pub terminate_at: Option<Instant>,
    /// Sockets on which it was seen to listen where that is no call that is seen, by inode.
    pub seen: BTreeSet<u64>,
    can_listen: Option<bool>,
    /// Addresses that it has asked for at its gate in vain.
    pub refused: BTreeSet<SocketAddr>,
    pub own: Own,
    /// Dropped to end the probe.
    probing: Option<Sender<()>>,
}

impl Start {
    pub fn new(config: &Config, launcher: Launcher, stdin: Stdin, private: Arc<SocketFolder>) -> Start {
        Start {
            launcher,
            handoff: config.upgrade.handoff,
            kill_timeout: config.upgrade.kill_timeout,
            run: config.program.clone(),
            package: config.build.package.clone(),
            stdin,
            stdout_is_ours: config.output.format == crate::config::Format::Json,
            tag: kin::tag(private.path()),
            private,
            of_file: None,
        }
    }

    pub fn run(
        &mut self,
        generation: Generation,
        program: Published,
        sockets: &Sockets<'_>,
        sink: &Sink,
    ) -> Result<(Started, Option<io::Error>)> {
        let (holder, server_end) = Holder::new().tried("make the control channel")?;
        let folder = self.private.path();
        self.private.keep_up().tried(format!("make the folder {}, which was removed", folder.display()))?;
        let notify_path = folder.join(generation.to_string());
        let notify = private::datagrams(&notify_path).tried(format!("bind {}", notify_path.display()))?;
        let mut command = self.command(&program)?;
        let Sockets { takes, handed: sockets, behind, waits } = *sockets;
        let by = takes.told();
        let handed: Vec<Handed<'_>> = sockets
            .iter()
            .map(|socket| Handed { name: &socket.name, bound_by_program: socket.bound_by_program })
            .collect();
        let mut fds: Vec<_> = sockets.iter().map(|socket| socket.end.as_fd()).collect();
        // A program that was said to take its sockets otherwise is not to find the channel.
        let channel = matches!(self.handoff, HandOff::Auto | HandOff::Library) && by != HandOver::Bind;
        if channel {
            fds.push(server_end.as_fd());
        }
        for (name, value) in holder.environment(&handed, generation) {
            if channel || name != wire::HOTRUN_CTL {
                command.env(name, value);
            }
        }
        command.env(wire::NOTIFY_SOCKET, &notify_path);
        if waits && takes == Takes::Library {
            command.env(wire::HOTRUN_WAITS, "1");
        }
        if behind.is_some() {
            // The library, which finds no channel there, is not to think that the sockets it binds are its own alone.
            command.env(wire::HOTRUN_HELD, "1");
        }
        let sign = kin::sign(&self.tag, generation);
        command.env(kin::SIGN, &sign);
        if by == HandOver::Library && !program.setting.runner.is_empty() {
            // The process is the runner's, and the program may be its child. The library takes what names nobody.
            command.env(wire::LISTEN_PID, "");
        }
        // Events are what is on our standard output then, and nothing else.
        let stdout = if self.stdout_is_ours {
            io::stderr().as_fd().try_clone_to_owned().tried("share the standard error output")?.into()
        } else {
            Stdio::inherit()
        };
        let gated = behind.is_some();
        for listener in sockets.iter().filter_map(|socket| socket.end.tcp()) {
            // As systemd hands them over (systemd.socket(5), NonBlocking=), before the program can make of it what it wants. The library
            // always wants the same, and what another program had made of it before is remembered.
            listener.hand_to(generation, !gated).tried("hand over a socket")?;
        }
        let mut running = self.launcher.start(&command, stdout, Stdio::inherit(), self.stdin, &fds, gated)?;
        drop(server_end);
        let (gate, refused) = match (running.gate(), behind) {
            (Some(process::Gate::Open(calls)), Some(shelf)) => {
                let handed: Vec<_> = sockets.iter().filter_map(|socket| socket.end.tcp().cloned()).collect();
                let tell = Arc::clone(sink);
                let tell = move |seen| tell(generation, Said::Gate(seen));
                let kept = Gate::keep(calls, generation, running.pid(), Arc::clone(shelf), &handed, waits, tell);
                (Some(kept.tried("keep the gate of the new process")?), None)
            }
            (Some(process::Gate::Refused(error)), _) => (None, Some(error)),
            (Some(process::Gate::Open(_)) | None, _) => (None, None),
        };
        let holder = Arc::new(holder);
        let ears = Ears {
            generation,
            holder: channel.then(|| Arc::clone(&holder)),
            notify,
            notify_path,
            end: running.end().tried("watch the new process")?,
            place: running.place(),
            sink: Arc::clone(sink),
        };
        thread::Builder::new()
            .spawn(move || ears.listen())
            .map_err(|error| process::refused("start a thread for the new process", &error))?;
        let started = Started {
            descent: Descent::new(running.pid(), sign),
            ending: None,
            background: None,
            running,
            holder,
            file: proc::file_id(&program.path),
            program,
            takes,
            by,
            gate,
            blind: false,
            listens: Vec::new(),
            drains_at_gate: false,
            at: now(),
            ready_at: None,
            offered: Vec::new(),
            taken: BTreeSet::new(),
            said_hello: false,
            accepts: false,
            said_draining: false,
            terminate_at: None,
            untold: None,
            seen: BTreeSet::new(),
            can_listen: None,
            refused: BTreeSet::new(),
            own: Own::default(),
            probing: None,
        };
        Ok((started, refused))
    }

    pub fn package(&self) -> &str {
        &self.package
    }

    /// Of the file of variables, where it is gone and they are those that stood in it last.
    pub fn file_is_gone(&self) -> Option<String> {
        let file = self.run.env_file.as_ref().filter(|file| self.of_file.is_some() && !file.exists())?;
        let file = crate::report::one_line(&file.to_string_lossy());
        Some(format!("{file} is gone: the program has the variables that stood in it before"))
    }

    /// In its setting; what the user says counts more.
    fn command(&mut self, program: &Published) -> Result<Command> {
        let mut words = program.setting.runner.iter().map(OsString::as_os_str).chain([program.path.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        clean_environment(&mut command);
        for (name, value) in program.environment() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        for name in wire::VARIABLES {
            command.env_remove(name);
        }
        // Read anew for each start, so that a change needs no restart of this command.
        if let Some(file) = &self.run.env_file {
            match (crate::config::env_file(file), &self.of_file) {
                (Ok(read), _) => self.of_file = Some(read),
                // As `git clean` removes it, with all that git ignores.
                (Err(_), Some(_)) if !file.exists() => {}
                (Err(error), _) => return Err(error),
            }
        }
        if let Some(variables) = &self.of_file {
            command.envs(variables.iter().map(|(name, value)| (name, value)));
        }
        command.envs(self.run.env.iter().map(|(name, value)| (name, value)));
        command.args(&self.run.args);
        Ok(command)
    }
}

impl Started {
    /// By what it is linked with; read once, and only when it matters.
    pub fn can_listen(&mut self) -> bool {
        *self.can_listen.get_or_insert_with(|| self.program.can_listen())
    }

    /// To the program.
    pub fn signal(&self, signal: Signal) {
        match self.behind_runner() {
            Some(program) => self.send(&[program], signal),
            None => self.running.signal(signal),
        }
    }

    /// Whether the terminal has asked it to end: then it has some time to do so in its own way before it is asked again.
    pub fn leaves_by_itself(&mut self, now: Instant, time: Duration) -> bool {
        let asked = self.running.place().is_some_and(|place| place.was_asked_to_end());
        if asked {
            self.terminate_at.get_or_insert(now + time);
        }
        asked
    }

    /// All that it has started; the guard is told of them.
    pub fn look_at_kin(&mut self) -> Vec<Kin> {
        let kin = self.descent.look();
        self.running.guard_too(&kin);
        kin
    }

    /// To the program and all that it has started. A runner that waits for it comes to its end by itself; most of those that were asked
    /// to leave before it would not wait any more.
    pub fn signal_all(&mut self, signal: Signal) {
        let kin = self.look_at_kin();
        let family = self.behind_runner().filter(|_| signal != Signal::SIGKILL).map(proc::family);
        match &family {
            Some(family) => self.send(family, signal),
            None => self.running.signal_group(signal),
        }
        let told =
            |kin: &Kin| kin.is_of_group(self.running.pid()) || family.iter().flatten().any(|pid| *pid == kin.pid);
        kin.iter().filter(|kin| !told(kin)).for_each(|kin| kin.signal(signal));
    }

    /// The program, where its runner has started it as a child and did not become it.
    fn behind_runner(&self) -> Option<u32> {
        let runner = (!self.program.setting.runner.is_empty()).then(|| self.running.pid())?;
        // The nearest one comes first, and the runner before it.
        let program = proc::family(runner).into_iter().find(|pid| proc::runs(*pid, self.file));
        program.filter(|program| *program != runner)
    }

    fn send(&self, processes: &[u32], signal: Signal) {
        for pid in processes {
            // They are no children of this process: their numbers may be others' by now, which are not below the runner.
            let process = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw);
            let pidfd = process.and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok());
            if let Some(pidfd) = pidfd.filter(|_| proc::family(self.running.pid()).contains(pid))
                && let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32)
            {
                // One that has ended needs no signal.
                pidfd_send_signal(&pidfd, signal).ok();
            }
        }
    }

    /// Asks until it answers; `ready` is called then, by another thread.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn probe(
        &mut self,
        probe: Probe,
        addresses: Vec<SocketAddr>,
        ready: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let pid = self.running.pid();
        let (keep, cancelled) = channel();
        self.probing = Some(keep);
        thread::Builder::new().spawn(move || {
            if probe::until_ready(&probe, &addresses, pid, &cancelled) {
                ready();
            }
        })?;
        Ok(())
    }

    pub fn stop_probing(&mut self) {
        self.probing = None;
    }
}

struct Ears {
    generation: Generation,
    holder: Option<Arc<Holder>>,
    notify: UnixDatagram,
    notify_path: PathBuf,
    end: OwnedFd,
    place: Option<Arc<Place>>,
    sink: Sink,
}

impl Ears {
    fn listen(mut self) {
        loop {
            // Nobody writes to the end of a process: asked for nothing, it keeps the place of what is not there.
            let nothing = || PollFd::new(self.end.as_fd(), PollFlags::empty());
            let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [
                self.holder.as_ref().map_or_else(nothing, |holder| wanted(holder.as_fd())),
                wanted(self.notify.as_fd()),
                wanted(self.end.as_fd()),
            ];
            // An interrupted call is repeated; no other error is possible for descriptors that are open.
            poll(&mut fds, PollTimeout::NONE).ok();
            let [said, notified, ended] = fds.map(|fd| fd.any().unwrap_or(false));
            if said && self.holder.is_some() {
                self.hear_library();
            } else if notified {
                self.hear_notification();
            } else if ended {
                break;
            }
        }
        std::fs::remove_file(&self.notify_path).ok();
        // Whether it was the user who has ended it is known before its end is.
        if let Some(place) = &self.place {
            place.hear_out();
        }
        (self.sink)(self.generation, Said::Exited);
    }

    fn hear_library(&mut self) {
        let Some(holder) = &self.holder else { return };
        // A socket that comes with it would be lost (unix(7), MSG_CTRUNC).
        descriptors::make_room();
        let said = match holder.receive() {
            Ok(Told::Closed) => {
                self.holder = None;
                return;
            }
            Ok(told) => Said::Library(told),
            Err(error) => {
                self.holder = None;
                Said::Foreign(error.to_string())
            }
        };
        (self.sink)(self.generation, said);
    }

    /// The folder of the socket is for this user alone, and each generation has a socket of its own.
    fn hear_notification(&self) {
        let mut bytes = [0; 4096];
        let Ok(length) = self.notify.recv(&mut bytes) else { return };
        if bytes[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            (self.sink)(self.generation, Said::Notified);
        }
    }
}

#[allow(clippy::disallowed_methods)] // An edge: the moment of exec is taken where it happens.
fn now() -> Instant {
    Instant::now()
}
