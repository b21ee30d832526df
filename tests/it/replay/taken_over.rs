//! What cargo has compiled is where replay goes on: nothing is compiled in between, and the first save after any build of cargo's is replayed.

use super::held::{HELD, MAIN, save, with_macro};
use super::{add_crate, assert_replayed, built_by, is, word};
use crate::harness::Project;
use crate::harness::plain::{Plain, plain, project};
use std::fs;
use std::os::unix::fs::MetadataExt;

const WORD: [&str; 1] = ["fn word() -> String { library::word() }"];

fn library(word: &str) -> String {
    format!("pub fn word() -> String {{ {word:?}.into() }}\n")
}

fn with_library(name: &str) -> Project {
    let project = project(name, "");
    add_crate(&project, "library", "", &library("one"));
    project.write(MAIN, &plain("1", &WORD));
    project
}

fn begin(project: Project, args: &[&str]) -> Plain {
    let mut plain = Plain::begin(project, &[&["--timings"], args].concat());
    plain.next();
    plain.session.wait_replay_ready();
    plain
}

fn end(it: Plain) -> Project {
    drop(it.session.stop());
    it.project
}

/// Saves the library, which is replayed.
fn replays_library(it: &mut Plain, says: &str) {
    it.project.write("library/src/lib.rs", &library(says));
    it.next();
    assert_eq!(word(it), says);
    assert_replayed(it);
}

