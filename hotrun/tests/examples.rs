//! Every example is replaced while clients ask it, over fresh connections and over one that they keep, and while a stream is
//! open: no question may be lost, and the stream goes on until its client ends it.
//!
//! The examples run as a user would run them, with the library's own times: each test takes the five seconds of a probation.
//! What an example has to say it says on its standard error stream, a line at a time, and its successor on the same one.

#![cfg(target_os = "linux")]
// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]

use nix::errno::Errno;
use nix::sys::signal::{kill, killpg, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// So generous that only a fault reaches it.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn echo() {
    let mut server = Server::start("echo");
    let pid_file = server.folder.path().join("echo.pid");
    let in_file = || Pid::from_raw(std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap());
    let loads = vec![fresh::<Lines>(server.address), kept::<Lines>(server.address)];
    loads[0].reaches(1);
    assert_eq!(in_file(), server.pid);
    server.signal(Signal::SIGHUP);
    assert_eq!(server.says(), "generation 1 reads its configuration");
    // Idle connections end; one with half a line is not idle.
    let mut half = Lines::connect(server.address);
    half.write("hel");
    server.is_replaced(loads, || {
        half.write("lo\n");
        assert_eq!(half.line(), "1 hello\n");
        assert_eq!(half.line(), "", "an end of file, and no reset");
    });
    // What the process before said was read before the signal that comes after it.
    server.signal(Signal::SIGHUP);
    assert_eq!(server.says(), "generation 2 reads its configuration");
    assert_eq!(in_file(), server.pid);
    server.stops();
    assert!(!pid_file.exists());
}

#[cfg(feature = "tokio")]
#[test]
fn lines() {
    let mut server = Server::start("lines");
    let loads = vec![fresh::<Lines>(server.address), kept::<Lines>(server.address)];
    let mut watch = Lines::connect(server.address);
    watch.write("watch\n");
    let mut number = 0;
    let mut goes_on = || {
        number += 1;
        assert_eq!(watch.line(), format!("1 watch {number}\n"), "none is missing");
    };
    goes_on();
    server.is_replaced(loads, || {
        // Those that came meanwhile, and more.
        (0..40).for_each(|_| goes_on());
        drop(watch);
    });
    server.stops();
}

#[cfg(all(feature = "axum", feature = "tower"))]
#[test]
fn axum() {
    let mut server = Server::start("axum");
    let loads = vec![fresh::<Http1>(server.address), kept::<Http1>(server.address)];
    let mut socket = WebSocket::open(server.address);
    socket.echoes("1 ");
    server.is_replaced(loads, || {
        socket.echoes("1 ");
        socket.echoes("1 ");
        socket.close();
    });
    server.stops();
}

#[cfg(feature = "tokio")]
#[test]
fn hyper() {
    let mut server = Server::start("hyper");
    let address = server.address;
    let loads = vec![fresh::<Http1>(address), kept::<Http1>(address), fresh::<Http2>(address), kept::<Http2>(address)];
    let mut stream = Http2Echo::open(address);
    stream.echoes();
    server.is_replaced(loads, || {
        stream.echoes();
        stream.echoes();
        stream.close();
    });
    server.stops();
}

#[cfg(feature = "tokio")]
#[test]
fn actix() {
    let mut server = Server::start("actix");
    let loads = vec![fresh::<Http1>(server.address), kept::<Http1>(server.address)];
    let mut stream = ChunkedEcho::open(server.address);
    stream.echoes();
    server.is_replaced(loads, || {
        stream.echoes();
        stream.echoes();
        stream.close();
    });
    server.stops();
}

#[cfg(feature = "axum")]
#[test]
fn tonic() {
    let mut server = Server::start("tonic");
    let loads = vec![fresh::<Health>(server.address), kept::<Health>(server.address)];
    let mut watch = HealthWatch::open(server.address);
    assert_eq!(watch.status(), SERVING);
    server.is_replaced(loads, || {
        assert_eq!(watch.status(), NOT_SERVING);
        drop(watch);
    });
    server.stops();
}

