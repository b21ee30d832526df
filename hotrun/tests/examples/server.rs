//! An example under test: its processes, and what they say on the standard error stream that they share, a line at a time.

use crate::LONG;
use crate::load::Load;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A running example. All its processes are killed and gone when it is dropped.
pub struct Server {
    pub folder: tempfile::TempDir,
    group: Pid,
    /// The process that serves.
    pub pid: Pid,
    generation: u32,
    pub address: SocketAddr,
    lines: Receiver<String>,
}

impl Server {
    pub fn start(example: &str) -> Server {
        // A successor is a grandchild, and this process's to wait for when its parent has left.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program(example));
        command.current_dir(folder.path()).env("ADDR", "127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::null());
        for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "HOTRUN_CTL"] {
            command.env_remove(name);
        }
        // Waited for by its number, as its successors are.
        #[allow(clippy::zombie_processes)]
        let mut child = command.stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id() as i32);
        let (say, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // It ends with the last process that has the other end.
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let address = SocketAddr::from(([0; 4], 0));
        let mut server = Server { folder, group, pid: group, generation: 0, address, lines };
        server.comes();
        assert_eq!(server.pid, group);
        server
    }

    /// The next line that any of its processes says.
    pub fn says(&self) -> String {
        self.lines.recv_timeout(LONG).unwrap_or_else(|error| panic!("it says nothing more: {error}"))
    }

    /// The next generation says that it is there.
    fn comes(&mut self) {
        let line = self.says();
        let [generation, pid, address] = line
            .strip_prefix("generation ")
            .and_then(|rest| rest.split(", ").collect::<Vec<_>>().try_into().ok())
            .unwrap_or_else(|| panic!("{line}"));
        self.generation += 1;
        assert_eq!(generation, self.generation.to_string());
        self.pid = Pid::from_raw(pid.strip_prefix("pid ").unwrap().parse().unwrap());
        self.address = address.strip_prefix("on ").unwrap().parse().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// The next generation serves, `goes_on` is called when the one before closes idle connections, and must end whatever
    /// holds that one back.
    pub fn is_replaced(&mut self, loads: Vec<Load>, goes_on: impl FnOnce()) {
        let (old, old_generation, address) = (self.pid, self.generation, self.address);
        loads.iter().for_each(|load| load.reaches(old_generation));
        self.signal(Signal::SIGUSR2);
        self.comes();
        assert_eq!(self.address, address);
        loads.iter().for_each(|load| load.reaches(self.generation));
        goes_on();
        self.leaves(old, old_generation, "Upgraded");
        for load in loads {
            load.stays(self.generation);
            load.end();
        }
    }

    pub fn stops(self) {
        self.signal(Signal::SIGTERM);
        self.leaves(self.pid, self.generation, "Stopped");
        let rest: Vec<String> = self.lines.iter().collect();
        assert_eq!(rest, [""; 0]);
    }

    fn leaves(&self, pid: Pid, generation: u32, reason: &str) {
        assert_eq!(self.says(), format!("generation {generation} leaves: {reason}"));
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 0)));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // They have ended already, in most tests.
        let _ = killpg(self.group, Signal::SIGKILL);
        while waitpid(Pid::from_raw(-self.group.as_raw()), None) != Err(Errno::ECHILD) {}
    }
}

/// Where the example stands. Cargo has not built it where only this test was asked for (`--test examples`), or has built it
/// from older sources.
fn program(example: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let folder = test.parent().unwrap().parent().unwrap();
        let profile = folder.file_name().unwrap().to_str().unwrap();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--examples"]);
        cargo.arg("--target-dir").arg(folder.parent().unwrap());
        cargo.args(["--profile", if profile == "debug" { "dev" } else { profile }]);
        for (feature, is_on) in
            [("axum", cfg!(feature = "axum")), ("tokio", cfg!(feature = "tokio")), ("tower", cfg!(feature = "tower"))]
        {
            if is_on {
                cargo.args(["--features", feature]);
            }
        }
        assert!(cargo.status().unwrap().success());
        folder.join("examples")
    });
    folder.join(example)
}
