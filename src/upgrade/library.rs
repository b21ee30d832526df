//! What a program with the library says, and what becomes of the sockets it binds and asks for.
//! Never lives here: the channel itself, which is the library's (`hotrun::holder`).

use super::sockets::Endpoint;
use super::{Generation, Room, Takes, Told};
use crate::config::Ready;
use crate::report::{HandOver, Notice};
use std::time::Instant;

impl Room {
    pub(super) fn library_said(&mut self, now: Instant, generation: Generation, told: Told) {
        let Some(started) = self.generations.get_mut(&generation) else { return };
        match told {
            Told::Hello { .. } => {
                // Not known from the dependency graph, or there under another name.
                (started.takes, started.by) = (Takes::Library, HandOver::Library);
                started.said_hello = true;
                if let Some(order) = started.untold.take() {
                    // As it was ready by another's word, or by time. One that is gone needs none.
                    order(&started.holder).ok();
                }
                // It was only waited for, to see whether it would say this.
                if self.ready == Ready::Auto {
                    self.alive_at.remove(&generation);
                }
            }
            Told::Offer { name, socket } => {
                match Endpoint::new(socket) {
                    Ok(end) => started.offered.push((name, end)),
                    Err(error) => return self.note(format!("generation {generation}: its socket {name:?}: {error}")),
                }
                self.handover.bound(generation);
                self.adopt(generation);
                self.probe_what_is_bound(generation);
            }
            Told::Taken { name } => {
                started.taken.insert(name);
                self.adopt(generation);
            }
            Told::Ready => {
                started.accepts = true;
                self.adopt(generation);
                if matches!(self.ready, Ready::Auto | Ready::Notify) {
                    self.is_ready(now, generation);
                }
            }
            Told::Paused => self.stopped_accepting(now, generation),
            Told::Draining { live } => {
                let live = usize::try_from(live).unwrap_or(usize::MAX);
                self.handover.live(generation, live);
                if !started.said_draining && live > 0 {
                    self.out.push(Notice::Draining { generation, live, after: 0, limit: None });
                }
                started.said_draining = true;
                let actions = self.handover.leaves(now, generation);
                self.perform(now, actions);
                self.stopped_accepting(now, generation);
            }
            // The end of the process says the rest.
            Told::Closed => {}
            // A later version's.
            _ => {}
        }
    }

    /// The sockets of the generation that serves are the ones held: from the moment it says that it accepts, and whenever it
    /// asks for more.
    pub(super) fn adopt(&mut self, generation: Generation) {
        let current = self.handover.current() == Some(generation);
        let Some(started) = self.generations.get_mut(&generation).filter(|started| current && started.accepts) else {
            return;
        };
        let offered = std::mem::take(&mut started.offered);
        started.taken.extend(offered.iter().map(|(name, _)| name.clone()));
        let said = self.held.adopt(offered, &started.taken);
        self.out.extend(said.into_iter().map(|text| Notice::Note { text }));
    }

    /// When only the current generation is left, what it did not ask for is for nobody.
    pub(super) fn let_go(&mut self) {
        let Some(current) = self.handover.current().filter(|_| self.generations.len() == 1) else { return };
        // What it has just asked for is its own.
        if self.generations.get(&current).is_some_and(|started| !started.offered.is_empty()) {
            self.adopt(current);
        }
        for socket in self.held.settle() {
            // A gate that is just ending may still have it.
            if let Some(listener) = socket.end.tcp() {
                listener.shut_down();
            }
            if let Some(started) = self.generations.get(&current).filter(|started| started.said_hello) {
                started.holder.release(&socket.name).ok();
            }
            let name = if socket.name == socket.address { String::new() } else { format!(" ({})", socket.name) };
            self.note(format!("{}{name} is no longer wanted by the program: let go", socket.address));
        }
    }
}
