//! The command in front of a real terminal: its keys, what it does to the terminal and what it leaves of it.

use crate::harness::plain::{GATED, arguments, plain, project};
use crate::harness::pty::Terminal;
use crate::harness::server::Gate;
use crate::harness::{Project, children, command, free_address, process, send, until, version, wait_for_end};
use nix::sys::signal::Signal;
use nix::sys::termios::LocalFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const MAIN: &str = "src/main.rs";

struct Front {
    project: Project,
    address: SocketAddr,
    gate: Gate,
    temporary: tempfile::TempDir,
    terminal: Terminal,
    /// The process that serves.
    serving: Option<u32>,
}

impl Front {
    /// In the foreground of the terminal.
    fn start(project: Project) -> Front {
        Front::under(project, None)
    }

    /// Each build clears the screen.
    fn clearing(project: Project) -> Front {
        Front::by(project, None, &["--clear"])
    }

    /// As a job of a shell, which runs this script; the command is its "$@".
    fn under(project: Project, script: Option<&str>) -> Front {
        Front::by(project, script, &[])
    }

    fn by(project: Project, script: Option<&str>, args: &[&str]) -> Front {
        let (address, gate, temporary) = (free_address(), Gate::open(), tempfile::tempdir().unwrap());
        let mut start = command();
        if let Some(script) = script {
            start = Command::new("bash");
            start.args(["--norc", "-c", script, "bash", env!("CARGO_BIN_EXE_cargo-hotrun")]);
        }
        arguments(&mut start, &project, address);
        start.args(["--color", "never"]).args(args).env("GATE", gate.address()).env("TMPDIR", temporary.path());
        let terminal = Terminal::run(start);
        Front { project, address, gate, temporary, terminal, serving: None }
    }

    /// Waits until that generation serves, alone: that the one before has left is not worth a line.
    fn serves(&mut self, generation: u32) -> String {
        self.terminal.wait_for(&format!(" serving  generation {generation}, pid "));
        let pid = self.terminal.wait_for(", ").trim_end_matches(", ").parse().unwrap();
        if let Some(before) = self.serving.replace(pid) {
            wait_for_end(before);
        }
        version(self.address)
    }

    fn save(&self, version: &str) {
        self.project.write_by_rename(MAIN, &plain(version, &[]));
    }

    fn is_as_before(&self) -> bool {
        self.terminal.attributes() == self.terminal.before
    }

    /// Keys come one by one and unseen, and Ctrl-C is a signal.
    fn reads_keys(&self) -> bool {
        let flags = self.terminal.attributes().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO) && flags.contains(LocalFlags::ISIG)
    }
}

#[test]
fn every_key_does_what_the_help_says() {
    let mut front = Front::start(project("terminal-keys", ""));
    assert_eq!(front.serves(1), "1");
    assert!(front.reads_keys());
    front.terminal.press("xyz\n\x1b[A");
    front.terminal.press("h");
    let help = front.terminal.wait_for("q  quit");
    for key in ["r  rebuild", "u  upgrade", "b  back", "c  clear", "h  this"] {
        assert!(help.contains(key), "{help}");
    }
    front.terminal.press("r");
    front.terminal.wait_for("building  terminal-keys (asked for)");
    front.terminal.wait_for("unchanged  the build gave what generation 1 serves");
    front.terminal.press("b");
    front.terminal.wait_for("refused  rollback: no program from before this one is kept");
    front.terminal.press("u");
    assert_eq!(front.serves(2), "1");
    front.save("2");
    assert_eq!(front.serves(3), "2");
    front.terminal.press("b");
    assert_eq!(front.serves(4), "1");
    front.terminal.wait_for("rolled back: the newest sources do not serve");
    // Not forth again.
    front.terminal.press("b");
    front.terminal.wait_for("refused  rollback");
    front.terminal.press("r");
    assert_eq!(front.serves(5), "2");
    // Nothing was saved.
    front.terminal.wait_for(" · built in ");
    front.terminal.press("c");
    front.terminal.wait_for("\x1b[2J");
    front.terminal.press("q");
    front.terminal.wait_for("stopping  asked for");
    assert!(front.terminal.finish().success());
    assert!(front.is_as_before());
    let said = String::from_utf8(front.terminal.everything()).unwrap();
    assert!(!said.contains("xyz"), "what was typed is shown: {said}");
}

