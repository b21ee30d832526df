//! The dependencies of a program that is replayed become one object, while nobody waits for it.

use super::{assert_replayed, is, ready, word};
use crate::harness::plain::{Plain, plain, project};
use crate::harness::{LONG, Project};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

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

/// A C driver whose linker, when it makes the object, waits at the gate of the test.
fn with_held_linker(project: &Project) -> String {
    let script = |name: &str, text: &str| {
        project.write(name, &format!("#!/bin/bash\n{text}\n"));
        fs::set_permissions(project.path(name), Permissions::from_mode(0o755)).unwrap();
    };
    let found = Command::new("cc").arg("-print-prog-name=ld").output().unwrap();
    let ld = String::from_utf8(found.stdout).unwrap();
    let held = "exec 9<>\"/dev/tcp/${GATE%:*}/${GATE#*:}\"\nread -r -n 1 -u 9\nexec 9>&-";
    let path = std::env::var("PATH").unwrap();
    let ld = format!("PATH={path} exec {}", ld.trim());
    script("bin/ld", &format!("if [ \"$1\" != --version ]; then\n{held}\nfi\n{ld} \"$@\""));
    let own = project.path("bin/ld");
    script(
        "bin/cc",
        &format!(
            "if [ \"$1\" = -print-prog-name=ld ]; then echo {}; else PATH={path} exec cc \"$@\"; fi",
            own.display()
        ),
    );
    format!("{}:{path}", project.path("bin").display())
}

#[test]
fn a_save_ends_the_making_of_an_object_and_it_is_made_when_there_is_time() {
    let project = project("replay-merging", "");
    let path = with_held_linker(&project);
    let mut plain = Plain::begin_with(project, &["--timings"], |command| {
        command.env("PATH", path);
    });
    plain.next();
    plain.session.wait_replay_ready();
    plain.project.write_by_rename("src/main.rs", &self::plain("1.5", &[]));
    assert_eq!(plain.next(), "1.5");
    let making = plain.gate.arrival();
    plain.project.write_by_rename("src/main.rs", "fn main() { broken");
    plain.wait_for("build-failed");
    making.end();
    plain.gate.arrival().let_go();
    wait_for_object(&plain);
    plain.project.write_by_rename("src/main.rs", &self::plain("2", &[]));
    assert_eq!(plain.next(), "2");
    assert_eq!(linker(&mut plain), "wild, merged");
}

#[test]
fn saves_are_linked_with_the_object_and_what_it_lacks_comes_into_the_next() {
    let mut plain = ready(project("replay-merged", ""));
    let save = |plain: &Plain, version: &str, word: &str| {
        let line = format!("fn word() -> String {{ {word} }}");
        plain.project.write_by_rename("src/main.rs", &self::plain(version, &[&line]));
    };
    save(&plain, "1.5", "String::new()");
    assert_eq!(plain.next(), "1.5");
    assert_eq!(linker(&mut plain), "wild");
    wait_for_object(&plain);
    save(&plain, "2", "\"two\".into()");
    assert_eq!((plain.next(), word(&plain)), ("2".into(), "two".into()));
    assert_replayed(&mut plain);
    assert_eq!(linker(&mut plain), "wild, merged");
    let folder = "std::env::temp_dir().is_absolute().to_string()";
    save(&plain, "3", folder);
    assert_eq!((plain.next(), word(&plain)), ("3".into(), "true".into()));
    assert_replayed(&mut plain);
    assert_eq!(linker(&mut plain), "wild");
    wait_for_object(&plain);
    save(&plain, "4", folder);
    assert_eq!((plain.next(), word(&plain)), ("4".into(), "true".into()));
    assert_eq!(linker(&mut plain), "wild, merged");
}
