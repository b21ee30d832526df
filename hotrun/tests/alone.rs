//! A server with the library and without the command: by itself, and under starters in the manner of systemd.
//!
//! The server is this test binary, started again to run the one test that is a server; what it has to say it says on its
//! standard error stream, a line at a time.

#![cfg(target_os = "linux")]
// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

/// So generous that only a fault reaches it.
const LONG: Duration = Duration::from_secs(120);

/// Where the server is told what to be.
const BE: &str = "ALONE_BE";

/// Not a test but the server of the others.
#[test]
fn server() {
    match std::env::var(BE).as_deref() {
        Ok("std") => serve_std().unwrap(),
        #[cfg(feature = "axum")]
        Ok("axum") => serve_axum().unwrap(),
        Ok(other) => panic!("{other}"),
        Err(_) => {}
    }
}

fn serve_std() -> io::Result<()> {
    let millis = |name: &str| std::env::var(name).ok().map(|millis| Duration::from_millis(millis.parse().unwrap()));
    let mut builder = hotrun::builder();
    if let Some(timeout) = millis("DRAIN_MS") {
        builder = builder.drain_timeout(timeout);
    }
    let up = builder.init()?;
    for (name, _) in std::env::vars() {
        let left = name.starts_with("LISTEN_") || name.starts_with("HOTRUN_") || name == "NOTIFY_SOCKET";
        assert!(!left, "{name} is left for the children");
    }
    if let Ok(path) = std::env::var("UNIX") {
        let unix = up.listen_unix("unix", path)?;
        std::thread::spawn(move || unix.incoming().for_each(|conn| drop(echo(conn.unwrap()))));
    }
    let admin = match std::env::var("ADMIN") {
        Ok(address) => Some(up.listen("admin", address)?),
        Err(_) => None,
    };
    let http = up.listen("http", "127.0.0.1:0")?;
    if let Some(admin) = &admin {
        eprintln!("admin {}", admin.local_addr()?);
    }
    eprintln!("http {}", http.local_addr()?);
    for conn in http.incoming() {
        let conn = conn?;
        std::thread::spawn(move || echo(conn));
    }
    eprintln!("reason {:?}", up.drained());
    Ok(())
}

/// Gives every line back, and waits for the next.
fn echo<S: AsFd + AsRawFd>(conn: hotrun::Conn<S>) -> io::Result<()>
where
    for<'a> &'a S: Read + Write,
{
    let mut input = BufReader::new(&*conn);
    while !input.buffer().is_empty() || conn.more()? {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            break;
        }
        (&*conn).write_all(line.as_bytes())?;
    }
    conn.finish()
}

#[cfg(feature = "axum")]
fn serve_axum() -> io::Result<()> {
    let up = hotrun::init()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello\n" }));
        let http = up.listen("http", "127.0.0.1:0")?.into_tokio()?;
        eprintln!("http {}", http.local_addr()?);
        axum::serve(http, app).with_graceful_shutdown(up.draining()).await
    })?;
    eprintln!("reason {:?}", up.drained());
    Ok(())
}

/// A running server; killed when dropped.
struct Server {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
}

