//! A running service, all its generations, and clients of it. Never lives here: what a test is about.

use hotrun::Signal;
use nix::sys::signal::{kill, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

/// So generous that only a fault reaches it.
pub const LONG: Duration = Duration::from_secs(60);

/// A service and its folder; every process of it ends with this.
pub struct Service {
    pub folder: tempfile::TempDir,
    child: Child,
    /// Ends when no process of the service has the stream any more.
    lines: Receiver<String>,
    /// Said, and not asked for yet.
    waiting: VecDeque<String>,
    /// Said and asked for: what led to a failure.
    past: Vec<String>,
}

/// What a generation says when it serves.
#[derive(Debug, Clone)]
pub struct Serving {
    pub generation: u32,
    pub pid: u32,
    pub line: String,
}

impl Serving {
    fn of(line: &str) -> Option<Serving> {
        line.strip_prefix("serving ")?;
        let serving = Serving { generation: 0, pid: 0, line: line.to_owned() };
        let number = |name: &str| serving.field(name).parse().unwrap();
        Some(Serving { generation: number("generation"), pid: number("pid"), ..serving.clone() })
    }

    /// The word after `name=`.
    pub fn field(&self, name: &str) -> String {
        let mut words = self.line.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(given, _)| *given == name).unwrap_or_else(|| panic!("{name} in {}", self.line)).1.to_owned()
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.field(name).parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid as i32), signal).unwrap();
    }
}

/// The server of these tests, not started.
pub fn command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    serve(&mut command);
    command
}

/// Makes a command that starts this test binary, under whatever name, start the server.
pub fn serve(command: &mut Command) {
    // With one thread the test runs on the first, as a server's `main` does.
    command.args(["--exact", "server::server", "--nocapture", "--test-threads=1"]).env("SERVE", "1");
    for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "HOTRUN_CTL"] {
        command.env_remove(name);
    }
}

impl Service {
    /// With one listener, a short probation, and what `change` adds.
    pub fn start(change: impl FnOnce(&mut Command, &Path)) -> (Service, Serving) {
        Service::start_as(command(), change)
    }

