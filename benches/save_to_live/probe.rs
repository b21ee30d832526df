//! Asks until the new code answers.

use crate::Result;
use crate::wait::{now, until};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(1);
/// Where the kernel drops a full queue's handshakes, the next try comes after a second: a new connection is quicker.
const CONNECT: Duration = Duration::from_millis(50);
/// A connection that waits in the queue of a program that will never take it must not hide that another one answers.
const ANSWER: Duration = Duration::from_millis(250);

/// When the first answer with that version was complete; `None` when there was none before the limit, or when `over` says that
/// there will be none.
pub fn first_answer(
    address: SocketAddr,
    version: &str,
    limit: Duration,
    over: impl Fn() -> bool,
) -> Result<Option<Instant>> {
    let line = format!("version: {version}\n");
    let answer = until(limit, INTERVAL, || {
        // Refused, reset, too late: the next one is asked all the same. What it means to clients is for the load to count.
        let is_new = ask(address).is_ok_and(|answer| answer.contains(&line));
        let at = now();
        Ok(if is_new {
            Some(Some(at))
        } else if over() {
            Some(None)
        } else {
            None
        })
    })?;
    Ok(answer.flatten())
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
