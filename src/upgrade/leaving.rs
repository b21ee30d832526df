//! How a generation is asked to leave: at its gate, by the library, or by signals.
//! Never lives here: when (`handover`).

use super::{Generation, Room, proc};
use crate::report::HandOver;
use hotrun::holder::Holder;
use nix::sys::signal::Signal;
use std::time::Instant;

impl Room {
    pub(super) fn drain(&mut self, now: Instant, generation: Generation) {
        if self.drain_at_gate(generation) {
            return;
        }
        let Some(started) = self.generations.get_mut(&generation) else { return };
        if started.said_hello && started.holder.drain().is_ok() {
            return;
        }
        started.untold = Some(Holder::drain);
        if started.by == HandOver::StopAndStart
            && !self.said_binds_for_itself
            && let Some(address) = proc::listens(started.running.pid())
        {
            self.said_binds_for_itself = true;
            self.note(format!(
                "this program binds {address} itself, so it is stopped before the new one starts, and clients are refused \
                 meanwhile. Use the hotrun library (four lines), or take LISTEN_FDS and set `listen`, and none will be"
            ));
        }
        // Its own way of stopping gracefully; it tells nobody when it stops accepting.
        self.ask_to_stop(now, generation);
        self.stopped_accepting(now, generation);
    }

    /// Its own way of stopping gracefully.
    pub(super) fn ask_to_stop(&mut self, now: Instant, generation: Generation) {
        let time = self.start.kill_timeout / 2;
        if let Some(started) = self.generations.get_mut(&generation)
            && !started.leaves_by_itself(now, time)
        {
            started.signal(Signal::SIGTERM);
        }
    }

    /// It has nothing left to finish, or no time.
    pub(super) fn terminate(&mut self, now: Instant, generation: Generation) {
        let time = self.start.kill_timeout / 2;
        if let Some(started) = self.generations.get_mut(&generation)
            && !started.leaves_by_itself(now, time)
        {
            started.signal_all(Signal::SIGTERM);
        }
    }

    /// Those that were to leave by themselves, and are still there.
    pub(super) fn ask_late_ones(&mut self, now: Instant) {
        for started in self.generations.values_mut() {
            if started.terminate_at.take_if(|at| *at <= now).is_some() {
                started.signal_all(Signal::SIGTERM);
            }
        }
    }

    pub(super) fn kill(&mut self, generation: Generation) {
        if let Some(started) = self.generations.get_mut(&generation) {
            started.signal_all(Signal::SIGKILL);
        }
    }
}
