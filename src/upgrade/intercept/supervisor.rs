//! The supervisor of a program behind a gate (seccomp_unotify(2) calls it so): a thread that answers its calls in the order in which they
//! come, and leads its connections to their end when it is told to.
//! Never lives here: what is done with a call (`binds`, `accepts`).

use super::accepts::Accepts;
use super::binds::Binds;
use super::draining::{Draining, Looked};
use super::supervised::Supervised;
use super::{Blind, Order, Seen, Which};
use crate::process::events_of;
use crate::process::seccomp::{Call, What};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

pub struct Supervisor {
    program: Supervised,
    binds: Binds,
    accepts: Accepts,
    drain: Option<Draining>,
    /// Whether somebody else answers.
    away: bool,
    /// Whether nobody is left to take orders from.
    alone: bool,
}

impl Supervisor {
    pub fn new(program: Supervised) -> Supervisor {
        let (binds, accepts) = (Binds::default(), Accepts::default());
        Supervisor { program, binds, accepts, drain: None, away: false, alone: false }
    }

    /// Until the last process behind the gate has ended.
    pub fn run(mut self, inbox: &Receiver<Order>, mut woken: PipeReader) {
        while self.turn(inbox, &mut woken) {}
    }

    /// Waits for what comes next, and does what it asks for. Says whether any process is left behind the gate.
    fn turn(&mut self, inbox: &Receiver<Order>, woken: &mut PipeReader) -> bool {
        let waiting = self.accepts.waited_for(&self.program);
        let wanted = if self.away { PollFlags::empty() } else { PollFlags::POLLIN };
        let calls = || PollFd::new(self.program.calls.as_fd(), wanted);
        // The end of a closed pipe is told again and again, whatever is wanted: the calls stand in its place then.
        let orders = if self.alone { calls() } else { PollFd::new(woken.as_fd(), PollFlags::POLLIN) };
        let mut fds = vec![calls(), orders];
        fds.extend(waiting.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        let events = events_of(fds, self.timeout());
        // Orders first: a gate that is closed lets nothing more through.
        if !self.alone && !events[1].is_empty() {
            // A byte an order: what is left of them wakes once more, for nothing.
            drop(woken.read(&mut [0; 64]));
            self.alone = self.take_orders(inbox);
        }
        if events[0].contains(PollFlags::POLLIN) {
            // From an order to leave on it is the guard's to answer: here it would wait until this process goes on.
            if !self.away
                && let Ok(Some(call)) = self.program.calls.next()
            {
                self.answer(now(), &call);
            }
        } else if events[0].contains(PollFlags::POLLHUP) {
            return false;
        }
        for (listener, events) in waiting.iter().zip(&events[2..]) {
            if !events.is_empty() {
                self.accepts.serve(now(), &mut self.program, listener);
            }
        }
        self.tick(now());
        true
    }

    /// Whether there is nobody left who could give any.
    fn take_orders(&mut self, inbox: &Receiver<Order>) -> bool {
        loop {
            match inbox.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    // The generation has ended. What it has left behind is given nothing more, and looked at no more.
                    self.program.is_over();
                    self.drain = None;
                    return true;
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Close(which) => self.close(which),
            Order::Also(taken) => self.program.shut_also(taken),
            Order::Open => {
                self.drain = None;
                self.program.open();
            }
            Order::Drain(which, patience) => {
                self.program.shut(which);
                // Before it is told: a client that comes after that is none of this generation's at any of its sockets.
                self.program.retire();
                self.drain = Some(Draining::begin(now(), self.drain.take(), &self.program, patience));
                (self.program.tell)(Seen::Closed);
            }
            Order::End => {
                self.close(Which::All);
                if let Some(drain) = self.drain.take() {
                    (self.program.tell)(drain.end(&self.program));
                }
                (self.program.tell)(Seen::Ended);
            }
            // Dropped, the pipe tells that it is done.
            Order::Leave(_done) => {
                self.away = true;
                self.program.leave();
                self.accepts.leave(&self.program);
            }
            Order::Return => {
                self.away = false;
                self.program.knock_soon(now());
            }
        }
    }

    fn close(&mut self, which: Which) {
        self.program.shut(which);
        (self.program.tell)(Seen::Closed);
    }

    fn answer(&mut self, now: Instant, call: &Call) {
        let program = &mut self.program;
        match call.what {
            What::Bind { fd, address, length } => self.binds.bind(program, call, (fd, address, length)),
            What::Listen { fd, backlog } => self.binds.listen(now, program, call, (fd, backlog)),
            What::Accept { fd, address, length, flags } => {
                self.accepts.accept(now, program, call, (fd, address, length, flags));
            }
            What::IoUring => {
                program.calls.proceed(call.id);
                program.blind(Blind::IoUring);
            }
            What::Other => program.calls.proceed(call.id),
        }
    }

    fn timeout(&self) -> PollTimeout {
        let drain = self.drain.as_ref().map(|drain| drain.next);
        let deadlines = self.program.deadline().into_iter().chain(self.accepts.deadline()).chain(drain);
        let Some(first) = deadlines.min() else { return PollTimeout::NONE };
        // A part of a millisecond is waited for whole, not in circles.
        let millis = first.saturating_duration_since(now()).as_micros().div_ceil(1000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }

    fn tick(&mut self, now: Instant) {
        self.accepts.tick(now, &self.program);
        self.program.tick(now, self.away);
        if self.drain.as_ref().is_some_and(|drain| drain.next <= now) {
            self.look();
        }
    }

    fn look(&mut self) {
        let retiring = self.program.retire();
        let Some(drain) = &mut self.drain else { return };
        let began = now();
        let look = drain.look(&self.program);
        drain.rest_since(began, now());
        match look {
            // Somebody may stand in a queue that is about to be shut.
            Looked::Nothing if retiring => {}
            Looked::Nothing if !self.program.is_shut() => self.program.shut(Which::All),
            Looked::Nothing => {
                self.drain = None;
                (self.program.tell)(Seen::Drained);
            }
            Looked::News(seen) => (self.program.tell)(seen),
            Looked::NoNews => {}
        }
    }
}

#[allow(clippy::disallowed_methods)] // An edge: polls for the kernel, which tells when it has something.
pub fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
