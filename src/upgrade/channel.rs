//! What is told to a program by the library, if it turns out to have it.
//! Never lives here: the channel itself, which is the library's (`hotrun::holder`), and what the program says (`hear`).

use hotrun::holder::Holder;
use std::io;
use std::sync::Arc;

/// What a program with the library is told.
pub type Order = fn(&Holder) -> io::Result<()>;

#[derive(Debug)]
pub struct Channel {
    holder: Arc<Holder>,
    said_hello: bool,
    /// What it could not be told last, as it has not said hello: it is when it does.
    untold: Option<Order>,
}

impl Channel {
    pub fn new(holder: Arc<Holder>) -> Channel {
        Channel { holder, said_hello: false, untold: None }
    }

    pub fn said_hello(&self) -> bool {
        self.said_hello
    }

    /// It is there, and is told what it could not be told before: it may have been ready by another's word, or by time.
    pub fn hello(&mut self) {
        self.said_hello = true;
        if let Some(order) = self.untold.take() {
            // One that is gone needs none.
            order(&self.holder).ok();
        }
    }

    /// Whether it was told.
    pub fn tell(&mut self, order: Order) -> bool {
        if self.said_hello {
            // One that is gone, or hangs, is heard of by its end or its deadline.
            return order(&self.holder).is_ok();
        }
        self.untold = Some(order);
        false
    }

    /// A socket of that name is no longer held.
    pub fn release(&self, name: &str) {
        if self.said_hello {
            self.holder.release(name).ok();
        }
    }
}
