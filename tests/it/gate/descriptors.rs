//! A command that has no descriptor left: its own trouble, and neither a program's nor a client's.

use super::{Running, start};
use crate::harness::limits::{limit, lowest_free};
use crate::harness::plain::{self, Plain};
use crate::harness::server::{Asked, ask, hold, who};
use crate::harness::{is_alive, is_busy, listed, version};
use rustix::process::{Resource, Rlimit};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::Duration;

/// What is asked of that session, by a client that waits.
fn control(it: &Running, what: &str) -> UnixStream {
    let listed: serde_json::Value = serde_json::from_slice(&fs::read(listed(it.session.pid())).unwrap()).unwrap();
    let mut stream = UnixStream::connect(listed["socket"].as_str().unwrap()).unwrap();
    stream.write_all(format!("\"{what}\"\n").as_bytes()).unwrap();
    stream
}

/// An old generation with an answer under way, and a new one that is about to take its first connection.
fn about_to_switch(name: &str) -> (Running, Asked, crate::harness::server::Arrival) {
    // Nothing is prepared meanwhile, which would need descriptors of its own, and let go of them at any moment.
    let it = start(name, &["--drain-timeout", "100s", "--no-replay"], &[]);
    let held = hold(it.address);
    it.save("2", &["fn before_accept() { gate() }"]);
    let arrival = it.gate.arrival();
    (it, held, arrival)
}

#[test]
fn what_the_command_keeps_for_that_moment_is_enough_for_a_hand_over() {
    let (mut it, held, arrival) = about_to_switch("gate-starved");
    let command = it.session.pid();
    let before = limit(command, lowest_free(command));
    arrival.let_go();
    it.session.wait_serving(2);
    for _ in 0..20 {
        assert_eq!(version(it.address), "2");
    }
    let mut status = String::new();
    control(&it, "status").read_to_string(&mut status).unwrap();
    assert!(status.contains("\"generation\":2"), "{status}");
    let draining = it.session.see("its connections", |event| event["event"] == "draining");
    assert_eq!((&draining["generation"], &draining["live"]), (&1.into(), &1.into()));
    assert_eq!(who(&held.release().unwrap()), ("1".to_owned(), it.pid));
    assert_eq!(it.gone(1)["cut"], 0);
    assert_eq!(it.notes(), [""; 0]);
    limit(command, before);
    it.generation = 2;
    it.swap(&[]);
    assert_eq!(version(it.address), "3");
}

#[test]
fn where_not_even_that_is_left_clients_wait_and_what_is_not_known_is_not_told() {
    let (mut it, held, arrival) = about_to_switch("gate-empty");
    let command = it.session.pid();
    // The three of every process, and none of those that are kept.
    let before = limit(command, 3);
    arrival.let_go();
    it.session.wait_serving(2);
    let asked: Vec<Asked> = (0..5).map(|_| ask(it.address, "/").unwrap()).collect();
    let note = it.session.wait_for("note");
    assert!(note["text"].as_str().unwrap().contains("no descriptor left"), "{note}");
    // Nobody is heard now, and that is waited for: not in circles.
    let mut status = control(&it, "status");
    status.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(status.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!is_busy(command));
    assert!(is_alive(it.pid), "its answer is still to come");
    limit(command, before);
    status.set_read_timeout(Some(crate::harness::LONG)).unwrap();
    let mut told = String::new();
    status.read_to_string(&mut told).unwrap();
    assert!(told.contains("\"generation\":2"), "{told}");
    for asked in asked {
        assert_eq!(who(&asked.answer().unwrap()).0, "2", "the program was told of no error");
    }
    assert_eq!(who(&held.release().unwrap()), ("1".to_owned(), it.pid));
    assert_eq!(it.gone(1)["cut"], 0);
    it.generation = 2;
    it.swap(&[]);
}

/// Programs with select(2) cannot stand numbers above a thousand.
#[test]
fn the_command_has_all_descriptors_that_there_are_and_its_program_as_many_as_before() {
    let lines = plain::plain(
        "1",
        &[
            "fn word() -> String { std::fs::read_to_string(\"/proc/self/limits\").unwrap().lines().find(|line| line.starts_with(\"Max open files\")).unwrap().to_owned() }",
        ],
    );
    let project = plain::project("gate-limits", "");
    project.write("src/main.rs", &lines);
    let mut it = Plain::begin_with(project, &[], |command| {
        let set = || {
            let limit = Rlimit { current: Some(300), maximum: Some(2000) };
            rustix::process::setrlimit(Resource::Nofile, limit).map_err(Into::into)
        };
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(set) };
    });
    it.session.wait_serving(1);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let own = fs::read_to_string(format!("/proc/{}/limits", it.session.pid())).unwrap();
    let own = own.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(words(own)[3..5], ["2000", "2000"]);
    let answer = crate::harness::get(it.address, "/").unwrap();
    let program = answer.lines().find(|line| line.starts_with("word: ")).unwrap();
    assert_eq!(words(program)[4..6], ["300", "2000"]);
}
