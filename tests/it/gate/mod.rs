//! At the gate: faults, and programs of all kinds that know nothing of the command.

mod addresses;
mod again;
mod copies;
mod descriptors;
mod draining;
mod early;
mod faults;
mod listen;
mod programs;
mod twice;

use crate::harness::server::{Gate, server, who};
use crate::harness::{LONG, Project, Session, free_address, get};
use crate::load::Mix;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

const FRESH: Mix = Mix { fresh: 4, keep_alive: 0, slow: 0, slow_ms: 0 };
const KEPT: Mix = Mix { fresh: 2, keep_alive: 3, slow: 0, slow_ms: 0 };

/// A server without dependencies, with kept connections. A test changes the lines of the functions at its beginning. `/held` is
/// answered in two parts, the second when the client has sent a byte more.
pub const SERVER: &str = r#"
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, process, thread};

const VERSION: &str = "1";
fn address() -> String { env::var("ADDR").unwrap() }
fn before_bind() {}
fn bind() -> TcpListener { TcpListener::bind(address()).unwrap() }
fn before_accept() {}
fn threads() -> usize { 1 }
fn accept(listener: &TcpListener) -> TcpStream { listener.accept().unwrap().0 }
fn extra() -> String { String::new() }

/// Tells the test that this process is there, and waits for a byte of it.
#[allow(dead_code)]
fn gate() {
    let mut gate = TcpStream::connect(env::var("GATE").unwrap()).unwrap();
    let _ = gate.read_exact(&mut [0]);
}

fn main() {
    before_bind();
    let listener = bind();
    before_accept();
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| loop {
                let conn = accept(&listener);
                thread::spawn(move || serve(conn));
            });
        }
    });
}

fn serve(conn: TcpStream) -> io::Result<()> {
    let (mut input, mut conn) = (BufReader::new(&conn), &conn);
    loop {
        let (mut first, mut length, mut close) = (String::new(), 0, false);
        if input.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            input.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", value)) => close = value == "close",
                Some(_) => {}
                None => break,
            }
        }
        io::copy(&mut (&mut input).take(length), &mut io::sink())?;
        let body = format!("version: {VERSION}\npid: {}\n{}", process::id(), extra());
        match first.split(' ').nth(1) {
            Some("/crash") => process::abort(),
            Some("/held") => {
                write!(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                input.read_exact(&mut [0])?;
                return write!(conn, "{body}");
            }
            _ => {}
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        conn.write_all(answer.as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
"#;

/// A session whose first generation serves.
pub struct Running {
    pub project: Project,
    pub address: SocketAddr,
    pub session: Session,
    pub gate: Gate,
    pub pid: u32,
    pub generation: u64,
}

fn start(name: &str, args: &[&str], lines: &[&str]) -> Running {
    start_with(name, "", args, lines, |_| {})
}

pub fn start_with(
    name: &str,
    needs: &str,
    args: &[&str],
    lines: &[&str],
    change: impl FnOnce(&mut Command),
) -> Running {
    let project = Project::new(name, needs, &server(SERVER, "1", lines));
    let (address, gate) = (free_address(), Gate::open());
    let session = Session::start_with(&project, address, args, |command| {
        command.env("GATE", gate.address());
        change(command);
    });
    let mut running = Running { project, address, session, gate, pid: 0, generation: 1 };
    running.pid = pid(&running.session.wait_serving(1));
    running
}

impl Running {
    pub fn save(&self, version: &str, lines: &[&str]) {
        self.project.write_by_rename("src/main.rs", &server(SERVER, version, lines));
    }

    /// Saves that version and waits until it serves; the event.
    pub fn swap(&mut self, lines: &[&str]) -> Value {
        self.generation += 1;
        self.save(&self.generation.to_string(), lines);
        let serving = self.session.wait_serving(self.generation);
        self.pid = pid(&serving);
        serving
    }

    pub fn answers(&self) -> (String, u32) {
        who(&get(self.address, "/").unwrap())
    }

    /// Waits until a generation has left.
    pub fn gone(&mut self, generation: u64) -> Value {
        self.session.see("its end", |event| event["event"] == "drained" && event["generation"] == generation)
    }

    pub fn notes(&self) -> Vec<&str> {
        let notes = self.session.log.iter().filter(|event| event["event"] == "note");
        notes.filter_map(|event| event["text"].as_str()).collect()
    }
}

pub fn pid(event: &Value) -> u32 {
    u32::try_from(event["pid"].as_u64().unwrap()).unwrap()
}

/// A connection that is kept, after one answer.
fn keep(address: SocketAddr) -> TcpStream {
    let mut kept = TcpStream::connect(address).unwrap();
    kept.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(who(&exchange(&mut kept)).0, "1");
    kept
}

fn exchange(kept: &mut TcpStream) -> String {
    write!(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = vec![0; 4096];
    let length = kept.read(&mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// An event loop is told once that a connection has come; on the way back the connections that came meanwhile must not be forgotten.
const EVENT_LOOP: &str = "\
fn accept(listener: &TcpListener) -> TcpStream { EventLoop::of(listener).accept() }
struct EventLoop<'a>(&'a TcpListener, i32);
impl<'a> EventLoop<'a> {
    fn of(listener: &'a TcpListener) -> Self {
        use std::os::fd::AsRawFd;
        use std::sync::OnceLock;
        static EPOLL: OnceLock<i32> = OnceLock::new();
        let epoll = *EPOLL.get_or_init(|| {
            listener.set_nonblocking(true).unwrap();
            let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
            unsafe {
                let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
                assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, listener.as_raw_fd(), &mut event), 0);
                epoll
            }
        });
        EventLoop(listener, epoll)
    }
    fn accept(&self) -> TcpStream {
        loop {
            match self.0.accept() {
                Ok((conn, _)) => { conn.set_nonblocking(false).unwrap(); return conn }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            unsafe { libc::epoll_wait(self.1, &mut event, 1, -1) };
        }
    }
}";

const LIBC: &str = "libc = \"0.2\"";
