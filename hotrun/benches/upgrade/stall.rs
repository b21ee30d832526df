//! What an upgrade costs a client of a server with half a gigabyte in memory, whose page table fork(2) would have to copy.
//!
//! Measured from outside, as a client sees it: one kept connection to the old process asks without a pause, each answer
//! writes to another page of that memory, and what counts is the longest wait of those between the signal and the first
//! line of the new program's `main`. By then the old process has its memory to itself again. A clock that ticks inside the
//! server would miss the cost, as a thread that touches nothing is not stopped by a fork.

use crate::clients::http::{Connection, Failure};
use crate::now;
use crate::processes::{PATIENCE, Processes};
use crate::report::Measured;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

const BALLAST_MB: u32 = 500;
/// Requests before the signal: what they took is what it takes when nothing happens.
const CALM: usize = 2000;

/// When a request began, and when it had its answer.
type Asked = (Instant, Instant);

/// A round of upgrades, with no other load than the one connection.
pub fn upgrades_of_a_heavy_one(programs: &Path, upgrades: usize, measured: &mut Measured) -> io::Result<()> {
    let mut processes = Processes::start(programs, measured.contender, BALLAST_MB)?;
    for _ in 0..upgrades {
        let (addr, (calm, calmed)) = (processes.addr, mpsc::channel());
        let client = std::thread::spawn(move || ask_until_the_end(addr, &calm));
        calmed.recv_timeout(PATIENCE).map_err(|_| io::Error::other("the heavy server does not answer"))?;
        let switch = processes.replace()?;
        let asked = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let before = |(_, ended): &&Asked| *ended < switch.signalled;
        let during = |(begun, ended): &&Asked| *ended >= switch.signalled && *begun <= switch.started;
        measured.heavy.started.push(switch.started - switch.signalled);
        measured.heavy.calm.push(longest(asked.iter().filter(before)));
        measured.heavy.stall.push(longest(asked.iter().filter(during)));
    }
    Ok(())
}

fn longest<'a>(asked: impl Iterator<Item = &'a Asked>) -> Duration {
    asked.map(|(begun, ended)| *ended - *begun).max().unwrap_or_default()
}

/// Asks until the server ends the connection.
fn ask_until_the_end(addr: SocketAddr, calm: &Sender<()>) -> io::Result<Vec<Asked>> {
    let message = format!("GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    let lost = |failure| match failure {
        Failure::Ended => io::Error::other("the kept connection to the heavy server ended early"),
        Failure::Lost(loss, what) => io::Error::other(format!("the kept connection: {loss:?}: {what}")),
    };
    let mut connection = Connection::open(addr, PATIENCE).map_err(lost)?;
    let mut asked = Vec::new();
    loop {
        let begun = now();
        match connection.exchange(message.as_bytes(), begun + PATIENCE) {
            Ok(answer) => {
                asked.push((begun, now()));
                if answer.close {
                    connection.see_it_end();
                    return Ok(asked);
                }
            }
            Err(Failure::Ended) if asked.len() > CALM => return Ok(asked),
            Err(failure) => return Err(lost(failure)),
        }
        if asked.len() == CALM {
            let _ = calm.send(());
        }
    }
}
