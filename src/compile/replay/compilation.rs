//! One compiler at work on a crate: its start, and what it says until it has come to its end.
//! Never lives here: when it begins, and what follows from its end (`run`).

use super::call::Rewrite;
use super::compiler::Compiler;
use super::folder::Folder;
use super::plan::Slot;
use super::record::{Before, Record};
use crate::compile::allowance::{Allowance, OutputKind};
use crate::compile::link;
use crate::compile::output::{self, Line, Words, is_sum};
use crate::error::Result;
use crate::process::{Launcher, Running, refused};
use cargo_metadata::diagnostic::{Diagnostic, DiagnosticLevel};
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::io::Read;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Errors in which rustc cannot use a crate that was compiled before: it is no fault of the sources.
const OTHER_CRATES: [&str; 13] = [
    "E0455", "E0457", "E0458", "E0459", "E0460", "E0461", "E0462", "E0463", "E0464", "E0465", "E0514", "E0519", "E0786",
];

/// What a compiler said, or that it ended.
#[derive(Debug)]
pub enum RustcSaid {
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
pub type RustcSink = Arc<dyn Fn(usize, RustcSaid) + Send + Sync>;

/// How the compilers of one run are started.
pub struct Compilers {
    pub launcher: Launcher,
    pub sink: RustcSink,
    /// Shared with those who read what they print.
    pub allowance: Arc<Allowance>,
    pub own_linker: bool,
}

/// A compiler that runs.
pub struct Compilation {
    running: Running,
    pub before: Before,
    pub began: Instant,
    linked: Option<Instant>,
    exited: Option<Instant>,
    closed: bool,
    pub heard: RustcHeard,
}

/// What a compiler has said.
#[derive(Default)]
pub struct RustcHeard {
    pub rendered: Vec<Words>,
    pub errors: usize,
    /// An error that need not be the sources'.
    pub odd: Option<String>,
    pub text: Option<String>,
    pub linker_failed: bool,
}

impl Compilers {
    pub fn start(&self, now: Instant, number: usize, slot: &mut Slot, folder: &Folder) -> Result<Compilation> {
        // From now on another session, too, must not take for made what may be half made, or broken.
        slot.begun = true;
        let sources = slot.sources();
        let one = &slot.unit;
        Record::remove(&folder.path, one);
        let before = Before::look(one, sources, &folder.cache, SystemTime::now());
        let own_linker = one.facts.is_linked_by(self.own_linker);
        if one.facts.is_bin() {
            link::forget_report(&folder.link());
        }
        let linker = ["-C", &format!("linker=/proc/{}/exe", std::process::id()), "-C", "linker-flavor=gcc"];
        let more: Vec<String> = linker.iter().filter(|_| own_linker).map(ToString::to_string).collect();
        let arguments = one.call.rewritten(&Rewrite {
            out_dir: &folder.deps(),
            cache: &folder.cache,
            externs: &one.externs,
            more: &more,
        });
        // One that has ended while it waited is no loss.
        let waiting = slot.waiting.take().and_then(|compiler| compiler.go(&arguments).ok());
        let mut running = match waiting {
            Some(running) => running,
            None => Compiler::start(&self.launcher, &one.call, folder, own_linker)?.go(&arguments)?,
        };
        let (sink, allowance, stderr) = (Arc::clone(&self.sink), Arc::clone(&self.allowance), running.stderr());
        output::listen("rustc", &running, stderr, move |stderr| read_messages(stderr, number, &sink, &allowance))?;
        let sink = Arc::clone(&self.sink);
        let exited = move || sink(number, RustcSaid::Exited);
        running.when_ended(exited).map_err(|error| refused("watch rustc", &error))?;
        let heard = RustcHeard::default();
        Ok(Compilation { running, before, began: now, linked: None, exited: None, closed: false, heard })
    }
}

impl Compilation {
    pub fn hear(&mut self, now: Instant, said: RustcSaid) {
        match said {
            RustcSaid::Diagnostic(diagnostic) => self.heard.diagnostic(*diagnostic),
            RustcSaid::Text(text) => {
                // rustc says nothing but messages, unless it breaks or a macro speaks.
                self.heard.rendered.push(Words::text(text.clone()));
                self.heard.text.get_or_insert(text);
            }
            // What may begin then is the schedule's.
            RustcSaid::Metadata => {}
            RustcSaid::Linked => self.linked = Some(now),
            RustcSaid::Closed => self.closed = true,
            RustcSaid::Exited => self.exited = Some(now),
        }
    }

    pub fn kill(&self) {
        self.running.signal_group(Signal::SIGKILL);
    }

    /// When it has made all that it makes, or has ended.
    pub fn ended(&self) -> Option<Instant> {
        self.linked.or(self.exited.filter(|_| self.closed))
    }

    /// Lets go of it, with what it has said. Returns how it has failed, if it has.
    pub fn end(mut self, slot: &mut Slot) -> (Before, RustcHeard, Option<String>) {
        let failure = if self.linked.is_some() {
            slot.leaving = self.running.leave().ok();
            None
        } else {
            match self.running.finish() {
                Ok(status) if status.success() => None,
                Ok(status) => Some(crate::process::describe(status)),
                Err(error) => Some(error.to_string()),
            }
        };
        (self.before, self.heard, failure)
    }
}

impl RustcHeard {
    fn diagnostic(&mut self, diagnostic: Diagnostic) {
        if is_sum(&diagnostic.message) {
            return;
        }
        self.rendered.extend(Words::of(&diagnostic));
        if matches!(diagnostic.level, DiagnosticLevel::Error | DiagnosticLevel::Ice) {
            self.errors += 1;
            // As rustc words it, with the linker's name.
            self.linker_failed |= diagnostic.message.starts_with("linking with `");
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

fn read_messages(stderr: impl Read, number: usize, sink: &RustcSink, allowance: &Allowance) {
    for line in output::lines(stderr) {
        let is_message = matches!(&line, Line::Whole(text) if text.starts_with('{'));
        let text = allowance.text(line);
        let bytes = text.len();
        if is_message && let Ok(artifact) = serde_json::from_str::<Artifact>(&text) {
            match artifact.emit.as_str() {
                "metadata" if allowance.admits(OutputKind::Fact, bytes) => sink(number, RustcSaid::Metadata),
                "link" if allowance.admits(OutputKind::Fact, bytes) => sink(number, RustcSaid::Linked),
                _ => {}
            }
        } else if is_message && let Ok(diagnostic) = serde_json::from_str::<Diagnostic>(&text) {
            let is_error = matches!(diagnostic.level, DiagnosticLevel::Error | DiagnosticLevel::Ice);
            if allowance.admits(if is_error { OutputKind::Error } else { OutputKind::Warning }, bytes) {
                sink(number, RustcSaid::Diagnostic(Box::new(diagnostic)));
            }
        } else if !text.starts_with("{\"$message_type\":\"future_incompat\"")
            && allowance.admits(OutputKind::Text, bytes)
        {
            sink(number, RustcSaid::Text(text));
        }
    }
    sink(number, RustcSaid::Closed);
}
