//! How it is noticed that a generation is ready: it says so, it answers, it is seen to take connections, or it has lived long enough.
//! Never lives here: what follows from it (`handover`), and what is seen at a gate (`intercept`).

use super::Generation;
use super::generation::Started;
use super::probe::Probe;
use super::proc;
use super::program::Linked;
use super::sockets::Held;
use super::stage::millis;
use crate::config::{Config, Ready};
use crate::report::{HandOver, Note, Notice};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a program that can tell nothing of itself must have lived to count as ready.
const ALIVE: Duration = Duration::from_millis(500);
/// From the start to the first look; what listens at two in a row is no port that was only tried.
const FIRST_LOOK: Duration = Duration::from_millis(25);
/// How long a program that cannot listen, by what it is linked with, lives until it counts as ready.
const SOCKETLESS: Duration = Duration::from_secs(2);

/// What is asked, and where.
pub type Question = (Probe, Vec<SocketAddr>);

#[derive(Debug)]
pub struct Readiness {
    ready: Ready,
    /// Whether the programs of this package can say READY=1.
    notifies: bool,
    /// How long a program that could bind is waited for until it counts as one without sockets.
    patience: Duration,
    /// Whether the program that was ready last had no sockets at all.
    socketless: bool,
}

impl Readiness {
    pub fn new(config: &Config, linked: Linked) -> Readiness {
        let (ready, patience) = (config.upgrade.ready.clone(), config.upgrade.ready_timeout / 2);
        Readiness { ready, notifies: linked.notifies, patience, socketless: false }
    }

    pub fn is_auto(&self) -> bool {
        self.ready == Ready::Auto
    }

    /// Whether READY is believed, where it is said.
    pub fn takes_its_word(&self) -> bool {
        matches!(self.ready, Ready::Auto | Ready::Notify)
    }

    /// Whether the program is expected to say READY.
    pub fn is_told(&self) -> bool {
        self.ready == Ready::Notify || self.ready == Ready::Auto && self.notifies
    }

    /// Whether a program of that way has to take connections before it is ready: a probe that asks for an answer is a client as any other.
    pub fn needs_connections(&self, way: HandOver) -> bool {
        match &self.ready {
            Ready::Http(_) => true,
            Ready::Accept => way == HandOver::Library,
            Ready::Auto | Ready::Notify | Ready::Delay(_) => false,
        }
    }

    /// One has become ready.
    pub fn got_ready(&mut self, started: &Started) {
        self.socketless = matches!(started.way, HandOver::Bind | HandOver::StopAndStart)
            && started.has_no_listener()
            && proc::listening(started.processes.pid()).is_empty();
    }

    pub fn has_sockets(&mut self) {
        self.socketless = false;
    }

    /// Sees to it that readiness is noticed, by the first means that this program has: says what it is to be asked.
    pub fn begin(&self, now: Instant, started: &mut Started, addresses: Vec<SocketAddr>) -> Option<Question> {
        let gated = started.gate.is_some();
        let mut look_in = |time: Duration| {
            started.look_at = Some(now + time);
            None
        };
        let probe = match (&self.ready, started.way) {
            (Ready::Notify, _) => return None,
            // It is a program without sockets, as the one before, or is not known yet.
            (Ready::Auto, HandOver::Bind) if gated && addresses.is_empty() => return look_in(FIRST_LOOK),
            (Ready::Auto, HandOver::ListenFds) if gated && self.notifies => return None,
            // Only what listens for TCP is seen to accept.
            (Ready::Auto, HandOver::ListenFds) if gated && addresses.is_empty() => return look_in(ALIVE),
            (Ready::Auto | Ready::Accept, _) if gated => return None,
            // It says so itself.
            (Ready::Auto, HandOver::Library) => return None,
            (Ready::Auto, HandOver::ListenFds) if self.notifies => return None,
            (Ready::Delay(delay), _) => return look_in(*delay),
            // Its calls are not seen.
            (Ready::Auto | Ready::Accept | Ready::Http(_), HandOver::StopAndStart | HandOver::Bind) if !gated => {
                return look_in(FIRST_LOOK);
            }
            // Until it has bound an address there is none to ask at.
            (Ready::Http(_), HandOver::Bind) if gated && addresses.is_empty() => return None,
            (Ready::Auto | Ready::Accept, _) => Probe::Accept,
            (Ready::Http(path), _) => Probe::Http(path.clone()),
        };
        match (addresses.is_empty(), started.way) {
            (false, _) => Some((probe, addresses)),
            (true, HandOver::Library) => None,
            (true, HandOver::ListenFds | HandOver::Bind | HandOver::StopAndStart) => look_in(ALIVE),
        }
    }

    /// What it is asked once it has bound a socket: a first generation has no address to be asked at before.
    pub fn when_bound(&self, started: &Started, held: &Held) -> Option<Question> {
        let probe = match &self.ready {
            Ready::Http(path) => Probe::Http(path.clone()),
            // Its first accept is seen.
            Ready::Accept if started.is_seen() => return None,
            Ready::Accept => Probe::Accept,
            Ready::Auto | Ready::Notify | Ready::Delay(_) => return None,
        };
        let bound = started.sockets.offered.iter().filter_map(|(_, end)| Some(end.tcp()?.address));
        // All of them: which one answers what is asked is for the probe to find out.
        let addresses: Vec<_> = bound.chain(held.tcp_addresses()).collect();
        (!addresses.is_empty()).then_some((probe, addresses))
    }

