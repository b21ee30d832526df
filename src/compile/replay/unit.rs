//! A crate as cargo compiles it for the program: what is known of it, and does not change until cargo builds again.
//! Never lives here: how and when it is compiled here (`plan`, `run`), and what came of it (`record`).

use super::call::{Call, CallFacts};
use super::folder::program;
use super::not_replayable::NotReplayable;
use crate::compile::dep_info;
use crate::compile::places::plain;
use cargo_metadata::{PackageId, Target};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Unit {
    pub package: PackageId,
    pub target: Target,
    pub call: Call,
    pub facts: CallFacts,
    /// Those it needs directly, of those in the plan.
    pub needs: Vec<usize>,
    /// Where crates of the plan are found that it is given: by cargo's path, the path here.
    pub externs: BTreeMap<PathBuf, PathBuf>,
    /// Its sources as cargo's build knew them.
    pub sources: Vec<PathBuf>,
}

impl Unit {
    pub fn is_of(&self, package: &PackageId, target: &Target) -> bool {
        self.package == *package && self.target == *target
    }

    /// What is kept of what is made of it.
    pub fn outputs(&self, folder: &Path) -> Vec<PathBuf> {
        if self.facts.is_bin() {
            return vec![program(folder, &self.target.name)];
        }
        self.facts.outputs(&folder.join("deps"))
    }
}

/// What a compilation has read.
#[derive(Debug)]
pub struct Inputs {
    pub sources: Vec<PathBuf>,
    /// Of its environment.
    pub variables: Vec<(String, Option<String>)>,
}

impl Inputs {
    /// From what rustc wrote beside the crate in that folder.
    pub fn read(call: &Call, facts: &CallFacts, folder: &Path) -> Result<Inputs, NotReplayable> {
        let text = fs::read_to_string(facts.dep_info(folder)).map_err(|error| {
            let why = format!("the list of sources of {} cannot be read: {error}", facts.crate_name);
            NotReplayable::refused(why, &error)
        })?;
        let sources = dep_info::inputs(&text).into_iter().map(|path| plain(call.folder.join(path)));
        Ok(Inputs { sources: sources.collect(), variables: dep_info::variables(&text) })
    }
}

/// Why a crate is compiled by cargo alone.
pub fn reads_ours(facts: &CallFacts, name: &str) -> NotReplayable {
    NotReplayable::Unfit(format!("{} reads {name}, which replay sets for compilers", facts.crate_name))
}
