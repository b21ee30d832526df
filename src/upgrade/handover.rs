//! The generations of one session and what becomes of them: the pure core of hot upgrade.
//! Never lives here: a clock, a process, a socket. Time is an argument; what should be done is returned.

use super::action::{Action, Roles, Style, Timeouts};
use super::deaths::Deaths;
use super::history::{History, KEPT};
use super::stage::{After, Announced, Current, Leaving, Next, Paused, SLOW, Starting, Step, millis};
use super::standing::Standing;
use crate::report::{Generation, Notice, Vintage};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The shortest time from one start to the next of a program that does not stay up; s6 has the same.
const RESTART_INTERVAL: Duration = Duration::from_secs(1);

/// How long the new one waits for the word of the old one that it has stopped accepting. It is nearly always there at once.
const HANGS: Duration = Duration::from_secs(1);

/// At most one generation starts, at most one is current, at most one is on hold beside it; any number leaves.
#[derive(Debug)]
pub struct Handover<P> {
    timeouts: Timeouts,
    last: Generation,
    starting: Option<Starting<P>>,
    current: Option<Current<P>>,
    paused: Option<Paused<P>>,
    leaving: BTreeMap<Generation, Leaving>,
    next: Option<Next<P>>,
    /// Of the program that was offered last.
    style: Style,
    announced: Option<Announced>,
    history: History<P>,
    deaths: Deaths<P>,
    pub standing: Standing,
    stopping: bool,
}

impl<P: Clone + PartialEq> Handover<P> {
    pub fn new(timeouts: Timeouts) -> Self {
        Handover {
            timeouts,
            last: 0,
            starting: None,
            current: None,
            paused: None,
            leaving: BTreeMap::new(),
            next: None,
            style: Style::Overlap,
            announced: None,
            history: History::new(),
            deaths: Deaths::new(),
            standing: Standing::default(),
            stopping: false,
        }
    }

    /// The generation that new connections reach, if any.
    pub fn current(&self) -> Option<Generation> {
        self.current.as_ref().map(|current| current.generation)
    }

    pub fn roles(&self) -> Roles {
        let starting = self.starting.as_ref().map(|starting| starting.generation);
        Roles { current: self.current(), starting }
    }

    /// Which program that is: what the newest sources are, or one from before.
    pub fn vintage(&self, program: &P) -> Vintage {
        self.history.vintage(program)
    }

    pub fn current_program(&self) -> Option<&P> {
        self.current.as_ref().map(|current| &current.program)
    }

    /// The program of the next start, where one is under way.
    pub fn coming_program(&self) -> Option<&P> {
        let starting = self.starting.as_ref().map(|starting| &starting.program);
        starting.or(self.next.as_ref().map(|next| &next.program))
    }

    /// Programs that may be started again: their files must stay.
    pub fn programs(&self) -> impl Iterator<Item = &P> {
        let running = self.current_program().into_iter().chain(self.coming_program());
        let paused = self.paused.as_ref().map(|paused| &paused.was.program);
        running.chain(paused).chain(self.history.programs())
    }

    /// Whether no generation is starting, is about to, or has yet to take over.
    pub fn is_settled(&self) -> bool {
        self.starting.is_none() && self.next.is_none() && self.announced.is_none()
    }

    /// Whether a stop was asked for and nothing runs any more.
    pub fn is_over(&self) -> bool {
        let idle = self.starting.is_none() && self.current.is_none() && self.paused.is_none();
        self.stopping && idle && self.leaving.is_empty()
    }

