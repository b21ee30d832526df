//! The switch, and what becomes of the connections of the old program.

use super::{FRESH, KEPT, exchange, keep, start};
use crate::harness::server::{Arrival, hold, who};
use crate::harness::{LONG, until};
use crate::load::{Load, Mix};
use nix::libc;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn two_hundred_threads_in_accept_are_at_the_gate_at_once() {
    let threads = "fn threads() -> usize { 200 }";
    let mut it = start("gate-threads", &[], &[threads]);
    let load = Load::start(it.address, KEPT);
    load.switched("1");
    for _ in 0..5 {
        it.swap(&[threads]);
        load.switched(&it.generation.to_string());
        load.wait_for(50);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    // All of them: it is the program as it was written.
    let threads = std::fs::read_dir(format!("/proc/{}/task", it.pid)).unwrap().count();
    assert!(threads > 200, "{threads}");
}

#[test]
fn after_the_switch_no_connection_is_the_old_ones() {
    let mut it = start("gate-switch", &["--drain-timeout", "100s"], &["fn threads() -> usize { 8 }"]);
    let held = hold(it.address);
    it.swap(&[]);
    for _ in 0..100 {
        assert_eq!(it.answers(), ("2".to_owned(), it.pid));
    }
    let draining = it.session.see("draining", |event| event["event"] == "draining");
    assert_eq!((&draining["generation"], &draining["live"]), (&1.into(), &1.into()));
    assert_eq!(who(&held.release().unwrap()).0, "1", "what was being answered is answered to the end");
    let drained = it.gone(1);
    assert_eq!(drained["cut"], 0, "{drained}");
}

#[test]
fn a_kept_connection_ends_between_two_answers_when_its_client_asks_again() {
    let mut it = start("gate-kept", &["--drain-timeout", "100s"], &[]);
    let mut kept: Vec<TcpStream> = (0..3).map(|_| keep(it.address)).collect();
    let mut fresh = TcpStream::connect(it.address).unwrap();
    fresh.set_read_timeout(Some(LONG)).unwrap();
    it.swap(&[]);
    for kept in &mut kept {
        write!(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(kept.read(&mut [0]).unwrap(), 0, "a clean end, and no byte of an answer");
    }
    // It was taken by the old one, or by the new one: its first request is answered by whoever has it.
    who(&exchange(&mut fresh));
    drop(fresh);
    assert_eq!(it.gone(1)["cut"], 0);
}

#[test]
fn a_stream_has_until_the_timeout_and_what_was_cut_is_counted() {
    let mut it = start("gate-stream", &["--drain-timeout", "2s"], &[]);
    // The one is silent after its answer; the other has sent the half of a request.
    let mut silent = keep(it.address);
    let mut busy = TcpStream::connect(it.address).unwrap();
    busy.set_read_timeout(Some(LONG)).unwrap();
    write!(busy, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab").unwrap();
    it.swap(&[]);
    let drained = it.gone(1);
    assert_eq!((&drained["cut"], drained["end"].as_str()), (&1.into(), Some("signal 15 (SIGTERM)")));
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it was between two answers");
    drop(busy);
}

/// A connection of which nobody has asked anything for a while is looked after by its client's kernel, whose probes are dropped by ours: no
/// request, and no proof that an answer is over.
#[test]
fn a_quiet_stream_whose_client_probes_it_is_left_alone() {
    let mut it = start("gate-probes", &["--drain-timeout", "100s"], &[]);
    let mut stream = TcpStream::connect(it.address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    for (name, seconds) in [(libc::TCP_KEEPIDLE, 1), (libc::TCP_KEEPINTVL, 1)] {
        let option = set_option(&stream, libc::IPPROTO_TCP, name, seconds);
        assert_eq!(option, 0);
    }
    assert_eq!(set_option(&stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1), 0);
    write!(stream, "GET /held HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    it.swap(&[]);
    // Answers to probes, as the kernel of the client counts them: segments that came in and had nothing in them.
    let before = segments_in(&stream);
    until("it is not probed", || segments_in(&stream) >= before + 3);
    stream.write_all(b"x").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(who(&rest).0, "1");
    assert_eq!(it.gone(1)["cut"], 0);
}

#[test]
fn a_session_that_ends_waits_for_answers_and_not_for_kept_connections() {
    let it = start("gate-quit", &["--drain-timeout", "1000s"], &[]);
    let mut kept = keep(it.address);
    let held = hold(it.address);
    it.session.signal(Signal::SIGTERM);
    let mut session = it.session;
    session.wait_for("draining");
    assert_eq!(who(&held.release().unwrap()).0, "1");
    let (_, log) = session.finish();
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
    let drained = log.iter().find(|event| event["event"] == "drained").unwrap();
    assert_eq!(drained["cut"], 0);
}

/// What a helper leaves behind costs nothing.
#[test]
fn a_helper_that_outlives_its_generation_costs_no_time() {
    let is_helper = "fn before_bind() { if env::args().len() > 1 { gate(); process::exit(0) } }";
    let helper = "fn before_accept() { let mut helper = process::Command::new(env::current_exe().unwrap()); \
                  std::os::unix::process::CommandExt::process_group(&mut helper, 0); helper.arg(\"helper\").spawn().unwrap(); }";
    let mut it = start("gate-helper", &[], &[is_helper, helper]);
    let mut helpers = vec![it.gate.arrival()];
    for _ in 0..3 {
        let before = it.generation;
        it.swap(&[is_helper, helper]);
        it.gone(before);
        helpers.push(it.gate.arrival());
    }
    let load = Load::start(it.address, Mix { fresh: 1, ..FRESH });
    let before = ticks(it.session.pid());
    load.wait_for(200);
    // Spinning threads would use all the time there is: a second and more, on each processor.
    let used = ticks(it.session.pid()) - before;
    assert!(used < 50, "{used} hundredths of a second");
    load.stop();
    helpers.into_iter().for_each(Arrival::let_go);
}

fn set_option(stream: &TcpStream, level: i32, name: i32, value: i32) -> i32 {
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    // SAFETY: the kernel reads an int.
    unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) }
}

fn segments_in(stream: &TcpStream) -> u32 {
    let (mut info, mut length) = ([0_u32; 64], 256);
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    // SAFETY: the kernel writes at most `length` bytes. tcpi_segs_in stands at 140 of struct tcp_info (linux/tcp.h).
    let done =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length) };
    assert_eq!(done, 0);
    info[35]
}

/// Time on the processor so far, in hundredths of a second (proc_pid_stat(5)).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
