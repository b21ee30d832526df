//! What is told to a program by the library, if it turns out to have it.
//! Never lives here: the channel itself, which is the library's (`hotrun::holder`), and what the program says (`hear`).

use hotrun::holder::Holder;
use hotrun::wire::ToServer;
use std::sync::Arc;

#[derive(Debug)]
pub struct Channel {
    holder: Arc<Holder>,
    said_hello: bool,
    /// What it could not be told last, as it has not said hello: it is when it does.
    untold: Option<ToServer>,
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
        if let Some(message) = self.untold.take() {
            // One that is gone needs none.
            self.holder.tell(&message).ok();
        }
    }

    /// Whether it was told.
    pub fn tell(&mut self, message: ToServer) -> bool {
        if self.said_hello {
            // One that is gone, or hangs, is heard of by its end or its deadline.
            return self.holder.tell(&message).is_ok();
        }
        self.untold = Some(message);
        false
    }

    /// A socket of that name is no longer held.
    pub fn release(&self, name: &str) {
        if self.said_hello {
            self.holder.tell(&ToServer::Release { name: name.to_owned() }).ok();
        }
    }
}
