//! A unit with the server under test in it, in a systemd of its own. Never lives here: what a test is about.

use crate::boot::{Init, Kind};
use crate::harness::serve;
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

pub const UNIT: &str = "echo.service";

/// For a unit with times so short that a busy machine, which lets everybody wait for a second or two, would not keep them.
pub const AT_ONCE: &str = "CPUSchedulingPolicy=rr\n";

/// How the unit is reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// By a command that sends the signal, and that ends at once.
    Notify,
    /// By systemd, which waits for the end of the upgrade.
    NotifyReload,
}

/// A running unit.
pub struct Service {
    pub init: Init,
    pub kind: Type,
}

/// What a generation says when it serves. The numbers of processes are those inside.
#[derive(Debug, Clone)]
pub struct Serving {
    pub generation: u32,
    pub pid: i32,
    pub http: SocketAddr,
    pub line: String,
}

/// In each systemd with each type that it knows.
pub fn everywhere(test: impl Fn(Init, Type)) {
    for (systemd, kind) in
        [(Kind::Machine, Type::Notify), (Kind::Newer, Type::Notify), (Kind::Newer, Type::NotifyReload)]
    {
        if let Some(init) = Init::boot(systemd) {
            println!("{systemd:?} systemd, {kind:?}");
            test(init, kind);
        }
    }
}

/// An address that no other test of this machine has: whoever holds a number of a process has its own part of 127.0.0.0/8.
pub fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = 20_000 + u16::from(high) * 256 + u16::from(NEXT.fetch_add(1, Ordering::Relaxed));
    (Ipv4Addr::new(127, 128 | middle >> 1, middle << 7 | low >> 1, low << 7 | 1), port).into()
}

/// Asks systemd again and again, for what it says nowhere by itself. Asking takes some milliseconds.
fn eventually(init: &Init, what: &str, mut is_so: impl FnMut() -> bool) {
    let asked = (0..5_000).find(|_| is_so());
    assert!(asked.is_some(), "never: {what}\nsystemd:\n{}\nservices:\n{}", init.log.text(), init.output.text());
}

/// The lines of a unit that start the server.
pub fn exec_start(environment: &[(&str, &str)]) -> String {
    let program = std::env::current_exe().unwrap();
    let program = format!("/run/hotrun/programs/{}", program.file_name().unwrap().to_str().unwrap());
    let mut command = Command::new(&program);
    serve(&mut command);
    // Else the words of the test harness would stand in the middle of the server's lines.
    command.arg("--quiet");
    let args: Vec<&str> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
    let mut lines = format!("ExecStart={program} {}\n", args.join(" "));
    let ours = command.get_envs().filter_map(|(name, value)| Some((name.to_str().unwrap(), value?.to_str().unwrap())));
    for (name, value) in ours.chain(environment.iter().copied()) {
        lines += &format!("Environment={name}={value}\n");
    }
    lines
}

impl Service {
    /// Starts it with these variables and these more lines of `[Service]`; generation 1 serves.
    pub fn start(init: Init, kind: Type, environment: &[(&str, &str)], more: &str) -> (Service, Serving) {
        let mut all = vec![("LISTEN", "http=127.0.0.1:0"), ("PROBATION_MS", "50"), ("SCRIPT", "/run/hotrun/script")];
        all.extend(environment);
        let service = Service::write(init, kind, &all, more);
        service.init.systemctl_ok(&["start", UNIT]);
        let first = service.serving(1);
        assert_eq!(service.main_pid(), first.pid);
        (service, first)
    }

    /// Only its file, with nothing in its environment but these.
    pub fn write(init: Init, kind: Type, environment: &[(&str, &str)], more: &str) -> Service {
        let reload = match kind {
            Type::Notify => "Type=notify\nExecReload=/bin/kill -USR2 $MAINPID\n",
            Type::NotifyReload => "Type=notify-reload\nReloadSignal=SIGUSR2\n",
        };
        let start = exec_start(environment);
        init.write_unit(UNIT, &format!("[Service]\n{reload}NotifyAccess=main\n{start}{more}"));
        Service { init, kind }
    }

    /// Waits until that generation serves, as the first of that number.
    pub fn serving(&self, generation: u32) -> Serving {
        self.serving_again(0, generation)
    }

