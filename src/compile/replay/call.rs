//! A captured call of rustc: what cargo ran to compile one crate of the workspace, kept so that it can be run again.
//! Cargo starts this program in rustc's place (`RUSTC_WORKSPACE_WRAPPER`, see the cargo book), which writes the call down and
//! becomes rustc.
//! Never lives here: which calls are run again, and when.

use crate::process::clean_environment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the folder in which calls are written down; set for the cargo that this program starts.
pub const FOLDER: &str = "CARGO_HOTRUN_CALLS";
/// Names the folder for incremental caches.
const INCREMENTAL: &str = "CARGO_HOTRUN_INCREMENTAL";
/// Set where line tables take the place of all debug data.
const LINE_TABLES: &str = "CARGO_HOTRUN_LINE_TABLES";
/// What is said to the wrapper, and to nobody else.
const VARIABLES: [&str; 3] = [FOLDER, INCREMENTAL, LINE_TABLES];
/// What cargo runs in the place of rustc for the crates of a workspace (the cargo book, "Configuration").
pub const WRAPPER: &str = "RUSTC_WORKSPACE_WRAPPER";
/// Of the file's form.
pub const VERSION: u32 = 2;

/// A call as it was made. Calls with words that are no UTF-8 are not written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    version: u32,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub folder: PathBuf,
    /// What cargo had changed in its own environment, and what was there before.
    pub changes: BTreeMap<String, Change>,
    /// Where it was compiled as it would be again.
    pub cache: Option<Cache>,
}

/// What is different where this program has a say in how rustc is called, whoever calls it. No other option that decides what is made is
/// another than cargo's, so that each finds the other's caches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Of all sessions that build to one target folder: rustc tells crates apart, and locks what it uses.
    pub incremental: PathBuf,
    /// Line tables instead of all debug data.
    pub line_tables: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub before: Option<String>,
    pub after: Option<String>,
}

/// What a call's arguments say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallFacts {
    pub crate_name: String,
    pub extra_filename: String,
    pub out_dir: PathBuf,
    pub crate_types: Vec<String>,
    pub emit: Vec<String>,
    /// Paths of the crates it is given by name.
    pub externs: Vec<PathBuf>,
    pub incremental: bool,
    /// Some linker was chosen by the user.
    pub linker: bool,
    /// It has an argument that is not understood here.
    pub odd: bool,
}

/// What is different when a call is run again.
#[derive(Debug)]
pub struct Rewrite<'a> {
    pub out_dir: &'a Path,
    pub cache: &'a Cache,
    /// Crates that were compiled by a call run again, by the path that cargo gave.
    pub externs: &'a BTreeMap<PathBuf, PathBuf>,
    /// Put at the end.
    pub more: &'a [String],
}

/// Runs as the wrapper of rustc, if this process was started as one: writes the call down and becomes rustc. Returns the exit
/// code of a rustc that cannot be run.
pub fn hidden_entry(mut args: impl Iterator<Item = OsString>) -> Option<i32> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    let program = args.next()?;
    let mut args: Vec<OsString> = args.collect();
    let words: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let facts = CallFacts::of(&words);
    // Cargo asks with this name which files rustc would make.
    if !facts.crate_name.trim_matches('_').is_empty() {
        let call = Call::of_this_process(&program, &args).filter(|call| call.write(&folder).is_ok());
        match call {
            Some(call) => args = call.first_time(&facts).into_iter().map(OsString::from).collect(),
            // An older one would be believed; without any, cargo compiles the crate the next time too, which is right and slow.
            None => drop(fs::remove_file(file(&folder, &facts))),
        }
    }
    let mut rustc = Command::new(&program);
    // A cargo that a macro starts has its own ways.
    for name in VARIABLES.into_iter().chain([WRAPPER]) {
        rustc.env_remove(name);
    }
    let error = rustc.args(args).exec();
    crate::report::say::error(format_args!("run {}: {error}", program.to_string_lossy()));
    Some(127)
}

fn file(folder: &Path, facts: &CallFacts) -> PathBuf {
    folder.join(format!("{}.json", facts.stem()))
}