/// A running example. All its processes are killed and gone when it is dropped.
struct Server {
    folder: tempfile::TempDir,
    group: Pid,
    /// The process that serves.
    pid: Pid,
    generation: u32,
    address: SocketAddr,
    lines: Receiver<String>,
}

impl Server {
    fn start(example: &str) -> Server {
        // A successor is a grandchild, and this process's to wait for when its parent has left.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program(example));
        command.current_dir(folder.path()).env("ADDR", "127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::null());
        for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "HOTRUN_CTL"] {
            command.env_remove(name);
        }
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
    fn says(&self) -> String {
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

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// The next generation serves, `goes_on` is called when the one before closes idle connections, and must end whatever
    /// holds that one back.
    fn is_replaced(&mut self, loads: Vec<Load>, goes_on: impl FnOnce()) {
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

    fn stops(self) {
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

/// Cargo builds the examples next to the folder of the tests.
fn program(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples").join(example)
}

/// One connection that questions are asked over.
trait Client: Send + Sized + 'static {
    fn connect(address: SocketAddr) -> Self;

    /// `None`: the server has closed the connection instead of any answer.
    fn ask(&mut self) -> Option<Answer>;
}

struct Answer {
    generation: u32,
    /// The server says that it will close the connection.
    last: bool,
}

/// A client that goes on asking until it is told to end; it panics where a question is lost.
struct Load {
    generations: Receiver<u32>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// With a new connection for each question.
fn fresh<C: Client>(address: SocketAddr) -> Load {
    Load::start(move || C::connect(address).ask().unwrap_or_else(|| panic!("not one answer on a connection")).generation)
}

/// With one connection for as long as the server keeps it. One that has been used may end between two answers, and the
/// question is asked again (RFC 9112, 9.3.1; RFC 9113, 6.8); it must end so, and not by a reset.
fn kept<C: Client>(address: SocketAddr) -> Load {
    let mut kept: Option<C> = None;
    Load::start(move || {
        if let Some(answer) = kept.as_mut().and_then(Client::ask) {
            if answer.last {
                kept = None;
            }
            return answer.generation;
        }
        let mut client = C::connect(address);
        let answer = client.ask().unwrap_or_else(|| panic!("not one answer on a connection"));
        kept = Some(client).filter(|_| !answer.last);
        answer.generation
    })
}

impl Load {
    fn start(mut ask: impl FnMut() -> u32 + Send + 'static) -> Load {
        let (answered, generations) = channel();
        let end = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let end = Arc::clone(&end);
            move || while !end.load(Ordering::Relaxed) && answered.send(ask()).is_ok() {}
        });
        Load { generations, end, thread }
    }

    fn next(&self) -> u32 {
        self.generations.recv_timeout(LONG).unwrap_or_else(|error| panic!("no answers any more: {error}"))
    }

    /// Waits until that generation answers.
    fn reaches(&self, generation: u32) {
        while self.next() != generation {}
    }

    /// No other generation answers from now on.
    fn stays(&self, generation: u32) {
        while self.generations.try_recv().is_ok() {}
        // One answer may have been on its way to the channel.
        self.next();
        for _ in 0..20 {
            assert_eq!(self.next(), generation);
        }
    }

    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    BufReader::new(stream)
}

/// Asks with a line, and is answered with a line that begins with the generation.
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn write(&self, text: &str) {
        self.0.get_ref().write_all(text.as_bytes()).unwrap();
    }

    /// Empty at the end of the connection.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

impl Client for Lines {
    fn connect(address: SocketAddr) -> Self {
        Lines(connect(address))
    }

    fn ask(&mut self) -> Option<Answer> {
        self.write("hello\n");
        let line = self.line();
        if line.is_empty() {
            return None;
        }
        let generation = line.strip_suffix(" hello\n").unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        Some(Answer { generation, last: false })
    }
}

/// HTTP/1.1 by hand, so that every byte on the wire is seen.
struct Http1(BufReader<TcpStream>);

impl Http1 {
    /// The head of an answer in small letters; `None` when the connection ends instead.
    fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.0.read_line(&mut head).unwrap() {
                0 if head.is_empty() => return None,
                0 => panic!("half an answer: {head:?}"),
                _ => {}
            }
        }
        Some(head.to_ascii_lowercase())
    }
}

impl Client for Http1 {
    fn connect(address: SocketAddr) -> Self {
        Http1(connect(address))
    }

