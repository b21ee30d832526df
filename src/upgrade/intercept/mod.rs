//! The gate of one generation: hot upgrade for a program that knows nothing of it. The calls in which the program takes sockets and
//! connections wait here (`process::seccomp`); it is given the sockets that are held in place of new ones, and connections only
//! while its gate is open.
//! Never lives here: when a gate is opened and closed (`handover`).

mod accepts;
mod address;
mod binds;
mod callers;
mod connections;
mod copies;
mod drain;
mod draining;
mod flow;
mod kernel;
mod listener;
mod memory;
mod queue;
mod readers;
mod supervised;
mod supervisor;

use crate::process::{self, seccomp::Calls};
use crate::report::Generation;
use nix::errno::Errno;
use std::io::{self, PipeWriter, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;
use supervised::Supervised;
use supervisor::{Supervisor, now};

pub use drain::Patience;
pub use flow::Flow;
pub use listener::{Listener, Shelf};

/// Which sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    All,
    /// By inode.
    These(Vec<u64>),
}

/// What a gate is told.
#[derive(Debug, Clone)]
pub enum Order {
    /// No connection of these sockets is given any more.
    Close(Which),
    /// Nor of these, where some are closed.
    Also(Vec<u64>),
    /// All are, again.
    Open,
    /// As `Close`, and what is live is led to its end.
    Drain(Which, Patience),
    /// What is between two answers is ended.
    End,
    /// Somebody else answers the calls from now on; closed when nothing waits for this supervisor any more.
    Leave(Arc<PipeWriter>),
    /// This supervisor does, again.
    Return,
}

/// What a gate sees.
#[derive(Debug)]
pub enum Seen {
    /// The program listens on that socket, which may be new: one that it has `bound` for itself, or one that it has found open and has
    /// now asked for a connection.
    Listens { listener: Arc<Listener>, bound: bool },
    /// No process of it has that socket any more, which had been given to programs so often by then.
    Closes { listener: Arc<Listener>, given: u64 },
    /// It has asked for a connection, on each of its sockets or on some.
    Accepts { all: bool },
    /// `Close` and `Drain` are in force.
    Closed,
    /// How many connections there still are, and how many of them an end would cut.
    Live { live: usize, busy: usize },
    /// No connection is left.
    Drained,
    /// `End` is done.
    Ended,
    /// The address that it asked for is somebody else's. Said once, however often it tries.
    Occupied { address: SocketAddr, by: Option<String> },
    /// It has that address after all.
    Had { address: SocketAddr },
    /// What it wants to bind is also where it cannot be replaced by a socket that is held.
    Tied,
    /// It takes connections in a way that is not seen here.
    Blind(Blind),
    /// Its connections may not be looked at.
    CannotLook(Errno),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// By io_uring(7), whose operations are no calls.
    IoUring,
    /// Its memory may not be read.
    Memory(Errno),
}

/// How long a supervisor is waited for, which answers within a moment; one that does not goes on answering while this process is stopped
/// no more than now.
const PATIENCE: Duration = Duration::from_secs(2);

/// A gate whose supervisor is a thread that lives as long as any process behind it.
#[derive(Debug)]
pub struct Gate {
    orders: Sender<Order>,
    wake: PipeWriter,
    calls: OwnedFd,
}

impl Gate {
    /// `process` is the first one behind it; `handed` are the sockets that it has already. One that `waits` is closed until `Open`.
    pub fn keep(
        calls: OwnedFd,
        generation: Generation,
        process: u32,
        shelf: Arc<Shelf>,
        handed: &[Arc<Listener>],
        waits: bool,
        tell: impl Fn(Seen) + Send + 'static,
    ) -> io::Result<Gate> {
        let (orders, inbox) = channel();
        let (woken, wake) = io::pipe()?;
        let arriving = Calls::new(calls.try_clone()?);
        let mut program = Supervised::new(now(), arriving, generation, process, shelf, waits, Box::new(tell));
        program.is_handed(now(), handed);
        // Nobody waits to wake it: where the pipe is full, it will be awake.
        rustix::io::ioctl_fionbio(&wake, true)?;
        thread::Builder::new().spawn(move || Supervisor::new(program).run(&inbox, woken))?;
        Ok(Gate { orders, wake, calls })
    }

    /// Before this process is stopped: calls that wait for connections are handed to the kernel, and the supervisor answers no more.
    /// Returns where the others arrive.
    pub fn leave(&self) -> io::Result<BorrowedFd<'_>> {
        let (done, doing) = io::pipe()?;
        self.order(Order::Leave(Arc::new(doing)));
        if !process::wait_at_most(&done, PATIENCE) {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        Ok(self.calls.as_fd())
    }

    /// A supervisor whose processes have all ended hears nothing, which is as well.
    pub fn order(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            (&self.wake).write_all(&[0]).ok();
        }
    }
}
