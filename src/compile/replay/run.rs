//! One run of captured calls, and what came of it.
//! Never lives here: which crates are compiled (`plan`), in which order (`schedule`), and the compilers (`compilation`).

use super::compilation::{Compilation, Compilers, RustcHeard, RustcSaid};
use super::folder::Folder;
use super::not_replayable::NotReplayable;
use super::plan::{Plan, Slot};
use super::record::Before;
use super::schedule::Schedule;
use super::unit::{Inputs, reads_ours};
use crate::compile::allowance::LeftOut;
use crate::compile::output::Words;
use crate::compile::{link, repair};
use crate::process::inherited;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A macro may print a line of any length, in which a reason is looked for.
const MOST_OF_A_REASON: usize = 500;

/// What came of a run.
#[derive(Debug)]
pub enum ReplayOutcome {
    /// Every crate is as its sources are.
    Built,
    Failed {
        errors: usize,
        messages: Vec<Words>,
    },
    /// It failed for a reason that need not be the sources': cargo is to be asked.
    Doubtful(NotReplayable),
    /// The plan was forgotten meanwhile, as when the project's folder is moved away.
    Gone,
}

/// When a crate was compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrateSpan {
    pub name: String,
    pub began: Instant,
    pub ended: Instant,
}

pub struct ReplayRun {
    began: Instant,
    compilers: Compilers,
    schedule: Schedule,
    at_work: BTreeMap<usize, Compilation>,
    wanted: Vec<usize>,
    /// Compiled for nothing: something newer is wanted.
    cancelled: bool,
    pub results: Results,
}

/// What has come of those crates that are compiled.
#[derive(Default)]
pub struct Results {
    errors: usize,
    messages: Vec<Words>,
    doubt: Option<NotReplayable>,
    linker_failed: bool,
    /// A source that was written while it was compiled: it is not known what was compiled of it.
    pub written: Option<PathBuf>,
    pub spans: Vec<CrateSpan>,
    pub linked: Option<link::Report>,
}

impl ReplayRun {
    pub fn new(now: Instant, plan: &Plan, wanted: Vec<usize>, at_once: usize, compilers: Compilers) -> ReplayRun {
        let crates = plan.crates.iter().map(|one| (one.unit.needs.clone(), one.unit.facts.is_bin()));
        ReplayRun {
            began: now,
            compilers,
            schedule: Schedule::new(crates, &wanted, at_once),
            at_work: BTreeMap::new(),
            wanted,
            cancelled: false,
            results: Results::default(),
        }
    }

    /// The crate that came first: most likely the one that was edited.
    pub fn first(&self) -> Option<usize> {
        self.wanted.first().copied()
    }

    /// Whether that crate was to be compiled.
    pub fn wants(&self, number: usize) -> bool {
        self.wanted.contains(&number)
    }

    /// Whether our own linker has failed.
    pub fn own_linker_failed(&self) -> bool {
        self.compilers.own_linker && self.results.linker_failed
    }

    /// What was printed, and nobody is told.
    pub fn left_out(&self) -> LeftOut {
        self.compilers.allowance.left_out()
    }

    /// Ends all compilers at once; an incremental cache survives that.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        self.schedule.stop();
        self.at_work.values().for_each(Compilation::kill);
    }

    /// When `go_on` should be asked though nothing was heard.
    pub fn deadline(&self) -> Option<Instant> {
        self.schedule.is_over().then_some(self.began)
    }

    pub fn hear(&mut self, now: Instant, number: usize, said: RustcSaid) {
        let Some(compilation) = self.at_work.get_mut(&number) else { return };
        match said {
            RustcSaid::Metadata => self.schedule.metadata(number),
            said => compilation.hear(now, said),
        }
    }

    /// Starts what may begin now.
    pub fn begin(&mut self, now: Instant, plan: &mut Plan, folder: &Folder) {
        for number in self.schedule.begin() {
            match self.compilers.start(now, number, &mut plan.crates[number], folder) {
                Ok(compilation) => drop(self.at_work.insert(number, compilation)),
                Err(error) => {
                    let why = error.to_string();
                    self.results.doubt = Some(NotReplayable::Failed { why, passes: error.passes() });
                    self.schedule.ended(number, false);
                }
            }
        }
    }

    /// Takes in what has come to its end, and starts what may begin then. Returns what came of the run when all of it has ended.
    pub fn go_on(&mut self, now: Instant, plan: &mut Plan, folder: &Folder) -> Option<ReplayOutcome> {
        let ended: Vec<(usize, Compilation)> = self.at_work.extract_if(.., |_, one| one.ended().is_some()).collect();
        for (number, compilation) in ended {
            let succeeded = self.results.take(compilation, &mut plan.crates[number], folder, self.cancelled);
            self.schedule.ended(number, succeeded);
        }
        if !self.schedule.is_over() {
            self.begin(now, plan, folder);
            return None;
        }
        let messages = std::mem::take(&mut self.results.messages);
        if self.cancelled || self.results.doubt.is_some() {
            self.results.written = None;
        }
        Some(match self.results.doubt.take() {
            _ if self.cancelled => ReplayOutcome::Failed { errors: 0, messages: Vec::new() },
            Some(doubt) => ReplayOutcome::Doubtful(doubt),
            None if self.results.errors > 0 => {
                ReplayOutcome::Failed { errors: self.results.errors + self.left_out().errors, messages }
            }
            None => ReplayOutcome::Built,
        })
    }
}

