//! One build by cargo: its start, what it says, and what came of it. It is a `cargo run` that ends where the program would begin.
//! Never lives here: when to build (`cycle`), what is watched (`sources`), and how cargo would start the program (`launch`).

use super::allowance::{Allowance, OutputKind, Tail};
use super::output::{self, Line, Told, Words, is_sum};
use super::{launch, reason};
use crate::config;
use crate::error::Result;
use crate::process::{Catch, Launcher, Running, Setting, Stdin, clean_environment, describe, is_passing, refused};
use crate::report::short;
use cargo_metadata::diagnostic::DiagnosticLevel;
use cargo_metadata::{Artifact as Unit, BuildScript, CompilerMessage, Message, PackageId, TargetKind};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A line of cargo's progress is no longer.
const MOST_OF_A_STATUS: usize = 4 << 10;
/// A build script that names more files is taken for one that names none.
const MOST_NAMED: usize = 100_000;

/// What cargo said, or that it ended.
#[derive(Debug)]
pub enum CargoSaid {
    Message(Box<Message>),
    /// A line of cargo's own, from its standard error.
    Cargo(String),
    /// It would start the program now, in that way if this can be known.
    Caught(Option<Box<Setting>>),
    /// One of its two outputs.
    OutputClosed,
    Exited,
}

/// Where the threads of a run send what they hear.
pub type CargoSink = Arc<dyn Fn(CargoSaid) + Send + Sync>;

/// Where cargo is, and what every run has in common.
#[derive(Debug, Clone)]
pub struct Cargo {
    pub launcher: Launcher,
    pub program: PathBuf,
    pub build: config::Build,
    pub color: bool,
}

/// A program that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub executable: PathBuf,
    /// How cargo would start it.
    pub setting: Setting,
    /// Folders of local packages all of whose files are inputs, as their build script names none.
    pub whole_packages: Vec<PathBuf>,
    /// Nothing was compiled for it.
    pub fresh: bool,
    pub messages: Vec<Told>,
    /// What was compiled, or was as it should be.
    pub units: Vec<Unit>,
    pub scripts: Vec<Script>,
    /// Files made of packages that have no registry.
    pub compiled: Vec<PathBuf>,
}

/// A build script that was run, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Where cargo keeps what it said.
    pub output: PathBuf,
    /// Files and folders on which it depends.
    pub inputs: Vec<PathBuf>,
    /// One of those that is not there, for which cargo runs it every time.
    pub missing: Option<PathBuf>,
}

/// What came of a run.
#[derive(Debug)]
pub enum CargoOutcome {
    Built(Built),
    Failed { errors: usize, messages: Vec<Told> },
}

/// A run that has not ended.
#[derive(Debug)]
pub struct CargoRun {
    running: Running,
    /// Its manifest says which package it is: the id says the version, too, which may have become another one.
    build: config::Build,
    /// Why it is not known how cargo would start the program: then it just ends, and not where the program would begin.
    pub unknown: Option<String>,
    caught: bool,
    setting: Option<Setting>,
    /// Shared with those who read its outputs.
    pub allowance: Arc<Allowance>,
    heard: CargoHeard,
    made: CargoMade,
    finished: Option<bool>,
    /// Outputs that are still open.
    open: u8,
    exited: bool,
}

/// What it has said for the user.
#[derive(Debug, Default)]
struct CargoHeard {
    errors: usize,
    rendered: Vec<Told>,
    cargo_lines: Vec<Told>,
    /// Cargo has begun to say why it cannot.
    gives_up: bool,
}

/// What it has said of what is compiled, or was already.
#[derive(Debug, Default)]
struct CargoMade {
    /// And whether it was there before.
    executable: Option<(PathBuf, bool)>,
    libraries: Vec<PathBuf>,
    units: Vec<Unit>,
    scripts: Vec<BuildScript>,
}

