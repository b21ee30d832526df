//! A server without any dependency, which takes LISTEN_FDS, in a project that builds into a folder of its own: it is
//! compiled in a moment, and waits for nobody's lock.

use super::server::{Gate, server};
use super::{Project, Session, command, free_address, version};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;

/// One request a connection. A test changes the lines of the constants and functions at its beginning.
pub const PLAIN: &str = r#"
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::FromRawFd;

const VERSION: &str = "1";
fn at_start() {}
fn word() -> String { String::new() }

fn main() {
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    at_start();
    for conn in listener.incoming() {
        let Ok(mut conn) = conn else { continue };
        let asked = BufReader::new(&conn).lines().any(|line| line.is_ok_and(|line| line.is_empty()));
        if asked {
            let body = format!("version: {VERSION}\nword: {}\n", word());
            let _ = write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    }
}
"#;

/// A build script that waits at the gate of the test, and is run again with every change of the program.
pub const GATED: &str = r#"
use std::io::Read;
fn main() {
    println!("cargo::rerun-if-changed=src/main.rs");
    let mut gate = std::net::TcpStream::connect(std::env::var("GATE").unwrap()).unwrap();
    gate.read_exact(&mut [0]).unwrap();
}
"#;

/// The table of the manifest that every such project has, for `Plain::fence` and `Plain::mark`.
const METADATA: &str = r#"
[package.metadata.hotrun]
data = { "fence" = "signal:CONT", "mark" = "signal:CONT" }
"#;

/// That server with another version, and other lines.
pub fn plain(version: &str, lines: &[&str]) -> String {
    server(PLAIN, version, lines)
}

/// The project, without the changes that a test makes before it is run. `metadata` stands in its hotrun table.
pub fn project(name: &str, metadata: &str) -> Project {
    let project = Project::new(name, "", PLAIN);
    // This one has no dependencies.
    std::fs::remove_file(project.path("Cargo.lock")).unwrap();
    let manifest = project.read("Cargo.toml");
    project.write("Cargo.toml", &format!("{manifest}{METADATA}{metadata}\n"));
    project.write("fence", "");
    project.write("mark", "");
    project
}

/// A command that serves the project there.
pub fn arguments(command: &mut Command, project: &Project, address: SocketAddr) {
    command.arg("--listen").arg(address.to_string()).arg("--manifest-path").arg(project.path("Cargo.toml"));
    command.env_remove("CARGO_TARGET_DIR").current_dir(project.root());
}

/// A session on such a project.
pub struct Plain {
    pub project: Project,
    pub address: SocketAddr,
    pub session: Session,
    pub gate: Gate,
    pub generation: u64,
    fence: File,
    marks: u32,
}

impl Plain {
    /// Waits until the first generation serves.
    pub fn start(project: Project) -> Plain {
        let mut plain = Plain::begin(project, &[]);
        plain.session.wait_serving(1);
        plain.generation = 1;
        plain
    }

    /// Waits for nothing.
    pub fn begin(project: Project, args: &[&str]) -> Plain {
        Plain::begin_with(project, args, |_| {})
    }

    /// As `begin`, after `change` has had its way with the command.
    pub fn begin_with(project: Project, args: &[&str], change: impl FnOnce(&mut Command)) -> Plain {
        let (address, gate) = (free_address(), Gate::open());
        let listen = format!("--listen={address}");
        let args: Vec<&str> = [listen.as_str()].iter().chain(args).copied().collect();
        let session = Session::start_with(&project, address, &args, |command| {
            command.env_remove("CARGO_TARGET_DIR").env("GATE", gate.address());
            change(command);
        });
        let fence = File::options().append(true).open(project.path("fence")).unwrap();
        Plain { project, address, session, gate, generation: 0, fence, marks: 0 }
    }

    /// Waits until the next generation serves, and alone; what it answers.
    pub fn next(&mut self) -> String {
        self.generation += 1;
        self.session.wait_serving(self.generation);
        let before = self.generation - 1;
        if before > 0 {
            self.session
                .wait("the end of the old one", |event| event["event"] == "drained" && event["generation"] == before);
        }
        version(self.address)
    }

    /// Waits until the second look at all that has happened to files so far is over: this is a change that only that look
    /// can see, as the file is not closed.
    pub fn fence(&mut self) {
        self.fence.write_all(b"x").unwrap();
        self.note("fence changed");
    }

    /// Waits until all that has happened to files so far was looked at once.
    pub fn mark(&mut self) {
        self.marks += 1;
        self.project.write("mark", &self.marks.to_string());
        self.note("mark changed");
    }

    /// Waits until all that has happened to files so far has had its effect; what `cargo hotrun wait` says then.
    pub fn settle(&mut self) -> Value {
        self.fence();
        let output = command()
            .args(["wait", "--message-format", "json", "--pid", &self.session.pid().to_string(), "--target-dir"])
            .arg(self.project.path("target"))
            .current_dir(self.project.root())
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    fn note(&mut self, text: &str) {
        self.session.wait(text, |event| event["event"] == "note" && event["text"].as_str().unwrap().contains(text));
    }

    /// What the builds so far were caused by.
    pub fn causes(&self) -> Vec<&str> {
        let builds = self.session.log.iter().filter(|event| event["event"] == "building");
        builds.map(|event| event["cause"].as_str().unwrap()).collect()
    }

    pub fn wait_for(&mut self, name: &str) -> Value {
        self.session.wait_for(name)
    }
}
