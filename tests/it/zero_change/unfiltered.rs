//! Where no filter may be attached to a connection, as for all but administrators on some systems: kept connections end between two
//! answers nevertheless, and nothing is lost.

use super::{MIX, TOKIO};
use crate::harness::refuse::refuse_option;
use crate::harness::{LONG, Project, Session, free_address, now};
use crate::load::Load;
use nix::errno::Errno;
use nix::libc;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

const SWAPS: u64 = 5;

fn swaps_lose_nothing(project: &Project) {
    let address = free_address();
    // Longer than any test waits: nobody is ended because of it.
    let mut session =
        Session::start_with(project, address, &["--drain-timeout", "1000s", "--drain-limit", "1000s"], |command| {
            refuse_option(command, libc::SO_ATTACH_FILTER, Errno::EPERM);
        });
    assert_eq!(session.wait_serving(1)["by"], "bind");
    let kept: Vec<TcpStream> = (0..3).map(|_| keep(address)).collect();
    let load = Load::start(address, MIX);
    load.switched("1");
    let goes_on = Arc::new(AtomicBool::new(true));
    let insisting: Vec<JoinHandle<usize>> = ["/", "/slow?ms=30"]
        .map(|path| {
            let goes_on = Arc::clone(&goes_on);
            thread::spawn(move || insist(address, path, &goes_on))
        })
        .into();
    for generation in 2..=SWAPS + 1 {
        project.set_version(&generation.to_string());
        assert_eq!(session.wait_serving(generation)["by"], "bind");
        load.switched(&generation.to_string());
        load.wait_for(50);
    }
    let asked = now();
    for mut kept in kept {
        write!(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(kept.read(&mut [0]).unwrap(), 0, "a clean end, and no byte of an answer");
    }
    println!("{}: ended after {:?}", project.name, asked.elapsed());
    // While the load goes on, whose requests follow each other at once.
    for generation in 1..=SWAPS {
        let drained = session.see("its end", |event| event["event"] == "drained" && event["generation"] == generation);
        assert_eq!(drained["cut"], 0, "{drained}");
    }
    goes_on.store(false, Ordering::Relaxed);
    for client in insisting {
        let connections = client.join().unwrap();
        assert_eq!(connections as u64, SWAPS + 1, "one with each generation");
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}\n{:#?}\n{}", session.log, session.stderr());
    assert_eq!(session.count("note"), 0, "{:#?}", session.log);
}

/// A client without a pause between an answer and its next request: on how many connections it asked. What is lost is a panic.
fn insist(address: SocketAddr, path: &str, goes_on: &AtomicBool) -> usize {
    let mut connections = 0;
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        connections += 1;
        loop {
            if !goes_on.load(Ordering::Relaxed) {
                return connections;
            }
            // It may have been ended just now.
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok();
            let mut head = String::new();
            if answers.read_line(&mut head).unwrap() == 0 {
                break;
            }
            while !head.ends_with("\r\n\r\n") {
                assert!(answers.read_line(&mut head).unwrap() > 0, "cut in {head:?}");
            }
            let length =
                head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            answers.read_exact(&mut vec![0; length.unwrap()]).unwrap();
        }
    }
}

/// A connection that is kept, after one answer.
fn keep(address: SocketAddr) -> TcpStream {
    let mut kept = TcpStream::connect(address).unwrap();
    kept.set_read_timeout(Some(LONG)).unwrap();
    write!(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    // The one line after that of the version.
    while !(answer.contains("hello") && answer.ends_with('\n')) {
        let mut part = [0; 512];
        let length = kept.read(&mut part).unwrap();
        assert!(length > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    kept
}

#[test]
fn a_server_on_std_where_requests_cannot_be_kept_out_loses_nothing() {
    swaps_lose_nothing(&Project::from_template("unfiltered-std", "plain"));
}

#[test]
fn a_tokio_server_where_requests_cannot_be_kept_out_loses_nothing() {
    swaps_lose_nothing(&Project::new("unfiltered-tokio", TOKIO, include_str!("../../servers/tokio.rs")));
}
