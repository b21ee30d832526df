//! When the processes of a group that was stopped have stopped, as far as they are going to.
//! Never lives here: stopping them, and why.

use super::{kin, now};
use nix::poll::{PollTimeout, poll};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

/// It takes less than a millisecond. What is so busy that it does not come to its stop in this time is not in a call that waits.
const LIMIT: Duration = Duration::from_secs(1);

/// Returns when no thread of the group runs, or waits in a call that a signal ends, any more: SIGCONT would take back a stop that is
/// still to come. One that waits for a child of vfork(2) does not stop before that child goes on, which is stopped itself: it is in no
/// other call, and need not be waited for.
pub fn until_stopped(group: Pid) {
    let limit = now() + LIMIT;
    // A process whose stop is to come makes no new ones (fork(2) is begun anew after it).
    let members = members(group);
    while members.iter().any(|pid| is_on_its_way(*pid)) && now() < limit {
        poll(&mut [], PollTimeout::from(1u8)).ok();
    }
}

fn members(group: Pid) -> Vec<u32> {
    let group = group.to_string();
    let is_in = |stat: Vec<String>| stat.get(2) == Some(&group);
    kin::processes().filter(|pid| kin::stat(format!("/proc/{pid}/stat")).is_some_and(is_in)).collect()
}

fn is_on_its_way(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // Runs, or sleeps so that a signal wakes it (proc_pid_stat(5)).
    let moves = |stat: Vec<String>| matches!(stat[0].as_str(), "R" | "S");
    threads.filter_map(|thread| kin::stat(thread.path().join("stat"))).any(moves)
}