/// Has a cargo compile as calls in that folder are run again, and write them down.
pub fn wrap(cargo: &mut Command, wrapper: &Path, calls: &Path, cache: Cache) {
    cargo.env(WRAPPER, wrapper).env(FOLDER, calls).env(INCREMENTAL, cache.incremental);
    if cache.line_tables {
        cargo.env(LINE_TABLES, "1");
    }
}

impl Cache {
    /// As this process was told, where the call is one that can be run again.
    fn told(facts: &CallFacts) -> Option<Cache> {
        let incremental = std::env::var_os(INCREMENTAL).filter(|_| facts.can_run_again())?.into();
        Some(Cache { incremental, line_tables: std::env::var_os(LINE_TABLES).is_some() })
    }
}

impl Call {
    /// The call for which cargo has started this process; `None` for a mere question to rustc, and where not all is known.
    fn of_this_process(program: &OsString, args: &[OsString]) -> Option<Call> {
        let args: Vec<String> = args.iter().map(|arg| arg.to_str().map(str::to_owned)).collect::<Option<_>>()?;
        let parent = nix::unistd::getppid();
        // Another wrapper between the two might have changed what is to be written down.
        let cargo = fs::canonicalize(std::env::var_os("CARGO")?).ok()?;
        if fs::read_link(format!("/proc/{parent}/exe")).ok()? != cargo {
            return None;
        }
        // As it was when cargo began (proc_pid_environ(5)); cargo does not change its own.
        let before = environment(&fs::read(format!("/proc/{parent}/environ")).ok()?)?;
        // A cargo that a build script starts: it is for something else, and has its own ways, too.
        if before.contains_key("CARGO_MANIFEST_DIR") {
            return None;
        }
        let mut after = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            after.insert(name.into_string().ok()?, value.into_string().ok()?);
        }
        let folder = std::env::current_dir().ok()?;
        let cache = Cache::told(&CallFacts::of(&args));
        Some(Call { version: VERSION, program: program.into(), args, folder, changes: changes(&before, &after), cache })
    }

    /// The arguments with which it is made for cargo, to cargo's place.
    fn first_time(self, facts: &CallFacts) -> Vec<String> {
        let Some(cache) = &self.cache else { return self.args };
        self.rewritten(&Rewrite { out_dir: &facts.out_dir, cache, externs: &BTreeMap::new(), more: &[] })
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let facts = CallFacts::of(&self.args);
        // Made for its owner alone: a build script may have put a secret into the environment.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.persist(self::file(folder, &facts)).map_err(|error| error.error)?;
        Ok(())
    }

    /// All calls that were written down in a folder, with their files. Files that are none, or of another version's form, are
    /// passed over.
    pub fn read_all(folder: &Path) -> Vec<(PathBuf, Call)> {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        // Beside them stands the wrapper, which is this whole program.
        let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
        let calls = files.filter_map(|path| {
            let call: Call = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            (call.version == VERSION).then_some((path, call))
        });
        calls.collect()
    }

    pub fn facts(&self) -> CallFacts {
        CallFacts::of(&self.args)
    }

    /// Whether cargo would make the same changes in that environment.
    pub fn fits(&self, environment: impl Fn(&str) -> Option<String>) -> bool {
        self.lasting().all(|(name, change)| {
            let present = environment(name);
            // Cargo puts its own folders before whatever is there.
            name == "LD_LIBRARY_PATH" || present == change.before || present == change.after
        })
    }

    /// One of those variables for which rustc would find another value, were it called by cargo in that environment.
    pub fn otherwise<'v>(
        &self,
        variables: &'v [(String, Option<String>)],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Option<&'v str> {
        let is_other = |(name, value): &&(String, Option<String>)| {
            let changed = self.lasting().find(|(changed, _)| changed == name);
            changed.map_or_else(|| environment(name), |(_, change)| change.after.clone()) != *value
        };
        variables.iter().find(is_other).map(|(name, _)| name.as_str())
    }

    /// The compiler with that argument, in the call's folder and the present environment.
    pub fn command(&self, argument: &str) -> Command {
        let mut command = Command::new(&self.program);
        clean_environment(&mut command);
        command.arg(argument).current_dir(&self.folder);
        for (name, change) in self.lasting() {
            match &change.after {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Where cargo keeps what the crate's build script has said last, if it has one (the cargo book, "Outputs of the Build Script").
    pub fn script_output(&self) -> Option<PathBuf> {
        Some(self.out_dir()?.parent()?.join("output"))
    }

    /// Where its build script puts what it makes.
    pub fn out_dir(&self) -> Option<PathBuf> {
        Some(self.changes.get("OUT_DIR")?.after.as_ref()?.into())
    }

    /// All that decides what comes of the call, but for the compiler and the files.
    pub fn identity(&self, rewrite: &Rewrite<'_>) -> String {
        let environment: Vec<_> = self.lasting().map(|(name, change)| (name, &change.after)).collect();
        format!("{:?} {:?} {:?} {environment:?}", self.program, self.rewritten(rewrite), self.folder)
    }

    /// Without the jobserver, which is that of a cargo that has ended.
    fn lasting(&self) -> impl Iterator<Item = (&str, &Change)> {
        let changes = self.changes.iter().map(|(name, change)| (name.as_str(), change));
        changes.filter(|(name, _)| {
            !matches!(*name, "CARGO_MAKEFLAGS" | "MAKEFLAGS" | "MFLAGS") && !VARIABLES.contains(name)
        })
    }

    /// The arguments with which it is made again.
    pub fn rewritten(&self, rewrite: &Rewrite<'_>) -> Vec<String> {
        let mut out = Vec::with_capacity(self.args.len() + rewrite.more.len() + 2);
        let mut args = self.args.iter();
        let own = format!("dependency={}", rewrite.out_dir.display());
        let mut own_first = Some(["-L".to_owned(), own]);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--out-dir" => {
                    args.next();
                    out.extend([arg.clone(), rewrite.out_dir.display().to_string()]);
                }
                "--extern" => {
                    let given = args.next().map_or("", String::as_str);
                    out.extend([arg.clone(), extern_again(given, rewrite.externs)]);
                }
                "-C" => {
                    let given = args.next().map_or("", String::as_str);
                    out.extend([arg.clone(), codegen_again(given, rewrite)]);
                }
                "-L" => {
                    out.extend(own_first.take().into_iter().flatten());
                    out.push(arg.clone());
                    out.extend(args.next().cloned());
                }
                _ => out.push(arg.clone()),
            }
        }
        out.extend(own_first.into_iter().flatten());
        out.extend(rewrite.more.iter().cloned());
        out
    }
}

