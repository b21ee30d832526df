//! The generations whose processes run, and the sockets that are held for them: does with both what the core wants, and finds out what the
//! core wants to know.
//! Never lives here: what becomes of a generation (`handover`).

use super::Generation;
use super::action::{Ended, Input, Roles, Style};
use super::generation::Started;
use super::hear::Heard;
use super::intercept::{Blind, Patience, Seen, Which};
use super::proc;
use super::processes::{End, Left};
use super::program::Linked;
use super::readiness::{Question, Readiness};
use super::sockets::{Endpoint, Held, Socket};
use super::start::Start;
use super::store::Published;
use crate::config::Config;
use crate::error::Result;
use crate::process::descriptors;
use crate::report::{HandOver, Note, Notice, Timing, Vintage};
use hotrun::holder::Said;
use hotrun::wire::ToServer;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::time::Instant;

pub struct Generations {
    pub held: Held,
    started: BTreeMap<Generation, Started>,
    readiness: Readiness,
    pub start: Start,
    /// What there is to tell the user, until the session takes it.
    pub news: Vec<Notice>,
}

impl Generations {
    pub fn new(config: &Config, linked: Linked, held: Held, start: Start) -> Generations {
        let listening = |socket: &Socket| {
            let (name, address) = (socket.name.clone(), socket.address.clone());
            Notice::Listening { name, address }
        };
        let news = held.iter().map(listening).collect();
        Generations { held, started: BTreeMap::new(), readiness: Readiness::new(config, linked), start, news }
    }

    pub fn get(&self, generation: Generation) -> Option<&Started> {
        self.started.get(&generation)
    }

