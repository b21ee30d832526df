//! What a session keeps, and what others remove of it while it runs, or leave of it when it is killed.

use crate::harness::plain::{self, Plain, plain};
use crate::harness::{
    Session, command, free_address, get, leavings, process, processes, run_folder, send, until, version, wait_for_end,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// With a folder for temporary files of its own.
fn begin(project: crate::harness::Project, args: &[&str], temporary: &Path) -> Plain {
    Plain::begin_with(project, args, |command| {
        command.env("TMPDIR", temporary);
    })
}

fn kill_the_server(session: &Session) {
    let serving = session.log.iter().rfind(|event| event["event"] == "serving").unwrap();
    send(serving["pid"].as_u64().unwrap().try_into().unwrap(), Signal::SIGKILL);
}

fn text<'e>(event: &'e Value, field: &str) -> &'e str {
    event[field].as_str().unwrap()
}

/// `cargo hotrun status`: how it ends, and what it says.
fn status(it: &Plain) -> (Option<i32>, String) {
    let output = command().args(["status", "--pid", &it.session.pid().to_string()]).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// As a container ends: nobody is left to clean up.
#[test]
fn what_a_session_has_left_that_was_killed_with_its_guard_is_collected_by_the_next() {
    let temporary = tempfile::tempdir().unwrap();
    let mut killed = begin(plain::project("cleaned-killed", ""), &[], temporary.path());
    killed.session.wait_serving(1);
    let (target, built) = (killed.project.path("target"), killed.project.path("target/debug/cleaned-killed"));
    let bytes = fs::read(&built).unwrap();
    let left = run_folder(&target, killed.session.pid());
    assert!(left.join("1/cleaned-killed").exists());
    let guard = process(temporary.path(), "__guard");
    killed.session.signal(Signal::SIGSTOP);
    send(guard, Signal::SIGKILL);
    killed.session.signal(Signal::SIGKILL);
    killed.session.finish();
    for pid in processes(temporary.path()) {
        wait_for_end(pid);
    }
    assert!(left.exists());
    let address = free_address();
    let listen = format!("--listen={address}");
    let session = |args: &[&str]| {
        Session::start_with(&killed.project, address, args, |command| {
            command.env_remove("CARGO_TARGET_DIR");
        })
    };
    let mut next = session(&[&listen]);
    next.wait_serving(1);
    assert!(!left.exists());
    assert_eq!(fs::read(&built).unwrap(), bytes, "the program that cargo has made");
    // One that runs is let alone by another that begins, and ends.
    let kept = run_folder(&target, next.pid());
    let other = free_address();
    let mut beside = session(&[&format!("--listen={other}")]);
    beside.wait_serving(1);
    assert_ne!(run_folder(&target, beside.pid()), kept);
    beside.stop();
    assert!(kept.join("1/cleaned-killed").exists());
    next.stop();
    assert!(!target.join("hotrun/run").exists());
}

/// What is kept is one file with what cargo has made; whoever writes into that writes into this.
#[test]
fn a_program_that_was_emptied_is_told_with_its_path_and_not_run() {
    let mut it = Plain::start(plain::project("cleaned-emptied", ""));
    it.session.see("replay", |event| event["event"] == "replay-ready");
    it.project.write_by_rename("src/main.rs", &plain("2", &[]));
    assert_eq!(it.next(), "2");
    let built = it.project.path("target/debug/cleaned-emptied");
    fs::write(&built, "").unwrap();
    let asked = command().args(["rollback", "--pid", &it.session.pid().to_string()]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    let failed = it.wait_for("start-failed");
    let end = text(&failed, "end");
    assert!(end.contains(&built.display().to_string()) && end.contains("it is empty"), "{end}");
    assert_eq!(version(it.address), "2");
}

/// Reads at its start what its build script has made.
const NEEDS: &str = "fn at_start() { std::fs::read_to_string(concat!(env!(\"OUT_DIR\"), \"/word\")).unwrap(); }";
const MAKES: &str = "fn main() { println!(\"cargo::rerun-if-changed=build.rs\"); \
    std::fs::write(std::env::var(\"OUT_DIR\").unwrap() + \"/word\", \"word\").unwrap(); }";

#[test]
fn a_server_that_dies_after_cargo_clean_is_started_again_and_what_it_was_built_with_is_made_again() {
    let project = plain::project("cleaned-clean", "");
    project.write("build.rs", MAKES);
    project.write("src/main.rs", &plain("1", &[NEEDS]));
    let mut it = Plain::start(project);
    it.session.see("replay", |event| event["event"] == "replay-ready");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.arg("clean").current_dir(it.project.root()).env_remove("CARGO_TARGET_DIR");
    assert!(cargo.output().unwrap().status.success());
    kill_the_server(&it.session);
    it.wait_for("died");
    let serves = |event: &Value| event["event"] == "serving";
    it.session.wait("the server", serves);
    assert_eq!(version(it.address), "1");
    assert!(it.causes().contains(&"what was built is gone"), "{:?}", it.causes());
    // Once: the build has made it.
    it.settle();
    kill_the_server(&it.session);
    it.session.wait("the server", serves);
    assert_eq!(it.causes().len(), 2, "{:?}", it.causes());
}

/// As `git clean -fdx` does it, which takes all that git ignores.
#[test]
fn a_server_that_dies_after_its_file_of_variables_was_removed_has_those_that_stood_there() {
    let project = plain::project("cleaned-variables", "env-file = \".env\"");
    project.write(".env", "WORD=kept\n");
    let word = "fn word() -> String { std::env::var(\"WORD\").unwrap() }";
    project.write("src/main.rs", &plain("1", &[word]));
    let mut it = Plain::start(project);
    fs::remove_dir_all(it.project.path("target")).unwrap();
    fs::remove_file(it.project.path(".env")).unwrap();
    kill_the_server(&it.session);
    it.wait_for("died");
    it.session.wait("a note", |event| event["event"] == "note" && text(event, "text").contains(".env is gone"));
    it.session.wait("the server", |event| event["event"] == "serving");
    assert!(get(it.address, "/").unwrap().contains("word: kept"));
    it.settle();
    // And what stands there again counts again.
    it.project.write(".env", "WORD=new\n");
    it.session.wait("the server", |event| event["event"] == "serving");
    it.settle();
    assert!(get(it.address, "/").unwrap().contains("word: new"));
}

#[test]
fn the_temporary_folder_may_be_removed_while_a_session_runs() {
    let above = tempfile::tempdir().unwrap();
    let temporary = above.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut it = begin(plain::project("cleaned-temporary", ""), &[], &temporary);
    it.next();
    assert_eq!(status(&it).0, Some(0));
    fs::remove_dir_all(&temporary).unwrap();
    kill_the_server(&it.session);
    it.wait_for("died");
    it.session.wait_serving(2);
    assert_eq!(version(it.address), "1");
    // Cargo and the linker find one, too.
    fs::remove_dir_all(&temporary).unwrap();
    let manifest = it.project.read("Cargo.toml");
    it.project.write_by_rename("Cargo.toml", &format!("{manifest}\n[profile.dev]\ndebug = 1\n"));
    it.session.wait_serving(3);
    it.mark();
    let (code, said) = status(&it);
    assert!(code == Some(0) && said.contains("serves"), "{said}");
    it.session.signal(Signal::SIGTERM);
    it.session.finish();
    let ours = |left: &String| left.contains("hotrun");
    assert_eq!(leavings(&temporary).into_iter().filter(ours).collect::<Vec<_>>(), Vec::<String>::new());
}

/// As those do who remove what is old: the folder itself, and nothing else happens.
#[test]
fn a_session_of_which_the_folder_was_removed_is_asked_again_within_a_moment() {
    let temporary = tempfile::tempdir().unwrap();
    let mut it = begin(plain::project("cleaned-control", ""), &[], temporary.path());
    it.next();
    it.session.see("replay", |event| event["event"] == "replay-ready");
    it.settle();
    let threads = || fs::read_dir(format!("/proc/{}/task", it.session.pid())).unwrap().count();
    let before = threads();
    let is_ours = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("hotrun-");
    for _ in 0..3 {
        let mut files = fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path());
        fs::remove_dir_all(files.find(is_ours).unwrap()).unwrap();
        until("its answer", || status(&it).0 == Some(0));
    }
    // Nobody goes on listening at those that were removed.
    until("the end of the others", || threads() <= before);
    assert!(status(&it).1.contains("serves"), "{:?}", status(&it));
}

/// unix(7): the path of a socket has at most 107 bytes.
#[test]
fn a_temporary_folder_with_a_long_path_is_no_reason_not_to_run() {
    let above = tempfile::tempdir().unwrap();
    let long = above.path().join("x".repeat(60)).join("y".repeat(60));
    fs::create_dir_all(&long).unwrap();
    let mut it = begin(plain::project("cleaned-long", ""), &[], &long);
    it.next();
    it.project.write_by_rename("src/main.rs", &plain("2", &[]));
    assert_eq!(it.next(), "2");
    assert_eq!(it.settle()["generation"], 2);
}
