//! The promise itself: swaps under load lose nothing, and a load that loses something is noticed.

use crate::harness::{Project, Session, free_address, hotrun_dependency, now};
use crate::load::{Load, Mix, Tally};
use std::net::SocketAddr;
use std::os::fd::AsFd;

const SWAPS: u64 = 30;
/// Eight threads, all three kinds.
const MIX: Mix = Mix { fresh: 3, keep_alive: 3, slow: 2, slow_ms: 300 };

/// Edits, waits, edits again, with the load on; returns what came of the load.
fn swap_under_load(project: &Project, address: SocketAddr, args: &[&str], swaps: u64) -> Tally {
    let mut session = Session::start(project, address, args);
    session.wait_serving(1);
    let load = Load::start(address, MIX);
    load.switched("1");
    let cookie = cookie(session.pid(), address);
    for generation in 2..=swaps + 1 {
        project.set_version(&generation.to_string());
        session.wait_serving(generation);
        load.switched(&generation.to_string());
        assert_eq!(self::cookie(session.pid(), address), cookie, "another socket listens");
    }
    // The last generation has requests of every kind to answer before the end.
    load.wait_for(50);
    let tally = load.stop();
    let (_, log) = session.stop();
    let cut: u64 =
        log.iter().filter(|event| event["event"] == "drained").filter_map(|event| event["cut"].as_u64()).sum();
    assert_eq!(cut, 0, "connections were cut");
    assert!(tally.by_version.contains_key(&(swaps + 1).to_string()), "{:?}", tally.by_version);
    tally
}

/// What the kernel calls the listening socket for as long as it lives (socket(7), SO_COOKIE): copied out of the process
/// that holds it.
fn cookie(pid: u32, address: SocketAddr) -> u64 {
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = fds.map(|fd| fd.unwrap().file_name().into_string().unwrap().parse::<i32>().unwrap());
    for number in numbers {
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let Ok(fd) = rustix::process::pidfd_getfd(process.as_fd(), number, flags) else { continue };
        let Ok(true) = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::AcceptConn) else { continue };
        let listener = std::net::TcpListener::from(fd);
        if listener.local_addr().is_ok_and(|bound| bound == address) {
            return rustix::net::sockopt::socket_cookie(&listener).unwrap();
        }
    }
    panic!("process {pid} holds no socket that listens on {address}");
}

#[test]
fn thirty_swaps_of_the_std_template_lose_nothing() {
    let project = Project::from_template("load-std", "std");
    let began = now();
    let tally = swap_under_load(&project, free_address(), &[], SWAPS);
    println!("std: {tally:?} in {:?}", began.elapsed());
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

#[test]
fn thirty_swaps_of_the_axum_template_lose_nothing() {
    let project = Project::from_template("load-axum", "axum");
    let began = now();
    let tally = swap_under_load(&project, free_address(), &[], SWAPS);
    println!("axum: {tally:?} in {:?}", began.elapsed());
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

/// The same test on the same server, with the sockets not handed over: it is stopped, and binds again. By a signal that ends it:
/// a graceful stop by the library would serve its queue to the end, and clients would only wait.
#[test]
fn without_the_hand_over_the_same_load_notices() {
    let project = Project::from_template("load-none", "std");
    project.edit("src/main.rs", "hotrun::init()?", "hotrun::builder().stop_on(&[]).init()?");
    let address = free_address();
    let mut session = Session::start(&project, address, &["--handoff", "none"]);
    session.wait_serving(1);
    let load = Load::start(address, MIX);
    for generation in 2..=4 {
        project.set_version(&generation.to_string());
        session.wait_serving(generation);
    }
    load.wait_for(50);
    let tally = load.stop();
    assert!(tally.refused > 0, "{tally:#?}");
}

/// Hand-overs broken by the server's own doing: each loss is seen for what it is.
#[test]
fn a_server_that_breaks_the_hand_over_is_noticed() {
    let breaks = [
        // Leaves without finishing what it began.
        ("load-cuts", "up.drained();", "std::process::exit(0);"),
        // Goes on taking connections, and lets one fall.
        (
            "load-takes",
            "up.drained();",
            "let taken = std::net::TcpListener::from(std::os::fd::AsFd::as_fd(&http).try_clone_to_owned()?); \
             while taken.accept().is_err() {} \
             up.drained();",
        ),
    ];
    for (name, from, to) in breaks {
        let project = Project::from_template(name, "std");
        project.edit("src/main.rs", from, to);
        let address = free_address();
        let mut session = Session::start(&project, address, &[]);
        session.wait_serving(1);
        let load = Load::start(address, MIX);
        load.wait_for(50);
        project.set_version("2");
        session.wait_serving(2);
        // What it breaks, it breaks on its way out.
        session.wait("the end of the old program", |event| event["event"] == "drained" && event["generation"] == 1);
        load.wait_for(50);
        let tally = load.stop();
        assert!(tally.lost() > 0, "{name} loses nothing: {tally:#?}");
    }
}

#[test]
fn the_library_is_what_the_templates_depend_on() {
    // A template that resolved another one would prove nothing about this one.
    let project = Project::from_template("load-dependency", "std");
    let line = hotrun_dependency("[]");
    let path = line.split('"').nth(1).unwrap();
    assert!(project.read("Cargo.toml").contains(path), "{}", project.read("Cargo.toml"));
}
