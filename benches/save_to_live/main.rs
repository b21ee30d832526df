//! From the save of a source file to the first answer of the new code: `cargo hotrun`, what a user would pick instead, and
//! `cargo build` alone, in turn, in one run, under the same load.
//!
//!     cargo bench --bench save_to_live                       # what is missing of the others is said, and done without
//!     cargo bench --bench save_to_live -- --install          # installs them first, into a folder of this project
//!     cargo bench --bench save_to_live -- --quick --only std
//!
//! How it is measured:
//!
//! - Each contender has a copy of its own of the same project, with a target folder of its own, and has built and served
//!   it before the first round. All of them stay alive through all rounds. A turn ends when no process has anything to
//!   do any more: all of them together use at most 10 ms of CPU time in each of two tenths of a second.
//! - One at a time gets an edit, in an order that moves on by one each round. An edit replaces the literal of one constant.
//!   The new content is written outside of the project and renamed over the file, so that all watchers see one event;
//!   the clock is read right before rename(2). The first round is not counted
//!   (rustc is several times slower at its first incremental build).
//! - A connection of its own asks every millisecond, and the first answer with the new constant stops the clock. For `cargo
//!   build` it is the exit of cargo; the program of its first build is asked meanwhile, by the load and in the same way, so
//!   that it shares the machine as a contender that serves through its build does.
//! - The load is two clients, one with a new connection for each request and one with a kept one, 5 ms apart, while the
//!   contender has its turn.
//! - CPU time is that of all processes below the contender, orphans and what they waited for included. The server's answers
//!   to the load are in it; the load itself is not.
//! - All have the same sources, with the library hotrun in them but in the plain template. Alone, a server with the library
//!   takes a tenth of a second to leave after SIGTERM, so that its queue runs empty; watchexec waits for that. In the plain template there is nothing of it.
//! - No debounce where one can be turned off, and a queue of useful length for the sockets of systemfd.

mod contender;
mod events;
mod house;
mod kind;
mod peers;
mod probe;
mod project;
mod realistic;
mod rounds;
mod sources;
mod table;
mod wait;

#[path = "../../src/demo/load.rs"]
#[allow(dead_code)] // What this measurement uses of it.
mod load;

use clap::{Parser, ValueEnum};
use house::House;
use kind::Kind;
use project::Shape;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
struct Args {
    /// Counted edits for each contender and table
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Three rounds, to see that it works
    #[arg(long)]
    quick: bool,
    /// One table of the eight; can be repeated
    #[arg(long, value_enum)]
    only: Vec<Subject>,
    /// Install those of the others that are missing, for this project alone
    #[arg(long)]
    install: bool,
    /// What cargo gives to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is edited; each has a table of its own.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    Axum,
    Std,
    Plain,
    WorkspaceLeaf,
    WorkspaceRoot,
    Realistic,
    ThinBinary,
    Library,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("save_to_live: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    wait::heed_signals()?;
    // Ends whatever is left of all this, also when something fails.
    let house = House::open()?;
    let peers = peers::find(&house, args.install)?;
    let rounds = if args.quick { 3 } else { args.rounds };
    print!("{}", table::machine(&house, &peers)?);
    let all = [Kind::Hotrun, Kind::CargoBuild, Kind::Watchexec, Kind::Bacon, Kind::Systemfd, Kind::CargoWatch];
    let without_systemfd = all.into_iter().filter(|kind| *kind != Kind::Systemfd).collect::<Vec<_>>();
    let few = [Kind::Hotrun, Kind::CargoBuild, Kind::Watchexec];
    let subjects = [
        (Shape::Axum, &[Subject::Axum][..], &all[..]),
        (Shape::Std, &[Subject::Std], &all),
        // It takes no socket of systemfd's.
        (Shape::Plain, &[Subject::Plain], &without_systemfd),
        (Shape::Workspace, &[Subject::WorkspaceRoot, Subject::WorkspaceLeaf], &few),
        (Shape::Realistic, &[Subject::Realistic], &few),
        (Shape::Libraries, &[Subject::ThinBinary, Subject::Library], &few),
    ];
    for (shape, subjects, kinds) in subjects {
        // The place of an edit is the place of its subject among those of the shape.
        let wanted = |subject: &Subject| args.only.is_empty() || args.only.contains(subject);
        let places: Vec<usize> = (0..subjects.len()).filter(|&place| wanted(&subjects[place])).collect();
        let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| peers.have(*kind)).collect();
        if !places.is_empty() {
            rounds::measure(&house, &peers, shape, &places, &kinds, rounds)?;
        }
    }
    Ok(())
}
