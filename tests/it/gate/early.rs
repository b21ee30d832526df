//! `serving` is said of what serves: not of a program that has no socket yet, may never have one, or has ended.

use super::{LIBC, Running, SERVER, start};
use crate::harness::server::{Arrival, Gate, server};
use crate::harness::{Project, Session, command, free_address, version};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

/// A session whose program need not be ready.
fn begin(name: &str, address: SocketAddr, args: &[&str], lines: &[&str]) -> Running {
    let project = Project::new(name, LIBC, &server(SERVER, "1", lines));
    let gate = Gate::open();
    let session = Session::start_with(&project, address, args, |command| {
        command.env("GATE", gate.address());
    });
    Running { project, address, session, gate, pid: 0, generation: 1 }
}

/// How `cargo hotrun wait` ends.
fn waits(it: &Running) -> Option<i32> {
    let pid = it.session.pid().to_string();
    let mut wait = command();
    wait.args(["wait", "--pid", &pid]).env("CARGO_TARGET_DIR", it.project.target()).current_dir(it.project.root());
    wait.output().unwrap().status.code()
}

/// The next that is told of a start.
fn outcome(it: &mut Running) -> Value {
    it.session.wait("an outcome", |event| {
        matches!(event["event"].as_str(), Some("serving" | "start-failed" | "finished" | "died"))
    })
}

/// Waits until it has been at it for longer than a worker needs to count as ready.
fn waits_long(it: &mut Running) -> Arrival {
    let arrived = it.gate.arrival();
    it.session.wait("a slow start", |event| event["event"] == "not-ready" || event["event"] == "serving");
    assert_eq!(it.session.count("serving"), 0, "{:?}", it.session.log);
    arrived
}

const AGAIN: &str = "fn bind() -> TcpListener { loop { match TcpListener::bind(address()) { Ok(listener) => return listener, \
                     Err(_) => thread::sleep(std::time::Duration::from_millis(20)) } } }";

#[test]
fn one_that_tries_a_taken_port_again_and_again_is_not_ready_until_it_has_it() {
    let stranger = TcpListener::bind(free_address()).unwrap();
    let address = stranger.local_addr().unwrap();
    let mut it = begin("early-taken", address, &["--ready-timeout", "20s"], &[AGAIN]);
    assert_eq!(outcome(&mut it)["end"], "not ready after 20 s");
    let notes = it.notes();
    let us = format!("pid {}", std::process::id());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains(&address.to_string()) && notes[0].contains(&us), "{notes:?}");
    assert_eq!(waits(&it), Some(1));

    let mut it = begin("early-freed", address, &[], &[AGAIN]);
    it.session.wait("who has it", |event| event["event"] == "note" && event["text"].as_str().unwrap().contains(&us));
    drop(stranger);
    let serving = outcome(&mut it);
    assert_eq!(
        (&serving["by"], &serving["addresses"]),
        (&"bind".into(), &vec![address.to_string()].into()),
        "{serving}"
    );
    assert_eq!(version(address), "1");
}

#[test]
fn one_that_tries_a_taken_port_of_datagrams_is_not_ready_and_told_who_has_it() {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap();
    let again = "fn before_bind() { while std::net::UdpSocket::bind(address()).is_err() { thread::sleep(std::time::Duration::from_millis(20)) } \
                 loop { thread::park() } }";
    let mut it = begin("early-udp", address, &["--ready-timeout", "20s"], &[again]);
    assert_eq!(outcome(&mut it)["end"], "not ready after 20 s");
    let us = format!("pid {}", std::process::id());
    assert!(it.notes().iter().any(|note| note.contains(&us)), "{:?}", it.notes());
}

#[test]
fn one_that_fails_at_its_start_never_served_however_it_is_started() {
    for (name, args) in [("early-restart", ["--strategy", "restart"]), ("early-none", ["--handoff", "none"])] {
        let mut it = begin(name, free_address(), &args, &["fn before_bind() { panic!() }"]);
        let failed = outcome(&mut it);
        assert_eq!((&failed["event"], &failed["end"]), (&"start-failed".into(), &"exit status 101".into()), "{name}");
        assert_eq!(waits(&it), Some(1), "{name}");
        it.swap(&[]);
        assert_eq!(version(it.address), "2", "it listens when it is told to serve: {name}");
        assert_eq!(waits(&it), Some(0), "{name}");
        // A port that it tries is not one on which it listens.
        let tries = format!(
            "fn before_bind() {{ drop(TcpListener::bind(\"{}\").unwrap()); gate(); panic!() }}",
            free_address()
        );
        it.save("3", &[&tries]);
        it.session.wait_for("starting");
        it.gate.arrival().let_go();
        assert_eq!(outcome(&mut it)["event"], "start-failed", "{name}");
        // The one before it comes back.
        assert_eq!(outcome(&mut it)["event"], "serving", "{name}");
        assert_eq!(version(it.address), "2", "{name}");
        assert_eq!(waits(&it), Some(1), "{name}");
    }
}

