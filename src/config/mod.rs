//! What a session is to do: flags and manifests become one checked `Config`, here and nowhere else.
//! Never lives here: doing any of it. Nothing is bound, built or watched; the only files read are the manifests.

mod address;
mod again;
mod choose;
mod duration;
mod env_file;
mod flags;
mod layer;
mod metadata;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cargo_metadata::{Metadata, PackageId};
use nix::sys::signal::Signal;

use self::layer::Layer;
use self::metadata::Section;
use crate::cli;
use crate::error::{Error, Result};
use crate::report::ServiceId;

pub use self::address::{Address, Listen};
pub use self::again::Choice;
pub use self::env_file::env_file;
pub use self::values::glob_set;
pub use crate::cli::{Color, Debug, Format, HandOff, Strategy};

/// Paths in it are absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// By the name that its program has at the beginning.
    pub service: ServiceId,
    pub build: Build,
    pub program: Run,
    /// May be empty: then the program listens for itself.
    pub listen: Vec<Listen>,
    pub watch: Watch,
    pub upgrade: Upgrade,
    pub output: Output,
    /// How `build` came to be chosen, should the manifests change.
    pub choice: Choice,
}

/// What is asked of cargo.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Of the chosen package.
    pub manifest_path: PathBuf,
    pub package: String,
    pub package_id: PackageId,
    pub target: Target,
    pub features: Vec<String>,
    pub all_features: bool,
    pub no_default_features: bool,
    pub profile: Option<String>,
    pub triple: Option<String>,
    pub target_dir: Option<PathBuf>,
    pub jobs: Option<String>,
    pub locked: bool,
    pub offline: bool,
    pub frozen: bool,
    pub cargo_config: Vec<String>,
    /// Whether changed sources are compiled by running captured calls of rustc again, without cargo.
    pub replay: bool,
    /// Of the workspace's crates, where replay is on.
    pub debug: Debug,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Bin(String),
    Example(String),
}

impl Target {
    pub fn name(&self) -> &str {
        match self {
            Target::Bin(name) | Target::Example(name) => name,
        }
    }

    /// As it is called in sentences; with `--` before it, cargo's flag.
    pub fn kind(&self) -> &'static str {
        match self {
            Target::Bin(_) => "bin",
            Target::Example(_) => "example",
        }
    }
}

/// How the program is started, apart from its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub args: Vec<OsString>,
    /// Stronger than `env_file`.
    pub env: Vec<(String, String)>,
    pub env_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    pub extra: Vec<PathBuf>,
    /// Where those were named, as the beginning of a sentence about them.
    pub origin: String,
    /// For `glob_set`: absolute patterns.
    pub ignore: Vec<String>,
    pub data: Vec<Data>,
}

