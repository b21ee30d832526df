//! A program that fails, a command that is killed, a system that refuses: nobody is lost, nothing is stuck.

use super::{EVENT_LOOP, FRESH, KEPT, exchange, keep, pid, start, start_with};
use crate::harness::refuse::{refuse, with_rights};
use crate::harness::server::{ask, hold, who};
use crate::harness::{free_address, freeze, is_alive, leavings, send, until, wait_for_end, wait_until_reaped};
use crate::load::Load;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::ErrorKind;
use std::net::TcpStream;

#[test]
fn a_start_that_fails_leaves_the_old_one_serving_and_loses_nothing() {
    let mut it = start("gate-fails", &["--ready-timeout", "2s"], &[]);
    let load = Load::start(it.address, KEPT);
    let faults = [
        ("fn before_bind() { panic!() }", "exit status 101"),
        ("fn before_accept() { panic!() }", "exit status 101"),
        ("fn before_accept() { process::exit(0) }", "exit status 0"),
        ("fn before_accept() { process::abort() }", "signal 6 (SIGABRT)"),
        ("fn before_bind() { loop { thread::park() } }", "not ready after 2 s"),
        ("fn before_accept() { loop { thread::park() } }", "not ready after 2 s"),
    ];
    for (nth, (fault, end)) in faults.into_iter().enumerate() {
        it.save(&format!("fault {nth}"), &[fault]);
        let failed = it.session.wait_for("start-failed");
        assert_eq!((failed["end"].as_str(), &failed["serving"]), (Some(end), &1.into()), "{fault}");
        assert_eq!(it.answers(), ("1".to_owned(), it.pid), "{fault}");
        let generation = failed["generation"].clone();
        let starting = |event: &&Value| event["event"] == "starting" && event["generation"] == generation;
        wait_until_reaped(pid(it.session.log.iter().rfind(starting).unwrap()));
        it.generation += 1;
    }
    it.swap(&[]);
    load.switched(&it.generation.to_string());
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

#[test]
fn a_crash_after_ready_is_rolled_back_and_clients_have_only_waited() {
    let needs = "libc = \"0.2\"";
    for (name, lines) in [("gate-crash", &[][..]), ("gate-crash-loop", &[EVENT_LOOP])] {
        let mut it = start_with(name, needs, &["--probation", "100s"], lines, |_| {});
        let first = it.pid;
        let kept = keep(it.address);
        it.swap(lines);
        assert_eq!(it.answers(), ("2".to_owned(), it.pid));
        assert!(is_alive(first), "it is on hold");
        freeze(it.pid);
        let asked: Vec<_> = (0..5).map(|_| ask(it.address, "/").unwrap()).collect();
        send(it.pid, Signal::SIGKILL);
        let back = it.session.wait_for("rolled-back");
        assert_eq!((&back["from"], &back["to"]), (&2.into(), &1.into()));
        for asked in asked {
            assert_eq!(who(&asked.answer().unwrap()), ("1".to_owned(), first), "{name}");
        }
        assert_eq!(it.answers(), ("1".to_owned(), first));
        assert_eq!(who(&exchange(&mut { kept })).1, first, "its connections were left alone");
        // And the hand-over after that is as any other.
        it.generation = 2;
        it.swap(lines);
        assert_eq!(it.answers(), ("3".to_owned(), it.pid));
    }
}

/// Nothing is given to a program that has not shown that it can serve.
#[test]
fn one_that_fails_before_it_is_ready_has_had_no_connection() {
    let mut it = start("gate-early", &["--ready", "delay:1s"], &[]);
    let load = Load::start(it.address, KEPT);
    let dies = "fn before_accept() { thread::spawn(|| { thread::sleep(std::time::Duration::from_millis(300)); process::exit(1) }); }";
    it.save("2", &[dies]);
    it.session.wait_for("start-failed");
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    assert_eq!(tally.by_version.keys().collect::<Vec<_>>(), ["1"]);
}

#[test]
fn one_that_dies_is_started_again_and_clients_wait() {
    let it = start("gate-dies", &[], &[]);
    let (address, mut session) = (it.address, it.session);
    freeze(it.pid);
    let asked: Vec<_> = (0..5).map(|_| ask(address, "/").unwrap()).collect();
    send(it.pid, Signal::SIGKILL);
    session.wait_for("died");
    let again = pid(&session.wait_serving(2));
    for asked in asked {
        assert_eq!(who(&asked.answer().unwrap()), ("1".to_owned(), again));
    }
}

#[test]
fn nothing_is_stuck_when_the_command_is_killed() {
    // A helper that has left the group, and asks for a connection in vain.
    let helper = "fn before_accept() { if env::args().len() == 1 { let mut helper = process::Command::new(env::current_exe().unwrap()); \
                  std::os::unix::process::CommandExt::process_group(&mut helper, 0); helper.arg(\"helper\").spawn().unwrap(); } }";
    let bind = "fn bind() -> TcpListener { if env::args().len() == 1 { TcpListener::bind(address()).unwrap() } else { let l = TcpListener::bind(\"127.0.0.1:0\").unwrap(); gate(); let _ = l.accept(); process::exit(3) } }";
    let lines = [helper, bind, "fn threads() -> usize { 20 }"];
    let temporary = tempfile::tempdir().unwrap();
    let mut it = start_with("gate-killed", "", &[], &lines, |command| {
        command.env("TMPDIR", temporary.path());
    });
    let helper = it.gate.arrival();
    let parked = keep(it.address);
    it.session.signal(Signal::SIGKILL);
    it.session.finish();
    wait_for_end(it.pid);
    // It binds and accepts where nobody answers any more, and is told so.
    helper.let_go();
    drop(parked);
    until("something is left", || leavings(temporary.path()).is_empty());
    assert_eq!(TcpStream::connect(it.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn nothing_is_left_when_the_command_is_killed_in_the_middle_of_a_hand_over() {
    for moment in ["building", "starting", "serving", "draining", "drained"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut it = start_with(&format!("gate-killed-{moment}"), "", &["--drain-timeout", "1s"], &[], |command| {
            command.env("TMPDIR", temporary.path());
        });
        let load = Load::start(it.address, KEPT);
        load.wait_for(20);
        // Keeps the old one from leaving at once.
        let held = hold(it.address);
        it.save("2", &[]);
        it.session.wait_for(moment);
        it.session.signal(Signal::SIGKILL);
        it.session.finish();
        until("something is left", || leavings(temporary.path()).is_empty());
        drop((load.stop(), held));
        assert_eq!(TcpStream::connect(it.address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{moment}");
    }
}

#[test]
fn an_ordinary_user_has_it_too() {
    // Root without any capability is to the kernel what every other user is, and can read this project.
    let mut it = start_with("gate-user", "", &[], &[], |command| {
        with_rights(command, &["--bounding-set=-all", "--inh-caps=-all"]);
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", it.pid)).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let load = Load::start(it.address, KEPT);
    for _ in 0..5 {
        assert_eq!(it.swap(&[])["by"], "bind");
        load.switched(&it.generation.to_string());
        load.wait_for(20);
    }
    // While their clients go on asking, each at once after its answer.
    for generation in 1..=5 {
        let gone = it.gone(generation);
        assert_eq!(gone["cut"], 0, "{gone} {:#?}\n{:#?}", load.tally(), it.session.log);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}\n{:#?}", it.session.log);
    assert_eq!(it.notes(), [""; 0]);
}

#[test]
fn a_system_without_the_feature_stops_and_starts_and_says_so_once() {
    for (name, error) in [("gate-none", Errno::ENOSYS), ("gate-forbidden", Errno::EPERM)] {
        let mut it = start_with(name, "", &[], &[], |command| refuse(command, libc::SYS_seccomp, error));
        for _ in 0..2 {
            assert_eq!(it.swap(&[])["by"], "stop-and-start");
        }
        let notes = it.notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("seccomp") && notes[0].contains("hotrun library"), "{notes:?}");
    }
}

#[test]
fn a_system_where_sockets_cannot_be_copied_loses_no_fresh_connection() {
    let mut it = start_with("gate-no-copy", "", &["--drain-timeout", "1s"], &[], |command| {
        refuse(command, libc::SYS_pidfd_getfd, Errno::EPERM)
    });
    let load = Load::start(it.address, FRESH);
    load.switched("1");
    for _ in 0..3 {
        assert_eq!(it.swap(&[])["by"], "bind");
        load.switched(&it.generation.to_string());
        load.wait_for(20);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    it.gone(1);
    let notes = it.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("SYS_PTRACE"), "{notes:?}");
}

#[test]
fn a_datagram_socket_is_left_alone_where_sockets_cannot_be_copied() {
    let udp = free_address();
    let bind = format!(
        "fn before_bind() {{ if VERSION == \"1\" {{ let udp = std::net::UdpSocket::bind(\"{udp}\").unwrap(); udp.send_to(b\"x\", \"{udp}\").unwrap(); assert_eq!(udp.recv(&mut [0; 9]).unwrap(), 1); }} }}"
    );
    let it = start_with("gate-udp", "", &[], &[&bind], |command| refuse(command, libc::SYS_pidfd_getfd, Errno::EPERM));
    assert_eq!(it.answers(), ("1".to_owned(), it.pid));
}

#[test]
fn a_system_where_memory_cannot_be_read_stops_and_starts_and_says_so_once() {
    let mut it =
        start_with("gate-no-memory", "", &[], &[], |command| refuse(command, libc::SYS_process_vm_readv, Errno::EPERM));
    for _ in 0..2 {
        assert_eq!(it.swap(&[])["by"], "stop-and-start");
    }
    let notes = it.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("memory"), "{notes:?}");
}
