//! When the processes of a group that was stopped have stopped, as far as they are going to.
//! Never lives here: stopping them, and why.

use super::now;
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
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| field(format!("/proc/{pid}/stat"), 2) == Some(group.to_string())).collect()
}

fn is_on_its_way(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // Runs, or sleeps so that a signal wakes it (proc_pid_stat(5)).
    let moves = |state: String| matches!(state.as_str(), "R" | "S");
    threads.filter_map(|thread| field(thread.path().join("stat"), 0)).any(moves)
}

/// Of those behind the name, which may have blanks and brackets of its own: state, parent, group (proc_pid_stat(5)).
fn field(stat: impl AsRef<std::path::Path>, nth: usize) -> Option<String> {
    let stat = fs::read_to_string(stat).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(nth).map(str::to_owned)
}
