//! Clients that never stop asking and count what they lose. Shared with the integration tests by `#[path]`, so it needs
//! nothing but std. Never lives here: starting servers, judging the count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

// By path, so that it is found from an integration test as well.
#[path = "http.rs"]
mod http;

use http::{Answer, Connection, Failure};

/// How many threads of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mix {
    /// A new connection for each request.
    pub fresh: usize,
    /// Many requests on one connection; every fourth sends a body.
    pub keep_alive: usize,
    /// Answers that take `slow_ms` to be written.
    pub slow: usize,
    pub slow_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Refused,
    Reset,
    /// The stream ended inside an answer, or before the first answer on a connection.
    Cut,
    TimedOut,
    Malformed,
    WrongVersion,
}

/// One of the first losses, for whoever has to find its cause.
#[derive(Debug, Clone)]
pub struct Lost {
    pub loss: Loss,
    /// Since the load began.
    pub at: Duration,
    /// The kind of thread it happened to.
    pub client: &'static str,
    pub what: String,
}

#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests that came to an end, good or bad. A repeated one counts once.
    pub requests: u64,
    pub refused: u64,
    pub reset: u64,
    pub cut: u64,
    pub timed_out: u64,
    pub malformed: u64,
    pub wrong_version: u64,
    /// Not lost: a kept connection ended cleanly between two answers, and the request was sent again on a new one.
    pub retried: u64,
    pub by_version: BTreeMap<String, u64>,
    /// From the request (with its connect) to the end of the answer; slow answers are not in it.
    pub latency_median: Duration,
    pub latency_worst: Duration,
    pub first_losses: Vec<Lost>,
}

impl Tally {
    pub fn lost(&self) -> u64 {
        self.refused + self.reset + self.cut + self.timed_out + self.malformed + self.wrong_version
    }
}

/// A load that runs until it is stopped or dropped.
pub struct Load {
    shared: Arc<Shared>,
    /// Dropped to say stop: each thread paces itself by waiting on the other end.
    stop: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(addr: SocketAddr, mix: Mix) -> Load {
        Load::start_with(addr, mix, Duration::from_secs(10))
    }

    /// With another patience for one request; slow ones get `slow_ms` on top.
    pub fn start_with(addr: SocketAddr, mix: Mix, timeout: Duration) -> Load {
        let shared = Arc::new(Shared { began: now(), counts: Mutex::default(), counted: Condvar::new() });
        let mut load = Load { shared, stop: Vec::new(), threads: Vec::new() };
        for (kind, threads) in
            [(ClientKind::Fresh, mix.fresh), (ClientKind::KeepAlive, mix.keep_alive), (ClientKind::Slow, mix.slow)]
        {
            for _ in 0..threads {
                let extra = if kind == ClientKind::Slow { mix.slow_ms } else { 0 };
                let timeout = timeout + Duration::from_millis(extra);
                let client = Client { kind, addr, slow_ms: mix.slow_ms, timeout, shared: Arc::clone(&load.shared) };
                let (stop, stopped) = mpsc::channel();
                load.stop.push(stop);
                load.threads.push(std::thread::spawn(move || client.run(&stopped)));
            }
        }
        load
    }

    /// From now on every new connection is answered by `version` or a later one. What was announced before it, or seen
    /// before it was first seen, is older; so the first version is worth announcing too.
    pub fn switched(&self, version: &str) {
        let mut counts = self.shared.counts();
        counts.meet(version);
        let mut older: BTreeSet<String> = counts.met.iter().take_while(|met| *met != version).cloned().collect();
        older.extend(counts.announced.iter().cloned());
        older.remove(version);
        counts.announced.insert(version.to_owned());
        counts.older = Arc::new(older);
    }

    /// The count so far.
    pub fn tally(&self) -> Tally {
        self.shared.tally()
    }

