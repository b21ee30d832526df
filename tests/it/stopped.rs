//! The command is stopped by Ctrl-Z and goes on: nothing that is stopped with it, or in its own way, holds it up.

use crate::harness::plain::{arguments, plain, project};
use crate::harness::pty::Terminal;
use crate::harness::{command, free_address, process, send, until, version, wait_for_end};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::net::SocketAddr;

struct Front {
    address: SocketAddr,
    temporary: tempfile::TempDir,
    terminal: Terminal,
    project: crate::harness::Project,
}

impl Front {
    fn start(name: &str, lines: &[&str]) -> Front {
        let project = project(name, "");
        project.write("src/main.rs", &plain("1", lines));
        let (address, temporary) = (free_address(), tempfile::tempdir().unwrap());
        let mut start = command();
        arguments(&mut start, &project, address);
        start.args(["--color", "never"]).env("TMPDIR", temporary.path());
        Front { address, temporary, terminal: Terminal::run(start), project }
    }

    /// The pid of that generation, once it serves.
    fn serves(&mut self, generation: u32) -> u32 {
        self.terminal.wait_for(&format!(" serving  generation {generation}, pid "));
        self.terminal.wait_for(", ").trim_end_matches(", ").parse().unwrap()
    }

    fn stop_and_go_on(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.terminal.pid()).unwrap());
        self.terminal.press("\x1a");
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        assert_eq!(version(self.address), "1");
        send(self.terminal.pid(), Signal::SIGCONT);
        self.terminal.press("h");
        self.terminal.wait_for("q  quit");
        assert_eq!(version(self.address), "1");
    }

    fn quit(mut self) {
        self.terminal.press("q");
        assert!(self.terminal.finish().success());
    }
}

/// As every start of a child is, for a moment: the thread waits until the child, which is stopped with its group, becomes another
/// program.
const STARTS_A_CHILD: &str = "fn at_start() { std::thread::spawn(|| unsafe { \
    let clone = if cfg!(target_arch = \"x86_64\") { 56 } else { 220 }; \
    if syscall(clone, 0x4000 | 17, 0, 0, 0, 0) == 0 { loop { pause(); } } }); } \
    unsafe extern \"C\" { fn syscall(number: i64, ...) -> i64; fn pause() -> i32; }";

#[test]
fn going_on_does_not_hang_where_the_server_is_starting_a_child() {
    let mut front = Front::start("stopped-vfork", &[STARTS_A_CHILD]);
    let pid = front.serves(1);
    let waits = || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().any(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
        })
    };
    until("no thread waits for its child", waits);
    for _ in 0..3 {
        front.stop_and_go_on();
    }
    front.project.write_by_rename("src/main.rs", &plain("2", &[]));
    front.serves(2);
    assert_eq!(version(front.address), "2");
    front.quit();
}

/// Children all the time, as in a server that runs a program for each request.
#[test]
fn going_on_does_not_hang_where_the_server_starts_children_all_the_time() {
    let starts = "fn at_start() { for _ in 0..4 { std::thread::spawn(|| loop { let _ = std::process::Command::new(\"true\").status(); }); } }";
    let mut front = Front::start("stopped-children", &[starts]);
    front.serves(1);
    for _ in 0..10 {
        front.stop_and_go_on();
    }
    front.quit();
}

#[test]
fn a_guard_that_is_stopped_holds_up_nothing() {
    let mut front = Front::start("stopped-guard", &[]);
    front.serves(1);
    let guard = process(front.temporary.path(), "__guard");
    send(guard, Signal::SIGSTOP);
    let session = front.terminal.pid();
    // The calls of the server wait for whoever minds its gate, and that is the one who is stopped.
    send(session, Signal::SIGTSTP);
    let pid = Pid::from_raw(i32::try_from(session).unwrap());
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    send(session, Signal::SIGCONT);
    front.terminal.press("h");
    front.terminal.wait_for("q  quit");
    assert_eq!(version(front.address), "1");
    front.quit();
    wait_for_end(guard);
}