    /// When `tick` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let starting = self.starting.as_ref().map(|starting| {
            let next = if starting.said_slow { self.timeouts.ready } else { SLOW.min(self.timeouts.ready) };
            starting.since + next
        });
        let paused = self.paused.as_ref().map(|paused| paused.until);
        let next = self.next.as_ref().filter(|next| self.is_after(next.after)).map(|next| next.not_before);
        let leaving = self.leaving.values().filter(|leaving| leaving.step != Step::Kill);
        let leaving = leaving.map(|leaving| leaving.tell_at().map_or(leaving.until, |at| at.min(leaving.until)));
        let admit = self.announced.as_ref().and_then(Announced::deadline);
        leaving.chain(starting).chain(paused).chain(next).chain(admit).min()
    }

    /// What the newest sources were built into: it is to serve from now on.
    pub fn offer(&mut self, now: Instant, program: P, style: Style) -> Vec<Action<P>> {
        self.history.built(program.clone());
        self.switch_to(now, program, style)
    }

    /// The newest sources were built into what is on its way, or else serves, already.
    pub fn unchanged(&mut self) {
        self.standing.outdated();
        if let Some(program) = self.coming_program().or(self.current_program()).cloned() {
            self.history.built(program);
        }
    }

    /// The newest sources were built, into something that cannot be offered.
    pub fn not_kept(&mut self, why: &str) {
        self.history.lost();
        self.standing.cannot_be_started(why);
    }

    fn switch_to(&mut self, now: Instant, program: P, style: Style) -> Vec<Action<P>> {
        if self.stopping {
            return Vec::new();
        }
        let mut actions = Vec::new();
        self.style = style;
        self.deaths.start_anew();
        self.next = None;
        if let Some(starting) = self.starting.take() {
            actions.push(self.dismiss_start(now, &starting));
        }
        if style == Style::StopFirst {
            self.announced = None;
            let serving = self.paused.take().map(|paused| paused.was.generation);
            for generation in serving.into_iter().chain(self.current.take().map(|current| current.generation)) {
                actions.push(self.dismiss(now, generation, Step::Drain, true));
            }
        }
        actions.extend(self.start_when(now, program, now));
        actions
    }

    /// The generation has bound an address that nobody else holds yet.
    pub fn bound(&mut self, generation: Generation) {
        if let Some(starting) = self.starting.as_mut().filter(|starting| starting.generation == generation) {
            starting.bound = true;
        }
        if let Some(leaving) = self.leaving.get_mut(&generation).filter(|leaving| !leaving.told) {
            leaving.bound = true;
        }
    }

    /// The current generation has stopped accepting though nobody here asked it to: somebody else did.
    pub fn leaves(&mut self, now: Instant, generation: Generation) -> Vec<Action<P>> {
        let Some(current) = self.current.take_if(|current| current.generation == generation) else { return Vec::new() };
        self.leaving.insert(generation, Leaving::new(Step::Drain, now, &self.timeouts, true));
        self.announced = None;
        self.current_died(now, current, "somebody has asked it to stop".to_owned(), true)
    }

    /// The same program again, as a new generation.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn again(&mut self, now: Instant, style: Style) -> Result<Vec<Action<P>>, String> {
        match self.coming_program().or(self.current_program()).or(self.history.served()).cloned() {
            Some(program) => Ok(self.switch_to(now, program, style)),
            None => Err("nothing has been built yet".to_owned()),
        }
    }

    /// The program that `rollback` goes back to.
    pub fn earlier(&self) -> Option<&P> {
        self.history.earlier(self.coming_program())
    }

    /// Back to the program that served before the current one; asked for again, to the one before that.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn rollback(&mut self, now: Instant, style: Style) -> Result<Vec<Action<P>>, String> {
        let coming = self.coming_program().cloned();
        match self.history.back(coming.as_ref()) {
            Some(program) => Ok(self.switch_to(now, program, style)),
            None => Err(format!("no program from before this one is kept (the last {KEPT} of a session are)")),
        }
    }

    pub fn ready(&mut self, now: Instant, generation: Generation) -> Vec<Action<P>> {
        let Some(starting) = self.starting.take_if(|starting| starting.generation == generation) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        self.deaths.got_ready();
        self.history.is_ready(&starting.program);
        let new = Current { generation, program: starting.program, started: starting.since, ready: now };
        if let Some(paused) = self.paused.take() {
            actions.push(self.dismiss(now, paused.was.generation, Step::Drain, true));
        }
        match self.current.replace(new) {
            None => actions.extend([Action::Admit(generation), self.goes_live(generation)]),
            Some(old) => {
                let (new, admit_at) = (generation, now + HANGS);
                self.announced = Some(Announced { new, old: old.generation, admit_at, admitted: false });
                if self.timeouts.probation.is_zero() {
                    actions.push(self.dismiss(now, old.generation, Step::Drain, true));
                } else {
                    actions.push(Action::Pause(old.generation));
                    self.paused = Some(Paused { was: old, until: now + self.timeouts.probation });
                }
            }
        }
        actions
    }

    /// The generation accepts nothing any more.
    pub fn stopped_accepting(&mut self, generation: Generation) -> Vec<Action<P>> {
        match self.announced.take_if(|announced| announced.old == generation) {
            Some(Announced { new, admitted: true, .. }) => vec![self.goes_live(new)],
            Some(Announced { new, admitted: false, .. }) => vec![Action::Admit(new), self.goes_live(new)],
            None => Vec::new(),
        }
    }

    /// The current one.
    fn goes_live(&mut self, generation: Generation) -> Action<P> {
        if self.current_program().is_some_and(|program| self.vintage(program) == Vintage::Newest) {
            self.standing.outdated();
        }
        Action::Live(generation)
    }

    /// The generation has said how many connections it still has.
    /// Or that this cannot be known any more.
    pub fn live(&mut self, generation: Generation, live: impl Into<Option<usize>>) {
        if let Some(leaving) = self.leaving.get_mut(&generation) {
            // What was live when it was ended by force was cut; nothing that comes later changes that.
            if leaving.step == Step::Drain {
                leaving.live = live.into();
            }
        }
    }

    /// Those that leave and have not been ended yet.
    pub fn leaving(&self) -> impl Iterator<Item = Generation> {
        self.leaving
            .iter()
            .filter(|(_, leaving)| leaving.told && leaving.step != Step::Kill)
            .map(|(generation, _)| *generation)
    }

    /// The generation, which leaves, has answered something since that was last looked at, and has so many connections.
    pub fn progress(&mut self, now: Instant, generation: Generation, found: usize) {
        // Whoever ends the session wants to go.
        if let Some(leaving) = self.leaving.get_mut(&generation).filter(|_| !self.stopping) {
            leaving.progress(now, found, &self.timeouts);
        }
    }

    /// Nothing of it is left to finish: it need not be waited for.
    pub fn drained(&mut self, now: Instant, generation: Generation) -> Vec<Action<P>> {
        match self.leaving.get_mut(&generation).filter(|leaving| leaving.step == Step::Drain) {
            Some(leaving) => {
                leaving.next_step(now, Step::Terminate, &self.timeouts);
                leaving.live = Some(0);
                vec![Action::Terminate(generation)]
            }
            None => Vec::new(),
        }
    }

    /// The programs turn out not to be able to pause.
    pub fn without_probation(&mut self) {
        self.timeouts.probation = Duration::ZERO;
    }

    /// The generation's process has ended. `serves` tells a server, whose sockets are held, from a program that just runs.
    pub fn exited(&mut self, now: Instant, generation: Generation, end: &str, serves: bool) -> Vec<Action<P>> {
        let mut actions = self.stopped_accepting(generation);
        let end = end.to_owned();
        if let Some(starting) = self.starting.take_if(|starting| starting.generation == generation) {
            actions.push(self.start_failed(&starting, end));
            actions.extend(self.after_failed_start(now, starting));
        } else if let Some(current) = self.current.take_if(|current| current.generation == generation) {
            self.announced = None;
            actions.extend(self.current_died(now, current, end, serves));
        } else if self.paused.take_if(|paused| paused.was.generation == generation).is_some() {
            actions.push(Action::Tell(Notice::Drained { generation, cut: None, end, took: 0 }));
        } else if let Some(left) = self.leaving.remove(&generation) {
            let cut = left.live.map(|live| if left.step == Step::Drain { 0 } else { live });
            if left.told {
                let took = millis(now.saturating_duration_since(left.since));
                actions.push(Action::Tell(Notice::Drained { generation, cut, end, took }));
            }
        }
        actions.extend(self.start_if_due(now));
        actions
    }

    /// The program could not be run at all.
    pub fn not_started(&mut self, now: Instant, generation: Generation, why: &str) -> Vec<Action<P>> {
        self.exited(now, generation, why, true)
    }

    pub fn tick(&mut self, now: Instant) -> Vec<Action<P>> {
        let mut actions = Vec::new();
        if let Some(late) = self.starting.take_if(|starting| starting.since + self.timeouts.ready <= now) {
            let end = format!("not ready after {} s", self.timeouts.ready.as_secs_f64());
            actions.push(self.start_failed(&late, end));
            actions.push(self.dismiss_start(now, &late));
            actions.extend(self.after_failed_start(now, late));
        }
        if let Some(slow) = self.starting.as_mut().filter(|slow| !slow.said_slow && slow.since + SLOW <= now) {
            slow.said_slow = true;
            let (generation, after) = (slow.generation, millis(now.saturating_duration_since(slow.since)));
            actions.push(Action::Tell(Notice::NotReady { generation, after, given_up: millis(self.timeouts.ready) }));
        }
        if let Some(paused) = self.paused.take_if(|paused| paused.until <= now) {
            actions.push(self.dismiss(now, paused.was.generation, Step::Drain, true));
        }
        actions.extend(self.announced.as_mut().and_then(|announced| announced.waits_no_longer(now)).map(Action::Admit));
        for (generation, leaving) in &mut self.leaving {
            if leaving.until > now {
                actions.extend(leaving.tell(now, *generation).map(Action::Tell));
                continue;
            }
            match leaving.step {
                Step::Drain => {
                    leaving.next_step(now, Step::Terminate, &self.timeouts);
                    actions.push(Action::Terminate(*generation));
                }
                Step::Terminate => {
                    leaving.step = Step::Kill;
                    actions.push(Action::Kill(*generation));
                }
                Step::Kill => {}
            }
        }
        actions.extend(self.start_if_due(now));
        actions
    }

    /// Everything leaves, in good order.
    pub fn stop(&mut self, now: Instant) -> Vec<Action<P>> {
        self.stopping = true;
        self.next = None;
        self.announced = None;
        let mut actions = Vec::new();
        if let Some(starting) = self.starting.take() {
            actions.push(self.dismiss(now, starting.generation, Step::Terminate, false));
        }
        let serving = self.paused.take().map(|paused| paused.was.generation);
        for generation in serving.into_iter().chain(self.current.take().map(|current| current.generation)) {
            actions.push(self.dismiss(now, generation, Step::Drain, true));
        }
        actions
    }

    /// Everything leaves at once.
    pub fn force(&mut self, now: Instant) -> Vec<Action<P>> {
        let mut actions = self.stop(now);
        for (generation, leaving) in &mut self.leaving {
            leaving.step = Step::Kill;
            actions.push(Action::Kill(*generation));
        }
        actions
    }

    fn dismiss_start(&mut self, now: Instant, starting: &Starting<P>) -> Action<P> {
        let action = self.dismiss(now, starting.generation, Step::Terminate, false);
        if starting.bound {
            self.bound(starting.generation);
        }
        action
    }

    fn start_when(&mut self, now: Instant, program: P, not_before: Instant) -> Option<Action<P>> {
        let bound = self.leaving.iter().rev().find(|(_, leaving)| leaving.bound);
        let after = match (self.style, bound) {
            (Style::StopFirst, _) => After::AllGone,
            (Style::Overlap, Some((generation, _))) => After::Gone(*generation),
            (Style::Overlap, None) => After::Nothing,
        };
        self.next = Some(Next { program, not_before, after });
        self.start_if_due(now)
    }

    fn start_if_due(&mut self, now: Instant) -> Option<Action<P>> {
        let due = self.next.as_ref().is_some_and(|next| next.not_before <= now && self.is_after(next.after));
        let next = self.next.take_if(|_| due)?;
        self.last += 1;
        let program = next.program.clone();
        let (generation, since) = (self.last, now);
        self.starting = Some(Starting { generation, program: next.program, since, bound: false, said_slow: false });
        Some(Action::Start { generation: self.last, program })
    }

    fn is_after(&self, after: After) -> bool {
        match after {
            After::Nothing => true,
            After::Gone(generation) => !self.leaving.contains_key(&generation),
            After::AllGone => self.leaving.is_empty(),
        }
    }

    fn dismiss(&mut self, now: Instant, generation: Generation, step: Step, told: bool) -> Action<P> {
        self.leaving.insert(generation, Leaving::new(step, now, &self.timeouts, told));
        match step {
            Step::Drain => Action::Drain(generation),
            Step::Terminate => Action::Terminate(generation),
            Step::Kill => Action::Kill(generation),
        }
    }

    fn start_failed(&mut self, failed: &Starting<P>, end: String) -> Action<P> {
        let (generation, program) = (failed.generation, self.vintage(&failed.program));
        self.standing.start_failed(program, &end);
        Action::Tell(Notice::StartFailed { generation, end, program, serving: self.current() })
    }

    /// Nobody serves after a start that failed: the program that served before comes back.
    fn after_failed_start(&mut self, now: Instant, failed: Starting<P>) -> Vec<Action<P>> {
        if self.stopping {
            return Vec::new();
        }
        if self.current.is_some() {
            let has_served = self.history.programs().any(|served| *served == failed.program);
            let note = self.deaths.beside(failed.generation, failed.program, has_served);
            return note.map(|note| Action::Tell(note.into())).into_iter().collect();
        }
        // A first program that never was ready has nothing to come back to: its next version is waited for.
        let Some(served) = self.history.served().cloned() else { return Vec::new() };
        let again = served == failed.program;
        if self.deaths.of_start(again) {
            return vec![Action::Tell(Deaths::<P>::given_up().into())];
        }
        let (program, not_before) = if again {
            let good = self.deaths.fall_back(self.history.good().cloned());
            (good.unwrap_or(served), (failed.since + RESTART_INTERVAL).max(now))
        } else {
            (served, now)
        };
        self.start_when(now, program, not_before).into_iter().collect()
    }

    fn current_died(&mut self, now: Instant, dead: Current<P>, end: String, serves: bool) -> Vec<Action<P>> {
        let generation = dead.generation;
        if let Some(paused) = self.paused.take() {
            self.standing.did_not_stay_up(&end);
            let (to, program) = (paused.was.generation, paused.was.program.clone());
            self.history.reverted(&program, dead.program);
            self.current = Some(paused.was);
            return vec![Action::Resume(to), Action::Tell(Notice::RolledBack { from: generation, to, end })];
        }
        if self.stopping {
            return vec![Action::Tell(Notice::Drained { generation, cut: None, end, took: 0 })];
        }
        if !serves {
            self.standing.finished(&end);
            return vec![Action::Tell(Notice::Finished { generation, end })];
        }
        self.standing.did_not_stay_up(&end);
        // Its successor may be on the way already.
        let alone = self.starting.is_none() && self.next.is_none();
        let given_up = alone && self.deaths.of_current(now, dead.ready);
        if given_up || !alone {
            let (again_in, falls_back) = (None, false);
            return vec![Action::Tell(Notice::Died { generation, end, again_in, falls_back, given_up })];
        }
        let good = self.deaths.fall_back(self.history.good().cloned());
        let falls_back = good.is_some();
        let program = good.unwrap_or(dead.program);
        let at = (dead.started + RESTART_INTERVAL).max(now);
        let again_in = Some(millis(at.saturating_duration_since(now)));
        let mut actions = vec![Action::Tell(Notice::Died { generation, end, again_in, falls_back, given_up })];
        actions.extend(self.start_when(now, program, at));
        actions
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