/// Of the program.
fn caches(it: &Plain, folder: &str) -> usize {
    let caches = fs::read_dir(it.project.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    let prefix = it.project.name.replace('-', "_") + "-";
    caches.filter(|name| name.to_string_lossy().starts_with(&prefix)).count()
}

/// Each compilation of the program waits at the gate: there are as many as builds.
#[test]
fn the_first_save_is_replayed_and_nothing_is_compiled_before_it() {
    let project = with_macro("taken-first", "");
    project.write(MAIN, &plain("1", &[HELD]));
    let mut it = Plain::begin(project, &["--timings"]);
    it.gate.arrival().let_go();
    assert_eq!(it.next(), "1");
    it.session.wait_replay_ready();
    for version in ["2", "3"] {
        save(&it, version, &[HELD]);
        // Were it another's, the program would wait.
        it.gate.arrival().let_go();
        assert_eq!(it.next(), version);
        assert_replayed(&mut it);
    }
    // One cache, which both have used.
    assert_eq!(["target/debug/incremental", "target/hotrun/incremental"].map(|folder| caches(&it, folder)), [0, 1]);
}

/// Whose clock may be another: when it was written, compared with when its compiler began, tells nothing.
#[test]
fn a_crate_with_a_source_on_another_file_system_is_compiled_once_more() {
    let text = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    fs::write(&text, "one").unwrap();
    let project = with_library("taken-elsewhere");
    assert_ne!(text.as_file().metadata().unwrap().dev(), fs::metadata(project.root()).unwrap().dev());
    let library = format!("pub fn word() -> String {{ include_str!({:?}).into() }}\n", text.path().to_str().unwrap());
    project.write("library/src/lib.rs", &library);
    let mut it = begin(project, &[]);
    for (version, compiled) in [("2", &["library", "taken_elsewhere"][..]), ("3", &["taken_elsewhere"])] {
        save(&it, version, &WORD);
        assert_eq!((it.next(), word(&it)), (version.into(), "one".into()));
        assert_replayed(&mut it);
        assert_eq!(built_crates(&it), compiled);
    }
}

#[test]
fn the_first_save_of_a_crate_that_the_program_needs_is_replayed() {
    let mut it = begin(with_library("taken-library"), &[]);
    replays_library(&mut it, "two");
    assert_eq!(built_crates(&it), ["library", "taken_library"]);
}

fn built_crates(plain: &Plain) -> Vec<&str> {
    let timings = plain.session.log.iter().rfind(|event| is(event, "timings")).unwrap();
    timings["crates"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

/// It finds what the one before has replayed, and what cargo has compiled since.
#[test]
fn the_first_save_of_a_second_session_is_replayed() {
    let mut it = begin(with_library("taken-second"), &[]);
    it.project.write("library/src/lib.rs", &library("two"));
    it.next();
    let mut it = begin(end(it), &[]);
    assert_eq!(word(&it), "two");
    save(&it, "2", &WORD);
    assert_eq!((it.next(), word(&it)), ("2".into(), "two".into()));
    assert_replayed(&mut it);
    assert_eq!(built_crates(&it), ["taken_second"]);
    let project = end(it);
    project.write("library/src/lib.rs", &library("three"));
    let mut it = begin(project, &[]);
    assert_eq!(word(&it), "three");
    replays_library(&mut it, "four");
}

#[test]
fn the_first_save_after_a_change_of_the_manifest_is_replayed() {
    let mut it = begin(with_library("taken-manifest"), &[]);
    save(&it, "2", &WORD);
    assert_eq!(it.next(), "2");
    assert_replayed(&mut it);
    // Cargo compiles the program alone, and then all.
    it.project.edit("Cargo.toml", "edition = \"2024\"", "edition = \"2021\"");
    it.next();
    assert_eq!(built_by(&mut it).0, "cargo");
    it.session.wait_replay_ready();
    save(&it, "3", &WORD);
    assert_eq!(it.next(), "3");
    assert_replayed(&mut it);
    let manifest = it.project.read("Cargo.toml");
    it.project.write("Cargo.toml", &(manifest + "[profile.dev]\nopt-level = 1\n"));
    it.next();
    it.session.wait_replay_ready();
    replays_library(&mut it, "two");
}

/// What is built for one of them is there for the other.
#[test]
fn the_first_save_of_another_program_of_the_workspace_is_replayed() {
    let project = with_library("taken-both");
    project.write("src/bin/other.rs", &plain("other", &WORD));
    let it = begin(project, &["--bin", "taken-both"]);
    let mut it = begin(end(it), &["--bin", "other"]);
    replays_library(&mut it, "two");
}

/// For an embedded program, or one of another kind: its flags are its script's business.
#[test]
fn what_a_build_script_has_cargo_build_is_compiled_as_ever() {
    let project = with_library("taken-nested");
    let manifest = "[package]\nname = \"nested\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
    project.write("nested/Cargo.toml", manifest);
    project.write("nested/src/main.rs", "fn main() {}\n");
    let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=nested\");\n    \
                  let target = std::path::Path::new(&std::env::var(\"OUT_DIR\").unwrap()).join(\"target\");\n    \
                  let mut cargo = std::process::Command::new(std::env::var(\"CARGO\").unwrap());\n    \
                  cargo.args([\"build\", \"--manifest-path\", \"nested/Cargo.toml\", \"--target-dir\"]).arg(target);\n    \
                  assert!(cargo.status().unwrap().success());\n}\n";
    project.write("build.rs", script);
    let mut it = begin(project, &[]);
    for folder in ["target/hotrun/incremental", "target/hotrun/calls"] {
        let names = fs::read_dir(it.project.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with("taken_nested-")), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("nested-")), "{names:?}");
    }
    save(&it, "2", &WORD);
    assert_eq!(it.next(), "2");
    assert_replayed(&mut it);
}

/// Cargo's program would be linked from what was compiled without.
#[test]
fn other_debug_data_is_compiled_anew() {
    let has_types = |it: &Plain| {
        let program = fs::read(it.project.path("target/debug").join(&it.project.name)).unwrap();
        // Line tables know no types.
        program.windows(9).any(|bytes| bytes == b"TypeOfOne")
    };
    let project = project("taken-debug", "");
    let line = "fn word() -> String { struct TypeOfOne { number: u32 } let one = TypeOfOne { number: 1 }; one.number.to_string() }";
    project.write(MAIN, &plain("1", &[line]));
    let it = begin(project, &[]);
    assert!(!has_types(&it));
    let it = begin(end(it), &["--debug", "full"]);
    assert!(has_types(&it));
}
