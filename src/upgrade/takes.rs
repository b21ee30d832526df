//! How a program comes by its sockets: what the user says, else what the program itself is made of.
//! Never lives here: giving them (`generation`, `gated`, `library`).

use super::Room;
use super::store::Published;
use crate::config::HandOff;
use crate::report::HandOver;

/// How a program comes by its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Library,
    ListenFds,
    /// It binds for itself, at a gate.
    Bind,
    /// It binds for itself, or has none.
    Nothing,
}

impl Takes {
    pub fn told(self) -> HandOver {
        match self {
            Takes::Library => HandOver::Library,
            Takes::ListenFds => HandOver::ListenFds,
            Takes::Bind => HandOver::Bind,
            Takes::Nothing => HandOver::StopAndStart,
        }
    }
}

impl Room {
    /// A package that depends on the library may have programs that do not use it, and an edit may take its use out of one, on purpose or
    /// as code that is never reached. So each program is asked by itself, and tells nothing of the next.
    pub(super) fn takes_of(&self, program: &Published) -> Takes {
        let expected = self.takes == Takes::Library && self.start.handoff == HandOff::Auto;
        if !expected || program.uses_library() {
            self.takes
        } else if self.listens {
            Takes::ListenFds
        } else if self.gates {
            Takes::Bind
        } else {
            Takes::Nothing
        }
    }
}
