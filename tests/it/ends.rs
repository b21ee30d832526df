//! Every way in which a session ends, and that nothing is left of it.

use crate::harness::plain::{self, GATED, PLAIN};
use crate::harness::server::{Arrival, Gate, SERVER, change, hold, server};
use crate::harness::{
    Project, Session, free_address, get, hotrun_dependency, leavings, listed, process, processes, run_folder, send,
    target_folder, version, wait_for_end,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use tempfile::TempDir;

struct Running {
    project: Project,
    address: SocketAddr,
    session: Session,
    gate: Gate,
    /// All that belongs to the session has it in its environment.
    temporary: TempDir,
    target: PathBuf,
}

/// A session of the server with the library.
fn library(name: &str, lines: &[&str], args: &[&str]) -> Running {
    let project = Project::new(name, &hotrun_dependency("[]"), SERVER);
    change(&project, "1", lines);
    let target = target_folder();
    begin(project, free_address(), args, target)
}

/// A session of the server without any dependency.
fn plain(name: &str, lines: &[&str], script: Option<&str>, args: &[&str]) -> Running {
    let project = plain::project(name, "");
    project.write("src/main.rs", &server(PLAIN, "1", lines));
    if let Some(script) = script {
        project.write("build.rs", script);
    }
    let (address, target) = (free_address(), project.path("target"));
    let listen = format!("--listen={address}");
    begin(project, address, &[&[listen.as_str()], args].concat(), target)
}

fn begin(project: Project, address: SocketAddr, args: &[&str], target: PathBuf) -> Running {
    let (gate, temporary) = (Gate::open(), tempfile::tempdir().unwrap());
    let session = Session::start_with(&project, address, args, |command| {
        command.env("GATE", gate.address()).env("TMPDIR", temporary.path()).env("CARGO_TARGET_DIR", &target);
    });
    Running { project, address, session, gate, temporary, target }
}

impl Running {
    fn run_folder(&self) -> PathBuf {
        run_folder(&self.target, self.session.pid())
    }

    /// Waits for the end of everything; how the session itself ended.
    fn nothing_is_left(&mut self) -> (Option<i32>, Vec<Value>) {
        let (status, log) = self.session.finish();
        for pid in processes(self.temporary.path()) {
            wait_for_end(pid);
        }
        assert_eq!(leavings(self.temporary.path()), Vec::<String>::new());
        assert!(!self.run_folder().exists());
        assert!(!listed(self.session.pid()).exists());
        (status.signal(), log)
    }

    /// Kills the session and nothing else.
    fn kill(&mut self) {
        assert!(self.run_folder().exists());
        assert!(listed(self.session.pid()).exists());
        assert!(processes(self.temporary.path()).len() > 2, "what is there to be left?");
        self.session.signal(Signal::SIGKILL);
        assert_eq!(self.nothing_is_left().0, Some(Signal::SIGKILL as i32));
    }

    fn arrival(&self) -> Arrival {
        self.gate.arrival()
    }
}

#[test]
fn ctrl_c_lets_requests_finish() {
    let mut running = library("ends-graceful", &[], &["--drain-timeout", "1h"]);
    running.session.wait_serving(1);
    let asked = hold(running.address);
    running.session.signal(Signal::SIGINT);
    assert_eq!(running.session.wait_for("stopping")["cause"], "SIGINT");
    assert!(asked.release().unwrap().contains("version: 1"));
    let (signal, log) = running.nothing_is_left();
    assert_eq!(signal, Some(Signal::SIGINT as i32));
    let drained = log.iter().find(|event| event["event"] == "drained").unwrap();
    assert_eq!((&drained["cut"], &drained["end"]), (&0.into(), &"exit status 0".into()));
    assert_eq!(log.last().unwrap()["event"], "stopped");
}

#[test]
fn ctrl_c_twice_ends_at_once() {
    let mut running = library("ends-forced", &[], &["--drain-timeout", "1h", "--kill-timeout", "1h"]);
    running.session.wait_serving(1);
    let asked = hold(running.address);
    running.session.signal(Signal::SIGINT);
    running.session.wait_for("stopping");
    running.session.signal(Signal::SIGINT);
    assert_eq!(running.nothing_is_left().0, Some(Signal::SIGINT as i32));
    assert!(!asked.release().is_ok_and(|answer| answer.contains("version")), "nobody is there to answer");
}

#[test]
fn every_signal_that_ends_it_ends_all_of_it() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let name = format!("ends-{}", signal.as_str().to_lowercase());
        let mut running = plain(&name, &[], None, &[]);
        running.session.wait_serving(1);
        running.session.signal(signal);
        let (ended, log) = running.nothing_is_left();
        assert_eq!(ended, Some(signal as i32));
        assert_eq!(log.last().unwrap()["event"], "stopped");
    }
}

