//! What the tests share. A test has three things:
//!
//! - a `Project` on disk, whose files it saves as an editor would;
//! - a `Session`: the command on that project, told by its JSON events. `wait_serving(2)` is how most tests wait;
//! - a client: `version(address)`, `get`, `server::ask` for an answer that is read later, or `load::Load` for many.
//!
//! ```ignore
//! let mut it = Plain::start(plain::project("saves-example", ""));          // generation 1 serves
//! it.project.write_by_rename("src/main.rs", &plain("2", &[]));             // a save
//! assert_eq!(it.next(), "2");                                              // generation 2 serves, and alone
//! ```
//!
//! | to begin with | what its program is |
//! |---|---|
//! | `plain` | without dependencies: compiled in a moment. What most tests take |
//! | `server` | with the library: its answers can be held, it can wait at a `Gate` for the test |
//! | `gate/mod.rs` | one that knows nothing of us, and is handed over at its own bind(2) |
//! | `pty` | any, in a real terminal, with keys |
//! | `Project::from_template` | as `cargo hotrun new` makes it |
//!
//! A project's name is no other test's. Each wait is for an event, with a limit so generous that only a fault reaches it; `until` is for
//! what nobody tells of. `processes` and `left` look at what the kernel and the file system know of a session, `refuse` and `limits` take
//! something from it.

// Each subject uses its own part of this.
#![allow(dead_code)]

mod left;
pub mod limits;
pub mod plain;
mod processes;
mod project;
pub mod pty;
pub mod refuse;
pub mod server;
mod session;

pub use left::{leavings, listed, run_folder};
pub use processes::{
    children, freeze, is_alive, is_busy, process, processes, send, threads, wait_for_end, wait_until_reaped,
};
pub use project::{Project, hotrun_dependency, target_folder};
pub use session::Session;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than a cold build of all dependencies on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

#[allow(clippy::disallowed_methods)] // The limit of a wait.
pub fn now() -> Instant {
    Instant::now()
}

/// Waits for what nobody tells of: looks until it is so.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = now() + LONG;
    while !done() {
        assert!(now() < limit, "{what}");
        pause();
    }
}

/// Between two looks: whoever looks without a pause takes a core from those it waits for.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(1));
}

/// The command under test.
pub fn command() -> std::process::Command {
    std::process::Command::new(env!("CARGO_BIN_EXE_cargo-hotrun"))
}

/// A loopback address that nobody has: not one of those that the kernel gives to clients (ip(7), `ip_local_port_range`),
/// of which there are many here, and no other test's. Another run of the tests begins elsewhere.
pub fn free_address() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let nth = || std::process::id().wrapping_mul(331).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
    let mut addresses = std::iter::repeat_with(|| SocketAddr::from(([127, 0, 0, 1], 10_000 + (nth() % 20_000) as u16)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// One request on a connection of its own; the whole answer.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The version that the server at that address answers with.
pub fn version(address: SocketAddr) -> String {
    let answer = get(address, "/").unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix("version: "));
    line.unwrap_or_else(|| panic!("no version in {answer:?}")).to_owned()
}