    fn ask(&mut self) -> Option<Answer> {
        self.0.get_ref().write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let head = self.head()?;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let (_, length) = head.split_once("content-length: ").unwrap();
        let mut body = vec![0; length.split_once("\r\n").unwrap().0.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        let generation = String::from_utf8(body).unwrap().trim().parse().unwrap();
        let last = head.contains("connection: close\r\n");
        if last {
            assert_eq!(self.0.read(&mut [0]).unwrap(), 0, "an end of file, and no reset");
        }
        Some(Answer { generation, last })
    }
}

/// A request and its answer that go on, piece by piece.
struct ChunkedEcho(Http1);

impl ChunkedEcho {
    fn open(address: SocketAddr) -> Self {
        let mut client = Http1::connect(address);
        let stream = client.0.get_ref();
        (&*stream).write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let head = client.head().unwrap();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        ChunkedEcho(client)
    }

    fn echoes(&mut self) {
        self.comes_back(b"6\r\nhello\n\r\n");
    }

    fn close(mut self) {
        self.comes_back(b"0\r\n\r\n");
    }

    fn comes_back(&mut self, chunk: &[u8]) {
        self.0 .0.get_ref().write_all(chunk).unwrap();
        let mut back = vec![0; chunk.len()];
        self.0 .0.read_exact(&mut back).unwrap();
        assert_eq!(back, chunk);
    }
}

/// RFC 6455, by hand.
struct WebSocket(BufReader<TcpStream>);

impl WebSocket {
    fn open(address: SocketAddr) -> Self {
        let mut client = Http1::connect(address);
        let upgrade = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.0.get_ref().write_all(upgrade.as_bytes()).unwrap();
        let head = client.head().unwrap();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        WebSocket(client.0)
    }

    fn echoes(&mut self, prefix: &str) {
        const TEXT: u8 = 1;
        self.send(TEXT, "hello");
        assert_eq!(self.receive(), (TEXT, format!("{prefix}hello").into_bytes()));
    }

    fn close(mut self) {
        const CLOSE: u8 = 8;
        self.send(CLOSE, "");
        assert_eq!(self.receive(), (CLOSE, vec![]));
    }

    /// One frame with a mask of zeros, which changes nothing.
    fn send(&self, kind: u8, text: &str) {
        let mut frame = vec![0x80 | kind, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        self.0.get_ref().write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut start = [0; 2];
        self.0.read_exact(&mut start).unwrap();
        let mut text = vec![0; start[1].into()];
        self.0.read_exact(&mut text).unwrap();
        (start[0] & 0x0f, text)
    }
}

#[cfg(feature = "tokio")]
use http2::{Health, HealthWatch, Http2, Http2Echo, NOT_SERVING, SERVING};

/// Clients over hyper's own.
#[cfg(feature = "tokio")]
mod http2 {
    use super::{Answer, Client, LONG};
    use http_body_util::channel::{Channel, Sender};
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt, Empty, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::client::conn::http2::{handshake, SendRequest};
    use hyper::{Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use std::convert::Infallible;
    use std::future::Future;
    use std::net::SocketAddr;
    use std::sync::OnceLock;
    use tokio::runtime::Runtime;

    type Body = UnsyncBoxBody<Bytes, Infallible>;

    fn wait<F: Future>(future: F) -> F::Output {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| Runtime::new().unwrap());
        runtime.block_on(async { tokio::time::timeout(LONG, future).await.unwrap() })
    }

    /// Asks with `GET /`.
    pub struct Http2(SendRequest<Body>);

    impl Http2 {
        fn send(&mut self, request: Request<Body>) -> Option<Response<Incoming>> {
            wait(async {
                self.0.ready().await.ok()?;
                match self.0.try_send_request(request).await {
                    Ok(answer) => Some(answer),
                    // It has not been sent: GOAWAY was there first.
                    Err(mut error) if error.take_message().is_some() => None,
                    Err(error) => panic!("{:?}", error.into_error()),
                }
            })
        }
    }

