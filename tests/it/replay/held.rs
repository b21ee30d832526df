//! What comes in the middle of a replay: newer saves, another cargo that holds the lock, the death of a compiler, the loss of what
//! replay keeps. Compilers are held by a macro, or by a linker, that waits at the gate of the test.

use super::{add_crate, assert_replayed, built_by, is, ready, word};
use crate::harness::plain::{Plain, plain, project};
use crate::harness::{Project, is_alive, leavings, processes, send, version, wait_for_end};
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

pub const MAIN: &str = "src/main.rs";
/// Both expand to nothing: one once the test lets it go, the other so that the compiler does not end before the test lets it go.
const WAITS: &str = "
extern \"C\" fn wait() {
    let mut gate = std::net::TcpStream::connect(std::env::var(\"GATE\").unwrap()).unwrap();
    std::io::Read::read_exact(&mut gate, &mut [0]).unwrap();
}
#[proc_macro]
pub fn here(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
    wait();
    proc_macro::TokenStream::new()
}
unsafe extern \"C\" { fn atexit(last: extern \"C\" fn()) -> i32; }
#[proc_macro]
pub fn at_the_end(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
    unsafe { atexit(wait) };
    proc_macro::TokenStream::new()
}
";
pub const HELD: &str = "fn at_start() {} waits::here!();";
const HELD_AT_ITS_END: &str = "fn at_start() {} waits::at_the_end!();";

pub fn with_macro(name: &str, metadata: &str) -> Project {
    let project = project(name, metadata);
    add_crate(&project, "waits", "[lib]\nproc-macro = true", WAITS);
    project
}

pub fn save(plain: &Plain, version: &str, lines: &[&str]) {
    plain.project.write_by_rename(MAIN, &self::plain(version, lines));
}

/// Where calls are run again.
fn folder(project: &Project) -> PathBuf {
    let all = fs::read_dir(project.path("target/hotrun/replay")).unwrap();
    let mut all = all.map(|entry| entry.unwrap().path());
    let folder = all.next().unwrap();
    assert_eq!(all.next(), None);
    folder
}

/// The compilers of a replay have this one as their temporary folder.
pub fn temporary(project: &Project) -> PathBuf {
    folder(project).join("temporary")
}

/// When it ends: as long as it runs, a compiler waits for the next save.
fn leaves_nothing(mut plain: Plain) {
    let temporary = temporary(&plain.project);
    plain.session.signal(Signal::SIGTERM);
    plain.session.finish();
    assert_eq!(leavings(&temporary), [""; 0]);
}

fn generations(plain: &Plain) -> usize {
    plain.session.count("serving")
}

#[test]
fn a_save_during_a_replay_ends_it_and_its_program_never_serves() {
    let mut plain = ready(with_macro("replay-cancel", ""));
    save(&plain, "2", &[HELD]);
    let old = plain.gate.arrival();
    let compilers = processes(&temporary(&plain.project));
    assert_eq!(compilers.len(), 1);
    save(&plain, "3", &[]);
    plain.wait_for("superseded");
    old.end();
    assert_eq!(plain.next(), "3");
    assert!(!is_alive(compilers[0]));
    assert_replayed(&mut plain);
    assert_eq!(generations(&plain), 2);
    leaves_nothing(plain);
}

/// The text from before was compiled already, but what lies there is of neither.
#[test]
fn a_save_during_a_replay_may_bring_the_text_from_before() {
    let project = with_macro("replay-back", "");
    let library = |word: &str, more: &str| format!("{more}\npub fn word() -> String {{ \"{word}\".into() }}\n");
    add_crate(&project, "library", "[dependencies]\nwaits.path = \"../waits\"", &library("one", ""));
    let lines = ["fn word() -> String { library::word() }"];
    project.write(MAIN, &self::plain("1", &lines));
    let mut plain = ready(project);
    plain.project.write("library/src/lib.rs", &library("two", ""));
    plain.next();
    assert_replayed(&mut plain);
    // The library is compiled to its end, the program is held.
    plain.project.write("library/src/lib.rs", &library("three", ""));
    save(&plain, "3", &[HELD, lines[0]]);
    let old = plain.gate.arrival();
    plain.project.write("library/src/lib.rs", &library("two", ""));
    plain.wait_for("superseded");
    old.end();
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "3");
    assert_eq!(word(&plain), "two");
    assert_replayed(&mut plain);
    // What does not compile leaves the program of neither text.
    save(&plain, "4", &["fn at_start() { nowhere }", lines[0]]);
    plain.wait_for("build-failed");
    save(&plain, "3", &[HELD, lines[0]]);
    plain.gate.arrival().let_go();
    plain.session.wait("the same program", |event| is(event, "unchanged") || is(event, "serving"));
    assert_eq!((version(plain.address), word(&plain)), ("3".to_owned(), "two".to_owned()));
}

