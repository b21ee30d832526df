//! What was typed, taken as it was meant: flags that choose a session may stand before the command word, and an argument that nobody knows is answered
//! with what was most likely meant.
//! Never lives here: the flags themselves.

use super::Cli;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Error};
use std::ffi::OsString;

/// The commands that are about a running session.
const CONTROL: [&str; 6] = ["status", "wait", "rebuild", "upgrade", "rollback", "stop"];
/// The flags that say which one, each with a value.
const CHOOSING: [&str; 6] = ["-p", "--package", "--manifest-path", "--target-dir", "--pid", "--message-format"];

/// `cargo hotrun -p api stop` is `cargo hotrun stop -p api`.
pub fn put_the_command_first(args: &mut [OsString]) {
    let mut at = 1;
    while let Some(flag) = args.get(at).and_then(|arg| arg.to_str()) {
        if CONTROL.contains(&flag) {
            args[1..=at].rotate_right(1);
            return;
        }
        at += match CHOOSING.iter().find(|name| flag.starts_with(**name)) {
            Some(name) if flag == *name => 2,
            // `--package=api`, `-papi`.
            Some(name) if flag[name.len()..].starts_with('=') || !name.starts_with("--") => 1,
            Some(_) | None => return,
        };
    }
}

/// What is near to no flag of ours is most likely one of the program's.
pub fn with_a_better_tip(mut error: Error, args: &[OsString]) -> Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let is_command = |arg: &OsString| Cli::command().get_subcommands().any(|command| arg == command.get_name());
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return error };
    // The other commands run no program.
    if !unknown.starts_with('-') || args.iter().skip(1).take_while(|arg| *arg != "--").any(is_command) {
        return error;
    }
    let suggested = match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(name)) => Some(name.clone()),
        _ => None,
    };
    if suggested.is_some_and(|name| is_near(unknown, &name)) {
        return error;
    }
    let tip = format!("arguments of the program itself go after `--`: cargo hotrun -- {}", as_typed(unknown, args));
    // Without it, the usage that is shown does not name the flag that was not meant either.
    error.insert(ContextKind::Usage, ContextValue::StyledStr(Cli::command().render_usage()));
    error.remove(ContextKind::SuggestedArg);
    error.remove(ContextKind::SuggestedCommand);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    error
}

/// A slip of the fingers, or a part of the name.
fn is_near(unknown: &str, name: &str) -> bool {
    let bare = |name: &str| name.trim_start_matches('-').split(['=', ' ']).next().unwrap_or_default().to_owned();
    let (unknown, name) = (bare(unknown), bare(name));
    let slips = strsim::damerau_levenshtein(&unknown, &name);
    slips <= unknown.len().max(name.len()) / 3 || (unknown.len() > 2 && name.contains(&unknown))
}

/// The argument with its value.
fn as_typed(unknown: &str, args: &[OsString]) -> String {
    let typed: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let Some(at) = typed.iter().position(|arg| arg.starts_with(unknown)) else { return unknown.to_owned() };
    let value = typed.get(at + 1).filter(|value| !value.starts_with('-') && !typed[at].contains('='));
    value.map_or_else(|| typed[at].to_string(), |value| format!("{} {value}", typed[at]))
}

#[cfg(test)]
mod tests {
    use super::super::{Command, ControlArgs, try_parse_from};
    use std::path::PathBuf;

    fn command(line: &str) -> Option<Command> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        try_parse_from(std::iter::once("cargo-hotrun").chain(words)).unwrap().command
    }

    fn refused(line: &str) -> String {
        try_parse_from(std::iter::once("cargo-hotrun").chain(line.split(' '))).unwrap_err().to_string()
    }

    #[test]
    fn what_chooses_a_session_stands_before_or_after_the_command() {
        let api = ControlArgs { package: Some("api".to_owned()), ..ControlArgs::default() };
        for line in
            ["stop -p api", "-p api stop", "-papi stop", "-p=api stop", "--package api stop", "--package=api stop"]
        {
            assert_eq!(command(line), Some(Command::Stop(api.clone())), "{line}");
        }
        let there = ControlArgs { manifest_path: Some(PathBuf::from("a/Cargo.toml")), pid: Some(7), ..api };
        for line in [
            "wait --manifest-path a/Cargo.toml -p api --pid 7",
            "--manifest-path a/Cargo.toml -p api wait --pid 7",
            "hotrun --pid=7 --manifest-path=a/Cargo.toml wait -p api",
        ] {
            assert_eq!(command(line), Some(Command::Wait(there.clone())), "{line}");
        }
        // A package may be called as a command is, and after `--` all is the program's.
        assert_eq!(command("-p stop"), None);
        assert_eq!(command("-p api -- stop"), None);
        assert!(try_parse_from(["cargo-hotrun", "--release", "stop"]).is_err(), "no flag of a control command");
    }

    #[test]
    fn an_unknown_argument_far_from_ours_is_taken_for_the_programs() {
        for (line, tip) in [
            ("--port 3000", "cargo hotrun -- --port 3000"),
            ("--port=3000", "cargo hotrun -- --port=3000"),
            ("-p api --verbose", "cargo hotrun -- --verbose"),
            ("--port 3000 --release", "cargo hotrun -- --port 3000"),
        ] {
            let said = refused(line);
            assert!(said.contains(tip) && said.contains("after `--`"), "{line}: {said}");
            assert!(!said.contains("similar") && !said.contains("--probation"), "{line}: {said}");
            assert!(said.contains("Usage: cargo hotrun [OPTIONS]"), "{line}: {said}");
        }
        for (line, tip) in [("--lisen 3000", "--listen"), ("--relase", "--release"), ("--probatoin", "--probation")] {
            let said = refused(line);
            assert!(said.contains("similar") && said.contains(tip), "{line}: {said}");
        }
        for line in ["stop --port 3000", "demo --port 3000"] {
            assert!(!refused(line).contains("program itself"), "{line}");
        }
    }
}
