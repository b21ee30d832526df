//! What can be typed after `cargo hotrun`: the subcommands, the flags and their help, and the shell completions.
//! Never lives here: what a flag's text means. `config` reads it, together with the manifests, and refuses it by name.

mod as_meant;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::scaffold::Template;

/// The words after `cargo hotrun`, before anything is made of them.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    name = "cargo-hotrun",
    bin_name = "cargo hotrun",
    version,
    about = "Run a server; build it and replace it on every save, without refusing a connection",
    long_about = "Run a server; build it and replace it on every save, without refusing a connection.\n\n\
        Run it in the package of a server. It watches what the program is made of, builds when that changes, and starts \
        the new program on the sockets of the old one, which finishes what it began and leaves.\n\n\
        Most flags can also be written as keys of the same name under [package.metadata.hotrun] in Cargo.toml; \
        [workspace.metadata.hotrun] gives defaults for all packages. A flag replaces the key, the package's key \
        replaces the workspace's; only `env` is put together name by name.",
    after_long_help = format!("The keys for Cargo.toml, with their defaults:\n\n{}", include_str!("config/defaults.toml")),
    styles = clap_cargo::style::CLAP_STYLING,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub session: SessionArgs,
}

#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Make a small server that can be replaced while it serves
    New(New),
    /// Show it: a fresh project, a real session, constant load, edits. Fails if one request is lost
    Demo(Demo),
    /// Say what a running session serves
    Status(ControlArgs),
    /// Wait until a running session has nothing more to do; fails if the newest sources do not serve
    Wait(ControlArgs),
    /// Have a running session build again, and wait
    Rebuild(ControlArgs),
    /// Have a running session start the same program as a new generation, and wait
    Upgrade(ControlArgs),
    /// Have a running session go back to the program before, and wait
    Rollback(ControlArgs),
    /// End a running session
    Stop(ControlArgs),
    /// Print the completions for a shell, to be put where that shell looks for them
    Completions {
        /// The shell to print them for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, PartialEq, Args)]
pub struct New {
    /// The directory to make; it must not exist, or be empty
    pub path: PathBuf,
    /// What the server is written with
    #[arg(long, value_enum, default_value_t = Template::Axum)]
    pub template: Template,
    /// The package's name [default: the directory's]
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Args)]
pub struct Demo {
    /// Leave the project where it was made and say where that is [default: removed]
    #[arg(long)]
    pub keep: bool,
    /// With a server that knows nothing of this command [default: one with the hotrun library]
    #[arg(long)]
    pub zero_change: bool,
}

/// Which running session is meant.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct ControlArgs {
    /// The package that the session runs, of this workspace [default: that of the current directory, or the only one]
    #[arg(short, long, value_name = "SPEC")]
    pub package: Option<String>,
    /// The Cargo.toml of the project that the session runs on [default: the nearest one, from here upwards]
    #[arg(long, value_name = "PATH")]
    pub manifest_path: Option<PathBuf>,
    /// The target directory that the session builds to, where several run on the project
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// The session's process id; alone, of whichever project
    #[arg(long)]
    pub pid: Option<u32>,
    /// How to answer [default: human]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub message_format: Option<Format>,
}