/// Files that the running program reads by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// For `glob_set`: an absolute pattern.
    pub glob: String,
    pub action: DataAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataAction {
    Signal(Signal),
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub strategy: Strategy,
    pub handoff: HandOff,
    pub ready: Ready,
    pub overlap: bool,
    pub ready_timeout: Duration,
    pub probation: Duration,
    /// How long an old generation may go on without any progress.
    pub drain_timeout: Duration,
    /// And how long at all.
    pub drain_limit: Duration,
    pub kill_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    Auto,
    Notify,
    Accept,
    /// The path to ask for; it begins with a slash and can stand in a request line as it is.
    Http(String),
    Delay(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    pub format: Format,
    pub color: Color,
    pub quiet: bool,
    pub clear: bool,
    /// Whether it is shown where the time of each save went.
    pub timings: bool,
    /// Whether keys may be read; whether there is a terminal to read them from is found out later.
    pub keys: bool,
}

/// Brings the flags, the package's manifest and the workspace's together, for the package that they choose.
pub fn load(args: &cli::SessionArgs, metadata: &Metadata) -> Result<Config> {
    let directory = std::env::current_dir()
        .map_err(|error| Error::failure(format!("finding out the current directory: {error}")))?;
    let mut config = load_from(args, metadata, &directory)?;
    if args.color.is_none() {
        config.output.color = color_of_cargo(std::env::var("CARGO_TERM_COLOR").ok().as_deref());
    }
    Ok(config)
}

/// As `load`, for a user who stands in `directory`.
fn load_from(args: &cli::SessionArgs, metadata: &Metadata, directory: &Path) -> Result<Config> {
    let mut flags = flags::layer(args, directory)?;
    let root = metadata.workspace_root.join("Cargo.toml");
    let mut workspace = metadata::read(root.as_std_path(), Section::Workspace)?;

    let manifest = choose::manifest(args.manifest_path.as_deref(), directory);
    let wanted = flags.target.as_ref().or(workspace.target.as_ref());
    let package = choose::package(metadata, args.package.as_deref(), manifest.as_deref(), wanted)?;
    let mut own = metadata::read(package.manifest_path.as_std_path(), Section::Package)?;

    let nearest = flags.target.take().or(own.target.take());
    let target = choose::target(metadata, package, nearest, workspace.target.take())?;
    let said = flags.over(own).over(workspace);
    check_together(&said)?;

    flags::check_for_cargo(args)?;
    let build = Build {
        manifest_path: package.manifest_path.clone().into_std_path_buf(),
        package: package.name.to_string(),
        package_id: package.id.clone(),
        target,
        features: said.features.unwrap_or_default(),
        all_features: args.all_features,
        no_default_features: args.no_default_features,
        profile: said.profile,
        triple: args.target.clone(),
        target_dir: args.target_dir.as_ref().map(|dir| directory.join(dir)),
        jobs: args.jobs.clone(),
        locked: args.locked,
        offline: args.offline,
        frozen: args.frozen,
        cargo_config: args.config.clone(),
        replay: said.replay.unwrap_or(true),
        debug: said.debug.unwrap_or(Debug::LineTables),
    };
    Ok(Config {
        service: ServiceId::new(build.target.name()),
        build,
        program: Run { args: said.args.unwrap_or_default(), env: said.env, env_file: there(said.env_file)? },
        listen: said.listen.unwrap_or_default(),
        watch: Watch {
            origin: said
                .watch
                .iter()
                .flatten()
                .next()
                .map(|(_, origin)| origin.as_str().to_owned())
                .unwrap_or_default(),
            extra: said.watch.unwrap_or_default().into_iter().map(watched).collect::<Result<_>>()?,
            ignore: said.ignore.unwrap_or_default(),
            data: said.data.unwrap_or_default(),
        },
        upgrade: Upgrade {
            strategy: said.strategy.unwrap_or(Strategy::Upgrade),
            handoff: said.handoff.map_or(HandOff::Auto, |(way, _)| way),
            ready: said.ready.unwrap_or(Ready::Auto),
            overlap: said.overlap.unwrap_or(true),
            ready_timeout: said.ready_timeout.unwrap_or(Duration::from_secs(60)),
            probation: said.probation.unwrap_or(Duration::ZERO),
            drain_timeout: said.drain_timeout.unwrap_or(Duration::from_secs(5)),
            drain_limit: said.drain_limit.unwrap_or(Duration::from_secs(60)),
            kill_timeout: said.kill_timeout.unwrap_or(Duration::from_secs(2)),
        },
        output: Output {
            format: args.message_format.unwrap_or_default(),
            color: args.color.unwrap_or_default(),
            quiet: args.quiet,
            clear: args.clear,
            timings: args.timings,
            keys: !args.no_keys,
        },
        choice: Choice { args: args.clone(), directory: directory.to_path_buf() },
    })
}

/// One that is missing would be missed at each start of the program, after a build for nothing.
fn there(file: Option<layer::Named>) -> Result<Option<PathBuf>> {
    let Some((file, origin)) = file else { return Ok(None) };
    if file.is_file() {
        return Ok(Some(file));
    }
    let why = if file.exists() { "which is no file" } else { "which is not there" };
    Err(origin.refuse(format!("found {}, {why}; create it, or leave the key or flag out", file.display())))
}

/// A path that was mistyped would be watched in silence. One that goes later may come again.
fn watched((path, origin): layer::Named) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    Err(origin.refuse(format!(
        "found {}, which is not there and could not be watched; correct it, create it, or leave it out",
        path.display()
    )))
}

/// What is only wrong in company.
fn check_together(said: &Layer) -> Result<()> {
    let restart = said.strategy == Some(Strategy::Restart);
    match &said.handoff {
        Some((HandOff::ListenFds, origin)) if !restart && said.listen.as_ref().is_none_or(Vec::is_empty) => Err(origin
            .refuse("found \"listen-fds\" and no address to hand over; name one with `--listen` or the key `listen`")),
        // The program would find the address taken, by this command.
        Some((HandOff::None, origin)) if said.listen.as_ref().is_some_and(|listen| !listen.is_empty()) => Err(origin
            .refuse("found \"none\" and addresses to listen on, which would be held and handed to nobody; drop one of the two")),
        _ => Ok(()),
    }
}

/// Cargo's own setting; a value that it would refuse is left to it.
fn color_of_cargo(setting: Option<&str>) -> Color {
    match setting {
        Some("always") => Color::Always,
        Some("never") => Color::Never,
        _ => Color::Auto,
    }
}