#[test]
fn ctrl_c_puts_the_terminal_back() {
    let mut front = Front::start(project("terminal-interrupt", ""));
    front.serves(1);
    assert!(front.reads_keys());
    front.terminal.press("\x03");
    front.terminal.wait_for("stopping  SIGINT");
    assert_eq!(front.terminal.finish().signal(), Some(Signal::SIGINT as i32));
    assert!(front.is_as_before());
}

#[test]
fn ctrl_z_puts_the_terminal_back_until_it_goes_on() {
    let mut front = Front::start(project("terminal-suspend", ""));
    front.serves(1);
    let pid = Pid::from_raw(i32::try_from(front.terminal.pid()).unwrap());
    for _ in 0..3 {
        assert!(front.reads_keys());
        front.terminal.press("\x1a");
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        assert!(front.is_as_before());
        // The server has a life of its own.
        assert_eq!(version(front.address), "1");
        send(front.terminal.pid(), Signal::SIGCONT);
        front.terminal.press("h");
        front.terminal.wait_for("q  quit");
    }
    assert!(front.reads_keys());
    front.terminal.press("q");
    assert!(front.terminal.finish().success());
    assert!(front.is_as_before());
}

#[test]
fn a_job_that_goes_on_in_the_background_leaves_the_terminal_alone() {
    let script = "set -m; \"$@\"; echo stopped; bg; read line; echo \"read <$line>\"; read line; fg; echo \"ended $?\"";
    let mut front = Front::under(project("terminal-background", ""), Some(script));
    front.serves(1);
    front.terminal.press("\x1a");
    front.terminal.wait_for("stopped");
    // Keys are the shell's now.
    front.terminal.press("rubq\n");
    front.terminal.wait_for("read <rubq>");
    assert!(front.is_as_before());
    front.save("2");
    assert_eq!(front.serves(2), "2");
    assert!(front.is_as_before());
    // It was not stopped by the terminal meanwhile, and comes back to the front.
    front.terminal.press("\n");
    // The shell says which job it is.
    front.terminal.wait_for("\"$@\"\r\n");
    let session = children(front.terminal.pid())[0].0;
    send(session, Signal::SIGTERM);
    front.terminal.wait_for("stopping  SIGTERM");
    front.terminal.wait_for("ended 143");
    front.terminal.finish();
    assert!(front.is_as_before());
}

#[test]
fn a_job_that_ends_in_the_background_ends() {
    let script = "set -m; \"$@\"; echo stopped; bg; read line; kill -TERM %1; wait %1; echo \"ended $?\"";
    let mut front = Front::under(project("terminal-background-end", ""), Some(script));
    front.serves(1);
    front.terminal.press("\x1a");
    front.terminal.wait_for("stopped");
    front.terminal.press("\n");
    front.terminal.wait_for("stopping  SIGTERM");
    front.terminal.wait_for("ended 143");
    front.terminal.finish();
    assert!(front.is_as_before());
}

#[test]
fn started_in_the_background_it_does_not_touch_the_terminal() {
    let script = "set -m; \"$@\" & read line; echo \"read <$line>\"; kill -TERM %1; wait %1; echo \"ended $?\"";
    let mut front = Front::under(project("terminal-started-back", ""), Some(script));
    front.serves(1);
    assert!(front.is_as_before());
    front.save("2");
    assert_eq!(front.serves(2), "2");
    assert!(front.is_as_before());
    front.terminal.press("q\n");
    front.terminal.wait_for("read <q>");
    front.terminal.wait_for("ended 143");
    front.terminal.finish();
    assert!(front.is_as_before());
}

#[test]
fn started_in_the_background_and_fetched_it_reads_keys() {
    let script = "set -m; \"$@\" & read line; fg; echo \"ended $?\"";
    let mut front = Front::under(project("terminal-fetched", ""), Some(script));
    front.serves(1);
    assert!(front.is_as_before());
    front.terminal.press("\n");
    // The shell says which job it is, and gives it the terminal. What is typed is kept for it meanwhile, and needs no Enter.
    front.terminal.wait_for("\"$@\"\r\n");
    front.terminal.press("q");
    front.terminal.wait_for("stopping  asked for");
    front.terminal.wait_for("ended 0");
    front.terminal.finish();
    assert!(front.is_as_before());
}

