//! Which builds are replayed, which go through cargo and why, and that the program served is the right one either way.

mod modules;
mod scripts;
mod sessions;
mod settings;
mod workspace;

use crate::harness::plain::{Plain, plain, project};
use crate::harness::{Project, get};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Command;

const MAIN: &str = "src/main.rs";

/// A session with timings, and what was seen of it.
struct Served {
    plain: Plain,
    version: u32,
}

/// How a program was built.
struct Built {
    by: String,
    why: Option<String>,
    /// In the order in which they began.
    crates: Vec<Value>,
}

impl Served {
    fn start(project: Project) -> Served {
        Served::start_with(project, &[], |_| {})
    }

    /// Waits until the first generation serves and replay is prepared.
    fn start_with(project: Project, args: &[&str], change: impl FnOnce(&mut Command)) -> Served {
        let mut served = Served::begin(project, args, change);
        served.plain.session.wait_replay_ready();
        served
    }

    /// Waits until the first generation serves.
    fn begin(project: Project, args: &[&str], change: impl FnOnce(&mut Command)) -> Served {
        let args: Vec<&str> = ["--timings"].iter().chain(args).copied().collect();
        let mut served = Served { plain: Plain::begin_with(project, &args, change), version: 1 };
        assert_eq!(served.next().by, "cargo");
        served
    }

    /// The project, when the session has ended.
    fn stop(self) -> Project {
        let Plain { project, session, .. } = self.plain;
        session.stop();
        project
    }

    fn project(&self) -> &Project {
        &self.plain.project
    }

    /// What the program says beside its version.
    fn word(&self) -> String {
        word_at(self.plain.address)
    }

    /// Waits until a build by cargo has ended that may give the same program, and the next save can be replayed.
    fn built(&mut self) {
        let ended = |event: &Value| matches!(event["event"].as_str(), Some("serving" | "unchanged" | "build-failed"));
        let event = self.plain.session.wait("the end of the build", ended);
        assert_ne!(event["event"], "build-failed");
        self.plain.generation += u64::from(event["event"] == "serving");
        self.plain.session.wait_replay_ready();
    }

    /// Waits until the next generation serves, and alone.
    fn next(&mut self) -> Built {
        self.plain.next();
        let generation = self.plain.generation;
        let timings =
            self.plain.session.see("timings", |event| event["event"] == "timings" && event["generation"] == generation);
        let mut crates = timings["crates"].as_array().unwrap().clone();
        crates.sort_by(|one, other| one["began"].as_f64().unwrap().total_cmp(&other["began"].as_f64().unwrap()));
        let by = timings["built-by"].as_str().unwrap().to_owned();
        Built { by, why: timings["why-cargo"].as_str().map(str::to_owned), crates }
    }

    /// The change that was just made is built by cargo for that reason, and then the program says that word.
    fn through_cargo(&mut self, why: &str, word: &str) {
        let built = self.next();
        let said = built.why.unwrap_or_default();
        assert!(built.by == "cargo" && said.contains(why), "built by {} ({said}), not for {why}", built.by);
        assert_eq!(self.word(), word, "{why}");
        self.plain.session.wait_replay_ready();
    }

    /// The change that was just made is built by replay, which compiles those crates in that order, and then the program says
    /// that word.
    fn by_replay(&mut self, crates: &[&str], word: &str) {
        let built = self.next();
        assert_eq!((built.by.as_str(), built.why.as_deref()), ("replay", None));
        let names: Vec<&str> = built.crates.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, crates);
        assert_eq!(self.word(), word);
    }

    /// A plain edit of the program's crate, which is built by replay; its word stays the same.
    fn edit(&mut self) {
        let word = self.word();
        self.version();
        let crates = [self.project().name.replace('-', "_")];
        self.by_replay(&[&crates[0]], &word);
        assert_eq!(crate::harness::version(self.plain.address), self.version.to_string());
    }

    /// Saves the program with another version.
    fn version(&mut self) {
        self.version += 1;
        self.project().set_version(&self.version.to_string());
    }
}

/// A project whose program says that word, an expression of a `String`, and has those crates beside it in its workspace:
/// each with lines of its manifest and its `src/lib.rs`. `dependencies` are the program's.
fn workspace(name: &str, word: &str, dependencies: &str, crates: &[(&str, &str, &str)]) -> Project {
    let project = project(name, "");
    project.write(MAIN, &plain("1", &[&says(word)]));
    project.edit("Cargo.toml", "[dependencies]\n", &format!("[dependencies]\n{dependencies}\n"));
    for (name, manifest, text) in crates {
        library(&project, name, manifest, text);
    }
    project
}

fn library(project: &Project, name: &str, manifest: &str, text: &str) {
    let package = format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{manifest}\n");
    project.write(&format!("{name}/Cargo.toml"), &package);
    project.write(&format!("{name}/src/lib.rs"), text);
}

/// What the program at that address says beside its version.
fn word_at(address: SocketAddr) -> String {
    let answer = get(address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap().to_owned()
}

/// The line of the program that says so.
fn says(word: &str) -> String {
    format!("fn word() -> String {{ {word} }}")
}

/// A crate that has a word.
fn has(word: &str) -> String {
    format!("pub fn word() -> String {{ {word} }}\n")
}