#[test]
fn saves_that_come_faster_than_replays_do_not_starve() {
    let mut plain = ready(with_macro("replay-burst", ""));
    save(&plain, "2", &[HELD]);
    for version in ["3", "4", "5"] {
        let old = plain.gate.arrival();
        save(&plain, version, &[HELD]);
        plain.wait_for("superseded");
        old.end();
    }
    let let_through = plain.gate.arrival();
    save(&plain, "6", &[HELD]);
    plain.mark();
    let_through.let_go();
    assert_eq!(plain.next(), "5");
    assert_replayed(&mut plain);
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "6");
    assert_replayed(&mut plain);
    assert_eq!((plain.session.count("superseded"), generations(&plain)), (3, 3));
    leaves_nothing(plain);
}

/// All that rustc writes before it links lies about by then.
#[test]
fn a_compiler_that_is_killed_while_it_links_leaves_nothing() {
    let project = project("replay-link-killed", "");
    let linker =
        "#!/bin/bash\nexec 9<>\"/dev/tcp/${GATE%:*}/${GATE#*:}\"\nread -r -n 1 -u 9\nexec 9>&-\nexec cc \"$@\"\n";
    project.write("linker", linker);
    fs::set_permissions(project.path("linker"), Permissions::from_mode(0o755)).unwrap();
    let config = format!("[target.'cfg(unix)']\nlinker = {:?}\n", project.path("linker"));
    project.write(".cargo/config.toml", &config);
    let mut plain = Plain::begin(project, &["--timings"]);
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "1");
    plain.session.wait_replay_ready();
    save(&plain, "1.5", &[]);
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "1.5");
    let files = files(&folder(&plain.project).join("deps"));
    for held in ["2", "3"] {
        save(&plain, held, &[]);
        let old = plain.gate.arrival();
        save(&plain, &format!("{held}.5"), &[]);
        plain.wait_for("superseded");
        old.end();
        let linking = plain.gate.arrival();
        let compilers = processes(&temporary(&plain.project));
        linking.let_go();
        assert_eq!(plain.next(), format!("{held}.5"));
        assert_replayed(&mut plain);
        // It serves before its compiler has cleaned up.
        compilers.into_iter().for_each(wait_for_end);
    }
    assert_eq!(self::files(&folder(&plain.project).join("deps")), files);
    leaves_nothing(plain);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A package whose build script waits at the gate, built into the folder of the project.