#[test]
fn stopped_and_sent_to_the_background_and_fetched_it_reads_keys() {
    let script = "set -m; \"$@\"; echo stopped; bg; read line; fg; echo \"ended $?\"";
    let mut front = Front::under(project("terminal-back-and-forth", ""), Some(script));
    front.serves(1);
    front.terminal.press("\x1a");
    front.terminal.wait_for("stopped");
    // It runs on, and the shell reads.
    front.save("2");
    assert_eq!(front.serves(2), "2");
    assert!(front.is_as_before());
    front.terminal.press("\n");
    front.terminal.wait_for("\"$@\"\r\n");
    front.terminal.press("q");
    front.terminal.wait_for("stopping  asked for");
    front.terminal.wait_for("ended 0");
    front.terminal.finish();
    assert!(front.is_as_before());
}

#[test]
fn an_ordinary_save_is_two_lines_and_the_address_a_link() {
    let mut front = Front::start(project("terminal-lines", ""));
    front.serves(1);
    front.save("2");
    assert_eq!(front.serves(2), "2");
    front.terminal.press("q");
    assert!(front.terminal.finish().success());
    let lines = front.terminal.screen();
    let at = |word: &str| lines.iter().position(|line| line.trim_start().starts_with(word)).unwrap_or(usize::MAX);
    let first = lines.iter().position(|line| line.contains("serving  generation 1,")).unwrap();
    assert!(lines[first].contains(&format!("http://{}", front.address)), "{lines:#?}");
    assert!(lines[first..first + 2].concat().contains("built in "), "nothing was saved yet: {lines:#?}");
    let second = lines.iter().position(|line| line.contains("serving  generation 2,")).unwrap();
    assert!(lines[second..second + 2].concat().contains("saved to live "), "{lines:#?}");
    assert!(lines[second - 1].contains("building  terminal-lines (src/main.rs changed)"), "{lines:#?}");
    assert_eq!(
        (at("starting"), at("drained"), at("ended"), at("draining")),
        (usize::MAX, usize::MAX, usize::MAX, usize::MAX)
    );
}

#[test]
fn a_command_that_is_killed_has_its_terminal_put_back_by_the_guard() {
    let script = "set -m; \"$@\"; echo \"ended $?\"; read line";
    for (name, guarded) in [("terminal-killed", true), ("terminal-unguarded", false)] {
        let mut front = Front::under(project(name, ""), Some(script));
        front.serves(1);
        assert!(front.reads_keys());
        let session = children(front.terminal.pid())[0].0;
        let guard = process(front.temporary.path(), "__guard");
        if !guarded {
            // That it is the guard who does it, and not the shell.
            send(guard, Signal::SIGKILL);
            wait_for_end(guard);
        }
        send(session, Signal::SIGKILL);
        front.terminal.wait_for("ended 137");
        wait_for_end(guard);
        assert_eq!(front.is_as_before(), guarded);
        front.terminal.press("\n");
        front.terminal.finish();
    }
}

#[test]
fn what_the_server_writes_appears_as_it_was_written() {
    let project = project("terminal-output", "");
    let line = r#"fn at_start() { print!("\x1b[35mout\x1b[0m\ttab\u{7}"); println!(); eprint!("\x1b]0;title\x07err "); eprintln!("[building] ü"); }"#;
    project.write(MAIN, &plain("1", &[line]));
    let mut front = Front::start(project);
    front.serves(1);
    front.terminal.press("q");
    assert!(front.terminal.finish().success());
    let said = String::from_utf8(front.terminal.everything()).unwrap();
    for written in ["\x1b[35mout\x1b[0m\ttab\u{7}\r\n", "\x1b]0;title\x07err ", "[building] ü\r\n"] {
        assert!(said.contains(written), "{written:?} in {said:?}");
    }
}

