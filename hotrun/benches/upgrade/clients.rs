//! Clients that never stop asking, each with a record of every request it made: what was lost, and how long those took
//! that were under way during a switch.

use crate::contender::Means;
use crate::now;
use crate::processes::{PATIENCE, Processes, Switch};
use crate::report::Measured;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

// The demo's side of an HTTP exchange, strict about where an answer ends.
#[rustfmt::skip]
#[path = "../../../src/demo/http.rs"]
pub mod http;

use self::http::{Answer, Connection, Failure};

/// A new connection for each request, and one connection for many requests with a body of 16 KB.
const FRESH: usize = 4;
const KEPT: usize = 4;
const BODY: usize = 16 * 1024;
/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(1);
/// How long a client waits for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A client says so whenever it has been through that many requests, which takes it a little over ten milliseconds.
const STRETCH: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Refused,
    Reset,
    /// The stream ended inside an answer, or before the first answer on a connection.
    Cut,
    TimedOut,
    Malformed,
}

#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub begun: Instant,
    pub ended: Instant,
    /// On a connection of its own.
    pub fresh: bool,
    /// The process that answered.
    pub outcome: Result<u32, Loss>,
}

impl Request {
    pub fn took(&self) -> Duration {
        self.ended - self.begun
    }
}

/// What one client has seen.
#[derive(Debug, Default)]
pub struct Record {
    pub requests: Vec<Request>,
    /// Not lost: a kept connection ended cleanly between two answers, and the request was sent again on a new one.
    pub asked_again: usize,
    /// In words, the first few.
    pub losses: Vec<String>,
}

/// One round under load: a server, its clients, and `upgrades` switches.
pub fn upgrades_under_load(programs: &Path, upgrades: usize, measured: &mut Measured) -> io::Result<()> {
    let mut processes = Processes::start(programs, measured.contender, 0)?;
    let clients = Clients::start(processes.addr);
    let mut switches = Vec::new();
    let outcome = (0..upgrades).try_for_each(|_| {
        // Each process has all clients, and its kept connections, when it is replaced.
        clients.go_on()?;
        switches.push(switch(&mut processes, &clients)?);
        Ok(())
    });
    let outcome = outcome.and_then(|()| clients.go_on());
    let mut requests = Vec::new();
    for record in clients.stop() {
        measured.asked_again += record.asked_again;
        measured.losses.extend(record.losses);
        requests.extend(record.requests);
    }
    measured.count(&requests, &switches);
    outcome
}

/// For a server that is left alone, a stretch of time as long as a switch may be.
fn switch(processes: &mut Processes, clients: &Clients) -> io::Result<Switch> {
    if processes.contender.means != Means::Nothing {
        return processes.replace();
    }
    let begun = now();
    clients.go_on()?;
    let ended = now();
    Ok(Switch { old: 0, new: 0, signalled: begun, started: ended, serving: ended, gone: ended })
}

struct Clients {
    /// Dropped to say stop: each client paces itself by waiting on the other end.
    stop: Vec<Sender<()>>,
    threads: Vec<JoinHandle<Record>>,
    stretches: Receiver<()>,
}

struct Client {
    addr: SocketAddr,
    kept: bool,
    message: Vec<u8>,
    record: Record,
}

impl Clients {
    fn start(addr: SocketAddr) -> Clients {
        let (stretch, stretches) = mpsc::channel();
        let mut clients = Clients { stop: Vec::new(), threads: Vec::new(), stretches };
        for nth in 0..FRESH + KEPT {
            let (stop, stopped) = mpsc::channel();
            let (client, stretch) = (Client::new(addr, nth >= FRESH), stretch.clone());
            clients.stop.push(stop);
            clients.threads.push(std::thread::spawn(move || client.run(&stopped, &stretch)));
        }
        clients
    }

    /// Blocks until the clients, taken together, have each been through another stretch.
    fn go_on(&self) -> io::Result<()> {
        // Those already there are of the past.
        while self.stretches.try_recv().is_ok() {}
        for _ in 0..self.threads.len() {
            self.stretches.recv_timeout(PATIENCE).map_err(|_| io::Error::other("the clients do not get on"))?;
        }
        Ok(())
    }

    /// Lets every request under way come to its end.
    fn stop(mut self) -> Vec<Record> {
        self.stop.clear();
        let join = |thread: JoinHandle<Record>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.threads.drain(..).map(join).collect()
    }
}

impl Client {
    fn new(addr: SocketAddr, kept: bool) -> Client {
        Client { addr, kept, message: message(addr, kept), record: Record::default() }
    }

    fn run(mut self, stopped: &Receiver<()>, stretch: &Sender<()>) -> Record {
        let mut open = None;
        loop {
            open = self.request(open);
            if self.record.requests.len() % STRETCH == 0 {
                let _ = stretch.send(());
            }
            match stopped.recv_timeout(PACE) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return self.record,
            }
        }
    }

    /// One request and its place in the record; gives the connection back when it can be used again.
    fn request(&mut self, mut open: Option<Connection>) -> Option<Connection> {
        let begun = now();
        loop {
            let reused = open.is_some();
            let opened = open.take().map_or_else(|| Connection::open(self.addr, TIMEOUT), Ok);
            let outcome = opened.and_then(|mut connection| {
                let answer = connection.exchange(&self.message, begun + TIMEOUT)?;
                Ok((connection, answer))
            });
            return match outcome {
                Err(Failure::Ended) if reused => {
                    self.record.asked_again += 1;
                    continue;
                }
                Err(Failure::Ended) => self.lost(begun, Loss::Cut, "the stream ended before any answer"),
                Err(Failure::Lost(loss, what)) => self.lost(begun, loss, &what),
                Ok((connection, answer)) => self.answered(begun, connection, &answer),
            };
        }
    }

    fn answered(&mut self, begun: Instant, connection: Connection, answer: &Answer) -> Option<Connection> {
        let outcome = answer.version.parse().map_err(|_| Loss::Malformed);
        self.record.requests.push(Request { begun, ended: now(), fresh: !self.kept, outcome });
        if self.kept && !answer.close {
            return Some(connection);
        }
        connection.see_it_end();
        None
    }

    fn lost(&mut self, begun: Instant, loss: Loss, what: &str) -> Option<Connection> {
        self.record.requests.push(Request { begun, ended: now(), fresh: !self.kept, outcome: Err(loss) });
        if self.record.losses.len() < 3 {
            let client = if self.kept { "kept connection" } else { "new connection" };
            self.record.losses.push(format!("{client}: {what}"));
        }
        None
    }
}

/// What a client sends.
pub fn message(addr: SocketAddr, kept: bool) -> Vec<u8> {
    let mut message = if kept {
        format!("POST / HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {BODY}\r\n\r\n").into_bytes()
    } else {
        format!("GET / HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").into_bytes()
    };
    if kept {
        message.resize(message.len() + BODY, b'x');
    }
    message
}