/// The flags of a session, as typed.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct SessionArgs {
    /// The workspace member to run [default: that of the current directory, or the only default member with a binary]
    #[arg(short, long, value_name = "SPEC", help_heading = PACKAGE)]
    pub package: Option<String>,
    /// The binary to run [default: key `bin`, else `default-run`, else the only one]
    #[arg(long, value_name = "NAME", conflicts_with = "example", help_heading = PACKAGE)]
    pub bin: Option<String>,
    /// Run this example instead of a binary
    #[arg(long, value_name = "NAME", help_heading = PACKAGE)]
    pub example: Option<String>,
    /// The Cargo.toml to start from [default: the nearest one, from here upwards]
    #[arg(long, value_name = "PATH", help_heading = PACKAGE)]
    pub manifest_path: Option<PathBuf>,

    /// Features to build with, separated by spaces or commas; can be repeated [default: key `features`]
    #[arg(short = 'F', long, help_heading = BUILD)]
    pub features: Vec<String>,
    /// Build with every feature of the package
    #[arg(long, help_heading = BUILD)]
    pub all_features: bool,
    /// Build without the package's `default` feature
    #[arg(long, help_heading = BUILD)]
    pub no_default_features: bool,
    /// Build with the release profile: a faster server, slower builds
    #[arg(short, long, conflicts_with = "profile", help_heading = BUILD)]
    pub release: bool,
    /// The profile to build with [default: key `profile`, else dev]
    #[arg(long, value_name = "NAME", help_heading = BUILD)]
    pub profile: Option<String>,
    /// Whether changed sources are compiled by running captured compiler calls again, without cargo [default: true]
    #[arg(long, value_name = "BOOL", conflicts_with = "no_replay", help_heading = BUILD)]
    pub replay: Option<bool>,
    /// Every change is built by cargo, as --replay false
    #[arg(long, help_heading = BUILD)]
    pub no_replay: bool,
    /// What debug data the workspace's crates carry, unless all is built by cargo [default: line-tables]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = BUILD)]
    pub debug: Option<Debug>,
    /// The platform to build for; its programs must run here [default: as cargo is configured]
    #[arg(long, value_name = "TRIPLE", help_heading = BUILD)]
    pub target: Option<String>,
    /// Where cargo puts what it builds [default: the workspace's, shared with `cargo build`]
    #[arg(long, value_name = "DIR", help_heading = BUILD)]
    pub target_dir: Option<PathBuf>,
    /// How many compilers run at once; negative: all processors but that many [default: as cargo is configured]
    #[arg(short, long, value_name = "N", allow_hyphen_values = true, help_heading = BUILD)]
    pub jobs: Option<String>,
    /// Fail rather than change Cargo.lock
    #[arg(long, help_heading = BUILD)]
    pub locked: bool,
    /// Build without using the network
    #[arg(long, help_heading = BUILD)]
    pub offline: bool,
    /// --locked and --offline together
    #[arg(long, help_heading = BUILD)]
    pub frozen: bool,
    /// A setting for cargo, as `cargo --config` takes it; can be repeated
    #[arg(long, value_name = "KEY=VAL", help_heading = BUILD)]
    pub config: Vec<String>,

    /// An address to hold open and hand to every generation; can be repeated [default: key `listen`, else none]
    ///
    /// ADDR is `3000` (on 127.0.0.1), `127.0.0.1:3000`, `[::1]:3000`, `udp:127.0.0.1:5353` or `unix:PATH`. Without a
    /// NAME, the first address is called `http`, the second `listen-2`, and so on. With no address at all the program
    /// listens for itself, and its sockets are taken over from it.
    #[arg(long, value_name = "[NAME=]ADDR", help_heading = SERVER)]
    pub listen: Vec<String>,
    /// A variable for the program's environment, besides those of key `env`; can be repeated
    #[arg(long, value_name = "KEY=VALUE", help_heading = SERVER)]
    pub env: Vec<String>,
    /// A file of variables for the program; a change to it is a change of the program [default: key `env-file`]
    #[arg(long, value_name = "PATH", help_heading = SERVER)]
    pub env_file: Option<PathBuf>,
    /// Arguments for the program itself [default: key `args`]
    #[arg(last = true, help_heading = SERVER)]
    pub args: Vec<OsString>,

    /// Replace the server while it serves, or stop the old one before the new one starts [default: upgrade]
    #[arg(long, value_enum, value_name = "HOW", help_heading = UPGRADE)]
    pub strategy: Option<Strategy>,
    /// How the program is given its sockets [default: auto]
    #[arg(long, value_enum, value_name = "HOW", help_heading = UPGRADE)]
    pub handoff: Option<HandOff>,
    /// What shows that a new generation can serve [default: auto]
    ///
    /// `auto` takes the first of these to be seen; `notify` waits for the program to say so (the hotrun library, or
    /// READY=1 on NOTIFY_SOCKET); `accept` for its first accept on a held socket; `http:/PATH` asks for that path
    /// until the answer is a success; `delay:500ms` waits that long and asks nothing.
    #[arg(long, value_name = "auto|notify|accept|http:/PATH|delay:TIME", help_heading = UPGRADE)]
    pub ready: Option<String>,
    /// Whether the old and the new program may run side by side [default: true]
    #[arg(long, value_name = "BOOL", conflicts_with = "no_overlap", help_heading = UPGRADE)]
    pub overlap: Option<bool>,
    /// The old program leaves before the new one starts, as --overlap false; clients wait meanwhile
    #[arg(long, help_heading = UPGRADE)]
    pub no_overlap: bool,
    /// How long a new generation may take to be ready before it is given up [default: 60s]
    #[arg(long, value_name = "TIME", help_heading = UPGRADE)]
    pub ready_timeout: Option<String>,
    /// How long the old generation stays, paused, to take over again if the new one dies [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = UPGRADE)]
    pub probation: Option<String>,
    /// How long the old generation may go on without answering anything before its connections are cut [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = UPGRADE)]
    pub drain_timeout: Option<String>,
    /// How long it may go on at all, where it answers all the time [default: 60s]
    #[arg(long, value_name = "TIME", help_heading = UPGRADE)]
    pub drain_limit: Option<String>,
    /// How long a program may take to end after SIGTERM before it is killed [default: 2s]
    #[arg(long, value_name = "TIME", help_heading = UPGRADE)]
    pub kill_timeout: Option<String>,

    /// A file or directory to watch besides the program's sources; can be repeated [default: key `watch`]
    #[arg(short, long, value_name = "PATH", help_heading = WATCHING)]
    pub watch: Vec<PathBuf>,
    /// Files whose changes do not count; can be repeated [default: key `ignore`, and what git ignores]
    #[arg(short, long, value_name = "GLOB", help_heading = WATCHING)]
    pub ignore: Vec<String>,
    /// Files the running program reads: a change to them builds nothing, and sends a signal or does nothing
    ///
    /// ACTION is `none` or `signal:NAME`, as in --data 'config/**=signal:HUP'; can be repeated [default: key `data`]
    #[arg(long, value_name = "GLOB=ACTION", help_heading = WATCHING)]
    pub data: Vec<String>,

    /// Lines for people, or one JSON object a line for programs [default: human]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = OUTPUT)]
    pub message_format: Option<Format>,
    /// When to use colours [default: CARGO_TERM_COLOR, else auto]
    #[arg(long, value_enum, value_name = "WHEN", help_heading = OUTPUT)]
    pub color: Option<Color>,
    /// Show only what goes wrong [default: each step is a line]
    #[arg(short, long, help_heading = OUTPUT)]
    pub quiet: bool,
    /// Clear the screen before each build [default: everything stays]
    #[arg(long, help_heading = OUTPUT)]
    pub clear: bool,
    /// Show where the time of each save went, --quiet or not [default: only the sum and its parts]
    #[arg(long, help_heading = OUTPUT)]
    pub timings: bool,
    /// Leave the keyboard to the program [default: r, u, b, c, h and q are read when stdin is a terminal]
    #[arg(long, help_heading = OUTPUT)]
    pub no_keys: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Debug {
    /// file and line in backtraces, for the workspace's own crates
    LineTables,
    /// all that a debugger needs
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// start the new program on the same sockets, then let the old one leave
    Upgrade,
    /// stop the old program, then start the new one
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HandOff {
    /// find out which of these the program can do
    Auto,
    /// the program links the `hotrun` crate
    Library,
    /// the program takes LISTEN_FDS, as under systemd
    ListenFds,
    /// the program binds for itself, and is given the sockets when it does
    Bind,
    /// the program opens its own sockets and keeps them
    None,
}

/// Who hotrun's own output is written for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Short lines on stderr
    #[default]
    Human,
    /// Events on stdout, one JSON object a line
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// When the output is a terminal that has them
    #[default]
    Auto,
    Always,
    Never,
}

