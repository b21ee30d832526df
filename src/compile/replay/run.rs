//! One run of captured calls: the compilers it starts, what they say, and what came of it.
//! Never lives here: which crates are compiled (`plan`), and in which order (`schedule`).

use super::call::Rewrite;
use super::compiler::Compiler;
use super::folder::Folder;
use super::plan::{Plan, Work};
use super::record::{Before, Record};
use super::schedule::Schedule;
use super::unit::{Inputs, reads_ours, unread};
use crate::compile::allowance::{Allowance, Kind};
use crate::compile::link;
use crate::compile::output::{self, Line, Words, is_sum};
use crate::compile::trouble;
use crate::error::Result;
use crate::process::{Launcher, Printed, Running, inherited, is_passing, refused};
use cargo_metadata::diagnostic::{Diagnostic, DiagnosticLevel};
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime};

/// Errors in which rustc cannot use a crate that was compiled before: it is no fault of the sources.
const OTHER_CRATES: [&str; 13] = [
    "E0455", "E0457", "E0458", "E0459", "E0460", "E0461", "E0462", "E0463", "E0464", "E0465", "E0514", "E0519", "E0786",
];

/// A macro may print a line of any length, in which a reason is looked for.
const MOST_OF_A_REASON: usize = 500;

/// What a compiler said, or that it ended.
#[derive(Debug)]
pub enum Said {
    Diagnostic(Box<Diagnostic>),
    /// A line that is no message.
    Text(String),
    /// Its metadata can be used.
    Metadata,
    /// What it makes is made: all that is left to it is to clean up.
    Linked,
    Closed,
    Exited,
}

/// Where the threads of a run send what they hear, with the number of the crate.
pub type Sink = Arc<dyn Fn(usize, Said) + Send + Sync>;

/// What came of a run.
#[derive(Debug)]
pub enum Outcome {
    /// Every crate is as its sources are.
    Built,
    Failed {
        errors: usize,
        messages: Vec<Words>,
    },
    /// It failed for a reason that need not be the sources': cargo is to be asked.
    Doubtful(Doubt),
}

#[derive(Debug)]
pub struct Doubt {
    pub why: String,
    /// The machine had something not to give, which it may have at the next try: it says nothing of the project.
    pub passes: bool,
}

impl Doubt {
    fn of(why: String) -> Doubt {
        Doubt { why, passes: false }
    }

    fn refused(why: String, error: &io::Error) -> Doubt {
        Doubt { why, passes: is_passing(error) }
    }
}

/// When a crate was compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub began: Instant,
    pub ended: Instant,
}

pub struct Run {
    launcher: Launcher,
    began: Instant,
    schedule: Schedule,
    jobs: BTreeMap<usize, Job>,
    in_background: bool,
    own_linker: bool,
    wanted: Vec<usize>,
    unlinked: bool,
    /// Compiled for nothing: something newer is wanted.
    cancelled: bool,
    errors: usize,
    /// Shared with those who read what its compilers print.
    pub allowance: Arc<Allowance>,
    messages: Vec<Words>,
    doubt: Option<Doubt>,
    /// A source that was written while it was compiled: it is not known what was compiled of it.
    pub written: Option<PathBuf>,
    pub steps: Vec<Step>,
    /// The crate that came first: most likely the one that was edited.
    pub first: Option<usize>,
    pub linked: Option<link::Report>,
}

/// A compiler that runs.
struct Job {
    running: Running,
    before: Before,
    began: Instant,
    linked: Option<Instant>,
    exited: Option<Instant>,
    closed: bool,
    rendered: Vec<Words>,
    errors: usize,
    odd: Option<String>,
    text: Option<String>,
    /// The linker has failed.
    unlinked: bool,
}

impl Run {
    /// Whether our own linker has failed.
    pub fn own_linker_failed(&self) -> bool {
        self.own_linker && self.unlinked
    }

    pub fn new(
        now: Instant,
        plan: &Plan,
        work: &Work,
        at_once: usize,
        own_linker: bool,
        in_background: bool,
        launcher: Launcher,
    ) -> Run {
        let crates = plan.crates.iter().map(|one| (one.unit.needs.clone(), one.unit.facts.is_bin()));
        Run {
            launcher,
            began: now,
            schedule: Schedule::new(crates, &work.crates, at_once),
            jobs: BTreeMap::new(),
            in_background,
            own_linker,
            wanted: work.crates.clone(),
            unlinked: false,
            cancelled: false,
            errors: 0,
            allowance: Arc::default(),
            messages: Vec::new(),
            doubt: None,
            written: None,
            steps: Vec::new(),
            first: work.crates.first().copied(),
            linked: None,
        }
    }