fn other_cargo(project: &Project, gate: &str) -> Child {
    let script = "fn main() { let mut gate = std::net::TcpStream::connect(std::env::var(\"GATE\").unwrap()).unwrap(); \
                  std::io::Read::read_exact(&mut gate, &mut [0]).unwrap(); }\n";
    project.write("other/Cargo.toml", "[package]\nname = \"other\"\nedition = \"2024\"\n[workspace]\n");
    project.write("other/src/lib.rs", "");
    project.write("other/build.rs", script);
    let mut cargo = Command::new("cargo");
    cargo.arg("build").current_dir(project.path("other"));
    cargo.env("CARGO_TARGET_DIR", project.path("target")).env("GATE", gate).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_cargo_that_holds_the_lock_delays_no_save() {
    let mut plain = ready(project("replay-lock", ""));
    let mut holder = other_cargo(&plain.project, &plain.gate.address());
    let held = plain.gate.arrival();
    let mut second = Command::new("cargo");
    second.arg("build").current_dir(plain.project.root()).env_remove("CARGO_TARGET_DIR");
    let mut second = second.stderr(Stdio::piped()).spawn().unwrap();
    let said = |stderr: ChildStderr| BufReader::new(stderr).lines().map_while(Result::ok);
    let mut lines = said(second.stderr.take().unwrap());
    assert!(lines.any(|line| line.contains("Blocking waiting for file lock")));
    for version in ["2", "3"] {
        save(&plain, version, &[]);
        assert_eq!(plain.next(), version);
        assert_replayed(&mut plain);
    }
    assert!(holder.try_wait().unwrap().is_none() && second.try_wait().unwrap().is_none());
    held.let_go();
    assert!(holder.wait().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert!(second.wait().unwrap().success(), "{rest:?}");
    save(&plain, "4", &[]);
    assert_eq!(plain.next(), "4");
}

#[test]
fn when_a_compiler_dies_cargo_is_asked_and_later_saves_are_replayed() {
    let mut plain = ready(with_macro("replay-died", ""));
    save(&plain, "2", &[HELD]);
    let held = plain.gate.arrival();
    let compilers = processes(&temporary(&plain.project));
    assert_eq!(compilers.len(), 1);
    send(compilers[0], Signal::SIGKILL);
    held.end();
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "2");
    let (by, why) = built_by(&mut plain);
    assert_eq!(by, "cargo");
    assert!(why.contains("replay_died") && why.contains("SIGKILL"), "{why}");
    plain.session.wait_replay_ready();
    save(&plain, "3", &[]);
    assert_eq!(plain.next(), "3");
    assert_replayed(&mut plain);
    assert_eq!(plain.session.count("build-failed"), 0);
}

/// Else it would remove objects that the next one has made.
#[test]
fn a_compiler_that_cleans_up_delays_nothing_and_is_gone_before_the_next() {
    let mut plain = ready(with_macro("replay-cleans-up", ""));
    save(&plain, "2", &[HELD_AT_ITS_END]);
    assert_eq!(plain.next(), "2");
    assert_replayed(&mut plain);
    let old = plain.gate.arrival();
    save(&plain, "3", &[HELD]);
    let new = plain.gate.arrival();
    old.end();
    new.let_go();
    assert_eq!(plain.next(), "3");
    assert_replayed(&mut plain);
}

#[test]
fn a_linker_that_cannot_keep_anything_links_all_the_same() {
    let mut plain = ready(project("replay-link-folder", ""));
    let link = folder(&plain.project).join("link");
    let harm: [&dyn Fn(); 3] = [
        &|| fs::set_permissions(&link, Permissions::from_mode(0o777)).unwrap(),
        &|| fs::remove_dir_all(&link).unwrap(),
        &|| fs::write(&link, "no folder").unwrap(),
    ];
    for (harm, version) in harm.iter().zip(["2", "3", "4"]) {
        harm();
        save(&plain, version, &[]);
        assert_eq!(plain.next(), version);
        assert_replayed(&mut plain);
    }
    let notes = plain.session.log.iter().filter(|event| is(event, "note"));
    let mut notes: Vec<&str> = notes.map(|event| event["text"].as_str().unwrap()).collect();
    let all = notes.len();
    notes.sort_unstable();
    notes.dedup();
    assert_eq!(notes.len(), all, "said twice: {notes:?}");
}

/// What it is compiled from is forgotten while it runs; whoever waits for it hears of its end all the same.
#[test]
fn a_replay_whose_project_is_moved_away_comes_to_its_end() {
    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let moved = elsewhere.path().join("moved");
    let mut plain = ready(with_macro("replay-moved", ""));
    save(&plain, "2", &[HELD]);
    let held = plain.gate.arrival();
    fs::rename(plain.project.root(), &moved).unwrap();
    plain.session.wait("why nothing is built", |event| {
        is(event, "diagnostic") && event["rendered"].as_str().unwrap().contains("is gone: nothing is built")
    });
    plain.wait_for("build-failed");
    held.end();
    assert_eq!(version(plain.address), "1");
    fs::rename(&moved, plain.project.root()).unwrap();
    save(&plain, "3", &[]);
    let address = plain.address;
    plain.session.wait("the new version", |event| is(event, "serving") && version(address) == "3");
}

#[test]
fn after_cargo_clean_every_save_is_served() {
    let project = project("replay-clean", "");
    add_crate(&project, "library", "", "pub fn word() -> String { \"one\".into() }\n");
    let lines = ["fn word() -> String { library::word() }"];
    project.write(MAIN, &self::plain("1", &lines));
    let mut plain = ready(project);
    fs::remove_dir_all(plain.project.path("target")).unwrap();
    save(&plain, "2", &lines);
    assert_eq!(plain.next(), "2");
    assert_eq!(built_by(&mut plain).0, "cargo");
    plain.project.write("library/src/lib.rs", "pub fn word() -> String { \"two\".into() }\n");
    plain.next();
    assert_eq!(word(&plain), "two");
    save(&plain, "3", &lines);
    assert_eq!(plain.next(), "3");
}