#[test]
fn an_orderly_end_during_a_build_ends_the_build() {
    let mut running = plain("ends-build", &[], Some(GATED), &[]);
    let script = running.arrival();
    running.session.signal(Signal::SIGTERM);
    script.end();
    assert_eq!(running.nothing_is_left().0, Some(Signal::SIGTERM as i32));
}

#[test]
fn killed_during_a_build_script_it_leaves_nothing() {
    let mut running = plain("ends-kill-script", &[], Some(GATED), &[]);
    let script = running.arrival();
    running.kill();
    script.end();
}

/// Within rustc: a macro that waits.
#[test]
fn killed_during_a_compilation_it_leaves_nothing() {
    let project = plain::project("ends-kill-rustc", "");
    let manifest = "[package]\nname = \"ends-kill-macros\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n";
    project.write("macros/Cargo.toml", manifest);
    let wait = "use std::io::Read;\n#[proc_macro]\npub fn wait(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n\
        std::net::TcpStream::connect(std::env::var(\"GATE\").unwrap()).unwrap().read_exact(&mut [0]).unwrap();\n\
        proc_macro::TokenStream::new()\n}\n";
    project.write("macros/src/lib.rs", wait);
    project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\nends-kill-macros.path = \"macros\"\n");
    project.write("src/main.rs", &server(PLAIN, "1", &["fn at_start() {} ends_kill_macros::wait!();"]));
    let (address, target) = (free_address(), project.path("target"));
    let mut running = begin(project, address, &[&format!("--listen={address}")], target);
    let rustc = running.arrival();
    running.kill();
    rustc.end();
}

const GATE: &str = "fn gate() { use std::io::Read; \
    std::net::TcpStream::connect(std::env::var(\"GATE\").unwrap()).unwrap().read_exact(&mut [0]).unwrap(); }";

#[test]
fn killed_during_a_start_it_leaves_nothing() {
    let mut running = plain("ends-kill-start", &[&format!("fn at_start() {{ gate(); }} {GATE}")], None, &[]);
    let server = running.arrival();
    running.kill();
    server.end();
}

/// A server that takes no notice of SIGTERM, and a child of it that does not either.
const STUBBORN: &str = "fn at_start() { unsafe { signal(15, 1); } \
    std::process::Command::new(\"sh\").args([\"-c\", \"echo ready | sleep 100000\"]).spawn().unwrap(); } \
    unsafe extern \"C\" { fn signal(number: i32, handler: usize) -> usize; }";

#[test]
fn killed_while_it_serves_it_leaves_nothing_however_stubborn() {
    let mut running = plain("ends-kill-stubborn", &[STUBBORN], None, &["--kill-timeout", "50ms"]);
    running.session.wait_serving(1);
    assert_eq!(version(running.address), "1");
    running.kill();
}

#[test]
fn killed_while_an_old_generation_drains_it_leaves_nothing() {
    let mut running = library("ends-kill-drain", &[], &["--drain-timeout", "1h", "--kill-timeout", "50ms"]);
    running.session.wait_serving(1);
    let asked = hold(running.address);
    running.session.signal(Signal::SIGUSR2);
    running.session.wait_serving(2);
    if running.session.count("draining") == 0 {
        running.session.wait_for("draining");
    }
    running.kill();
    assert!(!asked.release().is_ok_and(|answer| answer.contains("version")), "nobody is there to answer");
}

#[test]
fn a_server_that_takes_no_notice_is_killed_in_the_end() {
    let timeouts = ["--drain-timeout", "50ms", "--kill-timeout", "50ms"];
    let mut running = plain("ends-stubborn", &[STUBBORN], None, &timeouts);
    running.session.wait_serving(1);
    running.session.signal(Signal::SIGTERM);
    let (signal, log) = running.nothing_is_left();
    assert_eq!(signal, Some(Signal::SIGTERM as i32));
    let drained = log.iter().find(|event| event["event"] == "drained").unwrap();
    assert_eq!(drained["end"], "signal 9 (SIGKILL)");
}

#[test]
fn without_its_guard_it_goes_on_and_ends_in_good_order() {
    let mut running = plain("ends-guard", &[], None, &[]);
    running.session.wait_serving(1);
    let guard = process(running.temporary.path(), "__guard");
    send(guard, Signal::SIGKILL);
    wait_for_end(guard);
    assert_eq!(version(running.address), "1");
    running.project.set_version("2");
    running.session.wait_serving(2);
    running.session.wait_for("drained");
    assert_eq!(version(running.address), "2");
    running.session.signal(Signal::SIGTERM);
    assert_eq!(running.nothing_is_left().0, Some(Signal::SIGTERM as i32));
    assert!(get(running.address, "/").is_err());
}
