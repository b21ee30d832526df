//! One HTTP/1.1 exchange on a connection, strict about where an answer ends. Never lives here: what a failure counts as
//! in the tally, and who asks how often.

use super::{Loss, now};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    answers: u64,
}

pub struct Answer {
    pub version: String,
    /// The server ends the connection after this answer.
    pub close: bool,
}

pub enum Failure {
    /// A clean end of the stream before any byte of the answer: what it means depends on the connection's past.
    Ended,
    Lost(Loss, String),
}

type Result<T> = std::result::Result<T, Failure>;

struct Head {
    framing: Framing,
    close: bool,
}

enum Framing {
    Length(usize),
    Chunked,
}

impl Connection {
    pub fn open(addr: SocketAddr, timeout: Duration) -> Result<Connection> {
        let connected = TcpStream::connect_timeout(&addr, timeout);
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => Ok(Connection { stream, buffer: Vec::new(), answers: 0 }),
            Err(error) => {
                let loss = match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => Loss::TimedOut,
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Loss::Reset,
                    // Whatever else it was, the client did not get in.
                    _ => Loss::Refused,
                };
                Err(Failure::Lost(loss, format!("connect: {error}")))
            }
        }
    }

    pub fn exchange(&mut self, message: &[u8], deadline: Instant) -> Result<Answer> {
        if self.answers > 0 {
            self.is_still_open()?;
        }
        self.wait_until(deadline)?;
        self.stream.write_all(message).map_err(|error| lost("send", &error))?;
        let head = self.head(deadline)?;
        let body = match head.framing {
            Framing::Length(length) => self.exactly(length, deadline)?,
            Framing::Chunked => self.chunks(deadline)?,
        };
        if !self.buffer.is_empty() {
            return Err(malformed("bytes after the end of the answer"));
        }
        let body = String::from_utf8_lossy(&body);
        match body.lines().next().and_then(|line| line.strip_prefix("version: ")) {
            Some(version) => Ok(Answer { version: version.to_owned(), close: head.close }),
            None => Err(malformed("a body that does not begin with its version")),
        }
    }

    /// The answer is complete, so how the connection ends loses nothing; but the side that ends first keeps the port in
    /// TIME_WAIT, and the client has the scarcer ones.
    pub fn see_it_end(mut self) {
        let _ = self.stream.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = self.stream.read(&mut [0]);
    }

    /// What a careful client does before it uses a kept connection: look whether the other side has ended it.
    fn is_still_open(&mut self) -> Result<()> {
        let looked = self.stream.set_nonblocking(true).and_then(|()| {
            let looked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            looked
        });
        match looked {
            Ok(0) => Err(Failure::Ended),
            Ok(_) => Err(malformed("bytes that nobody asked for")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(lost("idle", &error)),
        }
    }

    fn head(&mut self, deadline: Instant) -> Result<Head> {
        // An end before the first byte is told apart from one inside the answer.
        if self.buffer.is_empty() && self.fill(deadline)? == 0 {
            return Err(Failure::Ended);
        }
        let mut lines = vec![self.text_line(deadline)?];
        while lines.last().is_some_and(|line| !line.is_empty()) {
            if lines.len() > 100 {
                return Err(malformed("a head without end"));
            }
            lines.push(self.text_line(deadline)?);
        }
        Head::parse(&lines)
    }

    fn chunks(&mut self, deadline: Instant) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.text_line(deadline)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16).map_err(|_| malformed(&format!("chunk size {line:?}")))?;
            if length == 0 {
                // Trailers, then an empty line.
                while !self.text_line(deadline)?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(length, deadline)?);
            if !self.text_line(deadline)?.is_empty() {
                return Err(malformed("a chunk longer than its size"));
            }
        }
    }

    /// One line of the protocol, without its end.
    fn text_line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| malformed("a head that is not text"));
            }
            if self.buffer.len() > 16 * 1024 {
                return Err(malformed("a line without end"));
            }
            self.more(deadline)?;
        }
    }

    fn exactly(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more(deadline)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn more(&mut self, deadline: Instant) -> Result<()> {
        match self.fill(deadline)? {
            0 => Err(Failure::Lost(Loss::Cut, format!("the stream ended inside an answer: {}", self.glimpse()))),
            _ => Ok(()),
        }
    }

    fn glimpse(&self) -> String {
        let start = self.buffer.get(..60).unwrap_or(&self.buffer);
        format!("{} bytes unread, {:?}", self.buffer.len(), String::from_utf8_lossy(start))
    }

    fn fill(&mut self, deadline: Instant) -> Result<usize> {
        let mut chunk = [0; 16 * 1024];
        loop {
            self.wait_until(deadline)?;
            match self.stream.read(&mut chunk) {
                Ok(n) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost("receive", &error)),
            }
        }
    }

    fn wait_until(&self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Err(Failure::Lost(Loss::TimedOut, "no complete answer in time".into()));
        }
        let set = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.set_write_timeout(Some(left)));
        set.map_err(|error| lost("set a timeout", &error))
    }
}

impl Head {
    fn parse(lines: &[String]) -> Result<Head> {
        let status = lines.first().map(String::as_str).unwrap_or_default();
        if !status.starts_with("HTTP/1.1 200") {
            return Err(malformed(&format!("status {status:?}")));
        }
        let header = |wanted: &str| {
            let mut headers = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
            headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        let close = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let framing = if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            Framing::Chunked
        } else {
            // A body that lasts until the connection ends cannot be told from one that was cut.
            let length = header("content-length").and_then(|value| value.parse().ok());
            Framing::Length(length.ok_or_else(|| malformed("an answer that does not say how long it is"))?)
        };
        Ok(Head { framing, close })
    }
}

fn lost(step: &str, error: &io::Error) -> Failure {
    let loss = match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Loss::TimedOut,
        _ => Loss::Reset,
    };
    Failure::Lost(loss, format!("{step}: {error}"))
}

fn malformed(what: &str) -> Failure {
    Failure::Lost(Loss::Malformed, what.to_owned())
}
