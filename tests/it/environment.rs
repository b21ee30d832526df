//! What a program finds around itself: the environment that `cargo run` makes, name by name, and the runner that cargo is configured
//! with.

use crate::harness::refuse::refuse;
use crate::harness::server::{Gate, SERVER, change, server};
use crate::harness::{Project, Session, free_address, get, hotrun_dependency, is_alive, version, wait_until_reaped};
use crate::load::{Load, Mix};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Writes its environment to the file named by its first argument; a server if it has an address, else it ends.
const TELLS: &str = r#"
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

const VERSION: &str = "1";

fn main() {
    let mut args = std::env::args().skip(1);
    let env = std::fs::read("/proc/self/environ").unwrap();
    let file = args.next().unwrap();
    std::fs::write(format!("{file}.new"), env).unwrap();
    std::fs::rename(format!("{file}.new"), &file).unwrap();
    if args.next().as_deref() != Some("serve") {
        return;
    }
    let listener = TcpListener::bind(std::env::var("ADDR").unwrap()).unwrap();
    for conn in listener.incoming() {
        let Ok(mut conn) = conn else { continue };
        if BufReader::new(&conn).lines().any(|line| line.is_ok_and(|line| line.is_empty())) {
            let body = format!("version: {VERSION}\n");
            let _ = write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    }
}
"#;

/// What the file says that such a program has written.
fn environment(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let pairs = text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()).map(String::from_utf8_lossy);
    pairs.map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()).collect()
}

