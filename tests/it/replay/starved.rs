//! The machine has no descriptor left for a while: that says nothing of the project, and is over when it is over.
//! Never lives here: hand-overs at such a moment (`gate::descriptors`).

use super::held::{MAIN, save, temporary, with_macro};
use super::{add_crate, assert_replayed, built_by, is, ready};
use crate::harness::limits::{STANDARD, limit};
use crate::harness::plain::{Plain, plain, project};
use crate::harness::wait_until_reaped;
use crate::harness::{processes, threads, until, version};
use std::fs;

fn notes(plain: &Plain) -> Vec<&str> {
    let notes = plain.session.log.iter().filter(|event| is(event, "note"));
    notes.map(|event| event["text"].as_str().unwrap()).filter(|text| !text.starts_with("mark changed")).collect()
}

/// The thread of the loop: the first of those that have its name, which all inherit that it starts.
fn loop_of(command: u32) -> u32 {
    let named = threads(command).into_iter().filter(|(_, name)| name == "session");
    named.map(|(thread, _)| thread).min().unwrap()
}

/// Nobody is told when a thread goes to sleep (proc_pid_stat(5)).
fn wait_until_it_sleeps(thread: u32) {
    let stat = || fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
    until("the thread sleeps", || stat().rsplit_once(") ").unwrap().1.starts_with('S'));
}

/// The second compiler cannot be started, and what the first has read cannot be looked at.
#[test]
fn a_preparation_for_which_there_was_no_descriptor_is_made_again_after_the_next_build() {
    let project = with_macro("replay-starved", "");
    let library = "waits::here!();\npub fn word() -> String { \"one\".into() }\n";
    add_crate(&project, "library", "[dependencies]\nwaits.path = \"../waits\"", library);
    let lines = ["fn word() -> String { library::word() }"];
    project.write(MAIN, &plain("1", &lines));
    let mut plain = Plain::begin(project, &["--timings"]);
    // Cargo's compiler, and then the one by which replay is prepared.
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "1");
    let preparing = plain.gate.arrival();
    let compilers = processes(&temporary(&plain.project));
    assert_eq!(compilers.len(), 1);
    let command = plain.session.pid();
    let before = limit(command, STANDARD);
    preparing.let_go();
    // It is collected by the loop, which then looks at what it has read.
    wait_until_reaped(compilers[0]);
    wait_until_it_sleeps(loop_of(command));
    limit(command, before);
    // Nothing is tried again before there is an occasion.
    plain.mark();
    assert_eq!(notes(&plain), [""; 0], "nothing is told for good");
    assert_eq!(plain.session.count("replay-ready"), 0);
    save(&plain, "2", &lines);
    assert_eq!(plain.next(), "2");
    let (by, why) = built_by(&mut plain);
    assert_eq!(by, "cargo");
    assert!(why.contains("Too many open files"), "{why}");
    plain.gate.arrival().let_go();
    plain.wait_for("replay-ready");
    save(&plain, "3", &lines);
    assert_eq!(plain.next(), "3");
    assert_replayed(&mut plain);
    assert_eq!(notes(&plain), [""; 0]);
}

#[test]
fn a_save_for_which_there_was_no_descriptor_fails_and_the_next_is_replayed() {
    let mut plain = ready(project("replay-starved-save", ""));
    let command = plain.session.pid();
    let before = limit(command, STANDARD);
    save(&plain, "2", &[]);
    let told = plain.wait_for("diagnostic")["rendered"].as_str().unwrap().to_owned();
    assert!(told.contains("Too many open files") && told.contains("ulimit -Hn"), "{told}");
    plain.wait_for("build-failed");
    limit(command, before);
    assert_eq!(version(plain.address), "1", "what serves goes on");
    save(&plain, "3", &[]);
    assert_eq!(plain.next(), "3");
    // Cargo was not even started, so what is known of its last build is still true.
    assert_replayed(&mut plain);
    assert_eq!(notes(&plain), [""; 0]);
}
