//! Every example is replaced while clients ask it, over fresh connections and over one that they keep, and while a stream is
//! open: no question may be lost, and the stream goes on until its client ends it.
//!
//! The examples run as a user would run them: a test takes as long as the probation, which is five seconds in most.

#![cfg(target_os = "linux")]
// A test that cannot go on fails.
#![allow(clippy::unwrap_used)]
// Without its features an example has no test, and its clients no use.
#![cfg_attr(not(all(feature = "axum", feature = "tower")), allow(dead_code, unused_imports))]

mod http2;
mod load;
mod server;
mod wire;

use http2::{Health, HealthWatch, Http2, Http2Echo, NOT_SERVING, SERVING};
use load::{Client, fresh, kept};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use server::Server;
use std::time::Duration;
use wire::{ChunkedEcho, Http1, Lines, WebSocket};

/// So generous that only a fault reaches it.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn echo() {
    let mut server = Server::start("echo");
    let pid_file = server.folder.path().join("echo.pid");
    let in_file = || Pid::from_raw(std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap());
    let loads = vec![fresh::<Lines>(server.address), kept::<Lines>(server.address)];
    loads[0].reaches(1);
    assert_eq!(in_file(), server.pid);
    server.signal(Signal::SIGHUP);
    assert_eq!(server.says(), "generation 1 reads its configuration");
    // Idle connections end; one with half a line is not idle.
    let mut half = Lines::connect(server.address);
    assert_eq!(half.ask().unwrap().generation, 1);
    half.write("hel");
    server.is_replaced(loads, || {
        half.write("lo\n");
        assert_eq!(half.line(), "1 hello\n");
        assert_eq!(half.line(), "", "an end of file, and no reset");
    });
    // What the process before said was read before the signal that comes after it.
    server.signal(Signal::SIGHUP);
    assert_eq!(server.says(), "generation 2 reads its configuration");
    assert_eq!(in_file(), server.pid);
    server.stops();
    assert!(!pid_file.exists());
}

#[cfg(feature = "tokio")]
#[test]
fn lines() {
    let mut server = Server::start("lines");
    let loads = vec![fresh::<Lines>(server.address), kept::<Lines>(server.address)];
    let mut watch = Lines::connect(server.address);
    watch.write("watch\n");
    let mut number = 0;
    let mut goes_on = |watch: &mut Lines| {
        number += 1;
        assert_eq!(watch.line(), format!("1 watch {number}\n"), "none is missing");
    };
    goes_on(&mut watch);
    server.is_replaced(loads, || {
        // Those that came meanwhile, and more.
        (0..25).for_each(|_| goes_on(&mut watch));
        drop(watch);
    });
    server.stops();
}

#[cfg(all(feature = "axum", feature = "tower"))]
#[test]
fn axum() {
    let mut server = Server::start("axum");
    let loads = vec![fresh::<Http1>(server.address), kept::<Http1>(server.address)];
    let mut socket = WebSocket::open(server.address);
    socket.echoes("1 ");
    server.is_replaced(loads, || {
        socket.echoes("1 ");
        socket.echoes("1 ");
        socket.close();
    });
    server.stops();
}

#[cfg(all(feature = "tokio", feature = "tower"))]
#[test]
fn hyper() {
    let mut server = Server::start("hyper");
    let address = server.address;
    let loads = vec![fresh::<Http1>(address), kept::<Http1>(address), fresh::<Http2>(address), kept::<Http2>(address)];
    let mut stream = Http2Echo::open(address);
    stream.echoes();
    server.is_replaced(loads, || {
        stream.echoes();
        stream.echoes();
        stream.close();
    });
    server.stops();
}

#[cfg(feature = "tokio")]
#[test]
fn actix() {
    let mut server = Server::start("actix");
    let loads = vec![fresh::<Http1>(server.address), kept::<Http1>(server.address)];
    let mut stream = ChunkedEcho::open(server.address);
    stream.echoes();
    server.is_replaced(loads, || {
        stream.echoes();
        stream.echoes();
        stream.close();
    });
    server.stops();
}

#[cfg(feature = "axum")]
#[test]
fn tonic() {
    let mut server = Server::start("tonic");
    let loads = vec![fresh::<Health>(server.address), kept::<Health>(server.address)];
    let mut watch = HealthWatch::open(server.address);
    assert_eq!(watch.status(), SERVING);
    server.is_replaced(loads, || {
        assert_eq!(watch.status(), NOT_SERVING);
        drop(watch);
    });
    server.stops();
}
