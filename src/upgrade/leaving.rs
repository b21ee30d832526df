//! How a generation is asked to leave that does not hear of it by the library.
//! Never lives here: when (`handover`).

use super::{Generation, Room};
use nix::sys::signal::Signal;
use std::time::Instant;

impl Room {
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
