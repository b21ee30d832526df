//! `cargo hotrun`: parse, run, print the one error that ends the program.
//!
//! The house:
//! - `session` is the joint: one loop that owns all state, and the only file that names both rooms.
//! - `compile` is room 1, hot compile: from a save to an artifact.
//! - `upgrade` is room 2, hot upgrade: from a program to a serving generation. The library `hotrun` has the wire.
//! - `process` is the floor both stand on; `edges` turn signals and keys into events; `report` tells the user.
//! - `cli` and `config` say what is meant; `scaffold` and `demo` are the other commands.

mod cli;
mod compile;
mod config;
mod demo;
mod edges;
mod error;
mod process;
mod report;
mod scaffold;
mod session;
mod upgrade;

use edges::control;
use edges::message::Request;
use error::{Error, Result, Tried};
use report::say;
use session::End;
use std::io::Write;

fn main() {
    let args = || std::env::args_os().skip(1).collect::<Vec<_>>();
    let hidden = process::hidden_entry(args().into_iter()).or_else(|| compile::hidden_entry(args));
    let code = match hidden {
        Some(code) => code,
        None => match cli::parse().map(run) {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => {
                say::error(&error);
                error.exit() as i32
            }
            // Help and version, too.
            Err(said) => say::of_clap(&said),
        },
    };
    #[allow(clippy::disallowed_methods)] // The one place.
    std::process::exit(code);
}

fn run(cli: cli::Cli) -> Result<i32> {
    if matches!(cli.command, None | Some(cli::Command::Demo(_))) {
        process::leave_a_stale_one();
    }
    match cli.command {
        None => match process::orphans::adopt(|| session::run(&cli.session)).tried("start the session")?? {
            End::Quit => {}
            End::Signal(signal) => {
                edges::signals::die_of(signal);
                // Had the signal been one that does not kill.
                return Ok(128 + signal);
            }
        },
        Some(cli::Command::New(new)) => {
            let created = scaffold::new(&new.path, new.template, new.name.as_deref())?;
            let path = report::one_line(&created.path.to_string_lossy());
            let library =
                created.dependency.map_or(String::new(), |library| format!("; its library hotrun is {library}"));
            say::line(format_args!("created {} in {path}{library}", created.name));
            say::line(format_args!("next: cd {path} && cargo hotrun"));
        }
        Some(cli::Command::Demo(demo)) => demo::run(demo.keep, demo.zero_change)?,
        Some(cli::Command::Status(args)) => return control::ask(&args, Request::Status),
        Some(cli::Command::Wait(args)) => return control::ask(&args, Request::Wait),
        Some(cli::Command::Rebuild(args)) => return control::ask(&args, Request::Rebuild),
        Some(cli::Command::Upgrade(args)) => return control::ask(&args, Request::Upgrade),
        Some(cli::Command::Rollback(args)) => return control::ask(&args, Request::Rollback),
        Some(cli::Command::Stop(args)) => return control::ask(&args, Request::Stop),
        Some(cli::Command::Completions { shell }) => {
            let script = cli::completions(shell);
            let written = std::io::stdout().write_all(&script);
            written.map_err(|error| Error::failure(format!("write the completions: {error}")))?;
        }
    }
    Ok(0)
}
