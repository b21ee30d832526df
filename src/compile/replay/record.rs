//! How a crate was compiled here last, kept beside what was made: cargo's fingerprint in our own words.
//! Never lives here: compiling.

use super::call::{Cache, Call, Rewrite};
use super::unit::{Inputs, Unit};
use crate::compile::output::Words;
use crate::compile::stamp::{Print, Stamp, content_of};
use crate::process::inherited;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Of what stands in a record; one of another version is as none, and its crate is compiled again.
const VERSION: u32 = 2;

/// A compilation that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Of all that the call was made of.
    call: u64,
    /// `None` is a file of which it is not known what was read: it holds no longer than until it is asked for.
    sources: Vec<(PathBuf, Option<Print>)>,
    externs: Vec<(PathBuf, Option<Stamp>)>,
    outputs: Vec<PathBuf>,
    /// Of its environment what it has read.
    variables: Vec<(String, Option<String>)>,
    /// Its warnings.
    pub messages: Vec<Words>,
}

/// What is known before a crate is compiled, so that a file which changes meanwhile is not taken for compiled.
#[derive(Debug)]
pub struct Before {
    call: u64,
    began: SystemTime,
    sources: BTreeMap<PathBuf, Option<Print>>,
    externs: Vec<(PathBuf, Option<Stamp>)>,
}

impl Before {
    pub fn look(unit: &Unit, sources: Vec<PathBuf>, cache: &Cache, now: SystemTime) -> Before {
        let sources = sources.into_iter().map(|path| {
            let print = Print::of(&path, now);
            (path, print)
        });
        let externs = unit.facts.externs.iter().map(|path| unit.externs.get(path).unwrap_or(path));
        // What its build script has made, and told rustc to take, belongs to that run of it.
        let script = unit.call.script_output();
        let externs = externs.chain(&script);
        Before {
            call: call_of(unit, cache),
            began: now,
            sources: sources.collect(),
            externs: externs.map(|path| (path.clone(), Stamp::of_output(path))).collect(),
        }
    }

    /// Of a compilation of cargo's that began when that file was written.
    pub fn of_cargo(unit: &Unit, cache: &Cache, written: &Path) -> io::Result<Before> {
        let written = fs::metadata(written)?;
        // Its build script had ended by then, so what that has made is as old as it looks.
        let out_dir = unit.call.out_dir();
        let is_made = |path: &&PathBuf| out_dir.as_ref().is_some_and(|folder| path.starts_with(folder));
        let made = unit.sources.iter().filter(is_made).cloned().collect();
        let mut before = Before::look(unit, made, cache, written.modified()?);
        // Another file system may have another clock.
        let is_elsewhere = |path: &&PathBuf| fs::metadata(path).map_or(true, |file| file.dev() != written.dev());
        before.sources.extend(unit.sources.iter().filter(is_elsewhere).map(|path| (path.clone(), None)));
        Ok(before)
    }

    /// A source that was written since: of it nobody knows what was read.
    pub fn written(&self) -> Option<&Path> {
        let is_written = |path: &Path, print: &Option<Print>| match print {
            Some(print) => !print.is_untouched(path),
            None => Stamp::of(path).is_some(),
        };
        self.sources.iter().find(|(path, print)| is_written(path, print)).map(|(path, _)| path.as_path())
    }

    /// Of a compilation that has succeeded, and read that.
    pub fn record(mut self, inputs: Inputs, outputs: Vec<PathBuf>, messages: Vec<Words>) -> Record {
        let sources = inputs.sources.into_iter().map(|path| {
            let print = match self.sources.remove(&path) {
                Some(print) => print.filter(|print| print.is_untouched(&path)),
                None => Print::after(&path, self.began),
            };
            (path, print)
        });
        Record {
            version: VERSION,
            call: self.call,
            sources: sources.collect(),
            externs: self.externs,
            outputs,
            variables: inputs.variables,
            messages,
        }
    }
}

impl Record {
    /// The record of a crate, where its call is still the same, and what it read of the environment; otherwise nothing that was made by it is of use.
    pub fn read(folder: &Path, unit: &Unit, cache: &Cache) -> Option<Record> {
        let record = Record::parse(&fs::read(file(folder, unit)).ok()?)?;
        let same = record.call == call_of(unit, cache) && unit.call.otherwise(&record.variables, inherited).is_none();
        same.then_some(record)
    }

    fn parse(bytes: &[u8]) -> Option<Record> {
        serde_json::from_slice(bytes).ok().filter(|record: &Record| record.version == VERSION)
    }

    pub fn write(&self, folder: &Path, unit: &Unit) -> io::Result<()> {
        let mut kept = tempfile::NamedTempFile::new_in(folder.join("records"))?;
        kept.write_all(&serde_json::to_vec(self)?)?;
        kept.persist(file(folder, unit)).map_err(|error| error.error)?;
        Ok(())
    }

    pub fn remove(folder: &Path, unit: &Unit) {
        fs::remove_file(file(folder, unit)).ok();
    }

    /// Whether it is about those files, and they are as they were made.
    pub fn made(&self, outputs: &[PathBuf]) -> bool {
        self.outputs == outputs && self.outputs.iter().all(|path| path.is_file())
    }

    /// Whether compiling again, by that call, would give the same.
    pub fn still_holds(&self, call: &Call) -> bool {
        let same = |(path, stamp): &(PathBuf, Option<Stamp>)| stamp.is_some() && Stamp::of_output(path) == *stamp;
        self.externs.iter().all(same)
            && call.otherwise(&self.variables, inherited).is_none()
            && self.sources.iter().all(|(path, print)| print.as_ref().is_some_and(|print| print.still_holds(path)))
    }

    pub fn has_source(&self, path: &Path) -> bool {
        self.sources.iter().any(|(source, _)| source == path)
    }

    pub fn sources(&self) -> Vec<PathBuf> {
        self.sources.iter().map(|(path, _)| path.clone()).collect()
    }
}

fn file(folder: &Path, unit: &Unit) -> PathBuf {
    folder.join("records").join(format!("{}.json", unit.facts.stem()))
}

/// The compiler, its arguments and its environment, as far as cargo has made it.
fn call_of(unit: &Unit, cache: &Cache) -> u64 {
    let nowhere = Path::new("");
    let rewrite = Rewrite { out_dir: nowhere, cache, externs: &unit.externs, more: &[] };
    let compiler = Stamp::of(&unit.call.program);
    content_of(format!("{} {compiler:?}", unit.call.identity(&rewrite)).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_version_is_as_none() {
        let record = |version: &str, message: &str| {
            let rest = r#""call":1,"sources":[],"externs":[],"outputs":[],"variables":[]"#;
            Record::parse(format!("{{{version}{rest},\"messages\":[{message}]}}").as_bytes())
        };
        let words = r#"{"rendered":"warning: unused","message":{"level":"warning"}}"#;
        let kept = record(r#""version":2,"#, words).unwrap();
        assert_eq!(kept.messages[0].message, Some(serde_json::json!({ "level": "warning" })));
        assert_eq!(record("", r#""warning: unused""#), None, "from before there were versions");
        assert_eq!(record("", words), None);
        assert_eq!(record(r#""version":3,"#, words), None);
    }
}