    /// Waits until that generation serves, when so many had its number before: a start counts from 1.
    pub fn serving_again(&self, before: usize, generation: u32) -> Serving {
        let start = format!("serving generation={generation} ");
        let line = self.init.output.wait_for_nth(before, &[&start]);
        let word = |name: &str| {
            let mut words = line.split(' ').filter_map(|word| word.split_once('='));
            words.find(|(given, _)| *given == name).unwrap_or_else(|| panic!("{name} in {line}")).1.to_owned()
        };
        Serving { generation, pid: word("pid").parse().unwrap(), http: word("http").parse().unwrap(), line }
    }

    /// Waits until that process has left for that reason, which it says last of all.
    pub fn leaves(&self, serving: &Serving, reason: &str) {
        let (generation, pid) = (serving.generation, serving.pid);
        let start = format!("leaving generation={generation} pid={pid} reason=");
        let line = self.init.output.wait_for(&[&start]);
        assert!(line.ends_with(&format!("reason={reason}")), "{line}");
    }

    /// `systemctl reload`, whatever becomes of it.
    pub fn reload(&self) -> Output {
        self.init.systemctl(&["reload", UNIT])
    }

    /// One upgrade, from the command to the moment at which systemd knows of it.
    pub fn upgrade(&self, old: &Serving) -> Serving {
        let generation = old.generation + 1;
        // Of upgrades that were undone.
        let before = self.init.output.text().matches(&format!("serving generation={generation} ")).count();
        self.init.systemctl_ok(&["reload", UNIT]);
        let (state, main) = (self.state(), self.main_pid());
        let new = self.serving_again(before, generation);
        match self.kind {
            // The command may have returned before the upgrade began.
            Type::Notify => self.becomes_main(&new),
            Type::NotifyReload => {
                assert_eq!((state.as_str(), main), ("active", new.pid), "a reload returns when it is over");
            }
        }
        new
    }

    /// Waits until it is the main process, and no reload is under way.
    pub fn becomes_main(&self, serving: &Serving) {
        eventually(&self.init, "the new main process", || self.main_pid() == serving.pid);
        self.becomes_active();
    }

    pub fn becomes_active(&self) {
        eventually(&self.init, "an active unit", || self.state() == "active");
    }

    /// Waits until a second generation is there, whether it has said so or not.
    pub fn has_successor(&self) {
        // The command of `ExecReload=` is one of the unit's processes, too, and its end by a signal would be the unit's result.
        let program = |pid: &Pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let its_own = program(&self.main_process());
        let is_its_own = |pid: &Pid| program(pid) == its_own;
        eventually(&self.init, "a second process of the server", || {
            let processes = self.init.processes(UNIT);
            processes.len() == 2 && processes.iter().all(is_its_own)
        });
    }

    /// As it is numbered inside; 0 where there is none.
    pub fn main_pid(&self) -> i32 {
        self.init.show(UNIT, "MainPID").parse().unwrap()
    }

    /// The main process as the test knows it.
    pub fn main_process(&self) -> Pid {
        self.init.main_pid(UNIT).unwrap()
    }

    pub fn state(&self) -> String {
        self.init.show(UNIT, "ActiveState")
    }

    /// What the next generations are to do wrong.
    pub fn script(&self, text: &str) {
        let path = self.init.folder().join("script");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Stops it, and what follows from a clean stop.
    pub fn stop(&self) {
        self.has_stopped(self.begin_stop());
    }

    /// `systemctl stop`, which waits for the end.
    pub fn begin_stop(&self) -> Child {
        // That a socket could start it again is a warning of systemctl's.
        self.init.command("systemctl").args(["stop", UNIT]).stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn has_stopped(&self, mut stop: Child) {
        assert!(stop.wait().unwrap().success());
        assert_eq!((self.state().as_str(), self.init.show(UNIT, "Result").as_str()), ("inactive", "success"));
        self.is_content();
    }

    /// systemd has seen nothing but upgrades: it knew every process that spoke to it, none failed, and none was started again.
    pub fn is_content(&self) {
        let log = self.init.log.text();
        // Not "Killing": systemd sends SIGKILL to what it sees of a process that is just ending. One that stays is "timed out".
        let told = ["reception only permitted", "not our child", "refusing"];
        let ended = ["Failed", "failed", "exited", "timed out", "timeout", "remains", "left-over"];
        for word in told.iter().chain(&ended) {
            assert!(!log.contains(word), "{word}: {log}\n{}", self.init.output.text());
        }
        assert_eq!(self.init.show(UNIT, "NRestarts"), "0");
        let output = self.init.output.text();
        assert!(!output.contains("Forced") && !output.contains("DeadlineExceeded"), "{output}");
    }
}
