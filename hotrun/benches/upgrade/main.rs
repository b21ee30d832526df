//! hotrun and its peers, side by side: the same server and the same load, upgraded again and again.
//!
//! `cargo bench -p hotrun --bench upgrade`, with words after `--` that choose contenders by name. It builds
//! `benches/peers` first. The runs are interleaved, so that a busy minute of the machine is a busy minute for all.
//!
//! Map: `contender` says who is compared, `processes` what a switch is, `clients` and `stall` what is measured, `report`
//! how it reads. Nothing here sleeps: processes say where they are on a socket, and its end is theirs.

mod clients;
mod contender;
mod peers;
mod processes;
mod report;
mod stall;

use contender::Contender;
use report::Measured;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Upgrades of each contender under load, in all rounds together.
const UPGRADES: usize = 100;
/// Upgrades of each contender with half a gigabyte in memory.
const HEAVY_UPGRADES: usize = 12;
const ROUNDS: usize = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says it to what it runs as a benchmark; `cargo test --all-targets` does not.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("a benchmark: cargo bench -p hotrun --bench upgrade");
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("upgrade: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> io::Result<()> {
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |contender: &&Contender| words.is_empty() || words.iter().any(|word| contender.name.contains(*word));
    let contenders: Vec<&Contender> = contender::ALL.iter().filter(chosen).collect();
    let programs = peers::build(&contenders)?;
    // A successor outlives the process that started it: this one is to be its next parent, and to see its end.
    nix::sys::prctl::set_child_subreaper(true)?;

    let mut all: Vec<Measured> = contenders.iter().map(|contender| Measured::new(contender)).collect();
    for round in 1..=ROUNDS {
        for measured in all.iter_mut().filter(|measured| measured.failure.is_none()) {
            eprintln!("round {round} of {ROUNDS}: {}", measured.contender.name);
            if let Err(error) = one_round(&programs, measured) {
                eprintln!("  {error}");
                measured.failure = Some(error.to_string());
            }
        }
    }
    report::print(&all);
    Ok(())
}

fn one_round(programs: &Path, measured: &mut Measured) -> io::Result<()> {
    clients::upgrades_under_load(programs, UPGRADES / ROUNDS, measured)?;
    if measured.contender.is_upgraded() {
        stall::upgrades_of_a_heavy_one(programs, HEAVY_UPGRADES / ROUNDS, measured)?;
    }
    Ok(())
}

// Time is what is measured here.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