    /// Starts what may begin now.
    pub fn go_on(&mut self, now: Instant, plan: &mut Plan, folder: &Folder, sink: &Sink) {
        for number in self.schedule.begin() {
            match self.start(now, number, plan, folder, sink) {
                Ok(job) => drop(self.jobs.insert(number, job)),
                Err(error) => {
                    self.doubt = Some(Doubt { why: error.to_string(), passes: error.passes() });
                    self.schedule.ended(number, false);
                }
            }
        }
    }

    /// Whether that crate was to be compiled.
    pub fn wants(&self, number: usize) -> bool {
        self.wanted.contains(&number)
    }

    /// Ends all compilers at once; an incremental cache survives that.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        self.schedule.stop();
        self.jobs.values().for_each(|job| job.running.signal_group(Signal::SIGKILL));
    }

    /// When `ended` should be asked again though nothing was heard.
    pub fn deadline(&self) -> Option<Instant> {
        self.schedule.is_over().then_some(self.began)
    }

    pub fn hear(&mut self, now: Instant, number: usize, said: Said) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        match said {
            Said::Diagnostic(diagnostic) => job.hear(*diagnostic),
            Said::Text(text) => {
                // rustc says nothing but messages, unless it breaks or a macro speaks.
                job.rendered.push(Words::text(text.clone()));
                job.text.get_or_insert(text);
            }
            Said::Metadata => self.schedule.metadata(number),
            // What nobody waits for may come to its end.
            Said::Linked if self.in_background => {}
            Said::Linked => job.linked = Some(now),
            Said::Closed => job.closed = true,
            Said::Exited => job.exited = Some(now),
        }
    }

    /// Takes in what has come to its end. Returns what came of the run when all of it has.
    pub fn ended(&mut self, plan: &mut Plan, folder: &Folder) -> Option<Outcome> {
        let over = |job: &Job| job.linked.is_some() || job.exited.is_some() && job.closed;
        let ended: Vec<usize> = self.jobs.iter().filter(|(_, job)| over(job)).map(|(number, _)| *number).collect();
        for number in ended {
            if let Some(job) = self.jobs.remove(&number) {
                self.end(number, job, plan, folder);
            }
        }
        if !self.schedule.is_over() {
            return None;
        }
        let messages = std::mem::take(&mut self.messages);
        if self.cancelled || self.doubt.is_some() {
            self.written = None;
        }
        Some(match self.doubt.take() {
            _ if self.cancelled => Outcome::Failed { errors: 0, messages: Vec::new() },
            Some(doubt) => Outcome::Doubtful(doubt),
            None if self.errors > 0 => {
                Outcome::Failed { errors: self.errors + self.allowance.left_out().errors, messages }
            }
            None => Outcome::Built,
        })
    }

    fn start(&self, now: Instant, number: usize, plan: &mut Plan, folder: &Folder, sink: &Sink) -> Result<Job> {
        let slot = &mut plan.crates[number];
        // From now on another session, too, must not take for made what may be half made, or broken.
        slot.begun = true;
        let sources = slot.sources();
        let one = &slot.unit;
        Record::remove(&folder.path, one);
        let before = Before::look(one, sources, folder.line_tables, SystemTime::now());
        let own_linker = one.facts.is_linked_by(self.own_linker);
        if one.facts.is_bin() {
            link::forget_report(&folder.link());
        }
        let linker = ["-C", &format!("linker=/proc/{}/exe", std::process::id()), "-C", "linker-flavor=gcc"];
        let more: Vec<String> = linker.iter().filter(|_| own_linker).map(ToString::to_string).collect();
        let arguments = one.call.rewritten(&Rewrite {
            out_dir: &folder.deps(),
            incremental: &folder.incremental(),
            line_tables: folder.line_tables,
            externs: &one.externs,
            more: &more,
        });
        // One that has ended while it waited is no loss.
        let waiting = slot.waiting.take().and_then(|compiler| compiler.go(&arguments).ok());
        let mut running = match waiting {
            Some(running) => running,
            None => Compiler::start(&self.launcher, &one.call, folder, own_linker)?.go(&arguments)?,
        };
        if self.in_background {
            running.to_background();
        }
        if let Some(stderr) = running.stderr() {
            let (sink, allowance) = (Arc::clone(sink), Arc::clone(&self.allowance));
            let stderr = Printed::new(stderr, running.end().map_err(|error| refused("listen to rustc", &error))?);
            thread::Builder::new()
                .spawn(move || read_messages(stderr, number, &sink, &allowance))
                .map_err(|error| refused("listen to rustc", &error))?;
        }
        let sink = Arc::clone(sink);
        running.when_ended(move || sink(number, Said::Exited)).map_err(|error| refused("watch rustc", &error))?;
        Ok(Job {
            running,
            before,
            began: now,
            linked: None,
            exited: None,
            closed: false,
            rendered: Vec::new(),
            errors: 0,
            odd: None,
            text: None,
            unlinked: false,
        })
    }

    fn end(&mut self, number: usize, job: Job, plan: &mut Plan, folder: &Folder) {
        let slot = &mut plan.crates[number];
        let one = &slot.unit;
        if let Some(ended) = job.linked.or(job.exited) {
            self.steps.push(Step { name: one.facts.crate_name.clone(), began: job.began, ended });
        }
        let Job { mut running, before, linked, rendered, errors, odd, text, unlinked, .. } = job;
        let failure = if linked.is_some() {
            slot.leaving = running.leave().ok();
            None
        } else {
            match running.finish() {
                Ok(status) if status.success() => None,
                Ok(status) => Some(crate::process::describe(status)),
                Err(error) => Some(error.to_string()),
            }
        };
        if one.facts.is_bin() {
            self.linked = link::read_report(&folder.link());
        }
        self.schedule.ended(number, failure.is_none());
        self.unlinked |= unlinked;
        if self.cancelled {
            return;
        }
        self.written = self.written.take().or_else(|| before.written().map(Path::to_path_buf));
        if let Some(failure) = failure {
            if errors == 0 || odd.is_some() {
                let what = odd.or(text).unwrap_or(failure);
                let what = what.lines().next().unwrap_or_default();
                let what = &what[..what.floor_char_boundary(MOST_OF_A_REASON)];
                let texts = rendered.iter().map(|words| words.rendered.as_str()).chain([what]);
                let passes = trouble::passes(texts, &folder.path);
                self.doubt =
                    Some(Doubt { why: format!("compiling {} ended with {what}", one.facts.crate_name), passes });
                // Its incremental cache may be the reason.
                slot.record = None;
                folder.forget_cache(&one.facts);
            }
            self.errors += errors;
            self.messages.extend(rendered);
            return;
        }
        let inputs = match Inputs::read(&one.call, &one.facts, &folder.deps()) {
            Ok(inputs) => inputs,
            Err(error) => {
                self.doubt = Some(Doubt::refused(unread(&one.facts, &error), &error));
                return;
            }
        };
        if let Some(name) = one.call.otherwise(&inputs.variables, inherited) {
            self.doubt = Some(Doubt::of(reads_ours(&one.facts, name)));
            return;
        }
        if one.facts.is_bin() {
            let made = one.facts.outputs(&folder.deps());
            let put = made.first().map_or(Ok(()), |made| fs::rename(made, folder.program(&one.target.name)));
            if let Err(error) = put {
                let why = format!("the program cannot be moved to {}: {error}", folder.path.display());
                self.doubt = Some(Doubt::refused(why, &error));
                return;
            }
        }
        let record = before.record(inputs, one.outputs(&folder.path), rendered.clone());
        self.messages.extend(rendered);
        // Without it the crate is compiled once more in the next session.
        record.write(&folder.path, one).ok();
        slot.record = Some(record);
        slot.begun = false;
    }
}