impl CallFacts {
    fn of(args: &[String]) -> CallFacts {
        // Arguments are given to the compiler as lines.
        let odd = args.iter().any(|arg| arg.contains(['\n', '\r']));
        let mut facts = CallFacts { odd, ..CallFacts::default() };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_default();
            match arg {
                "--crate-name" => facts.crate_name = value().to_owned(),
                "--crate-type" => facts.crate_types.push(value().to_owned()),
                "--out-dir" => facts.out_dir = value().into(),
                "--extern" => facts.externs.extend(extern_path(value())),
                "-C" => facts.codegen(value()),
                "--edition" | "--cfg" | "--check-cfg" | "-L" | "-l" | "--cap-lints" | "--target" => drop(value()),
                "--test" | "-o" => facts.odd = true,
                _ => match arg.split_once('=') {
                    Some(("--emit", kinds)) => facts.emit = kinds.split(',').map(str::to_owned).collect(),
                    Some(("--out-dir" | "--extern" | "--crate-type" | "--crate-name" | "--codegen", _)) => {
                        facts.odd = true;
                    }
                    // `-Cname=value` in one word is how users write their flags, not cargo.
                    Some(_) | None => match arg.strip_prefix("-C") {
                        Some(given) => facts.joined(given),
                        None => facts.odd |= arg.starts_with('@') || arg == "--codegen",
                    },
                },
            }
        }
        facts
    }

    fn codegen(&mut self, given: &str) {
        match given.split_once('=') {
            Some(("extra-filename", value)) => value.clone_into(&mut self.extra_filename),
            Some(("incremental", _)) => self.incremental = true,
            Some(("linker" | "linker-flavor" | "link-self-contained" | "linker-features", _)) => self.linker = true,
            Some(_) | None => {}
        }
    }

    fn joined(&mut self, given: &str) {
        match given.split_once('=') {
            Some(("extra-filename" | "incremental", _)) => self.odd = true,
            Some(_) | None => self.codegen(given),
        }
    }

    /// The name of what it makes, without `lib` and extension.
    pub fn stem(&self) -> String {
        format!("{}{}", self.crate_name, self.extra_filename)
    }

    pub fn is_bin(&self) -> bool {
        self.crate_types == ["bin"]
    }

    pub fn is_lib(&self) -> bool {
        !self.crate_types.is_empty() && self.crate_types.iter().all(|kind| kind == "lib" || kind == "rlib")
    }

    /// Whether our own linker is used for it, where that is used at all: not where the user has chosen one.
    pub fn is_linked_by(&self, own_linker: bool) -> bool {
        own_linker && self.is_bin() && !self.linker
    }

    /// Whether it is a call of the kind that can be run again: an executable or a Rust library, compiled incrementally.
    pub fn can_run_again(&self) -> bool {
        let emits = |kind: &str| self.emit.iter().any(|emitted| emitted == kind);
        (self.is_bin() || self.is_lib()) && self.incremental && !self.odd && emits("link") && emits("dep-info")
    }

    /// The files that matter of those it makes in that folder.
    pub fn outputs(&self, folder: &Path) -> Vec<PathBuf> {
        let stem = self.stem();
        if self.is_bin() || self.is_build_script() {
            return vec![folder.join(stem)];
        }
        if self.crate_types == ["proc-macro"] {
            return vec![folder.join(format!("lib{stem}.so"))];
        }
        vec![folder.join(format!("lib{stem}.rlib")), folder.join(format!("lib{stem}.rmeta"))]
    }

    pub fn dep_info(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.d", self.stem()))
    }

    pub fn is_build_script(&self) -> bool {
        self.crate_name.starts_with("build_script_")
    }
}

