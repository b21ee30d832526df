//! Whether a program takes what it was handed through LISTEN_FDS, or binds for itself.
//! Never lives here: what is seen at a gate (`gated`).

use super::generation::Started;
use super::{Generation, Room, Takes};
use crate::config::Ready;
use crate::report::HandOver;

/// What a program was seen to do about its sockets.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// It has bound an address for itself, and one that it was handed, too.
    bound: bool,
    bound_handed: bool,
    /// It has asked for a connection on one that it was handed.
    took: bool,
}

impl Own {
    pub(super) fn saw(&mut self, bound: bool, is_held: bool) {
        self.bound |= bound;
        self.bound_handed |= bound && is_held;
        self.took |= !bound;
    }
}

impl Room {
    /// Whether it takes none of what it was handed. One that says READY may say so before it asks for connections.
    pub(super) fn binds_instead(&self, started: &Started) -> bool {
        let own = &started.own;
        started.by == HandOver::ListenFds && !own.took && (own.bound_handed || own.bound && !self.says_ready())
    }

    fn says_ready(&self) -> bool {
        self.ready == Ready::Notify || self.ready == Ready::Auto && self.notifies
    }

    /// It is ready: what it was handed and has not taken by now is nobody's.
    pub(super) fn settle_handed(&mut self, generation: Generation) {
        let Some(started) = self.generations.get(&generation) else { return };
        let instead = self.binds_instead(started);
        let is_seen = started.gate.is_some() && !started.blind && started.accepts && !self.says_ready();
        let takes_all = started.takes == Takes::ListenFds && !instead && !is_seen;
        let Some(started) = self.generations.get_mut(&generation) else { return };
        started.accepts |= started.gate.is_some();
        if takes_all {
            // It has given its word, and not yet asked.
            for socket in self.held.iter() {
                started.taken.insert(socket.name.clone());
                started.listens.extend(socket.end.tcp().map(|listener| listener.inode));
            }
        }
        if instead {
            started.by = HandOver::Bind;
            self.once(
                "listen",
                "this program binds for itself and takes none of the sockets of `listen` (LISTEN_FDS): it is given the held ones \
                 when it binds, and `listen` can be left out"
                    .to_owned(),
            );
        }
    }
}
