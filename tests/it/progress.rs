//! An old program that goes on answering is not ended for a time that is over, and one that stands still is.

use crate::harness::{LONG, Project, Session, free_address};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const CONNECTIONS: usize = 30;
/// A tenth of which is between two parts of an answer.
const SLOW: &str = "/slow?ms=5000";

/// Asks for that, and waits until the answer has begun.
fn begin(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET {SLOW} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    stream
}

/// Without a build, however long that takes here: the answers are under way.
fn replace(session: &mut Session) {
    session.signal(Signal::SIGUSR2);
    session.wait_serving(2);
}

fn draining_past_its_time(session: &Session) -> Option<&Value> {
    session.log.iter().find(|event| event["event"] == "draining" && event["limit"].is_u64())
}

fn answers_are_finished(name: &str, template: &str, args: &[&str]) {
    let project = Project::from_template(name, template);
    let address = free_address();
    let mut session = Session::start(&project, address, &[&["--drain-timeout", "1500ms"], args].concat());
    session.wait_serving(1);
    let begun: Vec<TcpStream> = (0..CONNECTIONS).map(|_| begin(address)).collect();
    replace(&mut session);
    for mut stream in begun {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        let parts = rest.matches("this took its time").count() + rest.matches("piece ").count();
        assert!(rest.contains("version: 1\n") && parts >= 9, "{rest:?}");
    }
    let drained = session.see("its end", |event| event["event"] == "drained" && event["generation"] == 1);
    assert!(drained["cut"].as_u64().unwrap_or(0) == 0, "{drained}");
    assert!(drained["took"].as_u64().unwrap() > 1500, "the test has not come so far: {drained}");
    let told = draining_past_its_time(&session).expect("what is waited for");
    assert!(told["live"].as_u64().is_some_and(|live| live > 0) && told["limit"] == 60_000, "{told}");
}

#[test]
fn slow_answers_of_a_server_that_knows_nothing_of_us_are_finished() {
    answers_are_finished("progress-plain", "plain", &[]);
}

#[test]
fn slow_answers_of_a_server_with_the_library_are_finished() {
    answers_are_finished("progress-std", "std", &[]);
}

#[test]
fn slow_answers_are_finished_before_the_next_one_starts() {
    answers_are_finished("progress-first", "axum", &["--no-overlap"]);
}

fn stands_still(name: &str, template: &str) {
    let project = Project::from_template(name, template);
    let address = free_address();
    let mut session = Session::start(&project, address, &["--drain-timeout", "1500ms", "--drain-limit", "1h"]);
    session.wait_serving(1);
    let mut half = TcpStream::connect(address).unwrap();
    half.set_read_timeout(Some(LONG)).unwrap();
    write!(half, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab").unwrap();
    // Both have come to the program before it is replaced.
    drop(begin(address));
    replace(&mut session);
    let drained = session.see("its end", |event| event["event"] == "drained" && event["generation"] == 1);
    assert_eq!(drained["cut"], 1, "{drained}");
    let took = drained["took"].as_u64().unwrap();
    assert!((1500..60_000).contains(&took), "{drained}");
    drop(half);
}

#[test]
fn a_connection_that_stands_still_is_ended_in_its_time_at_a_gate() {
    stands_still("still-plain", "plain");
}

#[test]
fn a_connection_that_stands_still_is_ended_in_its_time_by_the_library() {
    stands_still("still-std", "std");
}

/// A stream that never ends has the whole limit, and no more.
#[test]
fn what_never_ends_is_ended_at_the_limit() {
    let project = Project::from_template("progress-limit", "plain");
    project.edit("src/main.rs", "\"this took its time\\n\".repeat(10)", "\"this took its time\\n\".repeat(10_000)");
    project.edit("src/main.rs", ".div_ceil(10)", ".div_ceil(1_000_000)");
    let address = free_address();
    let mut session = Session::start(&project, address, &["--drain-timeout", "1s", "--drain-limit", "3s"]);
    session.wait_serving(1);
    let stream = begin(address);
    replace(&mut session);
    let drained = session.see("its end", |event| event["event"] == "drained" && event["generation"] == 1);
    assert_eq!(drained["cut"], 1, "{drained}");
    assert!(drained["took"].as_u64().unwrap() >= 3_000, "{drained}");
    assert_eq!(draining_past_its_time(&session).unwrap()["limit"], 3_000);
    drop(stream);
}
