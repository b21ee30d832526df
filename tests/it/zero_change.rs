//! Servers that know nothing of the command: their source is touched by nothing but the edit.

use crate::harness::{Project, Session, free_address};
use crate::load::{Load, Mix, Tally};
use std::net::SocketAddr;

const SWAPS: u64 = 20;
const MIX: Mix = Mix { fresh: 3, keep_alive: 3, slow: 2, slow_ms: 300 };

/// Edits, waits, edits again, with the load on.
fn swaps_lose_nothing(project: &Project, address: SocketAddr, args: &[&str]) -> Tally {
    let mut session = Session::start(project, address, args);
    let first = session.wait_serving(1);
    assert_eq!(first["by"], "bind", "{first}");
    assert_eq!(first["addresses"][0], address.to_string());
    let load = Load::start(address, MIX);
    load.switched("1");
    for generation in 2..=SWAPS + 1 {
        project.set_version(&generation.to_string());
        session.wait_serving(generation);
        load.switched(&generation.to_string());
    }
    // The last generation has requests of every kind to answer before the end.
    load.wait_for(50);
    let tally = load.stop();
    let (_, log) = session.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    let cut: u64 =
        log.iter().filter(|event| event["event"] == "drained").filter_map(|event| event["cut"].as_u64()).sum();
    assert_eq!(cut, 0, "connections were cut");
    assert!(tally.by_version.contains_key(&(SWAPS + 1).to_string()), "{:?}", tally.by_version);
    tally
}

#[test]
fn a_blocking_server_on_std_is_swapped_twenty_times_under_load() {
    let project = Project::from_template("zero-std", "plain");
    let tally = swaps_lose_nothing(&project, free_address(), &[]);
    println!("{tally:?}");
}