    pub fn programs(&self) -> impl Iterator<Item = &Published> {
        self.started.values().map(|started| &started.program)
    }

    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = |started: &Started| started.look_at.into_iter().chain(started.processes.deadline()).min();
        self.started.values().filter_map(deadlines).min()
    }

    /// A program that cannot be asked to pause would go on accepting beside the new one.
    pub fn can_pause(&self) -> bool {
        !self.start.policy.stops_and_starts() && self.start.policy.gates()
    }

    /// How the next one is to take over; where it is known, that program.
    pub fn style(&self, roles: Roles, program: Option<&Published>) -> Style {
        let there = roles.current.or(roles.starting).and_then(|there| self.get(there));
        program.map_or_else(|| self.start.policy.style(there), |program| self.start.policy.style_for(program, there))
    }

    pub fn start(&mut self, now: Instant, roles: Roles, generation: Generation, program: Published) -> Result<()> {
        let way = self.start.policy.way_of(&program);
        self.forget_bound_for(way);
        self.held.beside_library(self.started.values().any(|started| started.way == HandOver::Library));
        let waits = roles.current.is_some() && !self.readiness.needs_connections(way);
        let mut started = self.start.run(generation, program, (way, waits), &self.held, &mut self.news)?;
        let question = self.readiness.begin(now, &mut started, self.held.tcp_addresses());
        self.started.insert(generation, started);
        self.ask(generation, question);
        Ok(())
    }

    fn ask(&mut self, generation: Generation, question: Option<Question>) {
        let (Some(question), Some(started)) = (question, self.started.get_mut(&generation)) else { return };
        if let Err(error) = self.start.probe(generation, started, question) {
            // Its readiness would never be heard of: its end is.
            started.processes.kill_group();
            self.news.push(Note::CannotProbe { generation, error: error.to_string() }.into());
        }
    }

    /// What a generation's threads have seen or heard.
    pub fn hear(&mut self, now: Instant, roles: Roles, generation: Generation, heard: Heard) -> Option<Input> {
        match heard {
            Heard::Library(said) => self.library_said(roles, generation, said),
            Heard::Foreign(why) => {
                self.news.push(Note::Foreign { generation, why }.into());
                None
            }
            Heard::Notified => self.readiness.takes_its_word().then_some(Input::Ready),
            Heard::Probed => Some(Input::Ready),
            Heard::Gate(seen) => self.gate_saw(now, roles, generation, seen),
            Heard::Exited => Some(Input::Exited),
        }
    }

    fn library_said(&mut self, roles: Roles, generation: Generation, said: Said) -> Option<Input> {
        let started = self.started.get_mut(&generation)?;
        match said {
            Said::Hello { .. } => {
                // Not known from the dependency graph, or there under another name.
                started.way = HandOver::Library;
                started.channel.hello();
                // It was only waited for, to see whether it would say this.
                if self.readiness.is_auto() {
                    started.look_at = None;
                }
                None
            }
            Said::Offer { name, socket } => {
                match Endpoint::new(socket) {
                    Ok(end) => started.sockets.offered.push((name, end)),
                    Err(error) => {
                        let error = error.to_string();
                        self.news.push(Note::SocketRefused { generation, name, error }.into());
                        return None;
                    }
                }
                self.adopt(roles, generation);
                self.ask_where_it_is_bound(generation);
                Some(Input::Bound)
            }
            Said::Taken { name } => {
                started.sockets.taken.insert(name);
                self.adopt(roles, generation);
                None
            }
            Said::Ready => {
                started.sockets.accepts = true;
                self.adopt(roles, generation);
                self.readiness.takes_its_word().then_some(Input::Ready)
            }
            Said::Paused => Some(Input::StoppedAccepting),
            Said::Draining { live } => {
                let live = usize::try_from(live).unwrap_or(usize::MAX);
                if !std::mem::replace(&mut started.told_draining, true) && live > 0 {
                    self.news.push(Notice::Draining { generation, live, after: 0, limit: None });
                }
                Some(Input::Leaves(live))
            }
            // The end of the process says the rest.
            Said::Closed => None,
            // A later version's.
            _ => None,
        }
    }

    fn gate_saw(&mut self, now: Instant, roles: Roles, generation: Generation, seen: Seen) -> Option<Input> {
        let is_starting = roles.starting == Some(generation);
        let started = self.started.get_mut(&generation)?;
        let gate = started.gate.as_mut()?;
        match seen {
            Seen::Listens { listener, bound } => {
                let name = self.held.name_of(&listener);
                gate.listens(bound, name.is_some());
                started.sockets.listens_on(listener, name);
                self.pass_on(roles);
                self.ask_where_it_is_bound(generation);
            }
            // It has asked for it again meanwhile.
            Seen::Closes { listener, given } if listener.times_given() != given => {}
            Seen::Closes { listener, given } => {
                started.sockets.closes(&listener, self.held.name_of(&listener).as_deref());
                if is_starting {
                    self.readiness.when_it_closes(now, started);
                }
                // Another generation may have it, and be about to serve.
                let is_used = self.started.values().any(|started| started.sockets.listens.contains(&listener.inode));
                let is_current = roles.current == Some(generation);
                if is_current && !is_used && self.held.close(&listener) && listener.shut_down_unless_given(given) {
                    self.news.push(Note::Closed { address: listener.address.to_string() }.into());
                }
            }
            Seen::Accepts { all } => {
                let first = !std::mem::replace(&mut started.sockets.accepts, true);
                self.adopt_while_it_serves(roles, generation);
                let started = self.started.get_mut(&generation)?;
                let ready = self.readiness.when_it_accepts(now, started, (all, first), is_starting, &self.held);
                return ready.then_some(Input::Ready);
            }
            Seen::Closed => return Some(Input::StoppedAccepting),
            Seen::Live { live, busy } => {
                if !std::mem::replace(&mut started.told_draining, true) {
                    self.news.push(Notice::Draining { generation, live, after: 0, limit: None });
                }
                return Some(Input::Live(Some(busy)));
            }
            Seen::Drained => return Some(Input::Drained),
            Seen::Ended => started.processes.terminate(now, self.start.kill_timeout / 2),
            Seen::Occupied { address, by } => {
                gate.refused.insert(address);
                self.news.push(Note::Occupied { address: address.to_string(), generation, by }.into());
            }
            Seen::Had { address } => drop(gate.refused.remove(&address)),
            Seen::Tied => self.news.push(Note::Tied.into()),
            Seen::Blind(why) => {
                gate.blind = true;
                if is_starting {
                    self.readiness.when_blind(now, started);
                }
                let error = match why {
                    Blind::IoUring => None,
                    Blind::Memory(error) => Some(error.to_string()),
                };
                self.news.push(Note::Blind { error }.into());
            }
            Seen::CannotLook(error) if descriptors::is_out(&error) => {
                self.news.push(Note::NoDescriptor { error: error.to_string() }.into());
                // How many there are is not known.
                return Some(Input::Live(None));
            }
            Seen::CannotLook(error) => self.news.push(Note::CannotLook { error: error.to_string() }.into()),
        }
        None
    }

    fn ask_where_it_is_bound(&mut self, generation: Generation) {
        let question = self.get(generation).and_then(|started| self.readiness.when_bound(started, &self.held));
        self.ask(generation, question);
    }

    /// The generations that have to be looked at by now, and are found to be ready.
    pub fn look(&mut self, now: Instant, starting: Option<Generation>) -> Vec<Generation> {
        let due = self.started.iter_mut().filter(|(_, started)| started.look_at.is_some_and(|at| at <= now));
        let is_ready = |(generation, started): (&Generation, &mut Started)| {
            let is_starting = starting == Some(*generation);
            let ready = self.readiness.look(now, (*generation, started), is_starting, &self.held, &mut self.news);
            ready.then_some(*generation)
        };
        due.filter_map(is_ready).collect()
    }

    /// Whether it can serve: one whose own process has ended does not, whatever is left of it.
    pub fn got_ready(&mut self, now: Instant, generation: Generation) -> bool {
        let Some(started) = self.started.get_mut(&generation) else { return false };
        started.look_at = None;
        if started.processes.is_ending() {
            return false;
        }
        started.probing = None;
        started.ready_at.get_or_insert(now);
        true
    }

    /// It has become the current one, and its sockets are the ones that are held.
    pub fn takes_over(&mut self, roles: Roles, generation: Generation) {
        let Some(started) = self.started.get_mut(&generation) else { return };
        self.readiness.got_ready(started);
        if started.channel.said_hello() {
            self.start.policy.serves_with_library();
        }
        if started.settle_handed(self.readiness.is_told(), &self.held) {
            self.news.push(Note::BindsInstead.into());
        }
        self.held.new_owner();
        self.adopt(roles, generation);
        self.pass_on(roles);
    }

    /// The sockets of the generation that serves are the ones held: from the moment it says that it accepts, and whenever it
    /// asks for more.
    fn adopt(&mut self, roles: Roles, generation: Generation) {
        let is_current = roles.current == Some(generation);
        let Some(started) = self.started.get_mut(&generation) else { return };
        let sockets = &mut started.sockets;
        if is_current && sockets.accepts {
            let offered = std::mem::take(&mut sockets.offered);
            sockets.taken.extend(offered.iter().map(|(name, _)| name.clone()));
            self.news.extend(self.held.adopt(offered, &sockets.taken).into_iter().map(Notice::Note));
        }
    }

    /// It was taken for one without sockets, or has opened one more.
    fn adopt_while_it_serves(&mut self, roles: Roles, generation: Generation) {
        let before = self.held.addresses();
        self.adopt(roles, generation);
        if roles.current == Some(generation) {
            self.readiness.has_sockets();
            let addresses = self.held.addresses();
            if addresses != before {
                let (name, address) = (self.start.package().to_owned(), addresses.join(", "));
                self.news.push(Notice::Listening { name, address });
            }
        }
    }

    /// When only the current generation is left, what it did not ask for is for nobody.
    pub fn let_go(&mut self, roles: Roles) {
        let Some(current) = roles.current.filter(|_| self.started.len() == 1) else { return };
        // What it has just asked for is its own.
        if self.get(current).is_some_and(|started| !started.sockets.offered.is_empty()) {
            self.adopt(roles, current);
        }
        for socket in self.held.settle() {
            // A gate that is just ending may still have it.
            if let Some(listener) = socket.end.tcp() {
                listener.shut_down();
            }
            if let Some(started) = self.started.get(&current) {
                started.channel.release(&socket.name);
            }
            self.news.push(Note::Unwanted { address: socket.address, name: socket.name }.into());
        }
    }

    /// It may give connections to its program.
    pub fn admit(&mut self, generation: Generation) {
        self.tell(generation, ToServer::Resume);
        self.open(generation);
    }

    /// Whether somebody will say when it has stopped accepting.
    pub fn pause(&mut self, roles: Roles, generation: Generation) -> bool {
        self.tell(generation, ToServer::Pause);
        let which = self.which(roles);
        let Some(started) = self.get(generation) else { return false };
        match &started.gate {
            Some(gate) if started.hands_over_at_gate() => {
                gate.close(which);
                true
            }
            Some(_) | None => started.channel.said_hello(),
        }
    }

    pub fn resume(&mut self, generation: Generation) {
        self.held.restore();
        self.tell(generation, ToServer::Resume);
        self.open(generation);
    }

    /// Whether somebody will say when it has stopped accepting.
    pub fn drain(&mut self, now: Instant, roles: Roles, generation: Generation) -> bool {
        let which = self.which(roles);
        let patience = if roles.current.is_none() { Patience::Short } else { Patience::Whole };
        let all_tcp = self.held.iter().all(|socket| socket.end.tcp().is_some());
        let Some(started) = self.started.get_mut(&generation) else { return true };
        if started.drain_at_gate(which, patience, all_tcp) {
            return true;
        }
        if started.channel.tell(ToServer::Drain) {
            return true;
        }
        // Where there are no gates, it was said that it is stopped first.
        if started.way == HandOver::StopAndStart
            && self.start.policy.gates()
            && let Some(address) = proc::listens(started.processes.pid())
        {
            self.news.push(Note::BindsItself { address }.into());
        }
        started.processes.ask_to_stop(now, self.start.kill_timeout / 2);
        false
    }

    pub fn terminate(&mut self, now: Instant, generation: Generation) {
        let Some(started) = self.started.get_mut(&generation) else { return };
        // What ends its connections there says when it has done so.
        if !started.gate.as_mut().is_some_and(|gate| gate.end()) {
            started.processes.terminate(now, self.start.kill_timeout / 2);
        }
    }

    pub fn kill(&mut self, generation: Generation) {
        if let Some(started) = self.started.get_mut(&generation) {
            started.processes.kill();
        }
    }

    /// To the program of that generation.
    pub fn signal(&self, generation: Generation, signal: Signal) {
        if let Some(started) = self.get(generation) {
            started.processes.signal(signal);
        }
    }

    /// Those that leave are not waited for by clients of their own any more.
    pub fn hurry_drains(&self) {
        self.started.values().filter_map(|started| started.gate.as_ref()).for_each(|gate| gate.hurry());
    }

    /// What those have left behind that have ended has no more time.
    pub fn hurry_ends(&mut self, now: Instant) {
        self.started.values_mut().for_each(|started| started.processes.hurry(now));
    }

    pub fn terminate_late_ones(&mut self, now: Instant) {
        self.started.values_mut().for_each(|started| started.processes.terminate_if_late(now));
    }

    /// Those whose own process has ended: what else there was of them may have ended, too.
    pub fn ending(&self) -> Vec<Generation> {
        self.started.iter().filter(|(_, started)| started.processes.is_ending()).map(|(of, _)| *of).collect()
    }

    /// Its own process has ended. Says whether others of it are waited for.
    pub fn is_outlived(&mut self, now: Instant, roles: Roles, generation: Generation) -> bool {
        let unasked = [roles.current, roles.starting].contains(&Some(generation));
        let Some(started) = self.started.get_mut(&generation) else { return false };
        started.look_at = None;
        let left = started.processes.left(now, unasked, self.start.kill_timeout);
        if let Left::First(name) = &left {
            if let Some(gate) = &started.gate {
                gate.close(Which::All);
            }
            if let Some(name) = name.clone() {
                self.news.push(Note::LeftBehind { generation, name }.into());
            }
        }
        left != Left::Nothing
    }

    /// It has ended, and nothing of it is left.
    pub fn ended(&mut self, generation: Generation) -> Option<Ended> {
        let mut started = self.started.remove(&generation)?;
        let End { text, is_success, went_into_background } = started.processes.finish();
        if went_into_background {
            self.news.push(Note::Background.into());
        }
        // Closed before anything else is started: a successor may want the addresses.
        started.sockets.offered.clear();
        self.held.keep_up();
        let is_known = started.gate.is_some() || started.way == HandOver::StopAndStart;
        let came_to_its_end = is_success && !went_into_background && is_known && started.has_no_listener();
        let is_done = came_to_its_end && self.held.is_empty();
        if self.start.policy.stops_and_starts() {
            self.forget_bound_for(HandOver::StopAndStart);
        }
        let serves = started.way != HandOver::StopAndStart && !self.held.is_empty() && !went_into_background;
        Some(Ended { text, is_done, serves })
    }

    /// Held for nobody, they would be refused to a program that binds for itself.
    fn forget_bound_for(&mut self, way: HandOver) {
        if way == HandOver::StopAndStart && !self.started.values().any(|started| started.channel.said_hello()) {
            self.held.forget_bound();
        }
    }

    /// Every new connection is its own from now on.
    pub fn tell_serving(&mut self, generation: Generation, program: Vintage, timing: Option<Timing>) {
        let Some(started) = self.started.get_mut(&generation) else { return };
        // What it has started so far is known as its own from now on, however it ends.
        started.processes.look();
        let (pid, by) = (started.processes.pid(), started.came_by());
        let addresses = match by {
            HandOver::Library | HandOver::ListenFds | HandOver::Bind => self.held.addresses(),
            HandOver::StopAndStart => Vec::new(),
        };
        self.news.push(Notice::Serving { generation, pid, addresses, by, program, timing });
    }

    fn tell(&mut self, generation: Generation, message: ToServer) {
        if let Some(started) = self.started.get_mut(&generation) {
            started.channel.tell(message);
        }
    }

    fn open(&self, generation: Generation) {
        if let Some(gate) = self.get(generation).and_then(|started| started.gate.as_ref()) {
            gate.open();
        }
    }

    /// What the current one listens on is no other's any more.
    fn pass_on(&self, roles: Roles) {
        if let Which::These(taken) = self.which(roles) {
            self.started.values().filter_map(|started| started.gate.as_ref()).for_each(|gate| gate.pass_on(&taken));
        }
    }

    /// The sockets on which somebody else accepts from now on: all, where nobody does.
    fn which(&self, roles: Roles) -> Which {
        match roles.current.and_then(|current| self.get(current)) {
            Some(current) if current.gate.is_some() => Which::These(current.sockets.listens.clone()),
            Some(_) | None => Which::All,
        }
    }
}
