//! `listen` for programs that bind for themselves: what is configured, what the program does, and what is said of both.

use super::{FRESH, Running, SERVER, pid};
use crate::harness::server::{Gate, server};
use crate::harness::{Project, Session, free_address, get};
use crate::load::Load;
use serde_json::Value;
use std::net::SocketAddr;

/// The first generation, told at its event.
fn start(name: &str, address: SocketAddr, listen: &[SocketAddr], lines: &[&str]) -> (Running, Value) {
    let project = Project::new(name, "", &server(SERVER, "1", lines));
    let listen: Vec<String> = listen.iter().enumerate().map(|(nth, at)| format!("--listen=s{nth}={at}")).collect();
    let args: Vec<&str> = listen.iter().map(String::as_str).collect();
    let mut session = Session::start(&project, address, &args);
    let serving = session.wait_serving(1);
    let running = Running { project, address, session, gate: Gate::open(), pid: pid(&serving), generation: 1 };
    (running, serving)
}

fn at(addresses: &[SocketAddr]) -> Value {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

/// Swapped under load, as any that binds for itself; the notes that were said.
fn swaps(it: &mut Running, lines: &[&str], by: &str, addresses: &[SocketAddr]) -> Vec<String> {
    let load = Load::start(it.address, FRESH);
    load.switched("1");
    for _ in 0..3 {
        let serving = it.swap(lines);
        assert_eq!((&serving["by"], &serving["addresses"]), (&by.into(), &at(addresses)), "{serving}");
        load.switched(&it.generation.to_string());
        load.wait_for(20);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    let held = |note: &&str| !note.contains("can be reached from other machines");
    it.notes().into_iter().filter(held).map(ToOwned::to_owned).collect()
}

#[test]
fn a_program_that_binds_the_configured_address_itself_is_given_it_and_told_so_once() {
    let address = free_address();
    let wide = format!("fn address() -> String {{ \"0.0.0.0:{}\".to_owned() }}", address.port());
    // The same address, and one of which it is a part: what is configured counts.
    for (name, lines) in [("gate-listen-same", &[][..]), ("gate-listen-wide", &[wide.as_str()])] {
        let (mut it, first) = start(name, address, &[address], lines);
        assert_eq!((&first["by"], &first["addresses"]), (&"bind".into(), &at(&[address])), "{name}: {first}");
        let notes = swaps(&mut it, lines, "bind", &[address]);
        assert_eq!(notes.len(), 1, "{name}: {notes:?}");
        assert!(notes[0].contains("binds for itself") && notes[0].contains("`listen`"), "{name}: {notes:?}");
    }
}

#[test]
fn an_address_that_nobody_has_taken_is_not_served() {
    let (address, other) = (free_address(), free_address());
    let (mut it, first) = start("gate-listen-other", address, &[other], &[]);
    assert_eq!((&first["by"], &first["addresses"]), (&"bind".into(), &at(&[address])), "{first}");
    let notes = swaps(&mut it, &[], "bind", &[address]);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("binds for itself")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains(&other.to_string()) && note.contains("unanswered")), "{notes:?}");
    drop(it);
    // And of two that are handed over it takes one.
    let (address, other) = (free_address(), free_address());
    let takes = "fn bind() -> TcpListener { unsafe { std::os::fd::FromRawFd::from_raw_fd(3) } }";
    let (mut it, first) = start("gate-listen-one", address, &[address, other], &[takes]);
    assert_eq!((&first["by"], &first["addresses"]), (&"listen-fds".into(), &at(&[address])), "{first}");
    let notes = swaps(&mut it, &[takes], "listen-fds", &[address]);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains(&other.to_string()) && notes[0].contains("unanswered"), "{notes:?}");
}

#[test]
fn one_that_takes_what_is_configured_may_bind_another_address_beside() {
    let (address, admin) = (free_address(), free_address());
    let takes = "fn bind() -> TcpListener { unsafe { std::os::fd::FromRawFd::from_raw_fd(3) } }";
    // First, and asked for connections before the other is.
    let beside = format!(
        "fn before_bind() {{ let admin = TcpListener::bind(\"{admin}\").unwrap(); \
         thread::spawn(move || loop {{ let conn = accept(&admin); thread::spawn(move || serve(conn)); }}); }}"
    );
    let lines = [takes, beside.as_str()];
    let (mut it, first) = start("gate-listen-beside", address, &[address], &lines);
    assert_eq!(first["by"], "listen-fds", "{first}");
    assert_eq!(swaps(&mut it, &lines, "listen-fds", &[address, admin]), [""; 0]);
    for at in [address, admin] {
        assert!(get(at, "/").unwrap().contains("version: 4"));
    }
}
