//! What the compiler says, with replay and without.

use super::{add_crate, is};
use crate::harness::Project;
use crate::harness::plain::{Plain, plain, project};
use std::collections::BTreeSet;

const MAIN: &str = "src/main.rs";
const WORD: &str = "fn word() -> String { format!(\"{}{}\", library::word(), leaf::NUMBER) }";
const LIBRARY: &str = "
#[macro_export]
macro_rules! number { () => { let number: u32 = \"text\"; }; ($ignored:tt) => {}; }
fn unused_in_library() {}
pub fn word() -> String { \"one\".into() }
";

/// A change of a file, and whether a program comes of it.
struct Edit {
    path: &'static str,
    text: String,
    compiles: bool,
}

fn edit(path: &'static str, text: String, compiles: bool) -> Edit {
    Edit { path, text, compiles }
}

fn workspace(name: &str) -> Project {
    let project = project(name, "");
    add_crate(&project, "library", "", LIBRARY);
    add_crate(&project, "leaf", "", "fn unused_in_leaf() {}\npub const NUMBER: u32 = 1;\n");
    project.write(MAIN, &program("1", ""));
    project
}

fn program(version: &str, more: &str) -> String {
    plain(version, &[WORD]) + "fn unused_in_program() {}\n" + more
}

/// What was said of an edit: the compiler's messages, without their colours and as objects, and the number of errors where there were some.
type Said = (BTreeSet<String>, Option<u64>);

/// What a session says of each of those edits.
fn said(project: Project, args: &[&str], edits: &[Edit]) -> Vec<Said> {
    let mut plain = Plain::begin(project, args);
    let replays = !args.contains(&"--no-replay");
    plain.next();
    if replays {
        plain.session.wait_replay_ready();
    }
    let mut all = vec![so_far(&plain, 0, None)];
    for edit in edits {
        let begin = plain.session.log.len();
        plain.project.write_by_rename(edit.path, &edit.text);
        let errors = if edit.compiles {
            plain.next();
            None
        } else {
            plain.wait_for("build-failed")["errors"].as_u64()
        };
        // Only cargo counts the crates it has finished.
        let by_cargo = plain.session.log[begin..].iter().any(|event| is(event, "progress"));
        assert_eq!(by_cargo, !replays, "{:?}", plain.session.log[begin..].to_vec());
        all.push(so_far(&plain, begin, errors));
    }
    all
}

fn so_far(plain: &Plain, begin: usize, errors: Option<u64>) -> Said {
    let messages = plain.session.log[begin..].iter().filter(|event| is(event, "diagnostic"));
    let told = messages.flat_map(|event| {
        let mut message = event["message"].clone();
        if let Some(message) = message.as_object_mut() {
            // The same once more, in colours.
            message.remove("rendered");
        }
        [without_colors(event["rendered"].as_str().unwrap()), message.to_string()]
    });
    (told.collect(), errors)
}

fn without_colors(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
}

/// With replay and without, on projects of one name: paths in messages are relative.
fn assert_same(name: &str, edits: &[Edit]) -> Vec<Said> {
    let by_replay = said(workspace(name), &[], edits);
    let by_cargo = said(workspace(name), &["--no-replay"], edits);
    for (number, (replay, cargo)) in by_replay.iter().zip(&by_cargo).enumerate() {
        assert_eq!(replay, cargo, "after {number} edits");
    }
    by_replay
}

fn has(said: &Said, word: &str) -> bool {
    said.0.iter().any(|message| message.contains(word))
}

/// The place and the code of each message, as programs read them.
fn structure(plain: &Plain, begin: usize) -> BTreeSet<String> {
    let messages = plain.session.log[begin..].iter().filter(|event| is(event, "diagnostic"));
    let structure = messages.map(|event| {
        let (message, span) = (&event["message"], &event["message"]["spans"][0]);
        let place = [&span["file_name"], &span["line_start"], &span["column_start"]];
        format!("{} {} {} {place:?}", message["level"], message["code"]["code"], message["message"])
    });
    structure.collect()
}

#[test]
fn messages_keep_the_structure_that_the_compiler_gave_them() {
    let project = project("replay-structure", "");
    let place = |text: &str, word: &str| text.lines().position(|line| line.contains(word)).unwrap() + 1;
    let warned = plain("1", &[]) + "fn unused_here() {}\n";
    project.write(MAIN, &warned);
    let mut plain_session = Plain::begin(project, &[]);
    plain_session.next();
    plain_session.session.wait_replay_ready();
    let has = |found: &BTreeSet<String>, level: &str, code: &str, line: usize| {
        let is_it = |told: &String| {
            told.starts_with(&format!("{level:?} {code:?}"))
                && told.contains(MAIN)
                && told.contains(&format!("Number({line})"))
        };
        assert!(found.iter().any(is_it), "{found:?}");
    };
    let by_cargo = structure(&plain_session, 0);
    has(&by_cargo, "warning", "dead_code", place(&warned, "unused_here"));
    let begin = plain_session.session.log.len();
    let broken = warned.clone() + "fn broken() -> u32 { \"text\" }\n";
    plain_session.project.write_by_rename(MAIN, &broken);
    plain_session.wait_for("build-failed");
    let by_replay = structure(&plain_session, begin);
    has(&by_replay, "error", "E0308", place(&broken, "fn broken"));
    assert!(!plain_session.session.log[begin..].iter().any(|event| is(event, "progress")), "by replay");
}

#[test]
fn warnings_are_those_that_cargo_gives() {
    let library = LIBRARY.replace("one", "two");
    let said = assert_same(
        "replay-warnings",
        &[
            edit(MAIN, program("2", ""), true),
            edit("library/src/lib.rs", library.clone(), true),
            edit("leaf/src/lib.rs", "pub const NUMBER: u32 = 2;\n".to_owned(), true),
            edit(MAIN, program("3", "").replace("fn unused_in_program() {}", ""), true),
            edit(
                "library/src/lib.rs",
                library.replace("two", "three").replace("fn unused", "#[allow(dead_code)] fn unused"),
                true,
            ),
        ],
    );
    let of = |word: &str| said.iter().map(|said| has(said, word)).collect::<Vec<_>>();
    assert_eq!(of("unused_in_leaf"), [true, true, true, false, false, false]);
    assert_eq!(of("unused_in_program"), [true, true, true, true, false, false]);
    assert_eq!(of("unused_in_library"), [true, true, true, true, true, false]);
}

#[test]
fn errors_are_those_that_cargo_gives() {
    let broken = [
        "fn broken() -> u32 { \"text\" }\n",
        "fn broken() -> u32 { nowhere }\nfn never() { missing() }\n",
        "fn broken( {\n",
        "use library::nothing;\n",
        "fn broken() { let mut a = vec![1]; let b = &a; a.push(2); drop(b); }\n",
        "compile_error!(\"by hand\");\n",
        "fn broken() { library::number!(); }\n",
        "mod absent;\n",
        "const WORD: &str = include_str!(\"absent.txt\");\n",
        "#[deny(unused_variables)] fn denied() { let unused = 1; }\n",
    ];
    let mut edits: Vec<Edit> = broken.iter().map(|broken| edit(MAIN, program("2", broken), false)).collect();
    // A crate that others need: those are not compiled.
    edits.push(edit(MAIN, program("2", ""), true));
    edits.push(edit("library/src/lib.rs", LIBRARY.to_owned() + "fn broken() -> u32 { \"text\" }\n", false));
    edits.push(edit("library/src/lib.rs", LIBRARY.replace("one", "two"), true));
    let said = assert_same("replay-errors", &edits);
    for (said, edit) in said.iter().skip(1).zip(&edits) {
        assert_eq!(said.1.is_some_and(|errors| errors > 0), !edit.compiles, "{said:?}");
        assert!(has(said, "unused_in_leaf"), "a warning of a crate that did compile: {said:?}");
    }
}
