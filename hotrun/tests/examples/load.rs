//! Clients that go on asking, and count as lost whatever is not answered.

use crate::LONG;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

/// One connection that questions are asked over.
pub trait Client: Send + Sized + 'static {
    fn connect(address: SocketAddr) -> Self;

    /// `None`: the server has closed the connection instead of any answer.
    fn ask(&mut self) -> Option<Answer>;
}

pub struct Answer {
    pub generation: u32,
    /// The server says that it will close the connection.
    pub last: bool,
}

/// A client that goes on asking until it is told to end; it panics where a question is lost.
pub struct Load {
    generations: Receiver<u32>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// With a new connection for each question.
pub fn fresh<C: Client>(address: SocketAddr) -> Load {
    Load::start(move || first(&mut C::connect(address)).generation)
}

/// With one connection for as long as the server keeps it. One that has been used may end between two answers, and the
/// question is asked again (RFC 9112, 9.3.1; RFC 9113, 6.8); it must end so, and not by a reset.
pub fn kept<C: Client>(address: SocketAddr) -> Load {
    let mut kept: Option<C> = None;
    Load::start(move || {
        if let Some(answer) = kept.as_mut().and_then(Client::ask) {
            if answer.last {
                kept = None;
            }
            return answer.generation;
        }
        let mut client = C::connect(address);
        let answer = first(&mut client);
        kept = Some(client).filter(|_| !answer.last);
        answer.generation
    })
}

fn first(client: &mut impl Client) -> Answer {
    client.ask().unwrap_or_else(|| panic!("a connection has ended without an answer"))
}

impl Load {
    fn start(mut ask: impl FnMut() -> u32 + Send + 'static) -> Load {
        let (answered, generations) = channel();
        let end = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let end = Arc::clone(&end);
            move || while !end.load(Ordering::Relaxed) && answered.send(ask()).is_ok() {}
        });
        Load { generations, end, thread: Some(thread) }
    }

    fn next(&self) -> u32 {
        self.generations.recv_timeout(LONG).unwrap_or_else(|error| panic!("no answers any more: {error}"))
    }

    /// Waits until that generation answers.
    pub fn reaches(&self, generation: u32) {
        while self.next() != generation {}
    }

    /// No other generation answers from now on.
    pub fn stays(&self, generation: u32) {
        while self.generations.try_recv().is_ok() {}
        // One answer may have been on its way to the channel.
        self.next();
        for _ in 0..20 {
            assert_eq!(self.next(), generation);
        }
    }

    pub fn end(mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Before the server is killed, so that the first thing that fails is the only one.
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