const PACKAGE: &str = "Package selection";
const BUILD: &str = "Build";
const SERVER: &str = "Server";
const UPGRADE: &str = "Hot upgrade";
const WATCHING: &str = "Watching";
const OUTPUT: &str = "Output";

/// Reads this process's arguments.
///
/// # Errors
/// What is to be said in place of running anything: help and version are among them.
pub fn parse() -> Result<Cli, clap::Error> {
    try_parse_from(std::env::args_os())
}

/// Cargo starts `cargo-hotrun hotrun …`, a user may start `cargo-hotrun …`: both mean the same.
pub fn try_parse_from<I, A>(args: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = A>,
    A: Into<OsString>,
{
    let mut args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    if args.get(1).is_some_and(|first| first == "hotrun") {
        args.remove(1);
    }
    as_meant::put_the_command_first(&mut args);
    Cli::try_parse_from(&args).map_err(|error| as_meant::with_a_better_tip(error, &args))
}

/// The completion script. It completes the name that `cargo` looks for, `cargo-hotrun`.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    // Into memory first: the generator panics when it cannot write, and the reader of a pipe may have left.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cargo-hotrun", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn session(flags: &[&str]) -> SessionArgs {
        try_parse_from(["cargo-hotrun"].iter().chain(flags)).unwrap().session
    }

    #[test]
    fn clap_finds_no_mistake_in_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_way_to_start_it_means_the_same() {
        let direct = try_parse_from(["target/debug/cargo-hotrun", "--release", "--", "hotrun"]).unwrap();
        let by_cargo = try_parse_from(["cargo-hotrun", "hotrun", "--release", "--", "hotrun"]).unwrap();
        assert_eq!(direct, by_cargo);
        assert!(direct.session.release);
        assert_eq!(direct.session.args, ["hotrun"]);
        assert_eq!(try_parse_from(["cargo-hotrun"]).unwrap(), try_parse_from(["cargo-hotrun", "hotrun"]).unwrap());
    }

    #[test]
    fn only_one_leading_word_is_cargos() {
        assert!(try_parse_from(["cargo-hotrun", "hotrun", "hotrun"]).is_err());
        assert!(try_parse_from(["cargo-hotrun", "--release", "hotrun"]).is_err());
    }

    #[test]
    fn subcommands() {
        let command = |args: &[&str]| try_parse_from(["cargo-hotrun"].iter().chain(args)).unwrap().command;
        assert_eq!(command(&[]), None);
        let new = |template, name| Some(Command::New(New { path: "shop".into(), template, name }));
        assert_eq!(command(&["new", "shop"]), new(Template::Axum, None));
        assert_eq!(
            command(&["new", "shop", "--template", "std", "--name", "x"]),
            new(Template::Std, Some("x".to_owned()))
        );
        assert_eq!(command(&["demo", "--keep"]), Some(Command::Demo(Demo { keep: true, zero_change: false })));
        assert_eq!(command(&["completions", "zsh"]), Some(Command::Completions { shell: clap_complete::Shell::Zsh }));
        // After `--` everything is the program's.
        assert_eq!(command(&["--", "demo"]), None);
    }

    #[test]
    fn lists_repeat_and_never_swallow_a_neighbour() {
        let session =
            session(&["--listen", "3000", "--listen", "admin=unix:a.sock", "-w", "a", "-w", "b", "-j", "-1", "-q"]);
        assert_eq!(session.listen, ["3000", "admin=unix:a.sock"]);
        assert_eq!(session.watch, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(session.jobs.as_deref(), Some("-1"));
        assert!(session.quiet);
    }

    #[test]
    fn refused_with_a_reason() {
        for (flags, kind) in [
            (&["--release", "--profile", "x"][..], ErrorKind::ArgumentConflict),
            (&["--bin", "a", "--example", "b"], ErrorKind::ArgumentConflict),
            (&["--overlap", "true", "--no-overlap"], ErrorKind::ArgumentConflict),
            (&["--replay", "true", "--no-replay"], ErrorKind::ArgumentConflict),
            (&["--replay", "maybe"], ErrorKind::InvalidValue),
            (&["--debug", "none"], ErrorKind::InvalidValue),
            (&["--strategy", "reload"], ErrorKind::InvalidValue),
            (&["--handoff", "fds"], ErrorKind::InvalidValue),
            (&["--overlap", "maybe"], ErrorKind::InvalidValue),
            (&["--color", "red"], ErrorKind::InvalidValue),
            (&["--lisen", "3000"], ErrorKind::UnknownArgument),
            (&["new"], ErrorKind::MissingRequiredArgument),
            (&["--release", "demo"], ErrorKind::UnknownArgument),
            (&["--env-file", ""], ErrorKind::InvalidValue),
        ] {
            let error = try_parse_from(["cargo-hotrun"].iter().chain(flags)).unwrap_err();
            assert_eq!(error.kind(), kind, "{flags:?}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn help_has_a_heading_and_a_text_for_every_flag() {
        for arg in Cli::command().get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
            assert!(arg.get_help().is_some(), "{} has no help", arg.get_id());
            assert!(arg.get_help_heading().is_some(), "{} stands under no heading", arg.get_id());
        }
    }

    #[test]
    fn completions_for_every_shell() {
        for shell in clap_complete::Shell::value_variants() {
            let script = String::from_utf8(completions(*shell)).unwrap();
            assert!(script.contains("cargo-hotrun"), "{shell}");
            assert!(script.contains("drain-timeout"), "{shell}");
        }
    }
}