impl Cargo {
    /// Starts a run. `sink` gets everything it says; `wrap` may have the last word on how it is started.
    pub fn start(&self, sink: &CargoSink, wrap: impl FnMut(&mut Command)) -> Result<CargoRun> {
        let (mut running, unknown) = self.spawn(sink, wrap)?;
        let allowance = Arc::new(Allowance::default());
        let (stdout, stderr) = (running.stdout(), running.stderr());
        let of = || (Arc::clone(sink), Arc::clone(&allowance));
        let (to, kept) = of();
        output::listen("cargo", &running, stdout, move |stdout| read_messages(stdout, &to, &kept))?;
        let (to, kept) = of();
        output::listen("cargo", &running, stderr, move |stderr| read_lines(stderr, &to, &kept))?;
        let sink = Arc::clone(sink);
        running.when_ended(move || sink(CargoSaid::Exited)).map_err(|error| refused("watch cargo", &error))?;
        Ok(CargoRun {
            running,
            build: self.build.clone(),
            unknown,
            caught: false,
            setting: None,
            allowance,
            heard: CargoHeard::default(),
            made: CargoMade::default(),
            finished: None,
            open: 2,
            exited: false,
        })
    }

    /// Cargo, caught where that is possible; else why it is not.
    fn spawn(&self, sink: &CargoSink, mut wrap: impl FnMut(&mut Command)) -> Result<(Running, Option<String>)> {
        let why = if launch::is_script(&self.program).map_err(|error| refused("run cargo", &error))? {
            format!("{} is a script", short(&self.program))
        } else {
            let mut command = self.command("run");
            wrap(command.args(["--", launch::SIGN]));
            let sink = Arc::clone(sink);
            let tell = Box::new(move |caught| sink(CargoSaid::Caught(launch::setting(caught).map(Box::new))));
            match self.launcher.start_and_catch(&command, Catch { wanted: launch::is_program, tell }) {
                Ok(running) => return Ok((running, None)),
                // It can be caught another time.
                Err(error) if is_passing(&error) => return Err(refused("run cargo", &error)),
                Err(error) => format!("ptrace(2): {error}"),
            }
        };
        let mut command = self.command("build");
        wrap(&mut command);
        let running = self.launcher.start(&command, Stdio::piped(), Stdio::piped(), Stdin::Null, &[], false)?;
        Ok((running, Some(why)))
    }

    /// The manifest of the chosen package says which one is meant; `-p` would need a spec that no dependency shares.
    fn command(&self, what: &str) -> Command {
        let build = &self.build;
        let mut command = Command::new(&self.program);
        command.args([what, "--message-format=json-diagnostic-rendered-ansi"]);
        command.arg("--manifest-path").arg(&build.manifest_path);
        command.arg(format!("--{}", build.target.kind())).arg(build.target.name());
        if !build.features.is_empty() {
            command.arg("--features").arg(build.features.join(","));
        }
        for (flag, on) in [
            ("--all-features", build.all_features),
            ("--no-default-features", build.no_default_features),
            ("--locked", build.locked),
            ("--offline", build.offline),
            ("--frozen", build.frozen),
        ] {
            if on {
                command.arg(flag);
            }
        }
        for (flag, value) in [("--profile", &build.profile), ("--target", &build.triple), ("--jobs", &build.jobs)] {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        if let Some(folder) = &build.target_dir {
            command.arg("--target-dir").arg(folder);
        }
        for setting in &build.cargo_config {
            command.arg("--config").arg(setting);
        }
        command.env("CARGO_TERM_COLOR", if self.color { "always" } else { "never" });
        // Where CI is set, cargo from 1.99 on compiles whole crates anew, which is the last thing wanted here.
        let is_dev = build.profile.is_none();
        if is_dev && std::env::var_os("CI").is_some() && std::env::var_os("CARGO_INCREMENTAL").is_none() {
            command.env("CARGO_INCREMENTAL", "1");
        }
        clean_environment(&mut command);
        command
    }
}

impl CargoRun {
    /// Units that are compiled, or were already.
    pub fn done(&self) -> usize {
        self.made.units.len() + self.made.scripts.len()
    }

    /// Asks cargo and all it has started to end.
    pub fn cancel(&self) {
        self.running.signal_group(Signal::SIGINT);
    }