    impl Client for Http2 {
        fn connect(address: SocketAddr) -> Self {
            let stream = wait(tokio::net::TcpStream::connect(address)).unwrap();
            let (client, connection) = wait(handshake(TokioExecutor::new(), TokioIo::new(stream))).unwrap();
            wait(async { drop(tokio::spawn(connection)) });
            Http2(client)
        }

        fn ask(&mut self) -> Option<Answer> {
            let answer = self.send(Request::get("http://x/").body(Empty::new().boxed_unsync()).unwrap())?;
            assert_eq!(answer.status(), 200);
            let body = wait(answer.into_body().collect()).unwrap().to_bytes();
            let generation = std::str::from_utf8(&body).unwrap().trim().parse().unwrap();
            Some(Answer { generation, last: false })
        }
    }

    /// A request and its answer that go on, piece by piece.
    pub struct Http2Echo {
        sender: Sender<Bytes>,
        answer: Incoming,
        _client: Http2,
    }

    impl Http2Echo {
        pub fn open(address: SocketAddr) -> Self {
            let mut client = Http2::connect(address);
            let (sender, body) = Channel::new(1);
            let answer = client.send(Request::post("http://x/echo").body(body.boxed_unsync()).unwrap()).unwrap();
            Http2Echo { sender, answer: answer.into_body(), _client: client }
        }

        pub fn echoes(&mut self) {
            wait(self.sender.send_data(Bytes::from_static(b"hello\n"))).unwrap();
            assert_eq!(next(&mut self.answer).unwrap(), "hello\n");
        }

        pub fn close(self) {
            let Http2Echo { sender, mut answer, _client } = self;
            drop(sender);
            assert_eq!(next(&mut answer), None);
        }
    }

    /// The next piece of an answer.
    fn next(answer: &mut Incoming) -> Option<Bytes> {
        wait(answer.frame()).map(|frame| frame.unwrap().into_data().unwrap())
    }

    /// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
    pub const SERVING: u8 = 1;
    pub const NOT_SERVING: u8 = 2;

    /// Asks with the health service's `Check`, by hand: a message of gRPC is five bytes of length, and protobuf.
    pub struct Health(Http2);

    impl Health {
        fn call(&mut self, method: &str) -> Option<Response<Incoming>> {
            // About the whole server, which is the empty name, and so the empty message.
            let request = Request::post(format!("http://x/grpc.health.v1.Health/{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::from(vec![0; 5]).boxed_unsync());
            let answer = self.0.send(request.unwrap())?;
            assert_eq!(answer.status(), 200);
            Some(answer)
        }
    }

    impl Client for Health {
        fn connect(address: SocketAddr) -> Self {
            Health(Http2::connect(address))
        }

        fn ask(&mut self) -> Option<Answer> {
            let answer = self.call("Check")?;
            let generation = answer.headers()["generation"].to_str().unwrap().parse().unwrap();
            let whole = wait(answer.into_body().collect()).unwrap();
            assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
            let status = status(&whole.to_bytes());
            // A process that is leaving says so.
            assert!(status == SERVING || generation == 1, "{status}");
            Some(Answer { generation, last: false })
        }
    }

    /// The health service's `Watch`.
    pub struct HealthWatch {
        answer: Incoming,
        _client: Health,
    }

    impl HealthWatch {
        pub fn open(address: SocketAddr) -> Self {
            let mut client = Health::connect(address);
            let answer = client.call("Watch").unwrap().into_body();
            HealthWatch { answer, _client: client }
        }

        /// The next one it hears of.
        pub fn status(&mut self) -> u8 {
            status(&next(&mut self.answer).unwrap())
        }
    }

    /// The status is field 1, a varint.
    fn status(message: &[u8]) -> u8 {
        assert_eq!(message[..6], [0, 0, 0, 0, 2, 0x08], "{message:?}");
        message[6]
    }
}
