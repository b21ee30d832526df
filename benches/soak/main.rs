//! Hours of bad days in minutes: good saves among broken, panicking, leaving, hanging and slow ones, and storms of signals,
//! with clients that never stop asking. Tells what was lost, and what the command has of everything at the end.
//!
//!     cargo bench --bench soak                   # 150 good swaps of each server
//!     cargo bench --bench soak -- 30             # as many as that
//!     cargo bench --bench soak -- 150 library    # of one of the servers: plain, aborting, library

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../tests/it/harness/mod.rs"]
#[allow(unused_imports)] // What the tests use of it.
mod harness;
#[allow(dead_code)] // What the demo uses of it.
#[path = "../../src/demo/load.rs"]
mod load;

use harness::{Project, Session, children, free_address, get, leavings, send};
use load::{Load, Mix, Tally};
use nix::sys::signal::Signal;
use std::fs;
use std::net::SocketAddr;

const SWAPS: u64 = 150;
const MIX: Mix = Mix { fresh: 2, keep_alive: 4, slow: 3, slow_ms: 300 };
const STORM: usize = 20;

#[derive(Clone, Copy)]
struct Server {
    name: &'static str,
    template: &'static str,
    /// Generations that end themselves while they serve are among the good ones.
    aborts: bool,
}

const SERVERS: [Server; 3] = [
    Server { name: "plain", template: "plain", aborts: false },
    Server { name: "aborting", template: "plain", aborts: true },
    Server { name: "library", template: "std", aborts: false },
];

