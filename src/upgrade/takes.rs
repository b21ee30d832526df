//! How a program comes by its sockets: what the user says, else what the program itself is made of.
//! Never lives here: giving them (`generation`, `gated`, `library`).

use super::Room;
use super::action::Style;
use super::generation::Started;
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

    /// Whether the one that is there can go on serving until the next one does.
    pub(super) fn style(&self) -> Style {
        let there = self.handover.current().or(self.handover.starting()).and_then(|there| self.generations.get(&there));
        let hands_over = match there.map_or(self.takes, |there| there.takes) {
            Takes::Library => true,
            // One that takes connections unseen cannot be told to stop, nor can one be without a gate that has bound for itself.
            Takes::ListenFds => there.is_none_or(|there| !there.blind),
            Takes::Bind => there.is_none_or(Started::hands_over_at_gate),
            Takes::Nothing => false,
        };
        if self.overlap && hands_over { Style::Overlap } else { Style::StopFirst }
    }

    /// As `style`, where the program is known that comes next: one that binds for itself finds taken what is held for others.
    pub(super) fn style_for(&self, program: &Published) -> Style {
        if self.takes_of(program) == Takes::Nothing { Style::StopFirst } else { self.style() }
    }
}
