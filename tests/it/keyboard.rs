//! With `--no-keys` the keyboard is the program's: it has the terminal as a job of a shell has it, and the session goes with it.

use crate::harness::pty::Terminal;
use crate::harness::server::server;
use crate::harness::{Project, children, free_address, leavings, process, send, version, wait_for_end};
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// A server that says what is typed, and by which job. It is at the terminal when its group is in front of it (proc_pid_stat(5)).
const MAIN: &str = r#"
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

const VERSION: &str = "1";
fn at_start() {}

fn main() {
    at_start();
    std::thread::spawn(|| {
        for line in std::io::stdin().lines() {
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            let front = if fields[2] == fields[5] { "in front" } else { "behind" };
            // What the session does to itself for the terminal's sake is not the program's.
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
            println!("{VERSION} read <{}> {front}", line.unwrap());
        }
        println!("{VERSION} read all");
    });
    let listener = TcpListener::bind(std::env::var("ADDR").unwrap()).unwrap();
    for conn in listener.incoming() {
        let Ok(mut conn) = conn else { continue };
        if BufReader::new(&conn).lines().any(|line| line.is_ok_and(|line| line.is_empty())) {
            let body = format!("version: {VERSION}\n");
            let _ = write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    }
}
"#;
/// Ends as if nothing were the matter.
const HANDLES: &str = "fn at_start() { let mut signals = signal_hook::iterator::Signals::new([2]).unwrap(); std::thread::spawn(move || { signals.forever().next(); std::thread::sleep(std::time::Duration::from_millis(300)); println!(\"{VERSION} was interrupted\"); std::process::exit(0) }); }";

struct Front {
    project: Project,
    address: SocketAddr,
    temporary: tempfile::TempDir,
    terminal: Terminal,
    /// The process of the generation that serves.
    serving: Option<u32>,
}

impl Front {
    /// Alone at the terminal.
    fn start(name: &str, lines: &[&str]) -> Front {
        Front::by(name, lines, Command::new(env!("CARGO_BIN_EXE_cargo-hotrun")))
    }

    /// As a job of a shell, which runs this script; the command is its "$@".
    fn under(name: &str, lines: &[&str], script: &str) -> Front {
        let mut shell = Command::new("bash");
        shell.args(["--norc", "-c", script, "bash", env!("CARGO_BIN_EXE_cargo-hotrun")]);
        Front::by(name, lines, shell)
    }

    fn by(name: &str, lines: &[&str], mut command: Command) -> Front {
        let project = Project::new(name, "signal-hook = \"0.4\"\n", &server(MAIN, "1", lines));
        let (address, temporary) = (free_address(), tempfile::tempdir().unwrap());
        command.args(["--no-keys", "--color", "never", "--manifest-path"]).arg(project.path("Cargo.toml"));
        command.env("CARGO_TARGET_DIR", project.target()).env("ADDR", address.to_string());
        command.env("TMPDIR", temporary.path()).current_dir(project.root());
        let terminal = Terminal::run(command);
        Front { project, address, temporary, terminal, serving: None }
    }

    fn serves(&mut self, generation: u32) -> String {
        self.terminal.wait_for(&format!(" serving  generation {generation}, pid "));
        let pid = self.terminal.wait_for(",").trim_end_matches(',').parse().unwrap();
        if let Some(before) = self.serving.replace(pid) {
            // It reads as long as it is there.
            wait_for_end(before);
        }
        version(self.address)
    }

    fn save(&self, version: &str, lines: &[&str]) {
        self.project.write_by_rename("src/main.rs", &server(MAIN, version, lines));
    }

    fn session(&self) -> u32 {
        children(self.terminal.pid())[0].0
    }

    /// The shell reads a line, as the terminal is its own again, and ends.
    fn is_the_shells(&mut self) {
        assert_eq!(self.terminal.attributes(), self.terminal.before);
        self.terminal.press("x\n");
        self.terminal.wait_for("shell read <x>");
        self.terminal.finish();
    }
}

const SHELL: &str = "set -m; \"$@\"; echo \"ended $?\"; read line; echo \"shell read <$line>\"";

#[test]
fn what_is_typed_is_the_programs_and_its_successors() {
    let mut front = Front::under("keyboard-reads", &[], SHELL);
    assert_eq!(front.serves(1), "1");
    front.terminal.press("quit r q\n");
    front.terminal.wait_for("1 read <quit r q> in front");
    for version in ["2", "3"] {
        front.save(version, &[]);
        assert_eq!(front.serves(version.parse().unwrap()), version);
        front.terminal.press("more\n");
        front.terminal.wait_for(&format!("{version} read <more> in front"));
    }
    // One that cannot start has had it meanwhile.
    front.save("4", &["fn at_start() { std::process::exit(3) }"]);
    front.terminal.wait_for("never became ready");
    front.terminal.press("again\n");
    front.terminal.wait_for("3 read <again> in front");
    // An end of file is the user's to say.
    front.terminal.press("\x04");
    front.terminal.wait_for("3 read all");
    send(front.session(), Signal::SIGTERM);
    front.terminal.wait_for("ended 143");
    front.is_the_shells();
}

#[test]
fn ctrl_c_ends_the_session_whatever_the_program_makes_of_it() {
    let ignores = "fn at_start() { std::mem::forget(signal_hook::iterator::Signals::new([2]).unwrap()) }";
    for (name, lines, said) in [
        ("keyboard-handles", &[HANDLES][..], "2 was interrupted"),
        ("keyboard-dies", &[], "signal 2 (SIGINT)"),
        // SIGTERM ends it, of which nothing is told.
        ("keyboard-ignores", &[ignores], ""),
    ] {
        let mut front = Front::start(name, lines);
        front.serves(1);
        front.save("2", lines);
        assert_eq!(front.serves(2), "2");
        front.terminal.press("\x03");
        assert_eq!(front.terminal.finish().signal(), Some(Signal::SIGINT as i32));
        let said_all = String::from_utf8(front.terminal.everything()).unwrap();
        assert!(said_all.contains(said) && said_all.contains("stopping  SIGINT"), "{said_all}");
        for wrong in ["died", "generation 3", "started again", "finished"] {
            assert!(!said_all.contains(wrong), "{said_all}");
        }
        assert_eq!(front.terminal.attributes(), front.terminal.before);
        assert_eq!(leavings(front.temporary.path()), [""; 0]);
    }
}

#[test]
fn ctrl_c_is_the_sessions_where_no_program_runs() {
    let mut front = Front::start("keyboard-none", &["fn at_start() { std::process::exit(3) }"]);
    front.terminal.wait_for("never became ready");
    front.terminal.press("\x03");
    front.terminal.wait_for("stopping  SIGINT");
    assert_eq!(front.terminal.finish().signal(), Some(Signal::SIGINT as i32));
}

#[test]
fn ctrl_z_stops_both_until_the_shell_fetches_them() {
    let script = "set -m; \"$@\"; read line; echo \"shell read <$line>\"; fg; echo \"ended $?\"; read line; echo \"shell read <$line>\"";
    let mut front = Front::under("keyboard-suspend", &[], script);
    front.serves(1);
    front.terminal.press("\x1a");
    front.terminal.wait_for("Stopped");
    front.terminal.press("mine\n");
    front.terminal.wait_for("shell read <mine>");
    front.terminal.press("yours\n");
    front.terminal.wait_for("1 read <yours> in front");
    assert_eq!(version(front.address), "1");
    front.save("2", &[]);
    assert_eq!(front.serves(2), "2");
    send(front.session(), Signal::SIGTERM);
    front.terminal.wait_for("ended 143");
    front.is_the_shells();
}

#[test]
fn a_job_in_the_background_waits_for_the_terminal_and_is_given_it() {
    let script = "set -m; \"$@\" & read line; echo \"shell read <$line>\"; fg; echo \"ended $?\"; read line; echo \"shell read <$line>\"";
    let mut front = Front::under("keyboard-background", &[], script);
    // Its program wants to read, and is stopped for that as any job is.
    front.terminal.wait_for("building  keyboard-background");
    front.terminal.press("mine\n");
    front.terminal.wait_for("shell read <mine>");
    front.serves(1);
    front.terminal.press("yours\n");
    front.terminal.wait_for("1 read <yours> in front");
    send(front.session(), Signal::SIGTERM);
    front.terminal.wait_for("ended 143");
    front.is_the_shells();
}

#[test]
fn a_session_that_is_killed_has_its_terminal_put_back_by_the_guard() {
    // The shell of no jobs leaves the terminal to its children, and takes it from none.
    let script = "\"$@\"; echo \"ended $?\"; read line; echo \"shell read <$line>\"";
    let mut front = Front::under("keyboard-killed", &[], script);
    front.serves(1);
    let guard = process(front.temporary.path(), "__guard");
    send(front.session(), Signal::SIGKILL);
    wait_for_end(guard);
    front.terminal.wait_for("ended 137");
    front.is_the_shells();
}
