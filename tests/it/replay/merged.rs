//! The dependencies of a program that is replayed become one object, while nobody waits for it.

use super::{assert_replayed, is, ready, word};
use crate::harness::plain::{Plain, plain, project};
use crate::harness::{LONG, Project};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

fn folder(project: &Project) -> PathBuf {
    let mut all = fs::read_dir(project.path("target/hotrun/replay")).unwrap();
    all.next().unwrap().unwrap().path().join("link/merged")
}

/// Waits until it is made.
fn wait_for_object(plain: &Plain) {
    let folder = folder(&plain.project);
    let made = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    made.add_watch(&folder, AddWatchFlags::IN_MOVED_TO).unwrap();
    let is_object = |path: PathBuf| path.extension().is_some_and(|extension| extension == "o");
    let is_there = || fs::read_dir(&folder).unwrap().any(|entry| is_object(entry.unwrap().path()));
    while !is_there() {
        let limit = PollTimeout::try_from(LONG).unwrap();
        let moved = poll(&mut [PollFd::new(made.as_fd(), PollFlags::POLLIN)], limit).unwrap();
        assert_eq!(moved, 1, "no object is made");
        made.read_events().unwrap();
    }
}

/// What linked the program that serves.
fn linker(plain: &mut Plain) -> String {
    let generation = plain.generation;
    let timings = plain.session.see("timings", |event| is(event, "timings") && event["generation"] == generation);
    timings["linker"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn saves_are_linked_with_the_object_and_what_it_lacks_comes_into_the_next() {
    let mut plain = ready(project("replay-merged", ""));
    let save = |plain: &Plain, version: &str, word: &str| {
        let line = format!("fn word() -> String {{ {word} }}");
        plain.project.write_by_rename("src/main.rs", &self::plain(version, &[&line]));
    };
    wait_for_object(&plain);
    save(&plain, "2", "\"two\".into()");
    assert_eq!((plain.next(), word(&plain)), ("2".into(), "two".into()));
    assert_replayed(&mut plain);
    assert_eq!(linker(&mut plain), "wild, dependencies merged");
    let folder = "std::env::temp_dir().is_absolute().to_string()";
    save(&plain, "3", folder);
    assert_eq!((plain.next(), word(&plain)), ("3".into(), "true".into()));
    assert_replayed(&mut plain);
    assert_eq!(linker(&mut plain), "wild");
    wait_for_object(&plain);
    save(&plain, "4", folder);
    assert_eq!((plain.next(), word(&plain)), ("4".into(), "true".into()));
    assert_eq!(linker(&mut plain), "wild, dependencies merged");
}
