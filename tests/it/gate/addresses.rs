//! Which sockets are held, and when one is let go.

use super::{EVENT_LOOP, FRESH, LIBC, Running, start, start_with};
use crate::harness::server::{hold, who};
use crate::harness::{free_address, get, version};
use crate::load::Load;
use serde_json::Value;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};

#[test]
fn an_address_of_a_stranger_is_named_with_its_owner_and_the_old_one_serves_on() {
    let mut it = start("gate-stranger", &[], &[]);
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap();
    it.save("2", &[&format!("fn address() -> String {{ \"{taken}\".to_owned() }}")]);
    let failed = it.session.wait_for("start-failed");
    assert_eq!(failed["serving"], 1);
    let notes = it.notes();
    let us = format!("pid {}", std::process::id());
    assert!(notes.iter().any(|note| note.contains(&taken.to_string()) && note.contains(&us)), "{notes:?}");
    assert_eq!(it.answers(), ("1".to_owned(), it.pid));
}

#[test]
fn an_address_that_changes_is_taken_and_the_old_one_let_go() {
    // Asked to take a connection only when there is one, and by a blocking call.
    for (name, lines) in [("gate-moves", &[][..]), ("gate-moves-loop", &[EVENT_LOOP])] {
        address_changes(name, lines);
    }
}

#[test]
fn an_address_that_was_widened_may_be_narrowed_again_while_the_first_one_drains() {
    let mut it = start_with("gate-undo", LIBC, &["--drain-timeout", "100s"], &[EVENT_LOOP], |_| {});
    let held = hold(it.address);
    let wide = format!("fn address() -> String {{ \"0.0.0.0:{}\".to_owned() }}", it.address.port());
    it.swap(&[EVENT_LOOP, &wide]);
    assert_eq!(it.answers().0, "2");
    it.swap(&[EVENT_LOOP]);
    assert_eq!(it.answers().0, "3");
    assert_eq!(who(&held.release().unwrap()).0, "1");
    it.gone(1);
    it.gone(2);
    assert_eq!(it.answers().0, "3");
}

#[test]
fn an_address_that_the_program_closes_is_let_go() {
    let other = free_address();
    let once = format!(
        "fn before_accept() {{ let other = TcpListener::bind(\"{other}\").unwrap(); let _ = other.accept(); }}"
    );
    let mut it = start("gate-closes", &["--ready", "delay:100ms"], &[&once]);
    // A connection to it is what it waits for; then it is closed for good.
    TcpStream::connect(other).unwrap();
    it.session.wait("let go", |event| {
        event["event"] == "note" && event["text"] == format!("{other} was closed by the program: let go")
    });
    assert_eq!(TcpStream::connect(other).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    drop(TcpListener::bind(other).unwrap());
    assert_eq!(it.answers(), ("1".to_owned(), it.pid));
    it.swap(&[]);
    assert_eq!(it.answers(), ("2".to_owned(), it.pid));
}

#[test]
fn an_address_that_is_bound_twice_is_refused_as_it_would_be_anywhere() {
    let twice = "fn extra() -> String { let again = TcpListener::bind(address()).map(drop).map_err(|error| error.kind()); format!(\"again: {again:?}\\n\") }";
    let mut it = start("gate-twice", &[], &[twice]);
    for _ in 0..2 {
        let answer = get(it.address, "/").unwrap();
        assert!(answer.contains("again: Err(AddrInUse)"), "{answer}");
        it.swap(&[twice]);
    }
}

#[test]
fn a_program_may_close_its_listener_and_bind_again() {
    let again = "fn bind() -> TcpListener { for _ in 0..3 { drop(TcpListener::bind(address()).unwrap()); } TcpListener::bind(address()).unwrap() }";
    let mut it = start("gate-again", &[], &[again]);
    it.swap(&[again]);
    assert_eq!(it.answers(), ("2".to_owned(), it.pid));
}

/// What waits in the queue at that moment is reset, as it would be anywhere; nobody is refused for longer than it takes to see it.
#[test]
fn a_listener_that_an_old_program_shuts_listens_again() {
    let needs = format!("{LIBC}\nsignal-hook = \"0.4\"");
    let mut it = start_with("gate-shuts", &needs, &[], &[SHUTS], |_| {});
    for _ in 0..3 {
        let before = it.generation;
        it.swap(&[SHUTS]);
        it.gone(before);
        assert_eq!(it.answers(), (it.generation.to_string(), it.pid));
    }
}

/// What the kernel would give to a program of its own is not touched: a port of the kernel's choice, a path, datagrams.
#[test]
fn what_is_not_held_is_left_to_the_program() {
    let others = "fn before_bind() { \
        let path = env::var(\"SOCKET\").unwrap(); let _ = std::fs::remove_file(&path); \
        let unix = std::os::unix::net::UnixListener::bind(path).unwrap(); \
        let any = TcpListener::bind(\"127.0.0.1:0\").unwrap(); \
        let client = TcpStream::connect(any.local_addr().unwrap()).unwrap(); \
        assert_eq!(any.accept().unwrap().1, client.local_addr().unwrap()); \
        thread::spawn(move || loop { let (mut conn, _) = unix.accept().unwrap(); let _ = write!(conn, \"{VERSION}\"); }); }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut it = start_with("gate-others", "", &[], &[others], |command| {
        command.env("SOCKET", &path);
    });
    for version in ["1", "2"] {
        let mut said = String::new();
        std::os::unix::net::UnixStream::connect(&path).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, version);
        assert_eq!(it.answers(), (version.to_owned(), it.pid));
        it.swap(&[others]);
    }
}

