//! What replay and cargo compile in turn, and what either must know of the other's.

use super::{add_crate, assert_replayed, built_by, ready, word};
use crate::harness::Project;
use crate::harness::plain::{plain, project};
use std::fs::{self, File};
use std::time::{Duration, UNIX_EPOCH};

const MAIN: &str = "src/main.rs";

fn library(word: &str) -> String {
    format!("pub fn word() -> String {{ \"{word}\".into() }}\n")
}

fn maker(number: u32) -> String {
    format!(
        "#[proc_macro]\npub fn number(_: proc_macro::TokenStream) -> proc_macro::TokenStream {{ \"{number}\".parse().unwrap() }}\n"
    )
}

/// As a file is that comes out of an archive.
fn write_dated_back(project: &Project, path: &str, text: &str) {
    project.write("new.tmp", text);
    let file = File::options().append(true).open(project.path("new.tmp")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    fs::rename(project.path("new.tmp"), project.path(path)).unwrap();
}

/// Cargo compares times, and has not seen what was replayed since its last build.
#[test]
fn what_is_dated_back_is_compiled_by_whoever_comes_next() {
    let project = project("replay-dates", "");
    add_crate(&project, "library", "", &library("one"));
    add_crate(&project, "maker", "[lib]\nproc-macro = true", &maker(1));
    project
        .write(MAIN, &plain("1", &["fn word() -> String { format!(\"{} {}\", library::word(), maker::number!()) }"]));
    let mut plain = ready(project);
    write_dated_back(&plain.project, "library/src/lib.rs", &library("two"));
    plain.next();
    assert_replayed(&mut plain);
    assert_eq!(word(&plain), "two 1");
    write_dated_back(&plain.project, "maker/src/lib.rs", &maker(2));
    plain.next();
    assert_eq!(built_by(&mut plain).0, "cargo");
    assert_eq!(word(&plain), "two 2");
    plain.session.wait_replay_ready();
    write_dated_back(&plain.project, "library/src/lib.rs", &library("three"));
    plain.next();
    assert_replayed(&mut plain);
    assert_eq!(word(&plain), "three 2");
}

/// Cargo writes `texts/word.txt` for it, rustc `src/../texts/word.txt`.
#[test]
fn a_file_that_is_included_from_another_folder_is_replayed() {
    let project = project("replay-detour", "");
    project.write("texts/word.txt", "one");
    project.write(MAIN, &plain("1", &["fn word() -> String { include_str!(\"../texts/word.txt\").into() }"]));
    let mut plain = ready(project);
    for word in ["two", "three"] {
        plain.project.write("texts/word.txt", word);
        plain.next();
        assert_replayed(&mut plain);
        assert_eq!(super::word(&plain), word);
    }
    assert_eq!(plain.causes().last(), Some(&"texts/word.txt changed"));
}
