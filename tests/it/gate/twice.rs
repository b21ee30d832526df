//! Programs that cannot run twice: what is said of them, and when they are let be.

use super::{Running, start};
use crate::harness::is_alive;

/// At most one process of it can be there.
const LOCKS: [&str; 3] = [
    "fn before_bind() { let lock = std::fs::File::create(\"lock\").unwrap(); lock.try_lock().unwrap(); std::mem::forget(lock) }",
    "fn before_bind() { let old = std::fs::read_to_string(\"pid\").unwrap_or_default(); assert!(old.is_empty() || !std::path::Path::new(&format!(\"/proc/{old}\")).exists()); std::fs::write(\"pid\", process::id().to_string()).unwrap() }",
    "fn before_bind() { assert!(TcpStream::connect(address()).is_err(), \"it runs already\") }",
];

fn advice(it: &Running) -> usize {
    it.notes().iter().filter(|note| note.contains("--no-overlap") && note.contains("overlap = false")).count()
}

#[test]
fn a_lock_that_the_old_one_holds_brings_the_advice_that_helps_once() {
    for (nth, lock) in LOCKS.into_iter().enumerate() {
        let mut it = start(&format!("twice-lock-{nth}"), &[], &[lock]);
        for version in ["2", "3", "4"] {
            it.save(version, &[lock]);
            let failed = it.session.wait_for("start-failed");
            assert_eq!(failed["serving"], 1);
        }
        // What is said of the last one comes before this.
        it.save("5", &[]);
        it.session.wait_serving(5);
        assert_eq!(advice(&it), 1, "{lock}: {:?}", it.notes());
    }
}

#[test]
fn the_same_program_again_brings_the_advice_at_once() {
    let mut it = start("twice-again", &[], &[LOCKS[0]]);
    it.session.signal(nix::sys::signal::Signal::SIGUSR2);
    it.session.wait_for("start-failed");
    it.session
        .see("advice", |event| event["event"] == "note" && event["text"].as_str().unwrap().contains("--no-overlap"));
}

#[test]
fn one_that_looks_whether_its_address_answers_is_let_be_after_five_starts_and_the_next_save_serves() {
    let mut it = start("twice-look", &["--no-overlap"], &[]);
    it.save("2", &[LOCKS[2]]);
    // The one before comes back, as it has no such look.
    it.session.wait_for("start-failed");
    it.session.wait_serving(3);
    it.save("3", &[LOCKS[2]]);
    it.session.wait_for("start-failed");
    it.session.wait_serving(5);
    // And where all have it, none can start.
    let mut it = start_looking();
    it.save("2", &[LOCKS[2]]);
    it.session.wait("the end of it", |event| {
        let text = event["text"].as_str().unwrap_or_default();
        event["event"] == "note" && text.contains("nothing is started before the next save") && text.contains("handoff")
    });
    assert_eq!(it.session.count("start-failed"), 5);
    let last = it.session.count("starting") as u64;
    it.save("3", &[]);
    it.session.wait_serving(last + 1);
    assert_eq!(it.answers().0, "3");
}

/// The first one of a session finds nobody at its address.
fn start_looking() -> Running {
    let it = start("twice-looks", &["--no-overlap"], &[LOCKS[2]]);
    assert!(is_alive(it.pid));
    it
}

#[test]
fn one_that_dies_again_and_again_after_it_was_ready_is_let_be_too() {
    let dies = "fn accept(listener: &TcpListener) -> TcpStream { drop(listener.accept()); process::exit(7) }";
    let mut it = start("twice-dies", &[], &[dies]);
    let mut last = 1;
    loop {
        // Each takes one connection with it, which is why it died.
        drop(crate::harness::get(it.address, "/"));
        let died = it.session.wait_for("died");
        if died["given-up"] == true {
            break;
        }
        last += 1;
        it.session.wait_serving(last);
    }
    assert_eq!(last, 5);
    it.save("2", &[]);
    it.session.wait_serving(last + 1);
    assert_eq!(it.answers().0, "2");
}
