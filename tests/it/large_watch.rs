//! A `watch` that names very much: it is looked at beside the loop and not with every save, and what is beyond all measure is refused.

use crate::harness::limits::{STANDARD, limit};
use crate::harness::plain::{Plain, plain, project};
use crate::harness::{LONG, now, threads, until, version};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const MAIN: &str = "src/main.rs";

/// How many folders the session watches (proc_pid_fdinfo(5)).
fn watches(plain: &Plain) -> usize {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", plain.session.pid())).unwrap();
    let texts = infos.map(|info| fs::read_to_string(info.unwrap().path()).unwrap_or_default());
    texts.map(|text| text.matches("inotify wd:").count()).sum()
}

/// That many folders in that one, each with as many files.
fn fill(folder: &Path, folders: usize, files: usize) {
    for number in 0..folders {
        let inner = folder.join(number.to_string());
        fs::create_dir_all(&inner).unwrap();
        (0..files).for_each(|file| fs::write(inner.join(file.to_string()), "1").unwrap());
    }
}

fn said(plain: &mut Plain, word: &str) -> String {
    let is_it = |event: &Value| event["event"] == "note" && event["text"].as_str().unwrap().contains(word);
    plain.session.see(word, is_it)["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_large_tree_is_watched_and_its_files_start_the_program_again() {
    let project = project("large-watched", "watch = [\"assets\"]\nignore = [\"assets/cache/**\"]");
    fill(&project.path("assets"), 200, 100);
    fill(&project.path("assets/cache"), 300, 1);
    fill(&project.path("assets/target"), 300, 1);
    let mut session = Plain::start(project);
    session.settle();
    let watched = watches(&session);
    assert!((200..260).contains(&watched), "{watched} folders: all that count, and not those that are passed over");
    session.project.write_by_rename(MAIN, &plain("2", &[]));
    assert_eq!(session.next(), "2");
    // One of which only the stamp is known, one that was read, and one that comes in a new folder.
    for (path, text) in [("assets/199/99", "2"), ("assets/0/0", "2"), ("assets/new/1", "1")] {
        session.project.write(path, text);
        assert_eq!(session.next(), "2", "{path}");
    }
    // What was written as it was is no change.
    let builds = session.session.count("building");
    session.project.write("assets/0/0", "2");
    session.settle();
    assert_eq!(session.session.count("building"), builds);
    assert_eq!(watches(&session), watched + 1);
}

/// Each look at so much takes longer than it takes a folder to come or to go.
#[test]
fn whoever_waits_does_not_wait_for_what_comes_and_goes_all_the_time() {
    let project = project("large-restless", "watch = [\"assets\"]");
    fill(&project.path("assets"), 100, 20);
    let mut session = Plain::start(project);
    session.settle();
    let (folder, address) = (session.project.path("assets/0/comes"), session.address);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let restless = scope.spawn(|| {
            let limit = now() + LONG;
            while !over.load(Ordering::Relaxed) && now() < limit {
                fs::create_dir(&folder).unwrap();
                // As long as an answer takes.
                version(address);
                fs::remove_dir(&folder).unwrap();
                version(address);
            }
        });
        session.settle();
        session.settle();
        assert!(!restless.is_finished(), "it was answered when all was over");
        over.store(true, Ordering::Relaxed);
    });
    session.project.write("assets/0/new", "1");
    assert_eq!(session.next(), "1");
}

/// Makes a new folder in that one while the session can open nothing, and changes a file in it, and another one, when it can again.
fn change_what_came_unseen(session: &mut Plain, folder: &Path) {
    session.session.see("replay", |event| event["event"] == "replay-ready");
    session.settle();
    let command = session.session.pid();
    let before = limit(command, STANDARD);
    fs::create_dir(folder.join("new")).unwrap();
    // A look that finds less than the one before is followed by another, which finds as little.
    for _ in 0..3 {
        session.fence();
        until("the look is over", || !threads(command).iter().any(|(_, name)| name == "survey"));
    }
    limit(command, before);
    for path in ["new/1", "0/0"] {
        fs::write(folder.join(path), "2").unwrap();
        let cause = session.wait_for("building")["cause"].as_str().unwrap().to_owned();
        assert!(cause.contains(path), "{cause}");
        session.settle();
    }
}

/// A look at it that finds nothing, as nothing can be opened, is had again. Above that folder there is no file that git reads, which
/// could not be opened either: the folder itself is all that is missed.
#[test]
fn what_could_not_be_looked_at_for_want_of_descriptors_is_looked_at_when_there_are_some() {
    let elsewhere = tempfile::tempdir().unwrap();
    fill(elsewhere.path(), 3, 3);
    let project = project("large-starved", &format!("watch = [{:?}]", elsewhere.path()));
    change_what_came_unseen(&mut Plain::start(project), elsewhere.path());
}

/// The same of what nobody has named but a build script.
#[test]
fn what_a_script_names_and_could_not_be_looked_at_is_looked_at_when_there_are_descriptors() {
    let project = project("large-starved-script", "");
    let folder = project.path("assets");
    fill(&folder, 3, 3);
    project.write("build.rs", "fn main() { println!(\"cargo::rerun-if-changed=assets\"); }");
    change_what_came_unseen(&mut Plain::start(project), &folder);
}

/// As for `watch = ["/"]`.
#[test]
fn what_is_beyond_all_measure_is_refused_with_a_number_and_the_session_obeys_meanwhile() {
    let project = project("large-refused", "watch = [\"deep\"]");
    fill(&project.path("deep"), 150, 0);
    (0..150).for_each(|number| fill(&project.path("deep").join(number.to_string()), 140, 0));
    let mut session = Plain::start(project);
    let note = said(&mut session, "is not watched");
    assert!(note.contains("20001 folders") && note.contains("Cargo.toml") && note.contains("`watch`"), "{note}");
    assert!(watches(&session) < 1_000, "{} folders", watches(&session));
    // Nothing in it counts any more.
    session.project.write("deep/file", "1");
    session.settle();
    assert_eq!(session.session.count("building"), 1);
    let (status, events) = session.session.stop();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    let place = |name: &str| events.iter().position(|event| event["event"] == name).unwrap();
    assert!(place("building") < place("note"), "the build does not wait for the look");
}
