//! Servers that know nothing of the command: their source is touched by nothing but the edit.

#[cfg(feature = "frameworks")]
mod frameworks;
mod unfiltered;

use crate::harness::{Project, Session, free_address, now};
use crate::load::{Load, Mix};
use serde_json::Value;
use std::net::SocketAddr;

const SWAPS: u64 = 20;
const LAST: u64 = SWAPS + 1;
const MIX: Mix = Mix { fresh: 3, keep_alive: 3, slow: 2, slow_ms: 300 };

/// As most tokio servers ask for it.
const TOKIO: &str = "tokio = { version = \"1\", features = [\"full\"] }\n";

/// Edits, waits, edits again, with the load on every address.
fn swaps_lose_nothing(project: &Project, addresses: &[SocketAddr]) {
    let mut session = start(project, addresses, &[]);
    let began = now();
    let loads: Vec<Load> = addresses.iter().map(|address| Load::start(*address, MIX)).collect();
    loads.iter().for_each(|load| load.switched("1"));
    swap(project, &mut session, |version| loads.iter().for_each(|load| load.switched(version)));
    // The last generation has requests of every kind to answer before the end.
    loads.iter().for_each(|load| load.wait_for(50));
    for tally in loads.into_iter().map(Load::stop) {
        println!("{} in {:?}: {tally:?}", project.name, began.elapsed());
        assert_eq!(tally.lost(), 0, "{}\n{tally:#?}", session.stderr());
        assert!(tally.by_version.contains_key(&LAST.to_string()), "{:?}", tally.by_version);
    }
    end(session);
}

/// A session whose program is found to listen on the addresses; it is told the first in `ADDR`, the second in `ADMIN_ADDR`.
fn start(project: &Project, addresses: &[SocketAddr], args: &[&str]) -> Session {
    let mut session = Session::start_with(project, addresses[0], args, |command| {
        command.envs(addresses.get(1).map(|address| ("ADMIN_ADDR", address.to_string())));
    });
    let first = session.wait_serving(1);
    assert_eq!(first["by"], "bind", "{first}");
    let mut served: Vec<&str> = first["addresses"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut expected: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    served.sort_unstable();
    expected.sort_unstable();
    assert_eq!(served, expected);
    session
}

/// Twenty new versions, one after the other; `switched` is told each when it serves.
fn swap(project: &Project, session: &mut Session, switched: impl Fn(&str)) {
    for generation in 2..=LAST {
        project.set_version(&generation.to_string());
        let serving = session.wait_serving(generation);
        assert_eq!(serving["by"], "bind", "{serving}");
        switched(&generation.to_string());
    }
}

/// Ends the session, in which no connection was cut.
fn end(session: Session) {
    let (_, log) = session.stop();
    let drained = || log.iter().filter(|event| event["event"] == "drained");
    assert!(drained().count() > 0);
    let cut: u64 = drained().filter_map(|event| event["cut"].as_u64()).sum();
    assert_eq!(cut, 0, "connections were cut");
}

#[test]
fn a_blocking_server_on_std_is_swapped_twenty_times_under_load() {
    let project = Project::from_template("zero-std", "plain");
    swaps_lose_nothing(&project, &[free_address()]);
}

#[test]
fn a_tokio_server_is_swapped_twenty_times_under_load() {
    let project = Project::new("zero-tokio", TOKIO, include_str!("../../servers/tokio.rs"));
    swaps_lose_nothing(&project, &[free_address()]);
}
