//! The switch is one moment: once the new program has answered, no connection that is begun after that is the old one's.

use crate::harness::{Project, Session, free_address, version};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

const SWAPS: u64 = 12;
const CLIENTS: usize = 6;

/// Clients that never wait between two connections, and what they saw go back.
fn no_answer_is_older_than_one_before(name: &str, template: &str, args: &[&str]) {
    let project = Project::from_template(name, template);
    let address = free_address();
    let mut session = Session::start(&project, address, args);
    session.wait_serving(1);
    let (newest, over) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let back = Arc::new(Mutex::new(Vec::new()));
    let client = |address: SocketAddr| {
        let (newest, over, back) = (Arc::clone(&newest), Arc::clone(&over), Arc::clone(&back));
        thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                let before = newest.load(Ordering::SeqCst);
                let answered: u64 = version(address).parse().unwrap();
                newest.fetch_max(answered, Ordering::SeqCst);
                if answered < before {
                    back.lock().unwrap().push((before, answered));
                }
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(address)).collect();
    let mut switch = Vec::new();
    for generation in 2..=SWAPS + 1 {
        project.set_version(&generation.to_string());
        let serving = session.wait_serving(generation);
        switch.push(serving["timing"]["switch"].as_f64().unwrap_or(f64::NAN));
    }
    over.store(true, Ordering::Release);
    clients.into_iter().for_each(|client| client.join().unwrap());
    println!("{name}: switch took, in ms, {switch:?}");
    let back = back.lock().unwrap();
    assert!(back.is_empty(), "{} answers of an older program than one before, as {:?}", back.len(), back[0]);
}

#[test]
fn the_switch_of_a_std_server_with_the_library_is_one_moment() {
    no_answer_is_older_than_one_before("switch-std", "std", &[]);
}

#[test]
fn the_switch_of_an_axum_server_with_the_library_is_one_moment() {
    no_answer_is_older_than_one_before("switch-axum", "axum", &[]);
}

#[test]
fn the_switch_on_probation_is_one_moment() {
    no_answer_is_older_than_one_before("switch-probation", "std", &["--probation", "1h"]);
}

#[test]
fn the_switch_at_a_gate_is_one_moment() {
    no_answer_is_older_than_one_before("switch-plain", "plain", &[]);
}