/// Cargo's folder of a crate is another where the crate is compiled by way of a wrapper, as it is here for replay: `build/api-0123…/out`.
fn without_hashes(value: &str) -> String {
    let is_hash = |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts = value.split('/').map(|part| match part.rsplit_once('-') {
        Some((name, hash)) if is_hash(hash) => name,
        _ => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// What a session says to its program, and nobody else.
fn is_ours(name: &str) -> bool {
    name.starts_with("HOTRUN_") || name.starts_with("LISTEN_") || name == "NOTIFY_SOCKET"
}

/// One project, whose program is started both ways.
struct Both {
    project: Project,
    /// Where the user stands.
    folder: &'static str,
    flags: Vec<String>,
    env: Vec<(String, String)>,
}

impl Both {
    fn new(project: Project) -> Both {
        project.write("Cargo.lock", "version = 4\n");
        Both { project, folder: ".", flags: Vec::new(), env: Vec::new() }
    }

    fn with(mut self, folder: &'static str, flags: &[&str], env: &[(&str, &str)]) -> Both {
        self.folder = folder;
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self
    }

    fn prepare(&self, command: &mut Command) {
        // This test was itself started by cargo.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
        command.current_dir(self.project.path(self.folder)).env("CARGO_TARGET_DIR", self.project.path("target"));
        command.envs(self.env.iter().cloned()).env_remove("CARGO_BIN_NAME").env_remove("OUT_DIR");
    }

    /// As `cargo run` starts it.
    fn by_cargo(&self) -> BTreeMap<String, String> {
        let told = self.project.path("told-by-cargo");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.arg("run").args(&self.flags).arg("--manifest-path").arg(self.project.path("Cargo.toml"));
        cargo.arg("--").arg(&told).env("ADDR", "none");
        self.prepare(&mut cargo);
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        environment(&told)
    }

    /// A session whose first generation serves.
    fn session(&self, more: &[&str]) -> Session {
        let told = self.project.path("told").display().to_string();
        let flags = self.flags.iter().map(String::as_str).chain(more.iter().copied());
        let args: Vec<&str> = flags.chain(["--", &told, "serve"]).collect();
        let mut session = Session::start_with(&self.project, free_address(), &args, |command| self.prepare(command));
        session.wait_serving(1);
        session
    }

    fn told(&self) -> BTreeMap<String, String> {
        environment(&self.project.path("told"))
    }

    /// What is not as with `cargo run`.
    fn differences(&self) -> Vec<String> {
        let (wanted, got) = (self.by_cargo(), self.told());
        assert!(wanted.contains_key("CARGO_PKG_VERSION"), "{wanted:?}");
        let names: BTreeSet<&String> = wanted.keys().chain(got.keys()).collect();
        let (wanted, got) = [&wanted, &got]
            .map(|env| env.iter().map(|(name, value)| (name, without_hashes(value))).collect::<BTreeMap<_, _>>())
            .into();
        let different =
            names.into_iter().filter(|name| *name != "ADDR" && !is_ours(name) && wanted.get(*name) != got.get(*name));
        different.map(|name| format!("{name}: {:?}, and by cargo run {:?}", got.get(name), wanted.get(name))).collect()
    }

    fn assert_same(&self) {
        let session = self.session(&[]);
        assert_eq!(self.differences(), [""; 0], "{:?} {:?}", self.flags, self.env);
        drop(session);
    }
}

const ABOUT: &str = "authors = [\"A <a@b>\", \"C\"]\ndescription = \"two\\nlines\"\nhomepage = \"https://h\"\nrepository = \"https://r\"\n\
                     license = \"MIT\"\nrust-version = \"1.85\"\nreadme = \"READ.md\"\n";
const BUILD: &str = r#"
fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    println!("cargo::rerun-if-changed=word");
    println!("cargo::rustc-env=BY_SCRIPT=a = b");
    println!("cargo::rustc-env=BOTH=script");
    println!("cargo::rustc-link-search=native={out}/native");
    println!("cargo::rustc-link-search={out}");
    println!("cargo::rustc-link-search=native=/usr/lib");
}
"#;

/// A program with all that a manifest can say of it, a build script, an example, and a member beside it.
fn project(name: &str) -> Project {
    let project = Project::new(name, "", TELLS);
    project.edit("Cargo.toml", "version = \"0.1.0\"\n", &format!("version = \"1.2.3-rc.1+x\"\n{ABOUT}"));
    project.edit("Cargo.toml", "[workspace]\n", "[workspace]\nmembers = [\"inner/member\"]\n");
    project.write("build.rs", BUILD);
    project.write("word", "");
    project.write("examples/shown.rs", TELLS);
    let member = "[package]\nname = \"member\"\nversion = \"9.0.0\"\nedition = \"2024\"\n";
    project.write("inner/member/Cargo.toml", member);
    project.write("inner/member/src/main.rs", TELLS);
    project.write("inner/member/build.rs", BUILD);
    project.write("inner/member/word", "");
    project
}

#[test]
fn a_program_has_the_environment_that_cargo_run_gives_it() {
    let project = project("environment-same");
    let env = "[env]\nPLAIN = \"root\"\nBOTH = \"config\"\nSET = \"config\"\nFORCED = { value = \"config\", force = true }\n\
               PLACE = { value = \"some/place\", relative = true }\nCARGO_PKG_NAME = { value = \"x\", force = true }\n";
    project.write(".cargo/config.toml", env);
    project.write("inner/.cargo/config.toml", "[env]\nPLAIN = \"inner\"\nINNER = { value = \"x\", relative = true }\n");
    project.write("home/config.toml", "[env]\nPLAIN = \"home\"\nHOME_ONLY = \"1\"\n");
    project.write("inner/more.toml", "[env]\nMORE = { value = \"x\", relative = true }\n");
    let home = project.path("home").display().to_string();
    let set = [("SET", "outside"), ("FORCED", "outside"), ("CARGO_HOME", home.as_str())];
    let mut both = Both::new(project);
    for (folder, flags) in [
        (".", &[][..]),
        ("inner", &[]),
        (".", &["--example", "shown"]),
        (".", &["-p", "member"]),
        ("inner", &["--config", "env.PLAIN=\"flag\"", "--config", "env.PLACE.value=\"f\"", "--config", "more.toml"]),
    ] {
        both = both.with(folder, flags, &set);
        both.assert_same();
        let told = both.told();
        assert_eq!((told["FORCED"].as_str(), told["SET"].as_str()), ("config", "outside"));
        assert!(told.contains_key("PLACE") && told.contains_key("HOME_ONLY") && told.contains_key("BY_SCRIPT"));
    }
}

#[test]
fn a_program_that_replay_has_made_has_the_environment_of_the_one_before() {
    let both = Both::new(project("environment-replay"));
    let mut session = both.session(&["--timings"]);
    let first = both.told();
    session.wait_replay_ready();
    both.project.set_version("2");
    session.wait_serving(2);
    let timings = session.wait_for("timings");
    assert_eq!(timings["built-by"], "replay");
    let second = both.told();
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let different = names.into_iter().filter(|name| !is_ours(name) && first.get(*name) != second.get(*name));
    assert_eq!(different.collect::<Vec<_>>(), [""; 0]);
    assert_eq!(both.differences(), [""; 0]);
}

#[test]
fn what_the_user_says_to_the_command_counts_more_than_what_cargo_sets() {
    let project = project("environment-own");
    project.write(".cargo/config.toml", "[env]\nA = { value = \"cargo\", force = true }\nB = \"cargo\"\n");
    project.write("own.env", "B=file\nCARGO_PKG_NAME=file\n");
    let both = Both::new(project);
    drop(both.session(&["--env", "A=own", "--env-file", "own.env"]));
    let told = both.told();
    assert_eq!((told["A"].as_str(), told["B"].as_str(), told["CARGO_PKG_NAME"].as_str()), ("own", "file", "file"));
}

/// The program's bytes are the same, as it asks for variables when it runs.
#[test]
fn what_cargo_sets_for_a_program_starts_it_again_where_it_has_changed() {
    let project = project("environment-changed");
    let read = "println!(\"cargo::rustc-env=WORD={}\", std::fs::read_to_string(\"word\").unwrap());";
    project.edit("build.rs", "println!(\"cargo::rustc-env=BOTH=script\");", read);
    project.write("word", "one");
    let both = Both::new(project);
    let mut session = both.session(&[]);
    assert_eq!(both.told()["WORD"], "one");
    both.project.write_by_rename("word", "two");
    session.wait_serving(2);
    assert_eq!(both.told()["WORD"], "two");
    both.project.write(".cargo/config.toml", "[env]\nCONFIGURED = \"1\"\n");
    session.wait_serving(3);
    assert_eq!(both.told()["CONFIGURED"], "1");
    let run = runner(&both.project, "run.sh", "exec \"$@\"");
    both.project.write_by_rename(".cargo/config.toml", &format!("[target.{}]\nrunner = [{run:?}, \"a\"]\n", host()));
    session.wait_serving(4);
    assert_eq!(both.told()["STARTED_BY"], " run.sh:a");
    assert_eq!(both.differences(), [""; 0]);
}

/// Says in the environment who has started the program, and becomes it.
fn runner(project: &Project, name: &str, last: &str) -> String {
    let path = project.path(name);
    project.write(name, &format!("#!/bin/sh\nexport STARTED_BY=\"$STARTED_BY {name}:$1\"\nshift\n{last}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

#[test]
fn the_runner_that_cargo_is_configured_with_stands_before_the_program() {
    let project = project("environment-runner");
    let host = host();
    let path = runner(&project, "run.sh", "exec \"$@\"");
    let (upper, linux) = (host.replace(['-', '.'], "_").to_uppercase(), "target.'cfg(target_os = \"linux\")'");
    let variable = format!("CARGO_TARGET_{upper}_RUNNER");
    let flag = format!("target.{host}.runner=[{path:?},\"by-flag\"]");
    let by_triple = format!("[target.{host}]\nrunner = \"./run.sh by-triple\"\n");
    let by_cfg = format!("[{linux}]\nrunner = [\"./run.sh\", \"by cfg\"]\n");
    let from_variable = format!("{path} by-variable");
    let mut both = Both::new(project);
    for (config, flags, env, said) in [
        (&by_triple, &[][..], &[][..], "run.sh:by-triple"),
        (&by_triple, &["--target", &host], &[], "run.sh:by-triple"),
        (&by_cfg, &[], &[], "run.sh:by cfg"),
        (&by_cfg, &[], &[(variable.as_str(), from_variable.as_str())], "run.sh:by-variable"),
        (&by_cfg, &["--config", &flag], &[], "run.sh:by-flag"),
    ] {
        both.project.write(".cargo/config.toml", config);
        both = both.with(".", flags, env);
        both.assert_same();
        assert_eq!(both.told()["STARTED_BY"].trim(), said);
    }
}

#[test]
fn a_program_behind_a_runner_is_swapped_and_ends_as_any_other() {
    for (name, last) in [("environment-execs", "exec \"$@\""), ("environment-forks", "\"$@\"; exit 7")] {
        let project = Project::new(name, "signal-hook = \"0.4\"\n", GRACEFUL);
        runner(&project, "run.sh", last);
        project.write(".cargo/config.toml", &format!("[target.{}]\nrunner = [\"./run.sh\", \"word\"]\n", host()));
        let (address, gate) = (free_address(), Gate::open());
        let mut session = Session::start_with(&project, address, &[], |command| {
            command.env("GATE", gate.address());
        });
        for generation in 1..=3 {
            if generation > 1 {
                project.write_by_rename("src/main.rs", &server(GRACEFUL, &generation.to_string(), &[]));
            }
            let serving = session.wait_serving(generation);
            assert_eq!(serving["by"], "bind", "{name}");
            assert_eq!(version(address), generation.to_string());
            assert!(get(address, "/").unwrap().contains("STARTED_BY= run.sh:word\n"), "{name}");
        }
        // Those before have been asked to leave, and have left by themselves.
        for generation in 1..=2 {
            assert_eq!(gate.arrival().end(), format!("{generation} left"), "{name}");
        }
        let last = session.log.iter().rfind(|event| event["event"] == "serving").unwrap()["pid"].as_u64().unwrap();
        let last = u32::try_from(last).unwrap();
        assert!(is_alive(last));
        let last_words = gate.arrival();
        let (_, log) = session.stop();
        assert_eq!(last_words.end(), "3 left", "{name}");
        wait_until_reaped(last);
        let cut: u64 = log.iter().filter_map(|event| event["cut"].as_u64()).sum();
        assert_eq!(cut, 0, "{name}");
    }
}

#[test]
fn a_server_with_the_library_is_handed_over_behind_a_runner() {
    for (name, last) in [("environment-library-execs", "exec \"$@\""), ("environment-library-forks", "\"$@\"; exit 7")]
    {
        let project = Project::new(name, &hotrun_dependency("[]"), SERVER);
        runner(&project, "run.sh", last);
        project.write(".cargo/config.toml", &format!("[target.{}]\nrunner = [\"./run.sh\", \"word\"]\n", host()));
        let address = free_address();
        let mut session = Session::start(&project, address, &[]);
        session.wait_serving(1);
        let load = Load::start(address, Mix { fresh: 4, keep_alive: 0, slow: 0, slow_ms: 0 });
        for generation in 2..=3 {
            change(&project, &generation.to_string(), &[]);
            assert_eq!(session.wait_serving(generation)["by"], "library", "{name}");
            assert_eq!(version(address), generation.to_string());
        }
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{name}: {tally:#?}");
        let (_, log) = session.stop();
        let cut: u64 = log.iter().filter_map(|event| event["cut"].as_u64()).sum();
        assert_eq!((cut, log.iter().any(|event| event["event"] == "died")), (0, false), "{name}: {log:?}");
    }
}

/// Tells the gate how it has left.
const GRACEFUL: &str = r#"
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

const VERSION: &str = "1";

fn main() {
    let mut gate = TcpStream::connect(std::env::var("GATE").unwrap()).unwrap();
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]).unwrap();
    std::thread::spawn(move || {
        signals.forever().next();
        write!(gate, "{VERSION} left").unwrap();
        std::process::exit(0);
    });
    let listener = TcpListener::bind(std::env::var("ADDR").unwrap()).unwrap();
    for conn in listener.incoming() {
        let Ok(mut conn) = conn else { continue };
        if BufReader::new(&conn).lines().any(|line| line.is_ok_and(|line| line.is_empty())) {
            let by = std::env::var("STARTED_BY").unwrap_or_default();
            let body = format!("version: {VERSION}\nSTARTED_BY={by}\n");
            let _ = write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    }
}
"#;

#[test]
fn where_cargo_cannot_be_caught_the_program_runs_and_it_is_said_once() {
    let both = Both::new(project("environment-refused"));
    let told = both.project.path("told").display().to_string();
    let args = ["--no-replay", "--", &told, "serve"];
    let mut session = Session::start_with(&both.project, free_address(), &args, |command| {
        both.prepare(command);
        refuse(command, nix::libc::SYS_ptrace, nix::errno::Errno::EPERM);
    });
    session.wait_serving(1);
    both.project.set_version("2");
    session.wait_serving(2);
    assert_eq!(both.told()["CARGO_PKG_NAME"], "environment-refused");
    let (_, log) = session.stop();
    let notes: Vec<&Value> = log.iter().filter(|event| event["event"] == "note").collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0]["text"].as_str().unwrap().contains("ptrace(2)"), "{notes:?}");
}
