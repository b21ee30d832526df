//! A session of the command on a project, told by its events.

use super::{LONG, Project, command, now};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// A running session; ended when dropped.
pub struct Session {
    child: Child,
    events: Receiver<Value>,
    /// What the session and the server wrote to standard error.
    stderr: Arc<Mutex<String>>,
    /// Events that were passed over while waiting for others, all in order.
    pub log: Vec<Value>,
}

impl Session {
    /// `ADDR` tells the server where to listen; `args` are more arguments of the command.
    pub fn start(project: &Project, address: SocketAddr, args: &[&str]) -> Session {
        Session::start_with(project, address, args, |_| {})
    }

    /// As `start`, after `change` has had its way with the command.
    pub fn start_with(
        project: &Project,
        address: SocketAddr,
        args: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Session {
        let mut command = command();
        command.args(["--message-format", "json", "--manifest-path"]).arg(project.path("Cargo.toml")).args(args);
        command.env("CARGO_TARGET_DIR", project.target()).env("ADDR", address.to_string());
        command.current_dir(project.root()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let (tell, events) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not an event: {line}"));
                drop(tell.send(event));
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::clone(&stderr);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Session { child, events, stderr, log: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// The next event that `wanted` says yes to. The others are kept in `log`, as is this one.
    pub fn wait(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let limit = now() + LONG;
        loop {
            let Ok(event) = self.events.recv_timeout(limit.saturating_duration_since(now())) else {
                panic!("no {what}; {}\nand it said\n{}", self.told(), self.stderr());
            };
            self.log.push(event.clone());
            if wanted(&event) {
                return event;
            }
        }
    }

    /// An event that `wanted` says yes to, whether it has come already or is yet to come.
    pub fn see(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        match self.log.iter().find(|event| wanted(event)) {
            Some(event) => event.clone(),
            None => self.wait(what, wanted),
        }
    }

    /// The next event of that name.
    pub fn wait_for(&mut self, name: &str) -> Value {
        self.wait(name, |event| event["event"] == name)
    }

    /// Waits until the next save can be replayed: when the last build was, or when that is told, which is before the program serves that
    /// cargo has built, or after.
    pub fn wait_replay_ready(&mut self) {
        let begin = self.log.iter().rposition(|event| event["event"] == "building").unwrap_or(0);
        let is_ready = |event: &Value| event["event"] == "replay-ready" || event["built-by"] == "replay";
        if !self.log[begin..].iter().any(is_ready) {
            self.wait("replay", is_ready);
        }
    }

    /// Waits until that generation serves, and no other start fails before.
    pub fn wait_serving(&mut self, generation: u64) -> Value {
        let event = self.wait(&format!("serving of generation {generation}"), |event| {
            let failed = matches!(event["event"].as_str(), Some("build-failed" | "start-failed" | "rolled-back"));
            failed || event["event"] == "serving" && event["generation"] == generation
        });
        assert_eq!(event["event"], "serving", "{}\nand it said\n{}", self.told(), self.stderr());
        event
    }

    fn told(&self) -> String {
        let log: Vec<String> = self.log.iter().map(ToString::to_string).collect();
        format!("the events were\n{}", log.join("\n"))
    }

    /// How many events of that name have been seen so far.
    pub fn count(&self, name: &str) -> usize {
        self.log.iter().filter(|event| event["event"] == name).count()
    }

    pub fn signal(&self, signal: Signal) {
        super::send(self.pid(), signal);
    }

    /// Asks it to end and waits until it has.
    pub fn stop(mut self) -> (ExitStatus, Vec<Value>) {
        self.signal(Signal::SIGTERM);
        self.finish()
    }

    /// Waits until it has ended.
    pub fn finish(&mut self) -> (ExitStatus, Vec<Value>) {
        while let Ok(event) = self.events.recv_timeout(LONG) {
            self.log.push(event);
        }
        let status = self.child.wait().unwrap();
        (status, std::mem::take(&mut self.log))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::SIGKILL);
            self.child.wait().unwrap();
        }
    }
}
