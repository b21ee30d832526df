//! The process of a generation and all that it has started: the generation has ended when the last of them has. Those that its own process
//! leaves behind are asked to end. A program that goes into the background is told from one that ends.
//! Never lives here: which processes those are (`process::kin`), and when they are to end (`handover`).

use super::proc;
use super::store::Published;
use crate::process::kin::{self, Descent, Process};
use crate::process::{Running, describe};
use crate::report::clean::plain;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// How long those are waited for that were killed.
const KILLED: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Processes {
    running: Running,
    /// All that it has started.
    descent: Descent,
    /// The program's file, which `cargo clean` takes the name of.
    file: Option<(u64, u64)>,
    has_runner: bool,
    /// When it is asked to leave that is about to leave by itself.
    terminate_at: Option<Instant>,
    /// Its own process has ended, and others of it have not.
    ending: Option<Ending>,
    /// It has gone into the background, as who.
    background: Option<String>,
}

/// How the others of a generation are being ended, whose own process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// They have until then.
    Asked(Instant),
    /// They were killed, and are waited for until then.
    Killed(Instant),
}

/// What there is of a generation whose own process has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// Seen for the first time, as who. Not so where it has gone into the background.
    First(Option<String>),
    Still,
}

/// How a generation has ended.
#[derive(Debug)]
pub struct End {
    pub text: String,
    pub is_success: bool,
    pub went_into_background: bool,
}

impl Processes {
    pub fn new(running: Running, sign: String, program: &Published) -> Processes {
        Processes {
            descent: Descent::new(running.pid(), sign),
            running,
            file: proc::file_id(&program.path),
            has_runner: !program.setting.runner.is_empty(),
            terminate_at: None,
            ending: None,
            background: None,
        }
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Whether its own process has ended.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    pub fn deadline(&self) -> Option<Instant> {
        let ending = self.ending.map(|(Ending::Asked(until) | Ending::Killed(until))| until);
        self.terminate_at.into_iter().chain(ending).min()
    }

    /// This process goes on, which was stopped.
    pub fn recall(&self) {
        self.running.recall();
    }

    /// To the program.
    pub fn signal(&self, signal: Signal) {
        match self.behind_runner() {
            Some(program) => self.send(&[program], signal),
            None => self.running.signal(signal),
        }
    }

    /// Its own way of stopping gracefully.
    pub fn ask_to_stop(&mut self, now: Instant, time: Duration) {
        if !self.leaves_by_itself(now, time) {
            self.signal(Signal::SIGTERM);
        }
    }

    /// It has nothing left to finish, or no time.
    pub fn terminate(&mut self, now: Instant, time: Duration) {
        if !self.leaves_by_itself(now, time) {
            self.signal_all(Signal::SIGTERM);
        }
    }

    /// It was to leave by itself, and is still there.
    pub fn terminate_if_late(&mut self, now: Instant) {
        if self.terminate_at.take_if(|at| *at <= now).is_some() {
            self.signal_all(Signal::SIGTERM);
        }
    }

    pub fn kill(&mut self) {
        self.signal_all(Signal::SIGKILL);
    }

    /// Before it has started anything.
    pub fn kill_group(&self) {
        self.running.signal_group(Signal::SIGKILL);
    }

    /// All that it has started; the guard is told of them.
    pub fn look(&mut self) -> Vec<Process> {
        let kin = self.descent.look();
        self.running.guard_too(&kin);
        kin
    }

    /// Its own process has ended. Whether others of it are waited for, which were started by it and have left its group; those that have
    /// not are killed with it. They have that much time. `unasked` is whether nobody here has asked it to end.
    pub fn left(&mut self, now: Instant, unasked: bool, timeout: Duration) -> Left {
        let mut kin = self.descent.look();
        if unasked && self.ending.is_none() && self.running.has_ended_well() {
            self.background = kin.iter().find(|kin| self.is_in_background(kin)).map(in_background);
        }
        kin.retain(|kin| !kin.is_of_group(self.pid()));
        let Some(first) = kin.first() else { return Left::Nothing };
        let name = plain(&kin::name(first.pid));
        let (signal, ending) = match self.ending {
            None => (Some(Signal::SIGTERM), Ending::Asked(now + timeout)),
            Some(Ending::Asked(until)) if until <= now => (Some(Signal::SIGKILL), Ending::Killed(now + KILLED)),
            Some(Ending::Killed(until)) if until <= now => return Left::Nothing,
            // Some may have been started only now.
            Some(ending @ Ending::Killed(_)) => (Some(Signal::SIGKILL), ending),
            Some(ending @ Ending::Asked(_)) => (None, ending),
        };
        for kin in &kin {
            signal.inspect(|signal| kin.signal(*signal));
        }
        match self.ending.replace(ending) {
            Some(_) => Left::Still,
            None => Left::First(self.background.is_none().then_some(name)),
        }
    }

    /// Those that are asked to end have no more time.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(Ending::Asked(until)) = &mut self.ending {
            *until = now;
        }
    }

    pub fn finish(&mut self) -> End {
        let (mut text, is_success) = match self.running.finish() {
            Ok(status) => (describe(status), status.success()),
            Err(error) => (format!("its end cannot be told: {error}"), false),
        };
        if let Some(background) = &self.background {
            text = format!("{text}: {background}");
        }
        End { text, is_success, went_into_background: self.background.is_some() }
    }

    /// Whether the terminal has asked it to end: then it has some time to do so in its own way before it is asked again.
    fn leaves_by_itself(&mut self, now: Instant, time: Duration) -> bool {
        let asked = self.running.job().is_some_and(|job| job.was_asked_to_end());
        if asked {
            self.terminate_at.get_or_insert(now + time);
        }
        asked
    }

    /// To the program and all that it has started. A runner that waits for it comes to its end by itself; most of those that were asked
    /// to leave before it would not wait any more.
    fn signal_all(&mut self, signal: Signal) {
        let kin = self.look();
        let family = self.behind_runner().filter(|_| signal != Signal::SIGKILL).map(proc::family);
        match &family {
            Some(family) => self.send(family, signal),
            None => self.running.signal_group(signal),
        }
        let told = |kin: &Process| kin.is_of_group(self.pid()) || family.iter().flatten().any(|pid| *pid == kin.pid);
        kin.iter().filter(|kin| !told(kin)).for_each(|kin| kin.signal(signal));
    }

    /// The program, where its runner has started it as a child and did not become it.
    fn behind_runner(&self) -> Option<u32> {
        let runner = self.has_runner.then(|| self.pid())?;
        // The nearest one comes first, and the runner before it.
        let program = proc::family(runner).into_iter().find(|pid| proc::runs(*pid, self.file));
        program.filter(|program| *program != runner)
    }

    fn send(&self, processes: &[u32], signal: Signal) {
        // They are no children of this process: their numbers may be others' by now, which are not below the runner.
        let below = |process: &Process| proc::family(self.pid()).contains(&process.pid);
        let processes = processes.iter().filter_map(|pid| Process::of(*pid));
        processes.filter(below).for_each(|process| process.signal(signal));
    }

    /// It serves, or is a copy of the program that has become nothing else.
    fn is_in_background(&self, kin: &Process) -> bool {
        proc::runs(kin.pid, self.file) || proc::listens(kin.pid).is_some()
    }
}

fn in_background(kin: &Process) -> String {
    let listens = proc::listens(kin.pid).map_or(String::new(), |at| format!(", which listens on {at}"));
    format!("it has gone into the background as {}{listens}", plain(&kin::name(kin.pid)))
}
