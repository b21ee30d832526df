//! Who holds the lock that a process waits for, as far as the kernel tells (proc_locks(5)).
//! Never lives here: what is said of it, and taking locks.

use crate::report::Holder;
use std::fs;

/// A command line is shown up to here.
const LONGEST: usize = 60;

/// What there is to see of a process that may be waiting for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It is not among those that wait. Where a container hides other processes, it may wait all the same.
    Nothing,
    Waits(Option<Holder>),
}

pub fn look(waiter: u32) -> Look {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    match held_by(&locks, waiter) {
        None => Look::Nothing,
        Some(holder) => Look::Waits(holder.map(|pid| Holder { pid, command: command_of(pid) })),
    }
}

/// Whether that process waits, and for whom: each lock's line is followed by those of its waiters, with an arrow and the same number.
fn held_by(locks: &str, waiter: u32) -> Option<Option<u32>> {
    let mut holder = None;
    for line in locks.lines() {
        let mut words = line.split_whitespace();
        let number = words.next();
        let mut words = words.peekable();
        let waits = words.next_if_eq(&"->").is_some();
        // FLOCK ADVISORY WRITE PID ...; a number that is hidden is 0 or -1.
        let pid: Option<u32> = words.nth(3).and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0);
        if !waits {
            holder = pid.map(|pid| (number, pid));
        } else if pid == Some(waiter) {
            return Some(holder.filter(|(held, _)| *held == number).map(|(_, pid)| pid));
        }
    }
    None
}

/// As it was started, without the folders of the program. Empty where it has gone: a lock may outlive who took it.
fn command_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    shortened(&String::from_utf8_lossy(&line))
}

fn shortened(line: &str) -> String {
    let mut words = line.split('\0').filter(|word| !word.is_empty());
    let program = words.next().map(|program| program.rsplit('/').next().unwrap_or(program));
    let command = program.into_iter().chain(words).collect::<Vec<_>>().join(" ");
    match command.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_found_behind_the_one_it_waits_for() {
        let locks = "\
            1: FLOCK  ADVISORY  WRITE 11 00:2f:1234 0 EOF\n\
            1: -> FLOCK  ADVISORY  WRITE 12 00:2f:1234 0 EOF\n\
            1:  -> FLOCK  ADVISORY  WRITE 13 00:2f:1234 0 EOF\n\
            2: POSIX  ADVISORY  READ  14 00:2f:1235 0 0\n\
            3: FLOCK  ADVISORY  READ  0 00:2f:1236 0 EOF\n\
            3: -> FLOCK  ADVISORY  WRITE 15 00:2f:1236 0 EOF\n";
        assert_eq!(held_by(locks, 12), Some(Some(11)));
        assert_eq!(held_by(locks, 13), Some(Some(11)));
        assert_eq!(held_by(locks, 15), Some(None), "the holder is hidden");
        for other in [11, 14, 16] {
            assert_eq!(held_by(locks, other), None);
        }
        assert_eq!(held_by("odd\n\n-> x", 1), None);
    }

    #[test]
    fn a_command_is_shown_short() {
        assert_eq!(shortened("/home/u/.cargo/bin/cargo\0check\0--workspace\0"), "cargo check --workspace");
        assert_eq!(shortened(""), "");
        assert_eq!(shortened(&"ä".repeat(100)).chars().count(), LONGEST + 1);
    }
}