    pub fn kill(&self) {
        self.running.signal_group(Signal::SIGKILL);
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn hear(&mut self, said: CargoSaid) {
        match said {
            CargoSaid::Message(message) => self.hear_message(*message),
            CargoSaid::Cargo(line) => self.heard.line(line),
            CargoSaid::Caught(setting) => (self.caught, self.setting) = (true, setting.map(|setting| *setting)),
            CargoSaid::OutputClosed => self.open = self.open.saturating_sub(1),
            CargoSaid::Exited => self.exited = true,
        }
    }

    /// The outcome, once cargo has ended and its last message has been heard.
    pub fn ended(&mut self) -> Option<CargoOutcome> {
        // Where all is well, cargo's last message says so, and nothing after it matters.
        let heard = self.open == 0 || self.finished == Some(true) && (self.caught || self.unknown.is_some());
        if !self.exited || !heard {
            return None;
        }
        let status = self.running.finish();
        // One that was caught had nothing left to do but to become the program.
        let success = status.as_ref().is_ok_and(std::process::ExitStatus::success) || self.caught;
        let CargoHeard { errors, rendered: mut messages, cargo_lines: mut lines, .. } = std::mem::take(&mut self.heard);
        if success {
            // A build script's warnings are among them.
            messages.append(&mut lines);
        }
        let CargoMade { executable, libraries, units, scripts } = std::mem::take(&mut self.made);
        match executable {
            Some((executable, fresh)) if success => {
                let (scripts, whole_packages) = what_they_name(&scripts, &units);
                let setting = self.setting.take();
                let setting = setting.unwrap_or_else(|| launch::without_cargo(&self.build, &libraries));
                let files = units.iter().filter(|unit| is_local(&unit.package_id)).flat_map(|unit| &unit.filenames);
                let compiled = files.map(|path| path.clone().into_std_path_buf()).collect();
                let built = Built { executable, setting, whole_packages, fresh, messages, units, scripts, compiled };
                Some(CargoOutcome::Built(built))
            }
            Some(_) | None => {
                if errors > 0 {
                    lines = reason::beside_compilers(lines);
                } else if success {
                    let (kind, name) = (self.build.target.kind(), self.build.target.name());
                    let manifest = short(&self.build.manifest_path);
                    lines.push(reason::unsaid(&format!("cargo has made no {kind} `{name}` of {manifest}")));
                } else if !reason::is_among(&lines) {
                    let end = status.map_or_else(|error| error.to_string(), describe);
                    lines.push(reason::unsaid(&format!("cargo has ended without saying why: {end}")));
                }
                messages.append(&mut lines);
                let errors = errors + self.allowance.left_out().errors;
                Some(CargoOutcome::Failed { errors, messages })
            }
        }
    }

    fn hear_message(&mut self, message: Message) {
        match message {
            Message::CompilerArtifact(unit) => self.made.unit(unit, &self.build),
            Message::BuildScriptExecuted(script) => self.made.script(script),
            Message::CompilerMessage(message) => self.heard.compiler(message),
            Message::BuildFinished(finished) => self.finished = Some(finished.success),
            Message::TextLine(line) => self.heard.rendered.push(Told::text(line)),
            // A later cargo's.
            _ => {}
        }
    }
}

impl CargoHeard {
    fn compiler(&mut self, message: CompilerMessage) {
        if is_sum(&message.message.message) {
            return;
        }
        self.errors += usize::from(is_error(message.message.level));
        if let Some(words) = Words::of(&message.message) {
            self.rendered.push(Told { about: Some((message.package_id, message.target)), words });
        }
    }

    fn line(&mut self, line: String) {
        let plain = crate::report::clean::plain(&line);
        self.gives_up |= reason::is_error(&plain);
        // A reason may have lines that look like progress.
        let is_progress = if self.gives_up { is_compiling(&plain) } else { is_status(&plain) };
        if !is_progress && !is_cargos_sum(&plain) {
            self.cargo_lines.push(Told::text(line));
        }
    }
}

impl CargoMade {
    fn unit(&mut self, unit: Unit, build: &config::Build) {
        let kind = match build.target {
            config::Target::Bin(_) => TargetKind::Bin,
            config::Target::Example(_) => TargetKind::Example,
        };
        if let Some(executable) = &unit.executable
            && is_same_file(unit.manifest_path.as_std_path(), &build.manifest_path)
            && unit.target.name == build.target.name()
            && unit.target.kind.contains(&kind)
        {
            self.executable = Some((executable.clone().into_std_path_buf(), unit.fresh));
        }
        self.units.push(unit);
    }