impl Results {
    /// Of a crate. Returns whether it was compiled; what comes of it when that is for nothing does not matter.
    fn take(&mut self, compilation: Compilation, slot: &mut Slot, folder: &Folder, for_nothing: bool) -> bool {
        if let Some(ended) = compilation.ended() {
            let name = slot.unit.facts.crate_name.clone();
            self.spans.push(CrateSpan { name, began: compilation.began, ended });
        }
        let (before, heard, failure) = compilation.end(slot);
        if slot.unit.facts.is_bin() {
            self.linked = link::read_report(&folder.link());
        }
        self.linker_failed |= heard.linker_failed;
        let succeeded = failure.is_none();
        if for_nothing {
            return succeeded;
        }
        self.written = self.written.take().or_else(|| before.written().map(Path::to_path_buf));
        let doubt = match failure {
            None => keep(slot, before, &heard.rendered, folder).err(),
            Some(failure) => {
                self.errors += heard.errors;
                doubt_of(&heard, &failure, slot, folder)
            }
        };
        self.doubt = doubt.or(self.doubt.take());
        self.messages.extend(heard.rendered);
        succeeded
    }
}

/// Why a crate could not be compiled, where it need not be the sources' fault.
fn doubt_of(heard: &RustcHeard, failure: &str, slot: &mut Slot, folder: &Folder) -> Option<NotReplayable> {
    if heard.errors > 0 && heard.odd.is_none() {
        return None;
    }
    let what = heard.odd.as_deref().or(heard.text.as_deref()).unwrap_or(failure);
    let what = what.lines().next().unwrap_or_default();
    let what = &what[..what.floor_char_boundary(MOST_OF_A_REASON)];
    let texts = heard.rendered.iter().map(|words| words.rendered.as_str()).chain([what]);
    let passes = repair::passes(texts, &folder.path);
    // Its incremental cache may be the reason.
    slot.record = None;
    folder.forget_cache(&slot.unit.facts);
    Some(NotReplayable::Failed { why: format!("compiling {} ended with {what}", slot.unit.facts.crate_name), passes })
}

/// What was compiled: the program goes to its place, and it is written down of what it was made.
fn keep(slot: &mut Slot, before: Before, rendered: &[Words], folder: &Folder) -> Result<(), NotReplayable> {
    let one = &slot.unit;
    let inputs = Inputs::read(&one.call, &one.facts, &folder.deps())?;
    if let Some(name) = one.call.otherwise(&inputs.variables, inherited) {
        return Err(reads_ours(&one.facts, name));
    }
    if one.facts.is_bin() {
        let made = one.facts.outputs(&folder.deps());
        let put = made.first().map_or(Ok(()), |made| fs::rename(made, folder.program(&one.target.name)));
        put.map_err(|error| {
            let why = format!("the program cannot be moved to {}: {error}", folder.path.display());
            NotReplayable::refused(why, &error)
        })?;
    }
    let record = before.record(inputs, one.outputs(&folder.path), rendered.to_vec());
    // Without it the crate is compiled once more in the next session.
    record.write(&folder.path, one).ok();
    slot.record = Some(record);
    slot.begun = false;
    Ok(())
}