    /// Whether it is ready as it has asked for a connection, on each of its sockets or on some: where nothing better was promised.
    pub fn when_it_accepts(
        &self,
        now: Instant,
        started: &mut Started,
        (all, first): (bool, bool),
        is_starting: bool,
        held: &Held,
    ) -> bool {
        match self.ready {
            Ready::Accept | Ready::Auto => {}
            Ready::Notify | Ready::Http(_) | Ready::Delay(_) => return false,
        }
        let says_it = self.notifies && self.ready == Ready::Auto;
        let may_follow = match started.way {
            HandOver::ListenFds if says_it && !started.binds_instead(self.is_told()) => return false,
            // It need not say so when nobody else has asked it to.
            HandOver::Bind | HandOver::ListenFds if says_it && is_starting => true,
            // The others are about to follow; one on which nobody ever accepts is not waited for.
            HandOver::Library | HandOver::ListenFds | HandOver::Bind | HandOver::StopAndStart => {
                !(all && has_all(started, held))
            }
        };
        if may_follow && first && is_starting {
            started.look_at = Some(now + ALIVE);
        }
        !may_follow
    }

    /// It has closed a socket, while it is starting: it may only have tried whether it can have it.
    pub fn when_it_closes(&self, now: Instant, started: &mut Started) {
        if self.is_looked_at(started) {
            started.look_at = Some(now);
        }
    }

    /// Its connections are not seen any more, while it is starting.
    pub fn when_blind(&self, now: Instant, started: &mut Started) {
        if matches!(self.ready, Ready::Auto | Ready::Accept) {
            started.look_at = Some(now + ALIVE);
        }
    }

    /// The time has come to look whether it is ready.
    pub fn look(
        &self,
        now: Instant,
        (generation, started): (Generation, &mut Started),
        is_starting: bool,
        held: &Held,
        news: &mut Vec<Notice>,
    ) -> bool {
        started.look_at = None;
        // One that has bound a socket, and one whose predecessor had one, will ask for a connection in time.
        let has_where = !started.sockets.listens.is_empty() || !held.tcp_addresses().is_empty();
        let will_ask = started.is_seen() && !started.sockets.accepts && has_where;
        if self.ready == Ready::Auto && will_ask {
            return false;
        }
        if self.is_looked_at(started) {
            return is_starting && self.is_found_ready(now, (generation, started), held, news);
        }
        // What it accepts on is its own, or what it was handed: then it says when it is ready.
        let says_it = self.ready == Ready::Auto && started.way == HandOver::ListenFds && self.notifies;
        !(says_it && started.is_seen() && !started.binds_instead(self.is_told()))
    }

    /// Whether no call of it tells whether it serves: it has no gate, or has bound nothing there. It is looked at until it listens, or has
    /// long enough not done so to have no sockets at all.
    fn is_looked_at(&self, started: &Started) -> bool {
        let binds = matches!(started.way, HandOver::StopAndStart | HandOver::Bind)
            && started.sockets.listens.is_empty()
            && !started.is_blind();
        let by_socket = matches!(self.ready, Ready::Auto | Ready::Accept | Ready::Http(_));
        binds && (self.ready == Ready::Auto || by_socket && started.gate.is_none())
    }

    fn is_found_ready(
        &self,
        now: Instant,
        (generation, started): (Generation, &mut Started),
        held: &Held,
        news: &mut Vec<Notice>,
    ) -> bool {
        let seen = proc::listening(started.processes.pid());
        // What is held is told of by its gate, which may be behind what is seen here.
        let is_held = |socket: &u64| started.gate.is_some() && held.shelf.find(|held| held.inode == *socket).is_some();
        let stays = seen.intersection(&started.sockets.seen).any(|socket| !is_held(socket));
        started.sockets.seen = seen;
        let age = now.saturating_duration_since(started.at);
        let is_ready = stays || self.has_no_sockets(generation, started, age, news);
        if !is_ready {
            started.look_at = Some(now + (age / 4).clamp(FIRST_LOOK, ALIVE));
        }
        is_ready
    }

    /// A server that reads a database before it binds is not ready, while a worker has to be some time.
    fn has_no_sockets(
        &self,
        generation: Generation,
        started: &mut Started,
        age: Duration,
        news: &mut Vec<Notice>,
    ) -> bool {
        let was_refused = started.gate.as_ref().is_some_and(|gate| !gate.refused.is_empty());
        if self.ready != Ready::Auto || !started.sockets.seen.is_empty() || was_refused {
            return false;
        }
        // As the one before it.
        if self.socketless {
            return age >= ALIVE;
        }
        if age < SOCKETLESS.min(self.patience) {
            return false;
        }
        if !started.can_listen() {
            return true;
        }
        if age < self.patience {
            return false;
        }
        news.push(Note::NoSockets { generation, within: millis(self.patience) }.into());
        true
    }
}

/// Whether it listens wherever the one before it did: if not, it may be about to.
fn has_all(started: &Started, held: &Held) -> bool {
    let mut wanted = held.iter().filter(|socket| socket.wanted).filter_map(|socket| socket.end.tcp());
    wanted.all(|held| started.sockets.listens.contains(&held.inode))
}