    fn script(&mut self, script: BuildScript) {
        for path in &script.linked_paths {
            // `native=/path`: what it links against may be loaded from there (cargo's book, dynamic library paths).
            let path = path.as_str().split_once('=').map_or(path.as_str(), |(_, path)| path);
            if path.starts_with(script.out_dir.as_str()) {
                self.libraries.push(PathBuf::from(path));
            }
        }
        self.scripts.push(script);
    }
}

/// The scripts with their inputs, and the local packages all of whose files are inputs: their script names none, or one that is
/// not there, for which cargo runs it every time.
fn what_they_name(scripts: &[BuildScript], units: &[Unit]) -> (Vec<Script>, Vec<PathBuf>) {
    let mut whole = Vec::new();
    let named = scripts.iter().map(|script| {
        let local = is_local(&script.package_id);
        let unit = units.iter().find(|unit| unit.package_id == script.package_id);
        let folder = unit.and_then(|unit| unit.manifest_path.parent()).map(|folder| folder.as_std_path());
        let output =
            script.out_dir.parent().map(|folder| folder.join("output").into_std_path_buf()).unwrap_or_default();
        let names = names_its_inputs(&output);
        let inputs = names.iter().map(Path::new).filter(|name| local || name.is_absolute());
        let inputs: Vec<PathBuf> = inputs.map(|name| folder.unwrap_or(Path::new("/")).join(name)).collect();
        let missing = inputs.iter().find(|path| !path.exists()).cloned();
        if let Some(folder) = folder.filter(|_| local && (names.is_empty() || missing.is_some())) {
            whole.push(folder.to_path_buf());
        }
        Script { output, inputs, missing }
    });
    (named.collect(), whole)
}

/// It is on this disk, not in a registry or a repository.
fn is_local(package: &PackageId) -> bool {
    package.repr.starts_with("path+") || package.repr.contains("(path+")
}

/// What a build script's output, which cargo keeps beside its folder, says in `rerun-if-changed`. Where it cannot be read, the
/// answer that is safe: nothing.
pub fn names_its_inputs(output: &Path) -> Vec<String> {
    let Ok(output) = File::open(output) else { return Vec::new() };
    let names = output::lines(output).filter_map(|line| {
        // Whatever else it has printed has no bounds.
        let Line::Whole(line) = line else { return None };
        let line = line.strip_prefix("cargo::").or_else(|| line.strip_prefix("cargo:"))?;
        Some(line.strip_prefix("rerun-if-changed=")?.trim_end_matches('\r').to_owned())
    });
    let names: Vec<String> = names.take(MOST_NAMED + 1).collect();
    if names.len() > MOST_NAMED { Vec::new() } else { names }
}

/// Both may have come here through links.
fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// What else begins is said while others that have failed already come to their end.
fn is_compiling(plain: &str) -> bool {
    plain.starts_with("   Compiling ")
}

/// Cargo's lines of progress: a verb with a capital, right-aligned to twelve columns.
pub fn is_status(plain: &str) -> bool {
    let verb = plain.trim_start();
    plain.len() > verb.len() && plain.find(' ').is_some() && {
        let word = verb.split(' ').next().unwrap_or("");
        plain.len() - verb.len() + word.len() == 12 && word.starts_with(char::is_uppercase)
    }
}

/// Cargo's own sum.
fn is_cargos_sum(plain: &str) -> bool {
    plain.starts_with("warning: `") && plain.contains(" generated ") && plain.contains(" warning")
}

fn read_messages(stdout: impl Read, sink: &CargoSink, allowance: &Allowance) {
    for line in output::lines(stdout) {
        let is_whole = matches!(line, Line::Whole(_));
        let text = allowance.text(line);
        let bytes = text.len();
        // Lines that are no JSON come from build scripts and macros; they must not end a build.
        let message = if is_whole && text.starts_with('{') { serde_json::from_str(&text).ok() } else { None };
        let message = message.unwrap_or(Message::TextLine(text));
        let is_admitted = match &message {
            Message::CompilerMessage(told) if is_error(told.message.level) => {
                allowance.admits(OutputKind::Error, bytes)
            }
            Message::CompilerMessage(_) => allowance.admits(OutputKind::Warning, bytes),
            Message::TextLine(_) => allowance.admits(OutputKind::Text, bytes),
            Message::BuildFinished(_) => true,
            _ => allowance.admits(OutputKind::Fact, bytes),
        };
        if is_admitted {
            sink(CargoSaid::Message(Box::new(message)));
        }
    }
    sink(CargoSaid::OutputClosed);
}

fn is_error(level: DiagnosticLevel) -> bool {
    matches!(level, DiagnosticLevel::Error | DiagnosticLevel::Ice)
}

/// Cargo's own lines, among which are those of macros and of build scripts that fail: where they are too many, what begins as an
/// error, and how it ends.
fn read_lines(stderr: impl Read, sink: &CargoSink, allowance: &Allowance) {
    let mut tail: Option<Tail> = None;
    for line in output::lines(stderr) {
        let text = allowance.text(line);
        // A line of cargo's progress begins with a blank, and either may with a colour.
        let may_matter = text.len() < MOST_OF_A_STATUS && text.starts_with(['\x1b', ' ', 'e']);
        let plain = if may_matter { crate::report::clean::plain(&text) } else { String::new() };
        let is_told = if is_status(&plain) {
            allowance.has_room(OutputKind::Status, text.len())
        } else {
            tail.is_none() && allowance.has_room(OutputKind::Cargo, text.len())
                || reason::is_error(&plain) && allowance.has_room(OutputKind::Reason, text.len())
        };
        if is_told {
            sink(CargoSaid::Cargo(text));
        } else {
            tail.get_or_insert_default().push(text, allowance);
        }
    }
    tail.into_iter().flat_map(Tail::into_lines).for_each(|line| sink(CargoSaid::Cargo(line)));
    sink(CargoSaid::OutputClosed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_from_what_matters() {
        for line in ["   Compiling api v0.1.0 (/x)", "    Finished `dev` profile", "    Updating index"] {
            assert!(is_status(line), "{line}");
        }
        for line in
            ["error: no matching package", "warning: unused manifest key: x", "  --> Cargo.toml:3:1", "", "   |"]
        {
            assert!(!is_status(line), "{line}");
        }
        assert!(is_cargos_sum(
            "warning: `api` (bin \"api\") generated 2 warnings (run `cargo fix` to apply 1 suggestion)"
        ));
        assert!(!is_cargos_sum("warning: api@0.1.0: the schema was generated with a warning"));
    }

    #[test]
    fn hostile_output_becomes_text_and_ends() {
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink: CargoSink = {
            let heard = Arc::clone(&heard);
            Arc::new(move |said| heard.lock().unwrap().push(format!("{said:?}")))
        };
        read_messages(
            &b"\xff\xfe\x1b]52;c;evil\n{\"reason\":\"build-finished\",\"success\":true}\n{\"reason\":3"[..],
            &sink,
            &Allowance::default(),
        );
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 4);
        assert!(heard[0].contains("TextLine") && heard[1].contains("BuildFinished") && heard[2].contains("TextLine"));
        assert_eq!(heard[3], "OutputClosed");
    }

    #[test]
    fn a_build_script_says_what_its_inputs_are() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        assert!(names_its_inputs(&output).is_empty());
        for (text, named) in [
            ("cargo:rustc-cfg=x\n", &[][..]),
            ("cargo:rerun-if-changed=build.rs\n", &["build.rs"]),
            ("hello\ncargo::rerun-if-changed=a\ncargo::rerun-if-changed=b c\n", &["a", "b c"]),
        ] {
            std::fs::write(&output, text).unwrap();
            assert_eq!(names_its_inputs(&output), named, "{text:?}");
        }
    }
}
