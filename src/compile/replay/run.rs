//! One run of captured calls: the compilers it starts, what they say, and what came of it.
//! Never lives here: which crates are compiled (`plan`), and in which order (`schedule`).

use super::Folder;
use super::call::Rewrite;
use super::plan::{Plan, Work, inputs_of};
use super::record::{Before, Record};
use super::schedule::Schedule;
use crate::compile::link;
use crate::error::Result;
use crate::process::{Launcher, Running, Stdin};
use cargo_metadata::diagnostic::{Diagnostic, DiagnosticLevel};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long output may lag behind the compiler's end, should a macro have left a process behind that holds it open.
const LAG: Duration = Duration::from_millis(200);
/// Crates that are compiled before they are needed get out of the way of what the user does.
const BACKGROUND: i32 = 10;
/// Errors in which rustc cannot use a crate that was compiled before: it is no fault of the sources.
const OTHER_CRATES: [&str; 12] =
    ["E0455", "E0457", "E0458", "E0459", "E0460", "E0461", "E0462", "E0463", "E0464", "E0465", "E0514", "E0519"];

/// What a compiler said, or that it ended.
#[derive(Debug)]
pub enum Said {
    Diagnostic(Box<Diagnostic>),
    /// A line that is no message.
    Text(String),
    /// Its metadata can be used.
    Metadata,
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
        messages: Vec<String>,
    },
    /// It failed for a reason that need not be the sources': cargo is to be asked.
    Doubtful(String),
}

/// When a crate was compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub began: Instant,
    pub ended: Instant,
}

pub struct Run {
    schedule: Schedule,
    jobs: BTreeMap<usize, Job>,
    in_background: bool,
    own_linker: bool,
    has_program: bool,
    /// Compiled for nothing: something newer is wanted.
    cancelled: bool,
    errors: usize,
    messages: Vec<String>,
    doubt: Option<String>,
    pub steps: Vec<Step>,
    pub linked: Option<link::Report>,
}

/// A compiler that runs.
struct Job {
    running: Running,
    before: Before,
    began: Instant,
    exited: Option<Instant>,
    closed: bool,
    rendered: Vec<String>,
    errors: usize,
    odd: Option<String>,
}

impl Run {
    /// Whether its end is a link by our own linker.
    pub fn links(&self) -> bool {
        self.own_linker && self.has_program
    }

    pub fn new(plan: &Plan, work: &Work, at_once: usize, own_linker: bool, in_background: bool) -> Run {
        let crates = plan.crates.iter().map(|one| (one.needs.clone(), one.facts.is_bin()));
        Run {
            schedule: Schedule::new(crates, &work.crates, at_once),
            jobs: BTreeMap::new(),
            in_background,
            own_linker,
            has_program: work.crates.iter().any(|number| plan.crates[*number].facts.is_bin()),
            cancelled: false,
            errors: 0,
            messages: Vec::new(),
            doubt: None,
            steps: Vec::new(),
            linked: None,
        }
    }

    /// Starts what may begin now.
    pub fn go_on(&mut self, now: Instant, plan: &Plan, folder: &Folder, launcher: &mut Launcher, sink: &Sink) {
        for number in self.schedule.begin() {
            match self.start(now, number, plan, folder, launcher, sink) {
                Ok(job) => drop(self.jobs.insert(number, job)),
                Err(error) => {
                    self.doubt = Some(error.to_string());
                    self.schedule.ended(number, false);
                }
            }
        }
    }