/// The server writes short lines while a build is under way.
#[test]
fn progress_leaves_nothing_in_the_servers_lines() {
    let project = project("terminal-progress", "");
    project.write("build.rs", GATED);
    project.write(MAIN, &plain("1", &["fn word() -> String { println!(\"asked\"); \"x\".into() }"]));
    let mut front = Front::start(project);
    front.gate.arrival().let_go();
    front.serves(1);
    front
        .project
        .write_by_rename(MAIN, &plain("2", &["fn word() -> String { println!(\"asked again\"); \"x\".into() }"]));
    let script = front.gate.arrival();
    front.terminal.wait_for("building  terminal-progress (src/main.rs changed)");
    assert_eq!(version(front.address), "1");
    front.terminal.wait_for("asked");
    script.let_go();
    assert_eq!(front.serves(2), "2");
    front.terminal.press("q");
    assert!(front.terminal.finish().success());
    let screen = front.terminal.screen();
    let lines: Vec<&str> = screen.iter().map(|line| line.trim()).filter(|line| line.starts_with("asked")).collect();
    assert!(lines.contains(&"asked"), "{screen:#?}");
    assert!(lines.iter().all(|line| ["asked", "asked again"].contains(line)), "{screen:#?}");
    // Whole lines are said of one that takes long.
    let built = screen.iter().filter(|line| line.contains("building  terminal-progress (")).count();
    assert_eq!(built, 2, "a progress line is left: {screen:#?}");
}

/// In the line that is drawn in place, and in whole lines where a server writes its own.
#[test]
fn who_holds_the_lock_is_shown_until_it_is_free() {
    let project = project("terminal-lock", "");
    project.write(MAIN, &plain("1", &["fn word() -> String { println!(\"asked\"); \"x\".into() }"]));
    let held = crate::builds::hold_build_folder(&project);
    let mut front = Front::start(project);
    let drawn = front.terminal.wait_for(", held by `it-");
    assert!(drawn.contains("building  terminal-lock  0/"), "{drawn:?}");
    drop(held);
    front.serves(1);

    let held = crate::builds::hold_build_folder(&front.project);
    let manifest = front.project.read("Cargo.toml");
    front.project.write("Cargo.toml", &format!("{manifest}# a comment\n"));
    front.terminal.wait_for(" building  terminal-lock, waiting for file lock on ");
    assert_eq!(version(front.address), "1");
    front.terminal.wait_for("asked");
    drop(held);
    front.terminal.wait_for("unchanged  ");
    front.terminal.press("q");
    assert!(front.terminal.finish().success());
    let screen = front.terminal.screen();
    let lines = |text: &str| screen.iter().filter(|line| line.contains(text)).count();
    assert_eq!((lines(", held by `it-"), lines(" is free after ")), (1, 1), "{screen:#?}");
    assert!(screen.iter().any(|line| line == "asked"), "{screen:#?}");
}

/// By Ctrl-S: nothing that is written there comes through until Ctrl-Q (termios(3), IXON). A terminal that nobody reads is the same.
#[test]
fn a_terminal_that_is_stopped_keeps_nothing_but_its_lines_waiting() {
    let mut front = Front::clearing(project("terminal-stopped", ""));
    assert_eq!(front.serves(1), "1");
    front.terminal.press("\x13");
    front.terminal.press("chc");
    let serves = |address, expected: &str| {
        until(&format!("{expected} is not served"), || version(address) == expected);
    };
    front.save("2");
    serves(front.address, "2");
    // So are the keys, and what is asked for by others.
    front.terminal.press("cb");
    serves(front.address, "1");
    send(front.terminal.pid(), Signal::SIGUSR1);
    serves(front.address, "2");
    let pid = front.terminal.pid().to_string();
    let asked = command().args(["wait", "--pid", &pid]).current_dir(front.project.root()).output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
    // All that was to be written is, in its order.
    front.terminal.press("\x11");
    for told in ["keys", " serving  generation 2", "rolled back", " serving  generation 4"] {
        front.terminal.wait_for(told);
    }
    // And it ends though its last words are heard by nobody.
    front.terminal.press("\x13");
    front.terminal.press("c");
    send(front.terminal.pid(), Signal::SIGTERM);
    assert_eq!(front.terminal.finish().signal(), Some(Signal::SIGTERM as i32));
    assert!(front.is_as_before());
}