impl Job {
    fn hear(&mut self, diagnostic: Diagnostic) {
        if is_sum(&diagnostic.message) {
            return;
        }
        self.rendered.extend(Words::of(&diagnostic));
        if matches!(diagnostic.level, DiagnosticLevel::Error | DiagnosticLevel::Ice) {
            self.errors += 1;
            // As rustc words it, with the linker's name.
            self.unlinked |= diagnostic.message.starts_with("linking with `");
            let code = diagnostic.code.as_ref().map(|code| code.code.as_str());
            let is_of_another = code.is_some_and(|code| OTHER_CRATES.contains(&code));
            if is_of_another || diagnostic.spans.is_empty() || matches!(diagnostic.level, DiagnosticLevel::Ice) {
                self.odd.get_or_insert(diagnostic.message);
            }
        }
    }
}

/// The messages of rustc that are not diagnostics (the rustc book, "JSON Output").
#[derive(Deserialize)]
struct Artifact {
    emit: String,
}

fn read_messages(stderr: impl Read, number: usize, sink: &Sink, allowance: &Allowance) {
    for line in output::lines(stderr) {
        let is_message = matches!(&line, Line::Whole(text) if text.starts_with('{'));
        let text = allowance.text(line);
        let bytes = text.len();
        if is_message && let Ok(artifact) = serde_json::from_str::<Artifact>(&text) {
            match artifact.emit.as_str() {
                "metadata" if allowance.admits(Kind::Fact, bytes) => sink(number, Said::Metadata),
                "link" if allowance.admits(Kind::Fact, bytes) => sink(number, Said::Linked),
                _ => {}
            }
        } else if is_message && let Ok(diagnostic) = serde_json::from_str::<Diagnostic>(&text) {
            let is_error = matches!(diagnostic.level, DiagnosticLevel::Error | DiagnosticLevel::Ice);
            if allowance.admits(if is_error { Kind::Error } else { Kind::Warning }, bytes) {
                sink(number, Said::Diagnostic(Box::new(diagnostic)));
            }
        } else if !text.starts_with("{\"$message_type\":\"future_incompat\"") && allowance.admits(Kind::Text, bytes) {
            sink(number, Said::Text(text));
        }
    }
    sink(number, Said::Closed);
}
