//! Nothing grows with the number of generations: descriptors, processes, threads, files, the environment.

use crate::harness::server::{SERVER, change};
use crate::harness::{
    LONG, Project, Session, children, free_address, hotrun_dependency, now, pause, run_folder, target_folder,
};
use crate::load::{Load, Mix};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

const SWAPS: u64 = 50;
const MIX: Mix = Mix { fresh: 2, keep_alive: 0, slow: 0, slow_ms: 0 };

/// What a session has of everything.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: Vec<String>,
    threads: usize,
    children: Vec<String>,
    zombies: usize,
    programs: usize,
    temporary: usize,
}

impl Held {
    fn of(session: u32, temporary: &Path) -> Held {
        let mut children = children(session);
        // The dependencies are linked ahead once for a session, for as long as a busy machine needs: no generation's.
        children.retain(|(pid, _)| !command_line(*pid).contains(" --merge "));
        Held {
            descriptors: descriptors(session),
            threads: fs::read_dir(format!("/proc/{session}/task")).unwrap().count(),
            zombies: children.iter().filter(|(_, state)| *state == 'Z').count(),
            children: children.iter().map(|(pid, _)| command_line(*pid)).collect(),
            programs: files(&run_folder(&target_folder(), session)),
            temporary: files(temporary),
        }
    }

    fn is_within(&self, other: &Held) -> bool {
        self.descriptors.len() <= other.descriptors.len()
            && self.threads <= other.threads
            && self.children.len() <= other.children.len()
            && self.zombies == 0
            && self.programs <= other.programs
            && self.temporary <= other.temporary
    }
}

/// What the session has as soon as that holds, or when it is waited for no longer.
fn held_when(session: &Session, temporary: &Path, holds: impl Fn(&Held) -> bool) -> Held {
    let limit = now() + LONG;
    loop {
        let held = Held::of(session.pid(), temporary);
        if holds(&held) || now() >= limit {
            return held;
        }
        pause();
    }
}

/// What is open, by kind: the numbers of a session's own are nobody's business.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let kind = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?.display().to_string();
        Some(target.split(['[', ' ']).next().unwrap_or_default().to_owned())
    };
    let mut kinds: Vec<String> = entries.filter_map(|entry| kind(entry.unwrap())).collect();
    kinds.sort();
    kinds
}

fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| 1 + if entry.path().is_dir() { files(&entry.path()) } else { 0 }).sum()
}

/// The numbers that a process has open.
fn numbers(pid: u32) -> BTreeSet<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The names of the variables that a process was started with.
fn variables(pid: u32) -> BTreeSet<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let text = String::from_utf8_lossy(&environment).into_owned();
    text.split('\0').filter_map(|variable| Some(variable.split_once('=')?.0.to_owned())).collect()
}

#[test]
fn fifty_generations_later_everything_is_as_it_was() {
    let project = Project::new("leaks-swaps", &hotrun_dependency("[]"), SERVER);
    change(&project, "1", &[]);
    let address = free_address();
    let environment = swap_fifty_times(&project, address, &["--listen", &format!("http={address}")]);
    assert!(environment.contains("LISTEN_FDS"), "{environment:?}");
}

#[test]
fn fifty_generations_at_their_gates_later_everything_is_as_it_was() {
    let environment = swap_fifty_times(&Project::from_template("leaks-gate", "plain"), free_address(), &[]);
    assert!(!environment.contains("LISTEN_FDS") && !environment.contains("HOTRUN_CTL"), "{environment:?}");
}

/// Returns the variables that each generation has.
fn swap_fifty_times(project: &Project, address: SocketAddr, args: &[&str]) -> BTreeSet<String> {
    let temporary = tempfile::tempdir().unwrap();
    let mut session = Session::start_with(project, address, args, |command| {
        command.env("TMPDIR", temporary.path());
    });
    let pid = |event: serde_json::Value| u32::try_from(event["pid"].as_u64().unwrap()).unwrap();
    session.wait_serving(1);
    // Until then there are compilers among its children.
    session.see("replay", |event| event["event"] == "replay-ready");
    let swap = |session: &mut Session, generation: u64| {
        session.signal(Signal::SIGUSR2);
        let serving = pid(session.wait_serving(generation));
        session.wait("the end of the old one", |event| {
            event["event"] == "drained" && event["generation"] == generation - 1
        });
        serving
    };
    let second = swap(&mut session, 2);
    let (open, environment) = (numbers(second), variables(second));
    let before = held_when(&session, temporary.path(), |held| held.children.len() == 3);
    assert_eq!(before.children.len(), 3, "the server, the guard, a compiler that waits: {before:#?}");

    let load = Load::start(address, MIX);
    for generation in 3..SWAPS {
        swap(&mut session, generation);
    }
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    let last = swap(&mut session, SWAPS);

    // A thread says what it has to say, and then has still to end.
    let after = held_when(&session, temporary.path(), |held| held.is_within(&before));
    assert!(after.is_within(&before), "{after:#?} is more than {before:#?}");
    assert_eq!(
        (after.children.len(), after.zombies),
        (3, 0),
        "the server, the guard, a compiler that waits: {after:#?}"
    );
    assert_eq!(numbers(last), open);
    assert_eq!(variables(last), environment);
    environment
}