#[test]
fn a_port_that_is_bound_for_a_moment_only_is_not_served() {
    // Nobody has it between two tries: no other run of tests uses this address.
    let tried = SocketAddr::from(([127, 9, 9, 9], free_address().port()));
    let tries = format!("fn before_bind() {{ drop(TcpListener::bind(\"{tried}\").unwrap()); }}");
    let mut it = start("early-tried", &[], &[&tries]);
    let ours = Value::from(vec![it.address.to_string()]);
    let first = it.session.log.iter().rfind(|event| event["event"] == "serving").unwrap();
    assert_eq!(first["addresses"], ours, "{first}");
    for _ in 0..2 {
        assert_eq!(TcpStream::connect(tried).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(it.swap(&[&tries])["addresses"], ours);
    }
    // The one that it then listens on is another matter.
    let same = "fn before_bind() { drop(TcpListener::bind(address()).unwrap()); }";
    assert_eq!(it.swap(&[same])["addresses"], ours);
    assert_eq!(it.answers(), (it.generation.to_string(), it.pid));
}

#[test]
fn a_first_program_that_binds_late_is_ready_when_it_has_bound() {
    for (name, args) in [("early-late", &[][..]), ("early-late-restart", &["--strategy", "restart"])] {
        let mut it = begin(name, free_address(), args, &["fn before_bind() { gate() }"]);
        let arrived = waits_long(&mut it);
        arrived.let_go();
        let serving = outcome(&mut it);
        assert_eq!(serving["event"], "serving", "{name}");
        assert_eq!(version(it.address), "1", "it listens: {name}");
    }
    let tries =
        format!("fn before_bind() {{ drop(TcpListener::bind(\"{}\").unwrap()); gate(); panic!() }}", free_address());
    for (name, line) in [("early-late-dies", "fn before_bind() { gate(); panic!() }"), ("early-tried-dies", &tries)] {
        let mut it = begin(name, free_address(), &[], &[line]);
        waits_long(&mut it).let_go();
        let failed = outcome(&mut it);
        assert_eq!((&failed["event"], &failed["end"]), (&"start-failed".into(), &"exit status 101".into()), "{name}");
        assert_eq!(waits(&it), Some(1), "{name}");
    }
}

#[test]
fn a_first_program_is_not_ready_by_time_where_it_is_to_be_asked() {
    let mut it = begin("early-asked", free_address(), &["--ready", "http:/"], &["fn before_bind() { gate() }"]);
    waits_long(&mut it).let_go();
    let serving = outcome(&mut it);
    assert_eq!((&serving["event"], &serving["by"]), (&"serving".into(), &"bind".into()), "{serving}");
}

#[test]
fn one_without_sockets_that_fails_is_told_and_waited_for_in_vain() {
    let idle = "fn before_bind() { gate(); panic!() }";
    // It could listen, so that it is waited for: for half of that.
    let mut it = begin("early-idle", free_address(), &["--ready-timeout", "30s"], &[idle]);
    let arrived = it.gate.arrival();
    let serving = outcome(&mut it);
    assert_eq!((&serving["event"], &serving["by"]), (&"serving".into(), &"stop-and-start".into()), "{serving}");
    assert!(it.notes().iter().any(|note| note.contains("without sockets")), "{:?}", it.notes());
    assert_eq!(waits(&it), Some(0));
    arrived.let_go();
    assert_eq!(outcome(&mut it)["end"], "exit status 101");
    assert_eq!(waits(&it), Some(1));
    // Its successor, of which no more is known, has to live a while too; on a busy machine it may do so before it has begun.
    it.save("2", &["fn before_bind() { panic!() }"]);
    let told = outcome(&mut it);
    let told = if told["event"] == "serving" { outcome(&mut it) } else { told };
    assert_eq!(told["end"], "exit status 101", "{told}");
    assert_eq!(waits(&it), Some(1));
}

#[test]
fn what_listens_where_nothing_is_held_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let any = "fn bind() -> TcpListener { gate(); TcpListener::bind(\"127.0.0.1:0\").unwrap() }";
    let unix = format!(
        "fn before_bind() {{ gate(); let unix = std::os::unix::net::UnixListener::bind({path:?}).unwrap(); let _ = unix.accept(); }}"
    );
    for (name, line) in [("early-any", any), ("early-unix", &unix)] {
        let mut it = begin(name, free_address(), &[], &[line]);
        // As long as it has not bound, it is not ready; then it is, and not because the time is over.
        waits_long(&mut it).let_go();
        let serving = outcome(&mut it);
        assert_eq!(
            (&serving["event"], &serving["by"]),
            (&"serving".into(), &"stop-and-start".into()),
            "{name}: {serving}"
        );
        assert!(it.notes().is_empty(), "{name}: {:?}", it.notes());
    }
}

#[test]
fn of_several_addresses_those_that_the_program_has_are_served() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap();
    let beside =
        format!("fn before_bind() {{ for _ in 0..3 {{ assert!(TcpListener::bind(\"{taken}\").is_err()); }} }}");
    let mut it = begin("early-several", free_address(), &[], &[&beside]);
    let serving = outcome(&mut it);
    assert_eq!(serving["addresses"], Value::from(vec![it.address.to_string()]), "{serving}");
    let notes = it.notes();
    assert!(notes.len() == 1 && notes[0].contains(&taken.to_string()), "said once: {notes:?}");
}
