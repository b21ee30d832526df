//! How every generation is started: its command, its channels, its sockets and its gate.
//! Never lives here: when (`handover`), and what is known of it afterwards (`generation`).

use super::channel::Channel;
use super::gated::Gated;
use super::generation::Started;
use super::hear::{GenerationReader, Heard};
use super::intercept::Gate;
use super::policy::Policy;
use super::probe::{self, Probe};
use super::processes::Processes;
use super::program::Linked;
use super::sockets::Held;
use super::store::Published;
use super::{Generation, Sink};
use crate::config::{Config, HandOff, Run};
use crate::error::{Result, Tried};
use crate::process::{self, Launcher, SocketFolder, Stdin, clean_environment, kin, private};
use crate::report::{HandOver, Note, Notice};
use hotrun::holder::{Handed, Holder};
use hotrun::wire;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// How every generation is started.
pub struct Start {
    pub launcher: Launcher,
    /// How they come by their sockets.
    pub policy: Policy,
    /// Whether programs are given the channel of the library.
    channel: bool,
    /// How long a program may take to end.
    pub kill_timeout: Duration,
    sink: Sink,
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

impl Start {
    pub fn new(
        config: &Config,
        linked: Linked,
        launcher: Launcher,
        stdin: Stdin,
        private: Arc<SocketFolder>,
        sink: Sink,
    ) -> Start {
        Start {
            launcher,
            policy: Policy::new(config, linked),
            // A program that was said to take its sockets otherwise is not to find it.
            channel: matches!(config.upgrade.handoff, HandOff::Auto | HandOff::Library),
            sink,
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

    /// One that `waits` is given no connection before it is the current one.
    pub fn run(
        &mut self,
        generation: Generation,
        program: Published,
        (way, waits): (HandOver, bool),
        held: &Held,
        news: &mut Vec<Notice>,
    ) -> Result<Started> {
        let sockets: Vec<_> = match way {
            HandOver::StopAndStart | HandOver::Bind => Vec::new(),
            HandOver::Library | HandOver::ListenFds => held.iter().collect(),
        };
        let gated = self.policy.has_gate(way);
        let (holder, server_end) = Holder::new().tried("make the control channel")?;
        let folder = self.private.path();
        self.private.keep_up().tried(format!("make the folder {}, which was removed", folder.display()))?;
        let notify_path = folder.join(generation.to_string());
        let notify = private::datagrams(&notify_path).tried(format!("bind {}", notify_path.display()))?;
        let mut command = self.command(&program)?;
        let handed: Vec<Handed<'_>> = sockets
            .iter()
            .map(|socket| Handed { name: &socket.name, bound_by_program: socket.bound_by_program })
            .collect();
        let mut fds: Vec<_> = sockets.iter().map(|socket| socket.end.as_fd()).collect();
        let channel = self.channel && way != HandOver::Bind;
        if channel {
            fds.push(server_end.as_fd());
        }
        for (name, value) in holder.environment(&handed, generation) {
            if channel || name != wire::HOTRUN_CTL {
                command.env(name, value);
            }
        }
        command.env(wire::NOTIFY_SOCKET, &notify_path);
        if waits && way == HandOver::Library {
            command.env(wire::HOTRUN_WAITS, "1");
        }
        if gated {
            // The library, which finds no channel there, is not to think that the sockets it binds are its own alone.
            command.env(wire::HOTRUN_HELD, "1");
        }
        let sign = kin::sign(&self.tag, generation);
        command.env(kin::SIGN, &sign);
        if way == HandOver::Library && !program.setting.runner.is_empty() {
            // The process is the runner's, and the program may be its child. The library takes what names nobody.
            command.env(wire::LISTEN_PID, "");
        }
        // Events are what is on our standard output then, and nothing else.
        let stdout = if self.stdout_is_ours {
            io::stderr().as_fd().try_clone_to_owned().tried("share the standard error output")?.into()
        } else {
            Stdio::inherit()
        };
        for listener in sockets.iter().filter_map(|socket| socket.end.tcp()) {
            // As systemd hands them over (systemd.socket(5), NonBlocking=), before the program can make of it what it wants. The library
            // always wants the same, and what another program had made of it before is remembered.
            listener.hand_to(generation, !gated).tried("hand over a socket")?;
        }
        let mut running = self.launcher.start(&command, stdout, Stdio::inherit(), self.stdin, &fds, gated)?;
        drop(server_end);
        let (gate, refused) = match running.filter() {
            Some(process::Filter::Installed(calls)) => {
                let handed: Vec<_> = sockets.iter().filter_map(|socket| socket.end.tcp().cloned()).collect();
                let tell = Arc::clone(&self.sink);
                let tell = move |seen| tell(generation, Heard::Gate(seen));
                let kept = Gate::keep(calls, generation, running.pid(), Arc::clone(&held.shelf), &handed, waits, tell);
                (Some(kept.tried("keep the gate of the new process")?), None)
            }
            Some(process::Filter::Refused(error)) => (None, Some(error)),
            None => (None, None),
        };
        let holder = Arc::new(holder);
        let reader = GenerationReader {
            generation,
            holder: channel.then(|| Arc::clone(&holder)),
            notify,
            notify_path,
            end: running.end().tried("watch the new process")?,
            job: running.job(),
            sink: Arc::clone(&self.sink),
        };
        thread::Builder::new()
            .spawn(move || reader.listen())
            .map_err(|error| process::refused("start a thread for the new process", &error))?;
        let processes = Processes::new(running, sign, &program);
        let (gate, channel) = (gate.map(Gated::new), Channel::new(holder));
        let mut started = Started::new(now(), program, way, processes, channel, gate);
        // Whether one that is not of TCP is taken is not seen.
        let others = sockets.iter().filter(|socket| way == HandOver::ListenFds && socket.end.tcp().is_none());
        started.sockets.taken.extend(others.map(|socket| socket.name.clone()));
        if let Some(error) = refused {
            self.gate_refused(&mut started, error, news);
        }
        news.push(Notice::Starting { generation, pid: started.processes.pid() });
        news.extend(self.file_is_gone().map(Notice::Note));
        Ok(started)
    }

    /// There is no filter on this program: it is as if it had been started without.
    fn gate_refused(&mut self, started: &mut Started, error: io::Error, news: &mut Vec<Notice>) {
        let way = started.way;
        self.policy.without_gates(way);
        if way == HandOver::Bind {
            started.way = HandOver::StopAndStart;
        }
        news.push(Note::NoGate { way, error: error.to_string() }.into());
    }

    /// Asks the generation until it answers; its being ready is heard then.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn probe(
        &self,
        generation: Generation,
        started: &mut Started,
        (probe, addresses): (Probe, Vec<SocketAddr>),
    ) -> io::Result<()> {
        let (pid, sink) = (started.processes.pid(), Arc::clone(&self.sink));
        let (keep, cancelled) = channel();
        started.probing = Some(keep);
        thread::Builder::new().spawn(move || {
            if probe::until_ready(&probe, &addresses, pid, &cancelled) {
                sink(generation, Heard::Probed);
            }
        })?;
        Ok(())
    }

    pub fn package(&self) -> &str {
        &self.package
    }

    /// Of the file of variables, where it is gone and they are those that stood in it last.
    fn file_is_gone(&self) -> Option<Note> {
        let file = self.run.env_file.as_ref().filter(|file| self.of_file.is_some() && !file.exists())?;
        Some(Note::EnvFileGone { file: crate::report::one_line(&file.to_string_lossy()) })
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

#[allow(clippy::disallowed_methods)] // An edge: the moment of exec is taken where it happens.
fn now() -> Instant {
    Instant::now()
}