/// What comes before a good save.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    /// A save that does not serve, seen to have failed.
    Fails(&'static str),
    /// One that is mended before anything came of it.
    IsMended(&'static str),
    /// A program that serves, after its time.
    Starts(&'static str),
    Storm,
}

const BROKEN: &str = "this is not Rust;";
const PANICS: &str = "panic!(\"at its start\");";
/// The compiler drops what can never be reached, the library with it.
const TODO: &str = "todo!();";
const EXITS: &str = "std::process::exit(0);";
const FAILS: &str = "std::process::exit(3);";
const HANGS: &str = "loop { std::thread::park(); }";
const SLOW: &str = "std::thread::sleep(std::time::Duration::from_millis(700));";
const ABORTS: &str =
    "std::thread::spawn(|| { std::thread::sleep(std::time::Duration::from_millis(400)); std::process::abort() });";

const DAYS: [Before; 12] = [
    Before::Nothing,
    Before::Fails(BROKEN),
    Before::Fails(PANICS),
    Before::Nothing,
    Before::Fails(TODO),
    Before::Storm,
    Before::Fails(EXITS),
    Before::IsMended(BROKEN),
    Before::Starts(SLOW),
    Before::IsMended(HANGS),
    Before::Fails(FAILS),
    Before::Fails(HANGS),
];

/// What a command has of everything.
struct Held {
    descriptors: usize,
    threads: usize,
    memory: String,
    zombies: usize,
}

struct Row {
    good: u64,
    generations: u64,
    tally: Tally,
    /// Of what was lost: what was under way in a server that ended itself.
    cut_by_itself: u64,
    first: Held,
    last: Held,
    left: Vec<String>,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let swaps = words.iter().find_map(|word| word.parse().ok()).unwrap_or(SWAPS);
    let is_wanted = |server: &&Server| {
        !SERVERS.iter().any(|known| words.iter().any(|word| word == known.name))
            || words.iter().any(|word| word == server.name)
    };
    println!(
        "| server | good swaps / generations | requests | refused | reset, cut | of these by a server that aborts | timed out | wrong version | descriptors | threads | memory, kB | zombies, left |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for server in SERVERS.iter().filter(is_wanted) {
        let Row { good, generations, tally, cut_by_itself, first, last, left } = soak(server, swaps);
        println!(
            "| {} | {good} / {generations} | {} | {} | {} | {cut_by_itself} | {} | {} | {} -> {} | {} -> {} | {} -> {} | {}, {} |",
            server.name,
            tally.requests,
            tally.refused,
            tally.reset + tally.cut + tally.malformed,
            tally.timed_out,
            tally.wrong_version,
            first.descriptors,
            last.descriptors,
            first.threads,
            last.threads,
            first.memory,
            last.memory,
            last.zombies,
            left.len(),
        );
        for lost in tally.first_losses {
            eprintln!("{}: {lost:?}", server.name);
        }
        for left in left {
            eprintln!("{}: left: {left}", server.name);
        }
    }
}

fn soak(server: &Server, swaps: u64) -> Row {
    let project = Project::from_template(&format!("soak-{}", server.name), server.template);
    let source = project.read("src/main.rs");
    let address = free_address();
    let temporary = tempfile::tempdir().unwrap();
    let mut session = Session::start_with(&project, address, &["--ready-timeout", "5s"], |command| {
        command.env("TMPDIR", temporary.path());
    });
    session.wait_serving(1);
    let load = Load::start(address, MIX);
    let (mut first, mut cut_by_itself) = (None, 0);
    for good in 1..=swaps {
        match DAYS[usize::try_from(good).unwrap() % DAYS.len()] {
            Before::Nothing => {}
            Before::Fails(what) => {
                save(&project, &source, good, what);
                session.wait("the failure", |event| {
                    matches!(event["event"].as_str(), Some("build-failed" | "start-failed" | "rolled-back"))
                });
            }
            Before::IsMended(what) => save(&project, &source, good, what),
            Before::Starts(what) => {
                serve(&mut session, &project, &source, address, &load, &format!("{good}-first"), what)
            }
            Before::Storm => (0..STORM).for_each(|_| send(session.pid(), Signal::SIGUSR2)),
        }
        serve(&mut session, &project, &source, address, &load, &good.to_string(), "");
        if server.aborts && good % 15 == 7 {
            let before = load.tally().lost();
            save(&project, &source, format!("{good}-aborts"), ABORTS);
            session.wait_for("died");
            serve(&mut session, &project, &source, address, &load, &format!("{good}-again"), "");
            cut_by_itself += load.tally().lost() - before;
        }
        first.get_or_insert_with(|| held(session.pid()));
        eprintln!("{}: {good} of {swaps}, {} lost", server.name, load.tally().lost());
    }
    load.wait_for(50);
    let tally = load.stop();
    let last = held(session.pid());
    let (_, log) = session.stop();
    let generations = log.iter().filter_map(|event| event["generation"].as_u64()).max().unwrap();
    Row {
        good: swaps,
        generations,
        tally,
        cut_by_itself,
        first: first.unwrap(),
        last,
        left: leavings(temporary.path()),
    }
}

fn save(project: &Project, source: &str, version: impl ToString, first: &str) {
    let text = source.replacen(
        "const VERSION: &str = \"1\"",
        &format!("const VERSION: &str = \"{}\"", version.to_string()),
        1,
    );
    let main = text.lines().find(|line| line.starts_with("fn main()")).unwrap();
    project.write("src/main.rs", &text.replacen(main, &format!("{main}\n    {first}"), 1));
}

/// Saves it and waits until it is what answers.
fn serve(
    session: &mut Session,
    project: &Project,
    source: &str,
    address: SocketAddr,
    load: &Load,
    wanted: &str,
    first: &str,
) {
    save(project, source, wanted, first);
    loop {
        session.wait_for("serving");
        // One that aborts, and was started once more, may do so in the middle of this.
        if get(address, "/").is_ok_and(|answer| answer.contains(&format!("version: {wanted}\n"))) {
            return load.switched(wanted);
        }
    }
}

fn held(session: u32) -> Held {
    let count = |what: &str| fs::read_dir(format!("/proc/{session}/{what}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{session}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Held {
        descriptors: count("fd"),
        threads: count("task"),
        memory: memory.trim().trim_end_matches(" kB").to_owned(),
        zombies: children(session).iter().filter(|(_, state)| *state == 'Z').count(),
    }
}
