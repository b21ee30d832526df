//! The machine has no descriptor left for a while: that says nothing of the project, and is over when it is over.
//! Never lives here: hand-overs at such a moment (`gate::descriptors`).

use super::held::save;
use super::{assert_replayed, is, ready};
use crate::harness::limits::{STANDARD, limit};
use crate::harness::plain::{Plain, project};
use crate::harness::version;

fn notes(plain: &Plain) -> Vec<&str> {
    let notes = plain.session.log.iter().filter(|event| is(event, "note"));
    notes.map(|event| event["text"].as_str().unwrap()).filter(|text| !text.starts_with("mark changed")).collect()
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
