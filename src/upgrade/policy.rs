//! How programs come by their sockets, by what the user says, else by what each program is made of; and whether two of them may run at once.
//! Never lives here: giving them their sockets (`start`).

use super::action::Style;
use super::generation::Started;
use super::program::Linked;
use super::store::Published;
use crate::config::{Config, HandOff, Strategy};
use crate::report::HandOver;

#[derive(Debug)]
pub struct Policy {
    /// The way of this package's programs, but for those that are found to be others.
    way: HandOver,
    /// Whether the user has left it to this command.
    is_auto: bool,
    /// Whether addresses were configured.
    listens: bool,
    /// Whether programs are started behind a gate.
    gates: bool,
    overlap: bool,
}

impl Policy {
    pub fn new(config: &Config, linked: Linked) -> Policy {
        let (settings, listens) = (&config.upgrade, !config.listen.is_empty());
        let way = match settings.handoff {
            HandOff::Library => HandOver::Library,
            HandOff::ListenFds => HandOver::ListenFds,
            HandOff::None => HandOver::StopAndStart,
            HandOff::Bind => HandOver::Bind,
            HandOff::Auto if linked.library => HandOver::Library,
            HandOff::Auto if listens => HandOver::ListenFds,
            // Hot compile alone has nothing to hand over.
            HandOff::Auto if settings.strategy == Strategy::Restart => HandOver::StopAndStart,
            HandOff::Auto => HandOver::Bind,
        };
        let is_auto = settings.handoff == HandOff::Auto;
        let overlap = settings.overlap && settings.strategy == Strategy::Upgrade;
        Policy { way, is_auto, listens, gates: true, overlap }
    }

    pub fn stops_and_starts(&self) -> bool {
        self.way == HandOver::StopAndStart
    }

    /// A package that depends on the library may have programs that do not use it, and an edit may take its use out of one, on purpose or
    /// as code that is never reached. So each program is asked by itself, and tells nothing of the next.
    pub fn way_of(&self, program: &Published) -> HandOver {
        let expected = self.way == HandOver::Library && self.is_auto;
        if !expected || program.uses_library() {
            self.way
        } else if self.listens {
            HandOver::ListenFds
        } else if self.gates {
            HandOver::Bind
        } else {
            HandOver::StopAndStart
        }
    }

    pub fn has_gate(&self, way: HandOver) -> bool {
        self.gates && matches!(way, HandOver::ListenFds | HandOver::Bind)
    }

    /// Whether the one that is there can go on serving until the next one does.
    pub fn style(&self, there: Option<&Started>) -> Style {
        let hands_over = there.map_or(self.way != HandOver::StopAndStart, Started::hands_over);
        if self.overlap && hands_over { Style::Overlap } else { Style::StopFirst }
    }

    /// As `style`, where the program is known that comes next: one that binds for itself finds taken what is held for others.
    pub fn style_for(&self, program: &Published, there: Option<&Started>) -> Style {
        if self.way_of(program) == HandOver::StopAndStart { Style::StopFirst } else { self.style(there) }
    }

    /// One that serves has said hello, which tells something of the package.
    pub fn serves_with_library(&mut self) {
        if self.stops_and_starts() && self.is_auto {
            self.way = HandOver::Library;
        }
    }

    /// This system has no gates.
    pub fn without_gates(&mut self, of: HandOver) {
        self.gates = false;
        if of == HandOver::Bind && self.way == HandOver::Bind {
            self.way = HandOver::StopAndStart;
        }
    }

    pub fn gates(&self) -> bool {
        self.gates
    }
}
