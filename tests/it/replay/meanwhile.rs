//! Files that are written while they are compiled: what was there for a moment only is not served for longer, and not taken for what
//! is there.

use super::held::{HELD, MAIN, save, with_macro};
use super::{add_crate, assert_replayed, built_by, ready, word};
use crate::harness::Project;
use crate::harness::freeze;
use crate::harness::plain::{Plain, plain, project};
use nix::sys::signal::Signal;
use std::fs;

const TEXT: &str = "texts/word.txt";
const HELD_TWICE: [&str; 2] = [
    "fn at_start() {} waits::here!(); waits::at_the_end!();",
    "fn word() -> String { include_str!(\"../texts/word.txt\").into() }",
];

/// Brings a second version to the moment when its compiler has read what was in a file for that moment only, and ends.
fn with_a_text_for_a_moment(plain: &mut Plain, lines: &[&str], moment: &str) {
    save(plain, "2", lines);
    let held = plain.gate.arrival();
    // The session sees nothing of it: the file is as it was when it looks again.
    freeze(plain.session.pid());
    let [text, away] = [TEXT, "target/away"].map(|path| plain.project.path(path));
    fs::rename(&text, &away).unwrap();
    plain.project.write(TEXT, moment);
    held.let_go();
    let held = plain.gate.arrival();
    // With its old date, at which cargo looks.
    fs::rename(away, text).unwrap();
    plain.session.signal(Signal::SIGCONT);
    plain.mark();
    held.let_go();
}

fn with_a_text(name: &str, metadata: &str) -> Project {
    let project = with_macro(name, metadata);
    project.write(TEXT, "one");
    project.write(MAIN, &plain("1", &HELD_TWICE[1..]));
    project
}

#[test]
fn a_text_that_was_there_only_while_it_was_compiled_is_not_served() {
    let mut plain = ready(with_a_text("replay-meanwhile", ""));
    with_a_text_for_a_moment(&mut plain, &HELD_TWICE, "two");
    plain.gate.arrival().let_go();
    plain.gate.arrival().let_go();
    assert_eq!((plain.next().as_str(), word(&plain).as_str()), ("2", "one"));
    assert_replayed(&mut plain);
    assert_eq!(plain.causes()[1..], ["src/main.rs changed"]);
}

#[test]
fn a_text_that_was_there_only_while_cargo_built_does_not_stay() {
    let mut plain = Plain::start(with_a_text("meanwhile-cargo", "replay = false"));
    with_a_text_for_a_moment(&mut plain, &HELD_TWICE, "two");
    assert_eq!((plain.next().as_str(), word(&plain).as_str()), ("2", "two"));
    plain.gate.arrival().let_go();
    plain.gate.arrival().let_go();
    assert_eq!((plain.next().as_str(), word(&plain).as_str()), ("2", "one"));
    assert_eq!(plain.causes()[1..], ["src/main.rs changed", "texts/word.txt was written while it was compiled"]);
}

#[test]
fn an_error_that_was_there_only_while_it_was_compiled_does_not_stay() {
    for (metadata, is_told) in [("", false), ("replay = false", true)] {
        let project = with_a_text("meanwhile-error", metadata);
        project.write(TEXT, "\"one\".into()");
        let lines = [HELD_TWICE[0], "fn word() -> String { include!(\"../texts/word.txt\") }"];
        project.write(MAIN, &plain("1", &lines[1..]));
        let mut plain = if metadata.is_empty() { ready(project) } else { Plain::start(project) };
        with_a_text_for_a_moment(&mut plain, &lines, "nowhere");
        if is_told {
            plain.wait_for("build-failed");
        }
        plain.gate.arrival().let_go();
        plain.gate.arrival().let_go();
        assert_eq!((plain.next().as_str(), word(&plain).as_str()), ("2", "one"));
        assert_eq!(plain.session.count("build-failed"), usize::from(is_told));
    }
}

/// A replay of it would never come to an end, and cargo needs to be asked again only once.
#[test]
fn a_source_that_a_macro_writes_is_left_to_cargo() {
    let project = project("replay-writes", "");
    let text = "#[proc_macro]\npub fn made(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \
                std::fs::copy(\"texts/word.txt\", \"target/new\").unwrap(); std::fs::rename(\"target/new\", \"texts/word.txt\").unwrap();\n    \
                proc_macro::TokenStream::new()\n}\n";
    add_crate(&project, "writes", "[lib]\nproc-macro = true", text);
    project.write(TEXT, "one");
    let lines = ["fn at_start() {} writes::made!();", HELD_TWICE[1]];
    project.write(MAIN, &plain("1", &lines));
    let mut plain = ready(project);
    for version in ["2", "3"] {
        save(&plain, version, &lines);
        assert_eq!((plain.next().as_str(), word(&plain).as_str()), (version, "one"));
        let (by, why) = built_by(&mut plain);
        assert_eq!((by.as_str(), why.as_str()), ("cargo", "texts/word.txt is written while it is compiled"));
        plain.session.wait_replay_ready();
    }
    let expected = ["first build", "texts/word.txt was written while it was compiled"];
    assert_eq!(plain.causes(), [expected, ["src/main.rs changed"; 2]].concat());
}

/// What was looked at before is not what was compiled.
#[test]
fn a_text_that_was_there_only_before_it_was_compiled_is_not_taken_for_compiled() {
    let project = with_macro("replay-before", "");
    let lines = [HELD, "fn word() -> String { include_str!(\"../texts/word.txt\").into() }"];
    project.write(TEXT, "one");
    project.write(MAIN, &self::plain("1", &lines[1..]));
    let mut plain = ready(project);
    // By another name of the same file, in a folder that nobody watches, so that it is seen when it is looked for only.
    let unseen = "target/word.txt";
    fs::hard_link(plain.project.path(TEXT), plain.project.path(unseen)).unwrap();
    plain.project.write(unseen, "two");
    save(&plain, "2", &lines);
    let held = plain.gate.arrival();
    plain.project.write(unseen, "one");
    held.let_go();
    // Once more, as nobody knows which of the two it was.
    plain.gate.arrival().let_go();
    assert_eq!((plain.next().as_str(), word(&plain).as_str()), ("2", "one"));
    assert_replayed(&mut plain);
    plain.project.write_by_rename(TEXT, "two");
    plain.gate.arrival().let_go();
    plain.next();
    assert_eq!(word(&plain), "two");
    assert_replayed(&mut plain);
}