    pub fn start_as(mut command: Command, change: impl FnOnce(&mut Command, &Path)) -> (Service, Serving) {
        let folder = tempfile::tempdir().unwrap();
        command.env("LISTEN", "http=127.0.0.1:0").env("PROBATION_MS", "50").env("SCRIPT", folder.path().join("script"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        change(&mut command, folder.path());
        let mut child = command.spawn().unwrap();
        let lines = follow(child.stderr.take().unwrap());
        let mut service = Service { folder, child, lines, waiting: VecDeque::new(), past: Vec::new() };
        let serving = service.serving();
        (service, serving)
    }

    /// What the next generations are to do wrong.
    pub fn script(&self, text: &str) {
        std::fs::write(self.folder.path().join("script"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The number of the first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a process of the service has said a line that begins so, and returns it; the others are kept.
    pub fn says(&mut self, start: &str) -> String {
        if let Some(index) = self.waiting.iter().position(|line| line.starts_with(start)) {
            let line = self.waiting.remove(index).unwrap();
            self.past.push(line.clone());
            return line;
        }
        loop {
            let line = match self.lines.recv_timeout(LONG) {
                Ok(line) => line,
                Err(end) => panic!("{end}, and nobody has said {start:?}: {:#?}", self.waiting),
            };
            if line.starts_with(start) {
                self.past.push(line.clone());
                return line;
            }
            self.waiting.push_back(line);
        }
    }

    /// Waits until one more generation serves.
    pub fn serving(&mut self) -> Serving {
        Serving::of(&self.says("serving ")).unwrap()
    }

    /// Waits until that process has left, and says why it did.
    pub fn leaves(&mut self, serving: &Serving) -> String {
        let start = format!("leaving generation={} pid={} reason=", serving.generation, serving.pid);
        self.says(&start)[start.len()..].to_owned()
    }

    /// One upgrade by a signal: the new generation serves and the old one has left.
    pub fn upgrade(&mut self, old: &Serving) -> Serving {
        old.signal(Signal::SIGUSR2);
        let new = self.serving();
        assert_eq!(self.leaves(old), "Upgraded");
        new
    }

    /// As a terminal or a service manager does it.
    pub fn signal_all(&self, signal: Signal) {
        killpg(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Reaps the first process and says how it ended.
    pub fn first_ends(&mut self) -> WaitStatus {
        waitpid(Pid::from_raw(self.child.id() as i32), None).unwrap()
    }

    /// What all of them still say, once the last one has ended; a panic's own words are left out.
    pub fn rest(&mut self) -> Vec<String> {
        let mut rest: Vec<String> = self.waiting.drain(..).collect();
        loop {
            match self.lines.recv_timeout(LONG) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("somebody is still there: {rest:#?}"),
            }
        }
        let words = ["serving ", "leaving ", "failed ", "leaked ", "reloaded ", "hotrun: "];
        rest.retain(|line| words.iter().any(|word| line.starts_with(word)));
        rest
    }

    /// A stop of the generation that serves, and what is said until the last process has ended.
    pub fn stop(&mut self, serving: &Serving) -> Vec<String> {
        serving.signal(Signal::SIGTERM);
        assert_eq!(self.leaves(serving), "Stopped");
        self.rest()
    }
}

fn follow(stream: ChildStderr) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What led to it.
            let left: Vec<String> = self.waiting.drain(..).chain(self.lines.try_iter()).collect();
            println!("the service said {:#?} and then {left:#?}", self.past);
        }
        // All generations are in one group. They have ended already, in most tests.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A connection that is kept.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Waits until the other side has read all that was sent: the kernel has it acknowledged, and its buffer is empty.
    pub fn is_read(&self) {
        eventually("the request is read", || {
            let connection = self.stream.get_ref();
            let ours = connection.local_addr().unwrap().port();
            let theirs = connection.peer_addr().unwrap().port();
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let queue = table.lines().find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let matches =
                    fields[1].ends_with(&format!(":{theirs:04X}")) && fields[2].ends_with(&format!(":{ours:04X}"));
                matches.then(|| fields[4].to_owned())
            });
            // `tx_queue:rx_queue` of the other end (proc_pid_net(5)).
            queue.is_some_and(|queue| queue.ends_with(":00000000")).then_some(())
        });
    }

    pub fn shut_down(&mut self, how: std::net::Shutdown) {
        self.stream.get_ref().shutdown(how).unwrap();
    }

    /// The generation that answers, what it says, and whether it ends the connection.
    pub fn receive(&mut self) -> (u32, String, bool) {
        let mut length = 0;
        let mut close = false;
        loop {
            let mut line = String::new();
            let count = self.stream.read_line(&mut line).unwrap();
            assert!(count > 0, "an end of file inside an answer");
            match line.trim_end() {
                "" => break,
                "Connection: close" => close = true,
                line => {
                    if let Some(value) = line.strip_prefix("Content-Length: ") {
                        length = value.parse().unwrap();
                    }
                }
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        let (first, rest) = body.split_once('\n').unwrap();
        (first.strip_prefix("version: ").unwrap().parse().unwrap(), rest.to_owned(), close)
    }

    pub fn ask(&mut self, path: &str) -> (u32, String, bool) {
        self.send(path);
        self.receive()
    }

    /// A clean end of file, and never a reset.
    pub fn ends(mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    }
}

/// A request on a connection of its own: the generation that answers, and what it says.
pub fn ask(address: SocketAddr, path: &str) -> (u32, String) {
    let (generation, text, _) = Client::connect(address).ask(path);
    (generation, text)
}

/// Asks again and again, for two minutes or so, until the answer is as wanted: for what the service does by itself, and says nowhere.
/// Whoever asked without a pause would take a core from the service.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..100_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

pub fn refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Processes that have ended and that nobody has waited for, among the children of that one.
pub fn zombies(pid: u32) -> usize {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let is_zombie =
        |child: &&str| std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    children.split_whitespace().filter(is_zombie).count()
}
