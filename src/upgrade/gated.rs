//! The gate of one generation and what was seen at it.
//! Never lives here: the gate itself (`intercept`), and what follows from what is seen (`generations`).

use super::intercept::{Gate, Order, Patience, Which};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

#[derive(Debug)]
pub struct Gated {
    gate: Gate,
    /// It takes connections past its gate.
    pub blind: bool,
    /// Addresses that it has asked for in vain.
    pub refused: BTreeSet<SocketAddr>,
    /// It is led to its end here.
    drains: bool,
    /// It has bound an address for itself, and one that it was handed, too.
    bound: bool,
    bound_handed: bool,
    /// It has asked for a connection on one that it was handed.
    took: bool,
}

impl Gated {
    pub fn new(gate: Gate) -> Gated {
        let (blind, drains, bound, bound_handed, took) = (false, false, false, false, false);
        Gated { gate, blind, refused: BTreeSet::new(), drains, bound, bound_handed, took }
    }

    /// This process is about to be stopped. Returns where somebody else may answer.
    pub fn leave(&self) -> io::Result<BorrowedFd<'_>> {
        self.gate.leave()
    }

    pub fn come_back(&self) {
        self.gate.order(Order::Return);
    }

    /// It listens on a socket, which it has bound itself, or found open, and which was held before or was not.
    pub fn listens(&mut self, bound: bool, is_held: bool) {
        self.bound |= bound;
        self.bound_handed |= bound && is_held;
        self.took |= !bound;
    }

    /// Whether it has bound its addresses and taken none of the sockets that it was handed. One that is going to say READY may say so
    /// before it asks for connections.
    pub fn binds_instead(&self, says_ready: bool) -> bool {
        !self.took && (self.bound_handed || self.bound && !says_ready)
    }

    pub fn open(&self) {
        self.gate.order(Order::Open);
    }

    pub fn close(&self, which: Which) {
        self.gate.order(Order::Close(which));
    }

    /// Where not all of its connections are seen, it has to finish them itself: then it is only given no more of them.
    pub fn drain(&mut self, which: Which, patience: Patience, all_seen: bool) {
        self.drains = all_seen;
        self.gate.order(if all_seen { Order::Drain(which, patience) } else { Order::Close(which) });
    }

    /// While it drains: these sockets are another's, too.
    pub fn pass_on(&self, taken: &[u64]) {
        if self.drains {
            self.gate.order(Order::Also(taken.to_vec()));
        }
    }

    /// While it drains: it is not waited for by clients of its own any more.
    pub fn hurry(&self) {
        if self.drains {
            self.gate.order(Order::Drain(Which::All, Patience::Short));
        }
    }

    /// Whether what is left of its connections is being ended: it says when that is done.
    pub fn end(&mut self) -> bool {
        let drains = std::mem::take(&mut self.drains);
        // One that was started in vain is given no connection on its way out.
        self.gate.order(if drains { Order::End } else { Order::Close(Which::All) });
        drains
    }
}
