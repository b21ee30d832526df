//! The folder of a project that is removed or moved while a session runs, and made again: another worktree, a fresh clone.

use crate::harness::plain::{self, Plain, plain};
use crate::harness::{Project, Session, command, send, version};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;

const FILES: [&str; 4] = ["Cargo.toml", "src/main.rs", "fence", "mark"];

/// A session that has nothing more to do, whose project's folder goes then.
fn without_its_folder(name: &str, go: impl FnOnce(&Project)) -> (Plain, Vec<String>) {
    let mut it = Plain::start(plain::project(name, ""));
    it.session.see("replay", |event| event["event"] == "replay-ready");
    it.settle();
    let texts = FILES.map(|file| it.project.read(file)).to_vec();
    go(&it.project);
    is_told(&mut it);
    assert_eq!(version(it.address), "1", "what serves goes on");
    (it, texts)
}

fn is_told(it: &mut Plain) {
    it.session.wait("why nothing is built", |event| {
        event["event"] == "diagnostic" && event["rendered"].as_str().unwrap().contains("is gone: nothing is built")
    });
    it.session.wait_for("build-failed");
}

/// The session has looked at everything by then.
fn rebuild(session: &Session) {
    let asked = command().args(["rebuild", "--pid", &session.pid().to_string()]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
}

/// With that version.
fn comes_again(it: &mut Plain, texts: &[String]) {
    for (file, text) in FILES.iter().zip(texts) {
        it.project.write(file, text);
    }
    it.project.write_by_rename("src/main.rs", &plain("2", &[]));
    serves(it, "2");
    it.project.write_by_rename("src/main.rs", &plain("3", &[]));
    serves(it, "3");
}

fn serves(it: &mut Plain, wanted: &str) {
    let address = it.address;
    it.session.wait(wanted, |event| event["event"] == "serving" && version(address) == wanted);
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn a_project_that_is_removed_and_cloned_anew_is_built_again_and_nothing_stands_in_the_clones_way() {
    let remove = |project: &Project| fs::remove_dir_all(project.root()).unwrap();
    let (mut it, texts) = without_its_folder("gone-removed", remove);
    rebuild(&it.session);
    assert!(!it.project.root().exists());
    // As whoever clones begins.
    fs::create_dir(it.project.root()).unwrap();
    rebuild(&it.session);
    assert!(is_empty(it.project.root()));
    fs::remove_dir(it.project.root()).unwrap();
    // Nor does a start make anything there.
    let serving = it.session.log.iter().rfind(|event| event["event"] == "serving").unwrap();
    send(serving["pid"].as_u64().unwrap().try_into().unwrap(), Signal::SIGKILL);
    let failed = it.session.wait_for("start-failed");
    assert!(failed["end"].as_str().unwrap().contains("Cargo.toml is gone"), "{failed}");
    assert!(!it.project.root().exists());
    comes_again(&mut it, &texts);
}

#[test]
fn a_project_that_is_moved_away_and_made_again_is_built_where_it_is_now() {
    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let moved = elsewhere.path().join("moved");
    let (mut it, texts) = without_its_folder("gone-moved", |project| fs::rename(project.root(), &moved).unwrap());
    assert!(!it.project.root().exists());
    fs::create_dir(it.project.root()).unwrap();
    // Cargo is started there, and finds what stands there.
    it.project.write(".cargo/config.toml", "[env]\nWORD = \"new\"\n");
    comes_again(&mut it, &texts);
    let word = "fn word() -> String { std::env::var(\"WORD\").unwrap_or_default() }";
    it.project.write_by_rename("src/main.rs", &plain("4", &[word]));
    serves(&mut it, "4");
    assert!(crate::harness::get(it.address, "/").unwrap().contains("word: new"));
    // What the other folder holds is not the project any more.
    let builds = it.session.count("building");
    fs::write(moved.join("src/main.rs"), "nonsense").unwrap();
    it.mark();
    assert_eq!(it.session.count("building"), builds);
}

#[test]
fn a_project_that_is_moved_away_and_back_is_built_again() {
    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let moved = elsewhere.path().join("moved");
    let (mut it, texts) = without_its_folder("gone-back", |project| fs::rename(project.root(), &moved).unwrap());
    fs::rename(&moved, it.project.root()).unwrap();
    comes_again(&mut it, &texts);
}

/// Before the session has looked even once.
#[test]
fn a_project_that_is_replaced_at_once_is_built_where_it_is_now() {
    let mut it = Plain::start(plain::project("gone-replaced", ""));
    it.session.see("replay", |event| event["event"] == "replay-ready");
    let texts = FILES.map(|file| it.project.read(file)).to_vec();
    it.session.signal(Signal::SIGSTOP);
    fs::remove_dir_all(it.project.root()).unwrap();
    fs::create_dir(it.project.root()).unwrap();
    for (file, text) in FILES.iter().zip(&texts) {
        it.project.write(file, text);
    }
    it.session.signal(Signal::SIGCONT);
    comes_again(&mut it, &texts);
}

/// A session may be started anywhere.
#[test]
fn a_working_directory_that_is_removed_is_no_reason_not_to_build() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("here");
    fs::create_dir(&folder).unwrap();
    let mut it = Plain::begin_with(plain::project("gone-here", ""), &[], |command| {
        command.current_dir(&folder);
    });
    it.next();
    fs::remove_dir(&folder).unwrap();
    let manifest = it.project.read("Cargo.toml");
    it.project.write_by_rename("Cargo.toml", &format!("{manifest}\n[profile.dev]\ndebug = 1\n"));
    it.session.wait("a build", |event| event["event"] == "building");
    it.project.write_by_rename("src/main.rs", &plain("2", &[]));
    let fails = |event: &Value| event["event"] == "build-failed";
    let address = it.address;
    it.session.wait("the new version", |event| {
        assert!(!fails(event), "{event}");
        event["event"] == "serving" && version(address) == "2"
    });
}