fn address_changes(name: &str, lines: &[&str]) {
    let mut it = start_with(name, LIBC, &[], lines, |_| {});
    let with = |address: String| -> Vec<String> {
        lines
            .iter()
            .map(ToString::to_string)
            .chain([format!("fn address() -> String {{ \"{address}\".to_owned() }}")])
            .collect()
    };
    let swap = |it: &mut Running, address: String| {
        let lines = with(address);
        it.swap(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let old = it.address;
    let new = free_address();
    let serving = swap(&mut it, new.to_string());
    assert_eq!(serving["addresses"], Value::from(vec![new.to_string()]), "{serving}");
    assert_eq!(version(new), "2");
    it.session.see("let go", |event| {
        event["event"] == "note" && event["text"].as_str().unwrap().contains(&format!("{old} is no longer wanted"))
    });
    assert_eq!(TcpStream::connect(old).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // There and back, and to all interfaces: the same port, in a wider and in a narrower sense.
    let port = new.port();
    for address in [format!("0.0.0.0:{port}"), format!("[::]:{port}"), format!("127.0.0.1:{port}")] {
        let load = Load::start(new, FRESH);
        load.wait_for(20);
        let serving = swap(&mut it, address.clone());
        assert_eq!(serving["addresses"], Value::from(vec![address]), "{serving}");
        it.gone(it.generation - 1);
        assert_eq!(version(new), it.generation.to_string());
        load.wait_for(20);
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{tally:#?}");
        assert!(tally.by_version.contains_key(&it.generation.to_string()), "{tally:#?}");
    }
}

/// It ends its loop of accept at SIGTERM in the one way there is, which ends that of every process that has the socket.
const SHUTS: &str = "fn accept(listener: &TcpListener) -> TcpStream { \
    static ONCE: std::sync::Once = std::sync::Once::new(); \
    let number = std::os::fd::AsRawFd::as_raw_fd(listener); \
    ONCE.call_once(|| { let mut stop = signal_hook::iterator::Signals::new([libc::SIGTERM]).unwrap(); \
        thread::spawn(move || { stop.forever().next(); unsafe { libc::shutdown(number, libc::SHUT_RD) }; process::exit(0) }); }); \
    listener.accept().unwrap().0 }";
