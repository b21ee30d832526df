//! One contender: how it is called, and one of it, alive on its copy of the project. Never lives here: whose turn it is.

use crate::Result;
use crate::house::{End, House};
use crate::kind::{Kind, as_in_a_shell};
use crate::peers::Peers;
use crate::probe;
use crate::project::Project;
use crate::wait::now;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A build with all dependencies, on whatever machine this is.
const FIRST: Duration = Duration::from_secs(600);
const EDIT: Duration = Duration::from_secs(60);
const LEAVE: Duration = Duration::from_secs(15);

/// Its job for servers, with the command for their end that its own default file suggests: without it the server lives on
/// when cargo is killed, and keeps the port.
const BACON: &str = r#"[jobs.run-long]
command = ["cargo", "run"]
need_stdout = true
allow_warnings = true
background = false
on_change_strategy = "kill_then_restart"
kill = ["pkill", "-TERM", "-P"]
"#;

/// Alive from `start` until it is dropped.
pub struct Contender<'a> {
    pub kind: Kind,
    pub address: SocketAddr,
    pub project: Project,
    house: &'a House,
    path: std::ffi::OsString,
    log: PathBuf,
    events: PathBuf,
    /// The contender itself; for `cargo build` the program that answers the load.
    running: Option<Pid>,
}

impl<'a> Contender<'a> {
    /// Returns when it serves its first build. `folder` is where the project is, and what it says goes beside it.
    pub fn start(
        house: &'a House,
        peers: &Peers,
        kind: Kind,
        project: Project,
        address: SocketAddr,
    ) -> Result<Contender<'a>> {
        let beside = |extension: &str| project.root().with_extension(extension);
        let (log, events) = (beside("log"), beside("events"));
        let path = peers.path.clone();
        let mut contender = Contender { kind, address, project, house, path, log, events, running: None };
        match kind {
            Kind::Bacon => contender.project.write("bacon.toml", BACON)?,
            Kind::CargoBuild => return contender.serve_first_build(),
            _ => {}
        }
        contender.running = Some(contender.spawn(kind.command(address))?);
        contender.wait_for_answer(FIRST)?;
        Ok(contender)
    }

    /// The program of the first build stays, so that it answers the load in later builds.
    fn serve_first_build(mut self) -> Result<Contender<'a>> {
        let pid = self.spawn(self.kind.command(self.address))?;
        self.built(pid, FIRST)?;
        let program = self.project.root().with_extension("program");
        fs::copy(self.project.program(), &program)?;
        self.running = Some(self.spawn(Command::new(program))?);
        self.wait_for_answer(FIRST)?;
        Ok(self)
    }

    /// Edits that file, and returns how long it took until what the contender promises was there.
    pub fn edit(&mut self, place: usize) -> Result<Duration> {
        let ready = self.project.prepare(place)?;
        let saved = now();
        ready.save()?;
        let end = if self.kind == Kind::CargoBuild {
            let program = fs::metadata(self.project.program())?.modified()?;
            let pid = self.spawn(self.kind.command(self.address))?;
            // It never comes, but who asks has the machine to share with, as in the others' turns.
            let over = || self.house.has_ended(pid);
            probe::first_answer(self.address, &self.project.version(), EDIT, over)?;
            let end = self.built(pid, EDIT)?;
            if fs::metadata(self.project.program())?.modified()? == program {
                return Err("cargo build did not see the edit".into());
            }
            end
        } else {
            self.wait_for_answer(EDIT)?
        };
        Ok(end - saved)
    }

    /// Of the contender itself.
    pub fn pid(&self) -> Option<i32> {
        self.running.map(Pid::as_raw)
    }

    /// What `cargo hotrun` has said since `from`, and how much that is in all.
    pub fn events(&self, from: usize) -> Result<(String, usize)> {
        let text = fs::read_to_string(&self.events)?;
        Ok((text.get(from..).unwrap_or_default().to_owned(), text.len()))
    }

    fn built(&self, pid: Pid, limit: Duration) -> Result<Instant> {
        match self.house.wait(pid, limit)? {
            Some(End { success: true, at }) => Ok(at),
            Some(_) => Err(self.explain("cargo build failed")),
            None => Err(self.explain("cargo build does not end")),
        }
    }

    fn wait_for_answer(&self, limit: Duration) -> Result<Instant> {
        let over = || self.running.is_some_and(|pid| self.house.has_ended(pid));
        let version = self.project.version();
        match probe::first_answer(self.address, &version, limit, over)? {
            Some(answered) => Ok(answered),
            None => Err(self.explain(&format!("no answer with version {version}"))),
        }
    }

    fn spawn(&self, mut command: Command) -> Result<Pid> {
        as_in_a_shell(&mut command);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let out = if self.kind == Kind::Hotrun {
            File::options().create(true).append(true).open(&self.events)?
        } else {
            log.try_clone()?
        };
        command.current_dir(self.project.root()).env("PATH", &self.path).env("ADDR", self.address.to_string());
        self.house.start(command.stdin(Stdio::null()).stdout(out).stderr(log))
    }

    fn explain(&self, what: &str) -> Box<dyn std::error::Error> {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        let last = &lines[lines.len().saturating_sub(15)..];
        format!("{}: {what}. It said last:\n    {}", self.kind.name(), last.join("\n    ")).into()
    }
}

impl Drop for Contender<'_> {
    fn drop(&mut self) {
        // What does not leave on being asked is ended with the rest of the house.
        if let Some(pid) = self.running
            && !self.house.has_ended(pid)
            && kill(pid, Signal::SIGTERM).is_ok()
        {
            let _ = self.house.wait(pid, LEAVE);
        }
    }
}

/// The program of this project's command, as /proc/PID/exe names it.
pub fn hotrun() -> Result<PathBuf> {
    Ok(fs::canonicalize(Path::new(env!("CARGO_BIN_EXE_cargo-hotrun")))?)
}