/// `name=path`, perhaps with options before a colon; without a path the crate is looked for.
fn extern_path(given: &str) -> Option<PathBuf> {
    given.split_once('=').map(|(_, path)| PathBuf::from(path))
}

fn extern_again(given: &str, externs: &BTreeMap<PathBuf, PathBuf>) -> String {
    let again = given.split_once('=').and_then(|(name, path)| Some((name, externs.get(Path::new(path))?)));
    again.map_or_else(|| given.to_owned(), |(name, path)| format!("{name}={}", path.display()))
}

fn codegen_again(given: &str, rewrite: &Rewrite<'_>) -> String {
    match given.split_once('=') {
        Some(("incremental", _)) => format!("incremental={}", rewrite.cache.incremental.display()),
        Some(("debuginfo", "2" | "full" | "1" | "limited")) if rewrite.cache.line_tables => {
            "debuginfo=line-tables-only".to_owned()
        }
        Some(_) | None => given.to_owned(),
    }
}

/// Variables as the kernel keeps them; `None` where one is no UTF-8.
fn environment(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let variables = bytes.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    let variables = variables.map(|variable| {
        let text = std::str::from_utf8(variable).ok()?;
        let (name, value) = text.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    variables.collect()
}

fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> BTreeMap<String, Change> {
    let names = before.keys().chain(after.keys());
    let differing = names.filter(|name| before.get(*name) != after.get(*name));
    differing
        .map(|name| (name.clone(), Change { before: before.get(name).cloned(), after: after.get(name).cloned() }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn call(args: &str) -> Call {
        Call {
            version: VERSION,
            program: "/toolchain/bin/rustc".into(),
            args: words(args),
            folder: "/p".into(),
            changes: BTreeMap::new(),
            cache: None,
        }
    }

    const BIN: &str = "--crate-name api --edition=2024 src/main.rs --error-format=json --crate-type bin \
        --emit=dep-info,link -C embed-bitcode=no -C debuginfo=2 -C metadata=1f -C extra-filename=-2e --out-dir /t/deps \
        -C incremental=/t/incremental -L dependency=/t/deps --extern model=/t/deps/libmodel-3d.rlib \
        --extern noprelude:axum=/t/deps/libaxum-4c.rlib";

    #[test]
    fn a_call_says_what_it_makes_and_of_what() {
        let facts = call(BIN).facts();
        assert!(facts.can_run_again() && facts.is_bin());
        assert_eq!(facts.outputs(Path::new("/o")), [Path::new("/o/api-2e")]);
        assert_eq!(facts.dep_info(Path::new("/o")), Path::new("/o/api-2e.d"));
        assert_eq!(facts.externs, [Path::new("/t/deps/libmodel-3d.rlib"), Path::new("/t/deps/libaxum-4c.rlib")]);
    }

    #[test]
    fn calls_of_other_kinds_are_not_run_again() {
        let cases = [
            ("--crate-type bin", "--crate-type proc-macro"),
            ("--crate-type bin", "--crate-type cdylib --crate-type rlib"),
            ("--crate-type bin", "--crate-type bin --test"),
            ("-C incremental=/t/incremental ", ""),
            ("--emit=dep-info,link", "--emit=dep-info,metadata"),
            ("src/main.rs", "@/t/arguments"),
            ("-C debuginfo=2", "-Cincremental=/elsewhere"),
        ];
        for (from, to) in cases {
            let args = BIN.replace(from, to);
            assert_ne!(args, BIN);
            assert!(!call(&args).facts().can_run_again(), "{to}");
        }
        assert!(call(&BIN.replace("-C debuginfo=2", "-Clinker=clang")).facts().linker);
        assert!(call(&BIN.replace("-C debuginfo=2", "-C linker=clang")).facts().linker);
    }

    #[test]
    fn a_call_run_again_goes_elsewhere_and_takes_what_is_there() {
        let externs = [(PathBuf::from("/t/deps/libmodel-3d.rlib"), PathBuf::from("/o/deps/libmodel-3d.rlib"))];
        let rewrite = Rewrite {
            out_dir: Path::new("/o/deps"),
            cache: &Cache { incremental: "/o/incremental".into(), line_tables: true },
            externs: &externs.into_iter().collect(),
            more: &words("-C linker=/l"),
        };
        let expected = "--crate-name api --edition=2024 src/main.rs --error-format=json --crate-type bin \
            --emit=dep-info,link -C embed-bitcode=no -C debuginfo=line-tables-only -C metadata=1f -C extra-filename=-2e \
            --out-dir /o/deps -C incremental=/o/incremental -L dependency=/o/deps -L dependency=/t/deps \
            --extern model=/o/deps/libmodel-3d.rlib --extern noprelude:axum=/t/deps/libaxum-4c.rlib -C linker=/l";
        assert_eq!(call(BIN).rewritten(&rewrite).join(" "), expected);
        let less = call(&BIN.replace("debuginfo=2", "debuginfo=0")).rewritten(&rewrite);
        assert!(less.contains(&"debuginfo=0".to_owned()), "never more than the user wants");
    }

    #[test]
    fn of_a_folder_only_what_is_named_as_a_call_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let call = call(BIN);
        call.write(folder.path()).unwrap();
        let file = file(folder.path(), &call.facts());
        fs::copy(&file, folder.path().join("rustc-2-lines-x")).unwrap();
        assert_eq!(Call::read_all(folder.path()), [(file, call)]);
    }

    #[test]
    fn what_cargo_changes_is_changed_only_where_it_would_be_again() {
        let before = environment(b"HOME=/h\0LEVEL=1\0GONE=x\0").unwrap();
        let after = environment(b"HOME=/h\0LEVEL=2\0NEW=y\0").unwrap();
        let mut call = call(BIN);
        call.changes = changes(&before, &after);
        let names: Vec<&str> = call.changes.keys().map(String::as_str).collect();
        assert_eq!(names, ["GONE", "LEVEL", "NEW"]);
        assert!(call.fits(|name| before.get(name).cloned()));
        assert!(call.fits(|name| after.get(name).cloned()), "cargo puts there what is there");
        let other = environment(b"HOME=/h\0LEVEL=3\0GONE=x\0").unwrap();
        assert!(!call.fits(|name| other.get(name).cloned()));
        assert!(environment(b"A=\xff\0").is_none());

        let read = |name: &str, value: Option<&str>| [(name.to_owned(), value.map(str::to_owned))];
        let present = |name: &str| before.get(name).cloned();
        for (name, value) in [("HOME", Some("/h")), ("LEVEL", Some("2")), ("GONE", None), ("NEVER", None)] {
            assert_eq!(call.otherwise(&read(name, value), present), None);
        }
        for (name, value) in [("HOME", None), ("LEVEL", Some("1")), ("GONE", Some("x")), ("NEVER", Some(""))] {
            assert_eq!(call.otherwise(&read(name, value), present), Some(name));
        }
    }
}