    /// Ends all compilers at once; an incremental cache survives that.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        self.schedule.stop();
        self.jobs.values().for_each(|job| job.running.signal_group(Signal::SIGKILL));
    }

    /// When `ended` should be asked again though nothing was heard.
    pub fn deadline(&self) -> Option<Instant> {
        self.jobs.values().filter_map(|job| job.exited).map(|exited| exited + LAG).min()
    }

    pub fn hear(&mut self, now: Instant, number: usize, said: Said) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        match said {
            Said::Diagnostic(diagnostic) => job.hear(*diagnostic),
            Said::Text(text) => {
                // rustc says nothing but messages, unless it breaks.
                job.rendered.push(text.clone());
                job.odd.get_or_insert(text);
            }
            Said::Metadata => self.schedule.metadata(number),
            Said::Closed => job.closed = true,
            Said::Exited => job.exited = Some(now),
        }
    }

    /// Takes in what has come to its end. Returns what came of the run when all of it has.
    pub fn ended(&mut self, now: Instant, plan: &mut Plan, folder: &Folder) -> Option<Outcome> {
        let over = |job: &Job| job.exited.is_some_and(|exited| job.closed || now >= exited + LAG);
        let ended: Vec<usize> = self.jobs.iter().filter(|(_, job)| over(job)).map(|(number, _)| *number).collect();
        for number in ended {
            if let Some(job) = self.jobs.remove(&number) {
                self.end(number, job, plan, folder);
            }
        }
        if !self.schedule.is_over() {
            return None;
        }
        Some(match self.doubt.take() {
            None if self.cancelled => Outcome::Failed { errors: 0, messages: Vec::new() },
            Some(doubt) if !self.cancelled => Outcome::Doubtful(doubt),
            None | Some(_) if self.errors > 0 => {
                Outcome::Failed { errors: self.errors, messages: std::mem::take(&mut self.messages) }
            }
            None | Some(_) => Outcome::Built,
        })
    }

    fn start(
        &self,
        now: Instant,
        number: usize,
        plan: &Plan,
        folder: &Folder,
        launcher: &mut Launcher,
        sink: &Sink,
    ) -> Result<Job> {
        let one = &plan.crates[number];
        let before = Before::look(one, folder.line_tables, SystemTime::now());
        let own_linker = self.own_linker && one.facts.is_bin() && !one.facts.linker;
        if one.facts.is_bin() {
            // What runs from a link of the file must not be written to, whatever the linker does.
            one.facts.outputs(&folder.deps()).iter().for_each(|path| drop(fs::remove_file(path)));
        }
        let linker = ["-C", &format!("linker=/proc/{}/exe", std::process::id()), "-C", "linker-flavor=gcc"];
        let more: Vec<String> = linker.iter().filter(|_| own_linker).map(ToString::to_string).collect();
        let mut command = one.call.command(&Rewrite {
            out_dir: &folder.deps(),
            incremental: &folder.incremental(),
            line_tables: folder.line_tables,
            externs: &one.externs,
            more: &more,
        });
        // What a compiler that is killed leaves behind is removed with the folder.
        command.env("TMPDIR", folder.temporary());
        if own_linker {
            command.env(link::FOLDER, folder.link());
            if folder.line_tables {
                command.env(link::OWN, folder.deps());
            }
        }
        let mut running = launcher.start(&command, Stdio::null(), Stdio::piped(), Stdin::Null, &[], false)?;
        if self.in_background {
            // Where it is not allowed, it competes.
            rustix::process::setpriority_process(rustix::process::Pid::from_raw(running.pid() as i32), BACKGROUND).ok();
        }
        if let Some(stderr) = running.stderr() {
            let sink = Arc::clone(sink);
            thread::spawn(move || read_messages(stderr, number, &sink));
        }
        let end = running.end().map_err(|error| crate::error::Error::failure(format!("watch rustc: {error}")))?;
        let sink = Arc::clone(sink);
        thread::spawn(move || wait_for_end(&end, number, &sink));
        let (exited, closed, rendered, errors, odd) = (None, false, Vec::new(), 0, None);
        Ok(Job { running, before, began: now, exited, closed, rendered, errors, odd })
    }

    fn end(&mut self, number: usize, mut job: Job, plan: &mut Plan, folder: &Folder) {
        let success = job.running.finish();
        let one = &mut plan.crates[number];
        if let Some(exited) = job.exited {
            self.steps.push(Step { name: one.facts.crate_name.clone(), began: job.began, ended: exited });
        }
        if one.facts.is_bin() {
            self.linked = link::read_report(&folder.link());
        }
        let described = match &success {
            Ok(status) => crate::process::describe(*status),
            Err(error) => error.to_string(),
        };
        let success = success.is_ok_and(|status| status.success());
        self.schedule.ended(number, success);
        if self.cancelled {
            return;
        }
        if !success {
            if job.errors == 0 || job.odd.is_some() {
                let what = job.odd.unwrap_or(described);
                self.doubt = Some(format!("compiling {} ended with {what}", one.facts.crate_name));
                // Its incremental cache may be the reason.
                one.record = None;
                Record::remove(&folder.path, one);
            }
            self.errors += job.errors;
            self.messages.extend(job.rendered);
            return;
        }
        let Some(inputs) = inputs_of(&one.call, &one.facts, &folder.deps()) else {
            self.doubt = Some(format!("rustc has left no list of sources of {}", one.facts.crate_name));
            return;
        };
        let record = job.before.record(inputs, one.facts.outputs(&folder.deps()), job.rendered.clone());
        self.messages.extend(job.rendered);
        // Without it the crate is compiled once more in the next session.
        record.write(&folder.path, one).ok();
        one.record = Some(record);
    }
}

impl Job {
    fn hear(&mut self, diagnostic: Diagnostic) {
        if is_sum(&diagnostic.message) {
            return;
        }
        let is_error = matches!(diagnostic.level, DiagnosticLevel::Error | DiagnosticLevel::Ice);
        if is_error {
            self.errors += 1;
            let code = diagnostic.code.as_ref().map(|code| code.code.as_str());
            let is_of_another = code.is_some_and(|code| OTHER_CRATES.contains(&code));
            if is_of_another || diagnostic.spans.is_empty() || matches!(diagnostic.level, DiagnosticLevel::Ice) {
                self.odd.get_or_insert(diagnostic.message);
            }
        }
        self.rendered.extend(diagnostic.rendered);
    }
}

/// rustc counts what the user has just read; cargo leaves that out.
fn is_sum(message: &str) -> bool {
    message.starts_with("aborting due to")
        || ["warning emitted", "warnings emitted"].iter().any(|end| message.ends_with(end))
}

/// The messages of rustc that are not diagnostics (the rustc book, "JSON Output").
#[derive(Deserialize)]
struct Artifact {
    emit: String,
}

fn read_messages(stderr: impl Read, number: usize, sink: &Sink) {
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { break };
        let text = String::from_utf8_lossy(&line);
        if let Ok(artifact) = serde_json::from_str::<Artifact>(&text) {
            if artifact.emit == "metadata" {
                sink(number, Said::Metadata);
            }
        } else if let Ok(diagnostic) = serde_json::from_str(&text) {
            sink(number, Said::Diagnostic(Box::new(diagnostic)));
        } else if !text.starts_with("{\"$message_type\":\"future_incompat\"") {
            sink(number, Said::Text(text.into_owned()));
        }
    }
    sink(number, Said::Closed);
}

fn wait_for_end(end: &OwnedFd, number: usize, sink: &Sink) {
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    sink(number, Said::Exited);
}
