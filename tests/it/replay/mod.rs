//! Saves that are compiled by replay: the program that is served is the one that cargo would build, and what is said is what cargo
//! would say.

mod diagnostics;
mod held;
mod meanwhile;
mod merged;
mod property;
mod starved;
mod taken_over;
mod turns;

use crate::harness::plain::Plain;
use crate::harness::{Project, get};
use serde_json::Value;

/// Serves, and the next save is compiled by replay.
fn ready(project: Project) -> Plain {
    let mut plain = Plain::begin(project, &["--timings"]);
    plain.next();
    plain.session.wait_replay_ready();
    plain
}

/// What the present generation was built by, and why that was not replay.
fn built_by(plain: &mut Plain) -> (String, String) {
    let generation = plain.generation;
    let timings = plain.session.see("timings", |event| is(event, "timings") && event["generation"] == generation);
    let text = |name: &str| timings[name].as_str().unwrap_or_default().to_owned();
    (text("built-by"), text("why-cargo"))
}

#[track_caller]
fn assert_replayed(plain: &mut Plain) {
    assert_eq!(built_by(plain), ("replay".to_owned(), String::new()));
}

fn is(event: &Value, name: &str) -> bool {
    event["event"] == name
}

/// What the program says.
fn word(plain: &Plain) -> String {
    let answer = get(plain.address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap().to_owned()
}

/// Adds a crate of the workspace, which the program needs. `more` are lines of its manifest.
fn add_crate(project: &Project, name: &str, more: &str, text: &str) {
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}\n");
    project.write(&format!("{name}/Cargo.toml"), &manifest);
    project.write(&format!("{name}/src/lib.rs"), text);
    project.edit("Cargo.toml", "\n[dependencies]\n", &format!("\n[dependencies]\n{name}.path = {name:?}\n"));
}
