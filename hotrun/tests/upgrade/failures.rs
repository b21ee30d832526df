//! Point 3 of the plan: successors that fail. The one before serves on, has not missed a request, knows the cause, and leaves
//! no zombie.

use crate::harness::{Service, Serving, ask, eventually, zombies};
use crate::load::{Load, Mix};
use hotrun::Signal;
use std::path::Path;
use std::process::Command;

const MIX: Mix = Mix { fresh: 2, keep_alive: 2, slow: 0, slow_ms: 0 };

/// One failed upgrade, by a call and by a signal, under load: every answer is the old one's, and the next upgrade works.
fn fails(script: &str, change: impl FnOnce(&mut Command, &Path), expected: &[&str]) -> Serving {
    let (mut service, first) = Service::start(change);
    let http = first.address("http");
    let load = Load::start(http, MIX);
    load.wait_for(20);
    service.script(script);

    let (_, error) = ask(http, "/upgrade");
    for part in expected {
        assert!(error.contains(part), "{script}: {error}");
    }
    first.signal(Signal::SIGUSR2);
    // One line for the call, one for the signal.
    let said = [service.says("failed "), service.says("failed ")];
    assert_eq!(said[0].contains("process"), said[1].contains("process"), "{said:?}");
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!((tally.lost(), tally.retried), (0, 0), "{script}: {tally:#?}");
    assert_eq!(tally.by_version.keys().collect::<Vec<_>>(), ["1"], "{script}");
    eventually("it is alone", || (ask(http, "/state").1 == "1 connections, 1 generations").then_some(()));
    assert_eq!(zombies(first.pid), 0, "{script}");

    service.script("");
    let second = service.upgrade(&first);
    assert_eq!(ask(http, "/").0, 2);
    assert_eq!(service.stop(&second), Vec::<String>::new());
    first
}

#[test]
fn one_that_exits_with_an_error() {
    fails("fail", |_, _| {}, &["Exited", "unix_wait_status(768)"]);
}

#[test]
fn one_that_exits_as_if_all_were_well() {
    fails("exit", |_, _| {}, &["Exited", "unix_wait_status(0)"]);
}

#[test]
fn one_that_panics_in_its_start() {
    fails("panic", |_, _| {}, &["Exited", "unix_wait_status("]);
}

#[test]
fn one_that_hangs_before_it_says_hello() {
    fails(
        "hang early",
        |command, _| {
            command.env("READY_MS", "100");
        },
        &["NotReady", "said_hello: false"],
    );
}

#[test]
fn one_that_hangs_after_it_has_said_hello() {
    fails(
        "hang",
        |command, _| {
            command.env("READY_MS", "300");
        },
        &["NotReady", "said_hello: true"],
    );
}

#[test]
fn one_that_speaks_garbage() {
    fails("garbage", |_, _| {}, &["Protocol", "no hotrun message"]);
}

#[test]
fn one_with_a_library_of_another_version() {
    fails("older", |_, _| {}, &["Protocol", "its library hotrun is older than this holder's (protocol 1, here 2)"]);
    fails("newer", |_, _| {}, &["Protocol", "its library hotrun is newer than this holder's (protocol 255, here 2)"]);
}
