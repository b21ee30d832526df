//! What the gate costs a program: the same server inside and outside, in turn, in one run.
//!
//!     cargo bench --bench gate

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../tests/it/harness/mod.rs"]
#[allow(unused_imports)] // What the tests use of it.
mod harness;

use harness::{Project, Session, free_address};
use std::io::Read;
use std::net::TcpListener;

const ROUNDS: usize = 5;
const ROWS: [&str; 3] = ["accept, a connection waits", "accept, none waits (EAGAIN)", "any other call (getppid)"];

fn main() {
    let project = Project::new("bench-gate", "", include_str!("server.rs"));
    let rounds: Vec<[[f64; ROWS.len()]; 2]> =
        (0..ROUNDS).map(|_| ["none", "bind"].map(|handoff| measure(&project, handoff))).collect();
    println!("median of {ROUNDS} rounds, outside and inside in turn (the command and the server in release builds)\n");
    println!("| | outside | inside the gate | more |\n|---|---|---|---|");
    for (row, name) in ROWS.into_iter().enumerate() {
        let [outside, inside] = [0, 1].map(|place| median(rounds.iter().map(|round| round[place][row]).collect()));
        println!("| {name} | {} | {} | {} |", span(outside), span(inside), span(inside - outside));
    }
}

fn measure(project: &Project, handoff: &str) -> [f64; ROWS.len()] {
    // It tells at a door of its own: a connection to its listener would be one of those that it measures.
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let tell = door.local_addr().unwrap().to_string();
    let args = ["--release", "--handoff", handoff];
    let session = Session::start_with(project, free_address(), &args, |command| {
        command.env("TELL", tell);
    });
    let mut told = String::new();
    door.accept().unwrap().0.read_to_string(&mut told).unwrap();
    session.stop();
    let figures: Vec<f64> = told.split(' ').map(|figure| figure.parse().unwrap()).collect();
    figures.try_into().unwrap()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[ROUNDS / 2]
}

fn span(nanos: f64) -> String {
    if nanos.abs() < 1000.0 { format!("{nanos:.0} ns") } else { format!("{:.1} µs", nanos / 1000.0) }
}