impl Server {
    fn command(be: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // With one thread the test runs on the first, as a server's `main` does.
        command.args(["--exact", "server", "--nocapture", "--test-threads=1"]).env(BE, be).stdout(Stdio::null());
        for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "HOTRUN_CTL"] {
            command.env_remove(name);
        }
        command
    }

    fn start(mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Server { child, lines }
    }

    /// The next line it says.
    fn says(&mut self) -> String {
        self.lines.next().unwrap_or_else(|| panic!("it has ended")).unwrap()
    }

    fn address(&mut self, name: &str) -> SocketAddr {
        let line = self.says();
        line.strip_prefix(name).unwrap_or_else(|| panic!("{line}")).trim().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// What it still says, and how it ends.
    fn end(&mut self) -> (Vec<String>, ExitStatus) {
        let said = self.lines.by_ref().map_while(Result::ok).collect();
        (said, self.child.wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the echo server that has had an answer, so its connection is accepted and idle.
fn client(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    echoes(&mut stream);
    stream
}

fn echoes(stream: &mut (impl Read + Write)) {
    stream.write_all(b"hello\n").unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello\n");
}

/// An end of file, and never a reset.
fn ends(mut stream: impl Read) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

/// Made for this process alone: an abstract name has no file that would have to be short, or removed.
struct Manager(UnixDatagram, String);

impl Manager {
    fn open(name: &str) -> Manager {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("hotrun-alone-{name}-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Manager(socket, format!("@{name}"))
    }

    fn watches(&self, mut command: Command) -> Command {
        command.env("NOTIFY_SOCKET", &self.1);
        command
    }

    /// The first assignment of the next message.
    fn hears(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.0.recv(&mut bytes).unwrap();
        std::str::from_utf8(&bytes[..length]).unwrap().lines().next().unwrap().to_owned()
    }
}

/// As a shell starts it: the sockets stand at number 3 and 4, and as `sh` becomes the server, `$$` is the server's pid.
fn start_with_sockets(
    first: &TcpListener,
    second: &TcpListener,
    variables: &str,
    change: impl Fn(&mut Command),
) -> Server {
    let own = Server::command("std");
    let mut command = Command::new("sh");
    let script = format!("{variables}; exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null");
    command.arg("-c").arg(script).arg(own.get_program()).args(own.get_args());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    change(&mut command);
    command.stdin(OwnedFd::from(first.try_clone().unwrap())).stdout(OwnedFd::from(second.try_clone().unwrap()));
    Server::start(command)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn it_binds_for_itself_and_stops_gracefully() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(Server::command("std"));
        let address = server.address("http");
        let idle = client(address);
        server.signal(signal);
        ends(idle);
        let (said, status) = server.end();
        assert_eq!(status.code(), Some(0), "{status}");
        assert_eq!(said, ["reason Stopped"]);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_request_in_flight_is_answered_after_the_stop() {
    let manager = Manager::open("busy");
    let mut server = Server::start(manager.watches(Server::command("std")));
    let address = server.address("http");
    let mut busy = client(address);
    busy.write_all(b"hel").unwrap();
    assert_eq!(manager.hears(), "READY=1");
    server.signal(Signal::SIGTERM);
    assert_eq!(manager.hears(), "STOPPING=1");
    busy.write_all(b"lo\n").unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello\n");
    drop(busy);
    let (said, status) = server.end();
    assert_eq!((said, status.code()), (vec!["reason Stopped".to_owned()], Some(0)));
}

/// Also when there is nothing to wait for, and the process could end before it has said so.
#[test]
fn a_stop_is_told_and_cleaned_up_before_the_end() {
    let manager = Manager::open("idle");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("idle.sock");
    for _ in 0..20 {
        let mut command = manager.watches(Server::command("std"));
        command.env("UNIX", &path);
        let mut server = Server::start(command);
        server.address("http");
        assert_eq!(manager.hears(), "READY=1");
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().0, ["reason Stopped"]);
        assert_eq!(manager.hears(), "STOPPING=1");
        assert!(!path.exists());
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    let manager = Manager::open("second");
    let mut server = Server::start(manager.watches(Server::command("std")));
    let address = server.address("http");
    let mut busy = client(address);
    busy.write_all(b"hel").unwrap();
    assert_eq!(manager.hears(), "READY=1");
    server.signal(Signal::SIGTERM);
    // Signals that come at once may be one (signal(7)).
    assert_eq!(manager.hears(), "STOPPING=1");
    server.signal(Signal::SIGTERM);
    ends(busy);
    let (said, status) = server.end();
    assert_eq!((said, status.code()), (vec!["reason Forced { live: 1 }".to_owned()], Some(0)));
}

#[test]
fn connections_that_do_not_end_are_ended_at_the_deadline() {
    let mut command = Server::command("std");
    command.env("DRAIN_MS", "300");
    let mut server = Server::start(command);
    let address = server.address("http");
    let mut busy = client(address);
    busy.write_all(b"hel").unwrap();
    server.signal(Signal::SIGTERM);
    ends(busy);
    let (said, status) = server.end();
    assert_eq!((said, status.code()), (vec!["reason DeadlineExceeded { live: 1 }".to_owned()], Some(0)));
}

#[test]
fn sockets_are_taken_as_from_systemd() {
    let manager = Manager::open("systemd");
    let ((first, http), (second, admin)) = (listener(), listener());
    let mut server = start_with_sockets(&first, &second, "export LISTEN_PID=$$", |command| {
        command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "http:admin").env("NOTIFY_SOCKET", &manager.1);
        command.env("ADMIN", "127.0.0.1:0");
    });
    assert_eq!((server.address("admin"), server.address("http")), (admin, http));
    assert_eq!(manager.hears(), "READY=1");
    let idle = client(http);
    server.signal(Signal::SIGTERM);
    assert_eq!(manager.hears(), "STOPPING=1");
    ends(idle);
    assert_eq!(server.end().0, ["reason Stopped"]);
    // The next one's.
    let waiting = TcpStream::connect(http).unwrap();
    let mut server = start_with_sockets(&first, &second, "export LISTEN_PID=$$", |command| {
        command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "http:admin");
    });
    assert_eq!(server.address("http"), http);
    waiting.set_read_timeout(Some(LONG)).unwrap();
    echoes(&mut &waiting);
}

#[test]
fn sockets_without_a_name_and_a_pid_are_taken_in_order() {
    let ((first, admin), (second, http)) = (listener(), listener());
    let mut server = start_with_sockets(&first, &second, ":", |command| {
        command.env("LISTEN_FDS", "2").env("ADMIN", "127.0.0.1:0");
    });
    assert_eq!((server.address("admin"), server.address("http")), (admin, http));
    client(http);
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let ((first, one), (second, two)) = (listener(), listener());
    let mut server = start_with_sockets(&first, &second, "export LISTEN_PID=1", |command| {
        command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "http:admin");
    });
    let own = server.address("http");
    assert!(own != one && own != two);
    client(own);
}

#[test]
fn a_control_variable_that_leaked_is_nobodys() {
    let manager = Manager::open("leaked");
    let ((first, http), (second, _)) = (listener(), listener());
    for channel in ["3:1f", "4:1f", "9:1f", "2:1f", "nonsense"] {
        let mut server = start_with_sockets(&first, &second, "export LISTEN_PID=$$", |command| {
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http").env("NOTIFY_SOCKET", &manager.1);
            command.env("HOTRUN_CTL", channel).env("HOTRUN_GENERATION", "7").env("HOTRUN_BOUND", "");
        });
        assert_eq!(server.address("http"), http, "{channel}");
        assert_eq!(manager.hears(), "READY=1", "whoever really started it is told");
        let idle = client(http);
        server.signal(Signal::SIGTERM);
        assert_eq!(manager.hears(), "STOPPING=1");
        ends(idle);
        let (said, status) = server.end();
        assert_eq!((said, status.code()), (vec!["reason Stopped".to_owned()], Some(0)), "{channel}");
    }
}

/// As a holder of the first version of the protocol refused whatever was not of its own.
#[test]
fn one_that_an_older_holder_refuses_says_which_library_it_has() {
    let (holder, channel) = hotrun::holder::Holder::new().unwrap();
    let (socket, http) = listener();
    let held = [hotrun::holder::Handed { name: "http", bound_by_program: false }];
    // Number 4 is the channel's, as it stands behind one socket.
    let channel = TcpListener::from(channel);
    let mut server = start_with_sockets(&socket, &channel, "export LISTEN_PID=$$", |command| {
        command.envs(holder.environment(&held, 1));
    });
    assert_eq!(server.address("http"), http);
    assert!(matches!(holder.receive().unwrap(), hotrun::holder::Said::Hello { .. }));
    let why = "it speaks version 2 of the protocol, this is 1".to_owned();
    holder.tell(&hotrun::wire::ToServer::Abort { why }).unwrap();
    let said = server.says();
    assert!(said.contains("it speaks version 2 of the protocol, this is 1"), "{said}");
    let library = format!("(this is the library hotrun {}, protocol 2)", env!("CARGO_PKG_VERSION"));
    assert!(said.ends_with(&library), "{said}");
    // It serves all the same.
    client(http);
}

#[test]
fn the_path_of_a_unix_socket_goes_with_its_server_and_that_of_a_dead_one_is_taken_over() {
    // A path in the target folder may be too long for a socket.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.sock");
    let start = || {
        let mut command = Server::command("std");
        command.env("UNIX", &path);
        let mut server = Server::start(command);
        server.address("http");
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        echoes(&mut stream);
        (server, stream)
    };
    let (mut killed, _) = start();
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.end().1.signal(), Some(Signal::SIGKILL as i32));
    assert!(path.exists());

    let (mut server, idle) = start();
    server.signal(Signal::SIGTERM);
    ends(idle);
    assert_eq!(server.end().0, ["reason Stopped"]);
    assert!(!path.exists());
}

#[cfg(feature = "axum")]
#[test]
fn a_kept_connection_to_axum_ends_between_two_answers() {
    let mut server = Server::start(Server::command("axum"));
    let address = server.address("http");
    let mut idle = TcpStream::connect(address).unwrap();
    idle.set_read_timeout(Some(LONG)).unwrap();
    for _ in 0..3 {
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhello\n") {
            let mut byte = [0];
            idle.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    server.signal(Signal::SIGTERM);
    ends(idle);
    let (said, status) = server.end();
    assert_eq!((said, status.code()), (vec!["reason Stopped".to_owned()], Some(0)));
}
