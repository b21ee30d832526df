//! The thread that hears a generation: by the library, by sd_notify(3), and its end.
//! Never lives here: what follows from it (`generations`).

use super::intercept::Seen;
use super::{Generation, Sink};
use crate::process::{Job, descriptors};
use hotrun::holder::{Holder, Said};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;

/// What is heard and seen of a generation.
#[derive(Debug)]
pub enum Heard {
    /// On the control channel.
    Library(Said),
    /// Something that is no message of the library.
    Foreign(String),
    /// `READY=1`, by sd_notify(3).
    Notified,
    /// It answers.
    Probed,
    /// At its gate.
    Gate(Seen),
    /// Its process has ended; nothing more is heard.
    Exited,
}

pub struct GenerationReader {
    pub generation: Generation,
    /// Where it may be spoken to.
    pub holder: Option<Arc<Holder>>,
    pub notify: UnixDatagram,
    pub notify_path: PathBuf,
    pub end: OwnedFd,
    pub job: Option<Arc<Job>>,
    pub sink: Sink,
}

impl GenerationReader {
    pub fn listen(mut self) {
        loop {
            // Nobody writes to the end of a process: asked for nothing, it keeps the place of what is not there.
            let nothing = || PollFd::new(self.end.as_fd(), PollFlags::empty());
            let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [
                self.holder.as_ref().map_or_else(nothing, |holder| wanted(holder.as_fd())),
                wanted(self.notify.as_fd()),
                wanted(self.end.as_fd()),
            ];
            // An interrupted call is repeated; no other error is possible for descriptors that are open.
            poll(&mut fds, PollTimeout::NONE).ok();
            let [said, notified, ended] = fds.map(|fd| fd.any().unwrap_or(false));
            if said && self.holder.is_some() {
                self.hear_library();
            } else if notified {
                self.hear_notification();
            } else if ended {
                break;
            }
        }
        std::fs::remove_file(&self.notify_path).ok();
        // Whether it was the user who has ended it is known before its end is.
        if let Some(job) = &self.job {
            job.hear_out();
        }
        (self.sink)(self.generation, Heard::Exited);
    }

    fn hear_library(&mut self) {
        let Some(holder) = &self.holder else { return };
        // A socket that comes with it would be lost (unix(7), MSG_CTRUNC).
        descriptors::make_room();
        let heard = match holder.receive() {
            Ok(Said::Closed) => {
                self.holder = None;
                return;
            }
            Ok(said) => Heard::Library(said),
            Err(error) => {
                self.holder = None;
                Heard::Foreign(error.to_string())
            }
        };
        (self.sink)(self.generation, heard);
    }

    /// The folder of the socket is for this user alone, and each generation has a socket of its own.
    fn hear_notification(&self) {
        let mut bytes = [0; 4096];
        let Ok(length) = self.notify.recv(&mut bytes) else { return };
        if bytes[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            (self.sink)(self.generation, Heard::Notified);
        }
    }
}
