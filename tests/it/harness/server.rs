//! The server that most tests run, and what they say to it.

use super::{LONG, Project};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

/// A server with the library: one request a connection. A test changes the lines of the functions at its beginning.
/// `/held` is answered in two parts, the second when the client has sent a byte more.
pub const SERVER: &str = r#"
use hotrun::Conn;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{self, Command};
use std::{env, fs, thread};

const VERSION: &str = "1";
fn before_init() {}
fn address() -> String { env::var("ADDR").unwrap() }
fn at_start() {}
fn after_ready() {}
fn at_end() {}

/// Tells the test that this process is there, and waits for a byte of it.
#[allow(dead_code)]
fn gate() {
    let mut gate = TcpStream::connect(env::var("GATE").unwrap()).unwrap();
    gate.read_exact(&mut [0]).unwrap();
}

fn main() -> io::Result<()> {
    before_init();
    let up = hotrun::init()?;
    at_start();
    let http = up.listen("http", address())?;
    up.ready()?;
    after_ready();
    for conn in http.incoming() {
        let conn = conn?;
        thread::spawn(move || serve(conn));
    }
    up.drained();
    at_end();
    Ok(())
}

fn serve(mut conn: Conn<TcpStream>) -> io::Result<()> {
    let mut lines = BufReader::new(&conn).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut body = format!("version: {VERSION}\npid: {}\n", process::id());
    match first.split(' ').nth(1) {
        Some("/crash") => process::abort(),
        Some("/child") => body += &child()?,
        Some("/held") => {
            write!(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            conn.read_exact(&mut [0])?;
            write!(conn, "{body}")?;
            return conn.finish();
        }
        _ => {}
    }
    write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
    conn.finish()
}

/// What a child of this process finds.
fn child() -> io::Result<String> {
    let env = Command::new("env").output()?;
    let fds = Command::new("ls").args(["-l", "/proc/self/fd"]).output()?;
    let parent: Vec<String> = env::vars().map(|(name, _)| name).collect();
    let own = fs::read_dir("/proc/self/fd")?.count();
    let (env, fds) = (String::from_utf8_lossy(&env.stdout), String::from_utf8_lossy(&fds.stdout));
    Ok(format!("{env}--\n{fds}--\n{}--\n{own} of its own\n", parent.join("\n")))
}
"#;

/// Makes the server of that version; each line in `lines` takes the place of the function that it defines. Written by
/// rename, so that nobody builds half of it.
pub fn change(project: &Project, version: &str, lines: &[&str]) {
    project.write_by_rename("src/main.rs", &server(SERVER, version, lines));
}

/// That text with another version, and other lines for some of its functions.
pub fn server(text: &str, version: &str, lines: &[&str]) -> String {
    let version = format!("const VERSION: &str = {version:?};");
    [version.as_str()].iter().chain(lines).fold(text.to_owned(), |text, line| {
        let begin = &line[..=line.find(['(', ':']).unwrap()];
        let old = text.lines().find(|old| old.starts_with(begin)).unwrap_or_else(|| panic!("no {begin}"));
        text.replace(old, line)
    })
}

/// A request whose answer has not been read yet.
pub struct Asked(TcpStream);

/// Connects and sends a request, whether or not anybody accepts.
pub fn ask(address: SocketAddr, path: &str) -> io::Result<Asked> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    Ok(Asked(stream))
}

/// Asks for `/held` and waits until the answer has begun.
pub fn hold(address: SocketAddr) -> Asked {
    let mut asked = ask(address, "/held").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        asked.0.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    asked
}

impl Asked {
    /// What there is to read until the end.
    pub fn answer(mut self) -> io::Result<String> {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The rest of an answer that was held.
    pub fn release(mut self) -> io::Result<String> {
        self.0.write_all(b"x")?;
        self.answer()
    }
}

/// Version and pid of the server that gave that answer.
pub fn who(answer: &str) -> (String, u32) {
    let line = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
    let (Some(version), Some(pid)) = (line("version: "), line("pid: ")) else { panic!("no server's: {answer:?}") };
    (version.to_owned(), pid.parse().unwrap())
}

/// Where a program under test reports: a connection means that it is there, its end that it has gone.
pub struct Gate(TcpListener);

impl Gate {
    pub fn open() -> Gate {
        Gate(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    pub fn arrival(&self) -> Arrival {
        let limit = PollTimeout::try_from(LONG).unwrap();
        let came = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], limit).unwrap();
        assert_eq!(came, 1, "nobody comes to the gate");
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Arrival(stream)
    }
}

/// A process that waits at the gate.
pub struct Arrival(TcpStream);

impl Arrival {
    pub fn let_go(mut self) {
        self.0.write_all(b"x").unwrap();
    }

    /// Waits until it has said so many bytes.
    pub fn hear(&mut self, length: usize) -> String {
        let mut said = vec![0; length];
        self.0.read_exact(&mut said).unwrap();
        String::from_utf8(said).unwrap()
    }

    /// Waits until the process has gone; returns what it had said.
    pub fn end(mut self) -> String {
        let mut said = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut said) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "the process stays: {error}");
        }
        String::from_utf8(said).unwrap()
    }
}