    /// Blocks until that many more requests have come to their end.
    pub fn wait_for(&self, requests: u64) {
        let mut counts = self.shared.counts();
        let enough = counts.tally.requests + requests;
        while counts.tally.requests < enough {
            counts = self.shared.counted.wait(counts).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets every request under way come to its end.
    pub fn stop(mut self) -> Tally {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.shared.tally()
    }
}

struct Shared {
    began: Instant,
    counts: Mutex<Counts>,
    /// A request has come to its end.
    counted: Condvar,
}

#[derive(Default)]
struct Counts {
    tally: Tally,
    /// In microseconds, unsorted.
    latencies: Vec<u32>,
    /// Versions in the order in which they were first heard of.
    met: Vec<String>,
    announced: BTreeSet<String>,
    /// What a connection begun now may not be answered by.
    older: Arc<BTreeSet<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientKind {
    Fresh,
    KeepAlive,
    Slow,
}

struct Client {
    kind: ClientKind,
    addr: SocketAddr,
    slow_ms: u64,
    timeout: Duration,
    shared: Arc<Shared>,
}

struct Open {
    connection: Connection,
    /// The versions that were old when `connect` began.
    older: Arc<BTreeSet<String>>,
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally(&self) -> Tally {
        let counts = self.counts();
        let mut tally = counts.tally.clone();
        let mut latencies = counts.latencies.clone();
        drop(counts);
        latencies.sort_unstable();
        let micros = |us: Option<&u32>| Duration::from_micros(us.copied().unwrap_or(0).into());
        tally.latency_median = micros(latencies.get(latencies.len() / 2));
        tally.latency_worst = micros(latencies.last());
        tally
    }
}

impl Counts {
    fn meet(&mut self, version: &str) {
        if !self.met.iter().any(|met| met == version) {
            self.met.push(version.to_owned());
        }
    }

    fn lose(&mut self, lost: Lost) {
        let counter = match lost.loss {
            Loss::Refused => &mut self.tally.refused,
            Loss::Reset => &mut self.tally.reset,
            Loss::Cut => &mut self.tally.cut,
            Loss::TimedOut => &mut self.tally.timed_out,
            Loss::Malformed => &mut self.tally.malformed,
            Loss::WrongVersion => &mut self.tally.wrong_version,
        };
        *counter += 1;
        if self.tally.first_losses.len() < 20 {
            self.tally.first_losses.push(lost);
        }
    }
}

impl Client {
    fn run(self, stopped: &Receiver<()>) {
        // A little apart, so that the load is not one busy loop that leaves the machine no time to build.
        let pace = Duration::from_millis(5);
        let mut open = None;
        let mut sent = 0;
        loop {
            open = self.request(open, sent, now());
            self.shared.counted.notify_all();
            sent += 1;
            match stopped.recv_timeout(pace) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One request and its place in the count; gives the connection back when it can be used again.
    fn request(&self, mut open: Option<Open>, nth: u64, began: Instant) -> Option<Open> {
        let message = self.message(nth);
        let deadline = began + self.timeout;
        loop {
            let kept = open.is_some();
            let outcome = open.take().map_or_else(|| self.connect(), Ok).and_then(|mut open| {
                let answer = open.connection.exchange(&message, deadline)?;
                Ok((open, answer))
            });
            return match outcome {
                Err(Failure::Ended) if kept => {
                    self.shared.counts().tally.retried += 1;
                    continue;
                }
                Err(Failure::Ended) => self.lost(Loss::Cut, "the stream ended before any answer".into()),
                Err(Failure::Lost(loss, what)) => self.lost(loss, what),
                Ok((open, answer)) => self.answered(open, answer, began),
            };
        }
    }

    fn message(&self, nth: u64) -> Vec<u8> {
        let (method, path, length, connection) = match self.kind {
            ClientKind::Fresh => ("GET", "/".to_owned(), 0, "close"),
            ClientKind::Slow => ("GET", format!("/slow?ms={}", self.slow_ms), 0, "close"),
            ClientKind::KeepAlive if nth % 4 == 3 => ("POST", "/".to_owned(), 16 * 1024, "keep-alive"),
            ClientKind::KeepAlive => ("GET", "/".to_owned(), 0, "keep-alive"),
        };
        let host = self.addr;
        let length_line = if length > 0 { format!("Content-Length: {length}\r\n") } else { String::new() };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n{length_line}\r\n");
        let mut message = head.into_bytes();
        message.resize(message.len() + length, b'x');
        message
    }

    fn connect(&self) -> Result<Open, Failure> {
        // Taken before `connect`: only what began after the switch can be held to it.
        let older = Arc::clone(&self.shared.counts().older);
        Ok(Open { connection: Connection::open(self.addr, self.timeout)?, older })
    }

    fn answered(&self, open: Open, answer: Answer, began: Instant) -> Option<Open> {
        let took = now() - began;
        let mut counts = self.shared.counts();
        counts.meet(&answer.version);
        counts.tally.requests += 1;
        *counts.tally.by_version.entry(answer.version.clone()).or_default() += 1;
        if self.kind != ClientKind::Slow {
            counts.latencies.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
        if open.older.contains(&answer.version) {
            let what = format!("version {} answered on a connection made after the switch", answer.version);
            counts.lose(self.loss(Loss::WrongVersion, what));
        }
        drop(counts);
        if self.kind == ClientKind::KeepAlive && !answer.close {
            return Some(open);
        }
        open.connection.see_it_end();
        None
    }

    fn lost(&self, loss: Loss, what: String) -> Option<Open> {
        let mut counts = self.shared.counts();
        counts.tally.requests += 1;
        counts.lose(self.loss(loss, what));
        None
    }

    fn loss(&self, loss: Loss, what: String) -> Lost {
        let client = match self.kind {
            ClientKind::Fresh => "fresh",
            ClientKind::KeepAlive => "keep-alive",
            ClientKind::Slow => "slow",
        };
        Lost { loss, at: now() - self.shared.began, client, what }
    }
}

// The load measures how long answers take: the clock is its subject, not a hidden input.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
