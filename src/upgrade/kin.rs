//! What a generation has started and left behind: it has ended when the last of that has, which is asked to end when its own process
//! has ended. A program that goes into the background is told from one that ends.
//! Never lives here: which processes those are (`process::kin`).

use super::gate::{Order, Which};
use super::{Generation, Room, proc};
use crate::process::kin::{self, Kin};
use crate::report::clean::plain;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// How long those are waited for that were killed.
const KILLED: Duration = Duration::from_secs(2);

/// How the others of a generation are being ended, whose own process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They have until then.
    Asked(Instant),
    /// They were killed, and are waited for until then.
    Killed(Instant),
}

impl Ending {
    pub fn until(self) -> Instant {
        match self {
            Ending::Asked(until) | Ending::Killed(until) => until,
        }
    }
}

impl Room {
    /// The generation's own process has ended. Says whether others of it are waited for, which were started by it and have left its group;
    /// those that have not are killed with it.
    pub(super) fn waits_for_kin(&mut self, now: Instant, generation: Generation) -> bool {
        let timeout = self.start.kill_timeout;
        let unasked = [self.handover.current(), self.handover.starting()].contains(&Some(generation));
        let Some(started) = self.generations.get_mut(&generation) else { return false };
        let mut kin = started.descent.look();
        if unasked && started.ending.is_none() && started.running.has_ended_well() {
            started.background = kin.iter().find(|kin| is_in_background(kin, started.file)).map(in_background);
        }
        let went = started.background.is_some();
        kin.retain(|kin| !kin.is_of_group(started.running.pid()));
        let Some(first) = kin.first() else { return false };
        let name = plain(&kin::name(first.pid));
        let (signal, ending) = match started.ending {
            None => (Some(Signal::SIGTERM), Ending::Asked(now + timeout)),
            Some(Ending::Asked(until)) if until <= now => (Some(Signal::SIGKILL), Ending::Killed(now + KILLED)),
            Some(Ending::Killed(until)) if until <= now => return false,
            // Some may have been started only now.
            Some(ending @ Ending::Killed(_)) => (Some(Signal::SIGKILL), ending),
            Some(ending @ Ending::Asked(_)) => (None, ending),
        };
        let begins = started.ending.replace(ending).is_none();
        for kin in &kin {
            signal.inspect(|signal| kin.signal(*signal));
        }
        if begins {
            if let Some(gate) = &started.gate {
                gate.order(Order::Close(Which::All));
            }
            if !went {
                self.once("kin", format!("{name}, which generation {generation} has left behind, is ended with it"));
            }
        }
        true
    }

    /// Those whose own process has ended: what else there was of them may have ended, too.
    pub(super) fn look_at_kin(&mut self, now: Instant) {
        let ending = self.generations.iter().filter(|(_, started)| started.ending.is_some());
        for generation in ending.map(|(generation, _)| *generation).collect::<Vec<_>>() {
            self.exited(now, generation);
        }
    }

    /// Those that are asked to end have no more time.
    pub(super) fn hurry_kin(&mut self, now: Instant) {
        for ending in self.generations.values_mut().filter_map(|started| started.ending.as_mut()) {
            if let Ending::Asked(_) = ending {
                *ending = Ending::Asked(now);
            }
        }
    }

    pub(super) fn advise_foreground(&mut self) {
        self.once(
            "background",
            "a program that goes into the background cannot be followed, and is ended. Start it with the flag that such programs \
             have for staying in the foreground (`--foreground`, `--no-daemon`, `-F`, or `daemon off` in its configuration): `args` \
             passes it on"
                .to_owned(),
        );
    }
}

/// It serves, or is a copy of the program that has become nothing else.
fn is_in_background(kin: &Kin, program: Option<(u64, u64)>) -> bool {
    proc::runs(kin.pid, program) || proc::listens(kin.pid).is_some()
}

fn in_background(kin: &Kin) -> String {
    let listens = proc::listens(kin.pid).map_or(String::new(), |at| format!(", which listens on {at}"));
    format!("it has gone into the background as {}{listens}", plain(&kin::name(kin.pid)))
}
