//! A process that keeps its number: it has an interim process serve, becomes the new program in place, and serves again.
//! Never lives here: everything that is the same for one that does not (`perform`).

use crate::control::peer::Peer;
use crate::control::perform::GRACE;
use crate::control::succession::{Input, Stage};
use crate::control::{Control, now};
use crate::inherit::given::Inheritance;
use crate::inherit::spawn;
use crate::upstream::complain;
use crate::wire::{HOTRUN_INTERIM, LISTEN_PID};
use crate::{PidMode, sys};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;

impl Control {
    /// This process serves: the one that kept the sockets served may leave.
    pub(crate) fn relieve_interim(&mut self) {
        if let Some(interim) = &mut self.interim {
            // One that is gone has left already.
            let _ = interim.holder.drain();
            interim.kill_at = Some(now() + self.settings.pace.drain_timeout + GRACE);
        }
    }

    pub(crate) fn interim_ended(&mut self) {
        if let Some(interim) = &self.interim {
            let _ = sys::reap(interim.pidfd());
        }
        self.interim = None;
        self.state.hold(false);
        self.input(Input::Confirmed);
    }

    /// A stop that comes while this process waits to become its successor is for the whole service, which the other one is.
    pub(crate) fn stop_interim(&mut self) {
        let waits = self.settings.pid_mode == PidMode::KeepPid && self.succession.stage() == Stage::Handed;
        if waits && !self.stop_passed_on {
            (self.stays, self.stop_passed_on) = (true, true);
            // What that one has not asked for is still this one's to empty.
            self.register.release(&self.state, |entry| entry.taken);
            self.hurry_the_interim();
        }
    }

    /// Says stop to the process that serves for this one; for the second time, it is in a hurry.
    pub(crate) fn hurry_the_interim(&mut self) {
        if self.settings.pid_mode == PidMode::KeepPid {
            for peer in self.successor.iter().chain(&self.interim) {
                // One that is gone has left already.
                let _ = peer.holder.stop();
            }
        }
    }

    /// As above, where this process has returned, and does not serve yet.
    pub(crate) fn leave_the_stop_to_the_interim(&mut self) {
        if let Some(interim) = self.interim.as_mut().filter(|interim| interim.kill_at.is_none()) {
            self.state.admit_only(&[]);
            self.state.shut();
            self.register.release(&self.state, |_| true);
            let _ = interim.holder.stop();
            interim.kill_at = Some(now() + 2 * self.settings.pace.drain_timeout + GRACE);
        }
    }

    /// Everything is finished here, the successor serves, and the number of this process must not end: it becomes the
    /// program itself, and serves again.
    pub(crate) fn become_the_successor_if_due(&mut self) {
        let due = self.settings.pid_mode == PidMode::KeepPid && self.succession.stage() == Stage::Handed;
        // Children on their way out would be nobody's to wait for.
        if !due || self.stays || !self.state.is_finished() || !self.children.is_empty() {
            return;
        }
        let Some(successor) = &self.successor else { return };
        let Err(error) = self.exec(successor);
        // The other one serves, and this process stays as whoever watches it knows it, until the other one ends.
        let name = self.settings.program.name().display();
        complain(format_args!(
            "cannot start {name} in the place of this process: {error}; process {} serves",
            successor.pid
        ));
        self.stays = true;
    }

    fn exec(&self, successor: &Peer) -> io::Result<std::convert::Infallible> {
        let program = &self.settings.program;
        let found = program.find()?;
        let mut inheritance = Inheritance::gather(&self.register, &self.upstream)?;
        for (name, socket) in &successor.offered {
            inheritance.add(name.clone(), socket.try_clone()?);
        }
        let interim = format!("{}:{}", inheritance.channel_number(), successor.pid);
        let mut variables =
            vec![(HOTRUN_INTERIM, OsString::from(interim)), (LISTEN_PID, std::process::id().to_string().into())];
        variables.extend(self.manager_variables());
        let image = inheritance.image(program, &found, successor.generation + 1, variables)?;
        let descriptors = inheritance.descriptors(successor.holder.as_fd());
        // On a thread of its own, whose descriptors are its own, too: where there is no way, this one goes on with what it has.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || spawn::in_place(&image, &descriptors))?;
            let panicked = |_| Err(io::Error::other("the thread that was to do it has panicked"));
            thread.join().unwrap_or_else(panicked)
        })
    }
}
