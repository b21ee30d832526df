//! The processes that call at a gate.
//! Never lives here: what they call for.

use crate::upgrade::proc;
use std::collections::{BTreeMap, BTreeSet};

/// How many threads are remembered.
const THREADS: usize = 1024;

#[derive(Debug)]
pub struct Callers {
    /// The first one behind the gate.
    first: u32,
    /// Those that have called, and by which of their threads of late.
    processes: BTreeSet<u32>,
    threads: BTreeMap<i32, u32>,
}

impl Callers {
    pub fn new(first: u32) -> Callers {
        Callers { first, processes: BTreeSet::new(), threads: BTreeMap::new() }
    }

    /// The process of a thread that calls.
    pub fn process(&mut self, thread: i32) -> Option<u32> {
        if let Some(process) = self.threads.get(&thread) {
            return Some(*process);
        }
        let process = proc::process_of(thread)?;
        if self.threads.len() == THREADS {
            // They may be gone, and their numbers others'.
            self.threads.clear();
            self.processes.retain(|process| proc::is_there(*process));
        }
        self.threads.insert(thread, process);
        self.processes.insert(process);
        Some(process)
    }

    /// All processes behind the gate.
    pub fn all(&self) -> BTreeSet<u32> {
        proc::family(self.first).into_iter().chain(self.processes.iter().copied()).collect()
    }

    /// Without any descriptor, its end is about to be heard.
    pub fn is_about_to_end(&self) -> bool {
        !proc::has_descriptors(self.first)
    }
}
