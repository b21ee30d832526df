//! The limit of open files of a session that runs.
//! Never lives here: what is expected of it then.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::collections::BTreeSet;
use std::fs;

/// The three of every process, and no other: with that as its limit, it can open nothing, whatever it closes.
pub const STANDARD: u64 = 3;

/// Sets the soft limit of a process; what it was.
pub fn limit(process: u32, soft: u64) -> u64 {
    // Its hard limit stays as it is, which this process has, too.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    prlimit(Some(process), Resource::Nofile, Rlimit { current: Some(soft), maximum }).unwrap().current.unwrap()
}

/// The lowest number that the process has not in use: with that as its limit, it can open nothing until it closes something.
pub fn lowest_free(process: u32) -> u64 {
    let numbers = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let used: BTreeSet<u64> =
        numbers.map(|number| number.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    (0..).find(|number| !used.contains(number)).unwrap()
}
