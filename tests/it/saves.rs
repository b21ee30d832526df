//! What is built when: every way in which files come to be changed, and those that are no change.

use crate::harness::plain::{GATED, Plain, arguments, plain, project};
use crate::harness::pty::Terminal;
use crate::harness::{Project, command, free_address, version};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::symlink;

const MAIN: &str = "src/main.rs";

/// Two errors, neither of which keeps rustc from finding the other.
const BROKEN: &str = "fn main() { let x: u8 = nowhere; let y: u8 = never; }\n";

fn serving(name: &str, metadata: &str) -> Plain {
    Plain::start(project(name, metadata))
}

fn save(plain: &Plain, version: &str, lines: &[&str]) {
    plain.project.write_by_rename(MAIN, &self::plain(version, lines));
}

/// Ends the session; what all its builds were caused by.
fn causes(mut plain: Plain) -> Vec<String> {
    plain.fence();
    plain.session.signal(nix::sys::signal::Signal::SIGTERM);
    let (_, log) = plain.session.finish();
    let builds = log.into_iter().filter(|event| event["event"] == "building");
    builds.map(|event| event["cause"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_save_by_rename_is_one_build_and_the_next_one_too() {
    let mut plain = serving("saves-rename", "");
    for version in ["2", "3", "4"] {
        save(&plain, version, &[]);
        assert_eq!(plain.next(), version);
    }
    let saved = format!("{MAIN} changed");
    assert_eq!(causes(plain), ["first build", &saved, &saved, &saved]);
}

#[test]
fn a_save_in_place_is_one_build_and_the_next_one_too() {
    let mut plain = serving("saves-place", "");
    for version in ["2", "3", "4"] {
        plain.project.set_version(version);
        assert_eq!(plain.next(), version);
    }
    let saved = format!("{MAIN} changed");
    assert_eq!(causes(plain), ["first build", &saved, &saved, &saved]);
}

/// Emptied, and filled later: should the emptied file be built at all, it cannot be built to its end before it is filled.
#[test]
fn a_file_that_is_filled_later_is_never_said_to_be_broken() {
    let project = project("saves-partial", "");
    project.write("build.rs", GATED);
    let mut plain = Plain::begin(project, &[]);
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "1");
    drop(File::create(plain.project.path(MAIN)).unwrap());
    plain.mark();
    plain.project.write(MAIN, &self::plain("2", &[]));
    plain.mark();
    let dropped = plain.session.count("superseded");
    for _ in 0..dropped {
        plain.gate.arrival().end();
    }
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "2");
    assert_eq!(plain.session.count("build-failed"), 0);
    assert_eq!(plain.session.count("building"), 2 + dropped);
}

#[test]
fn a_file_that_stays_empty_is_broken() {
    let mut plain = serving("saves-empty", "");
    drop(File::create(plain.project.path(MAIN)).unwrap());
    let failed = plain.wait_for("build-failed");
    assert_eq!((&failed["errors"], &failed["serving"]), (&1.into(), &1.into()));
    assert_eq!(version(plain.address), "1");
}

#[test]
fn a_save_during_a_build_ends_it_with_all_its_processes() {
    let project = project("saves-cancel", "");
    project.write("build.rs", GATED);
    let mut plain = Plain::begin(project, &[]);
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "1");
    save(&plain, "2", &[]);
    let old = plain.gate.arrival();
    save(&plain, "3", &[]);
    plain.wait_for("superseded");
    old.end();
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "3");
    assert_eq!(plain.causes(), ["first build", "src/main.rs changed", "src/main.rs changed"]);
}

/// Cargo and its children take no notice of the request to end.
#[test]
fn a_build_that_does_not_want_to_end_is_killed() {
    let project = project("saves-stubborn", "");
    let stubborn = GATED.replace(
        "fn main() {",
        "unsafe extern \"C\" { fn signal(number: i32, handler: usize) -> usize; }\nfn main() { unsafe { signal(2, 1); }",
    );
    project.write("build.rs", &stubborn);
    let mut plain = Plain::begin(project, &[]);
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "1");
    save(&plain, "2", &[]);
    let old = plain.gate.arrival();
    save(&plain, "3", &[]);
    old.end();
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "3");
}

#[test]
fn a_save_of_the_same_content_builds_nothing() {
    let mut plain = serving("saves-same", "");
    let text = plain.project.read(MAIN);
    plain.project.write(MAIN, &text);
    plain.project.write_by_rename(MAIN, &text);
    File::options()
        .append(true)
        .open(plain.project.path(MAIN))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    plain.mark();
    plain.fence();
    assert_eq!(plain.causes(), ["first build"]);
    save(&plain, "2", &[]);
    assert_eq!(plain.next(), "2");
    assert_eq!(causes(plain), ["first build", "src/main.rs changed"]);
}

#[test]
fn a_new_module_may_come_before_or_after_it_is_named() {
    let mut plain = serving("saves-module", "");
    let word = |word: &str| format!("pub fn word() -> String {{ \"{word}\".into() }}\n");
    plain.project.write("src/early.rs", &word("early"));
    plain.fence();
    assert_eq!(plain.causes().len(), 1, "nothing names it yet");
    save(&plain, "2", &["fn word() -> String { early::word() }", "fn at_start() {} mod early;"]);
    assert_eq!(plain.next(), "2");

    // The build fails first, and is mended by a file that nothing has read yet.
    plain.project.write_by_rename(
        MAIN,
        &self::plain("3", &["fn word() -> String { late::word() }", "fn at_start() {} mod late;"]),
    );
    assert_eq!(plain.wait_for("build-failed")["errors"], 1);
    assert_eq!(version(plain.address), "2");
    plain.project.write("src/late.rs", &word("late"));
    assert_eq!(plain.next(), "3");

    // It counts from now on.
    plain.project.write("src/late.rs", &word("later"));
    assert_eq!(plain.next(), "3");
    assert_eq!(plain.causes().last(), Some(&"src/late.rs changed"));
}

#[test]
fn a_missing_folder_that_comes_mends_the_build() {
    let mut plain = serving("saves-folder", "");
    save(&plain, "2", &["fn at_start() { a::b::c(); } mod a { pub mod b; }"]);
    plain.wait_for("build-failed");
    plain.project.write("src/a/b.rs", "pub fn c() {}\n");
    assert_eq!(plain.next(), "2");
    plain.project.write("src/a/b.rs", "pub fn c() { std::hint::black_box(1); }\n");
    assert_eq!(plain.next(), "2");
}

/// Cargo compares times, and takes such a file for one that it has compiled already.
#[test]
fn a_file_that_comes_with_an_old_date_counts() {
    let mut plain = serving("saves-old-date", "");
    plain.project.write("new.tmp", &self::plain("2", &[]));
    let file = File::options().append(true).open(plain.project.path("new.tmp")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::rename(plain.project.path("new.tmp"), plain.project.path(MAIN)).unwrap();
    assert_eq!(plain.next(), "2");
}

#[test]
fn an_included_file_counts() {
    let project = project("saves-include", "");
    project.write("texts/word.txt", "one");
    let lines = ["fn word() -> String { include_str!(\"../texts/word.txt\").into() }"];
    project.write(MAIN, &self::plain("1", &lines));
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "one");
    plain.project.write("texts/word.txt", "two");
    plain.next();
    assert_eq!(word(&plain), "two");
    plain.project.write("texts/other.txt", "another");
    plain.fence();
    assert_eq!(plain.causes(), ["first build", "texts/word.txt changed"]);
}

fn word(plain: &Plain) -> String {
    let answer = crate::harness::get(plain.address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap().to_owned()
}

fn write_dependency(project: &Project, folder: &str, name: &str, word: &str) {
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    project.write(&format!("{folder}/Cargo.toml"), &manifest);
    project.write(&format!("{folder}/src/lib.rs"), &format!("pub fn word() -> String {{ \"{word}\".into() }}\n"));
}

#[test]
fn a_path_dependency_counts_and_so_does_one_that_comes_later() {
    let project = project("saves-dependency", "");
    write_dependency(&project, "first", "saves-dependency-first", "one");
    write_dependency(&project, "second", "saves-dependency-second", "two");
    project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\nsaves-dependency-first.path = \"first\"\n");
    project.write(MAIN, &self::plain("1", &["fn word() -> String { saves_dependency_first::word() }"]));
    let mut plain = Plain::start(project);
    assert_eq!(plain.session.log.iter().find(|event| event["event"] == "watching").unwrap()["path-dependencies"], 1);
    write_dependency(&plain.project, "first", "saves-dependency-first", "one and a half");
    plain.next();
    assert_eq!(word(&plain), "one and a half");
    // Not a dependency yet.
    write_dependency(&plain.project, "second", "saves-dependency-second", "two and a bit");
    plain.fence();
    assert_eq!(plain.causes().len(), 2);

    save(&plain, "2", &["fn word() -> String { saves_dependency_second::word() }"]);
    plain.wait_for("build-failed");
    let more = "[dependencies]\nsaves-dependency-second.path = \"second\"\n";
    plain.project.edit("Cargo.toml", "[dependencies]\n", more);
    assert_eq!(plain.next(), "2");
    assert_eq!(word(&plain), "two and a bit");
    // Cargo is asked for the packages beside the build: it may answer before or after the program serves.
    let is_watched = |event: &Value| event["event"] == "watching" && event["path-dependencies"] == 2;
    if !plain.session.log.iter().any(is_watched) {
        plain.session.wait("the new dependency", is_watched);
    }
    write_dependency(&plain.project, "second", "saves-dependency-second", "two and a half");
    plain.next();
    assert_eq!(word(&plain), "two and a half");
    assert_eq!(plain.causes().last(), Some(&"second/src/lib.rs changed"));
}

#[test]
fn a_new_feature_in_the_manifest_counts() {
    let project = project("saves-feature", "");
    project.edit("Cargo.toml", "[dependencies]\n", "[features]\nloud = []\n\n[dependencies]\n");
    let lines = ["fn word() -> String { if cfg!(feature = \"loud\") { \"loud\" } else { \"calm\" }.into() }"];
    project.write(MAIN, &self::plain("1", &lines));
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "calm");
    plain.project.edit("Cargo.toml", "loud = []\n", "loud = []\ndefault = [\"loud\"]\n");
    plain.next();
    assert_eq!(word(&plain), "loud");
    assert_eq!(causes(plain), ["first build", "Cargo.toml changed"], "cargo's own change of Cargo.lock is none");
}

/// After a build that failed any file may be what is missing, so this is when most files count.
#[test]
fn what_git_and_editors_leave_about_is_no_change() {
    let mut plain = serving("saves-litter", "");
    plain.project.write(".gitignore", "/target\n*.log\n/out/\n");
    save(&plain, "2", &["fn at_start() { no }"]);
    plain.wait_for("build-failed");
    let builds = plain.causes().len();
    let litter = [
        "target/x.rs",
        "target/debug/x.rs",
        "a.log",
        "src/b.log",
        "out/c.rs",
        "src/.main.rs.swp",
        "src/main.rs~",
        "src/4913",
        "src/#main.rs#",
        "src/.#main.rs",
        "src/x.tmp",
        ".git/index",
    ];
    for content in ["x", "y"] {
        litter.iter().for_each(|path| plain.project.write(path, content));
        plain.mark();
    }
    litter.iter().for_each(|path| fs::remove_file(plain.project.path(path)).unwrap());
    plain.fence();
    assert_eq!(plain.causes().len(), builds, "{:?}", plain.causes());
    plain.project.write("src/needed.rs", "x");
    plain.wait_for("build-failed");
    assert_eq!(plain.causes().last(), Some(&"src/needed.rs changed"));
}

#[test]
fn the_sources_may_go_and_come_back() {
    let mut plain = serving("saves-gone", "");
    fs::remove_dir_all(plain.project.path("src")).unwrap();
    let failed = plain.wait_for("build-failed");
    assert_eq!(failed["serving"], 1);
    assert_eq!(version(plain.address), "1");
    plain.project.write(MAIN, &self::plain("2", &[]));
    plain.session.wait("the program that came back", |event| event["event"] == "serving");
    plain.generation = 2;
    plain.session.wait("the end of the old one", |event| event["event"] == "drained");
    assert_eq!(version(plain.address), "2");
    // It is watched as before.
    save(&plain, "3", &[]);
    assert_eq!(plain.next(), "3");
    // And when another folder takes its place.
    fs::rename(plain.project.path("src"), plain.project.path("old")).unwrap();
    plain.project.write("new/main.rs", &self::plain("4", &[]));
    fs::rename(plain.project.path("new"), plain.project.path("src")).unwrap();
    plain.session.wait("the program in another folder", |event| event["event"] == "serving");
    plain.session.wait("the end of the old one", |event| event["event"] == "drained");
    assert_eq!(version(plain.address), "4");
}

#[test]
fn a_build_script_that_names_its_inputs_has_these_and_no_others() {
    let project = project("saves-script-exact", "");
    let script = "fn main() { println!(\"cargo::rerun-if-changed=word.txt\"); \
        println!(\"cargo::rustc-env=WORD={}\", std::fs::read_to_string(\"word.txt\").unwrap()); }\n";
    project.write("build.rs", script);
    project.write("word.txt", "one");
    project.write("other.txt", "one");
    project.write(MAIN, &self::plain("1", &["fn word() -> String { env!(\"WORD\").into() }"]));
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "one");
    plain.project.write("other.txt", "two");
    plain.fence();
    assert_eq!(plain.causes().len(), 1);
    plain.project.write("word.txt", "two");
    plain.next();
    assert_eq!(word(&plain), "two");
    plain.project.write_by_rename("build.rs", &script.replace("WORD={}", "WORD={}!"));
    plain.next();
    assert_eq!(word(&plain), "two!");
    assert_eq!(plain.causes(), ["first build", "word.txt changed", "build.rs changed"]);
}

#[test]
fn a_build_script_that_names_no_inputs_has_all_files() {
    let project = project("saves-script-all", "");
    let script =
        "fn main() { println!(\"cargo::rustc-env=WORD={}\", std::fs::read_to_string(\"word.txt\").unwrap()); }\n";
    project.write("build.rs", script);
    project.write("word.txt", "one");
    project.write(MAIN, &self::plain("1", &["fn word() -> String { env!(\"WORD\").into() }"]));
    let mut plain = Plain::start(project);
    plain.project.write("word.txt", "two");
    plain.next();
    assert_eq!(word(&plain), "two");
    plain.project.write("quite/new.txt", "x");
    assert_eq!(plain.wait_for("unchanged")["serving"], 2);
}

/// Each time with the same text, in one piece: a file that is empty for a moment has changed for whoever looks at that moment.
/// Whether a build has read another text is asked once.
#[test]
fn a_build_script_that_writes_a_source_is_not_run_for_ever() {
    let project = project("saves-script-writes", "");
    let script = "fn main() {
    let new = std::env::var(\"OUT_DIR\").unwrap() + \"/made.rs\";
    std::fs::write(&new, include_bytes!(\"src/made.rs\")).unwrap();
    std::fs::rename(new, \"src/made.rs\").unwrap();
}
";
    project.write("build.rs", script);
    project.write("src/made.rs", "pub const WORD: &str = \"made\";\n");
    let lines = ["fn at_start() {} mod made;", "fn word() -> String { made::WORD.into() }"];
    project.write(MAIN, &self::plain("1", &lines));
    let mut plain = Plain::start(project);
    plain.settle();
    for version in ["2", "3"] {
        save(&plain, version, &lines);
        assert_eq!((plain.next().as_str(), word(&plain).as_str()), (version, "made"));
        plain.settle();
    }
    let expected = ["first build", "src/made.rs was written while it was compiled"];
    assert_eq!(causes(plain), [expected, ["src/main.rs changed"; 2]].concat());
}

#[test]
fn a_save_of_the_same_content_during_a_build_has_cargo_look_again() {
    let project = project("saves-same-during", "");
    project.write("build.rs", GATED);
    project.write("text", "one");
    let lines = ["fn word() -> String { include_str!(\"../text\").into() }"];
    project.write(MAIN, &self::plain("1", &lines));
    let mut plain = Plain::begin(project, &[]);
    plain.gate.arrival().let_go();
    assert_eq!(plain.next(), "1");
    save(&plain, "2", &lines);
    let held = plain.gate.arrival();
    plain.project.write_by_rename("text", "one");
    plain.mark();
    held.let_go();
    // It was built of the sources as they are, which is all that cargo finds.
    assert_eq!(plain.next(), "2");
    plain.settle();
    // Whoever asks may be answered before the events are read.
    plain.session.see("the build that gave the same", |event| event["event"] == "unchanged");
    let expected = ["first build", "src/main.rs changed", "text was written while it was compiled"];
    assert_eq!(causes(plain), expected);
}

#[test]
fn what_the_user_adds_counts_and_what_is_ignored_does_not() {
    let project = project("saves-keys", "watch = [\"extra\", \"one.txt\"]\nignore = [\"extra/*.snap\"]");
    project.write("extra/a.txt", "1");
    project.write("extra/a.snap", "1");
    project.write("one.txt", "1");
    let mut plain = Plain::start(project);
    plain.project.write("extra/a.snap", "2");
    plain.project.write("extra/b.snap", "2");
    plain.project.write("two.txt", "2");
    plain.fence();
    assert_eq!(plain.causes().len(), 1);
    for path in ["extra/a.txt", "extra/deep/er/new.txt", "extra/deep/er/new2.txt", "one.txt"] {
        plain.project.write(path, "2");
        // The program may read it, so it is started anew, though its bytes are the same.
        assert_eq!(plain.next(), "1");
        plain.fence();
    }
    let causes = plain.causes();
    assert_eq!(causes[1], "extra/a.txt changed");
    assert_eq!(causes.last(), Some(&"one.txt changed"));
    assert!(causes.iter().all(|cause| !cause.contains("snap")), "{causes:?}");
}

#[test]
fn data_is_for_the_running_program_and_builds_nothing() {
    let metadata = "";
    let project = project("saves-data", metadata);
    let data = "data = { \"texts/**\" = \"signal:USR1\", \"silent/**\" = \"none\", ";
    project.edit("Cargo.toml", "data = { ", data);
    project.write("texts/a.txt", "1");
    project.write("silent/a.txt", "1");
    // A file that the program includes as well is data all the same.
    let counts = "static HITS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0); \
        extern \"C\" fn hit(_: i32) { HITS.fetch_add(1, std::sync::atomic::Ordering::SeqCst); } \
        unsafe extern \"C\" { fn signal(number: i32, handler: extern \"C\" fn(i32)) -> usize; }";
    let lines = [
        &format!("fn at_start() {{ unsafe {{ signal(10, hit); }} }} {counts}"),
        "fn word() -> String { HITS.load(std::sync::atomic::Ordering::SeqCst).to_string() }",
    ];
    project.write(MAIN, &self::plain("1", &lines));
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "0");
    for hits in ["1", "2"] {
        plain.project.write("texts/a.txt", &format!("changed {hits}"));
        plain.session.wait("a signal", |event| event["text"].as_str().is_some_and(|text| text.contains("SIGUSR1")));
        assert_eq!(word(&plain), hits);
    }
    plain.project.write("silent/a.txt", "2");
    plain.fence();
    assert_eq!(word(&plain), "2");
    assert_eq!(plain.causes(), ["first build"]);
    assert_eq!(plain.session.count("starting"), 1);
}

#[test]
fn a_source_behind_a_link_counts() {
    let project = project("saves-link", "");
    let outside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let real = outside.path().join("real.rs");
    let word = |word: &str| format!("pub fn word() -> String {{ \"{word}\".into() }}\n");
    fs::write(&real, word("one")).unwrap();
    symlink(&real, project.path("src/linked.rs")).unwrap();
    project.write(MAIN, &self::plain("1", &["fn word() -> String { linked::word() }", "fn at_start() {} mod linked;"]));
    let mut plain = Plain::start(project);
    assert_eq!(self::word(&plain), "one");
    fs::write(&real, word("two")).unwrap();
    plain.next();
    assert_eq!(self::word(&plain), "two");
    // By rename, as well.
    fs::write(outside.path().join("new"), word("three")).unwrap();
    fs::rename(outside.path().join("new"), &real).unwrap();
    plain.next();
    assert_eq!(self::word(&plain), "three");
    // And when the link shows elsewhere.
    fs::write(outside.path().join("other.rs"), word("four")).unwrap();
    fs::remove_file(plain.project.path("src/linked.rs")).unwrap();
    symlink(outside.path().join("other.rs"), plain.project.path("src/linked.rs")).unwrap();
    plain.session.wait("the other file", |event| event["event"] == "serving");
    plain.session.wait("the end of the old one", |event| event["event"] == "drained");
    assert_eq!(self::word(&plain), "four");
}

#[test]
fn of_two_quick_saves_the_last_is_served() {
    let mut plain = serving("saves-quick", "");
    for round in [2, 4, 6] {
        save(&plain, &round.to_string(), &[]);
        save(&plain, &(round + 1).to_string(), &[]);
        let last = (round + 1).to_string();
        // The first may have been served for a moment, too.
        let mut served = 0;
        loop {
            plain.session.wait("the end of an old one", |event| event["event"] == "drained");
            served += 1;
            if version(plain.address) == last {
                break;
            }
            assert!(served < 2, "the last is not served");
        }
    }
    assert_eq!(plain.session.count("build-failed"), 0);
}

#[test]
fn an_error_is_shown_as_the_compiler_shows_it_while_the_old_program_serves() {
    let mut plain = serving("saves-error", "");
    plain.project.write_by_rename(MAIN, BROKEN);
    let failed = plain.wait_for("build-failed");
    assert_eq!((&failed["errors"], &failed["serving"]), (&2.into(), &1.into()));
    assert_eq!(failed["cause"], "src/main.rs changed");
    let shown = plain.session.log.iter().filter(|event| event["event"] == "diagnostic");
    let shown: String = shown.map(|event| event["rendered"].as_str().unwrap()).collect();
    assert_eq!(shown.matches("error[E0425]").count(), 2, "{shown}");
    assert!(shown.contains("src/main.rs:1:25"), "{shown}");
    assert_eq!(version(plain.address), "1");
    save(&plain, "2", &[]);
    assert_eq!(plain.next(), "2");
}

/// A warning is shown with the program that it is about.
#[test]
fn warnings_are_shown_and_the_program_serves() {
    let mut plain = serving("saves-warning", "");
    save(&plain, "2", &["fn at_start() { let unused = 1; }"]);
    assert_eq!(plain.next(), "2");
    let warned = |event: &serde_json::Value| event["rendered"].as_str().is_some_and(|text| text.contains("unused"));
    assert!(plain.session.log.iter().any(warned));
}

/// Everything a terminal would obey, from a build script and from a macro, in a build that succeeds and in one that fails.
#[test]
fn hostile_output_of_a_build_does_not_reach_the_terminal() {
    let evil = r#"b"\xff\xfe\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]0;title\x07\x1bPq\x1b\\\x9b31mHARMLESS\x08\x0b\r\n""#;
    let project = project("saves-hostile", "");
    let script = format!(
        "use std::io::Write;\nfn main() {{\n    println!(\"cargo::rerun-if-changed=src/main.rs\");\n    \
         std::io::stdout().write_all(b\"cargo::warning=\").unwrap();\n    std::io::stdout().write_all({evil}).unwrap();\n    \
         std::io::stderr().write_all({evil}).unwrap();\n    \
         if std::fs::read_to_string(\"src/main.rs\").unwrap().contains(\"FAIL\") {{ std::process::exit(1); }}\n}}\n"
    );
    let warning = evil.replace(r"\xff\xfe", "").replace(r"\x9b31m", "");
    project.write("build.rs", &script.replacen(&format!("write_all({evil})"), &format!("write_all({warning})"), 1));
    project.write(
        "macros/Cargo.toml",
        "[package]\nname = \"saves-hostile-macros\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n",
    );
    project.write(
        "macros/src/lib.rs",
        &format!(
            "use std::io::Write;\n#[proc_macro]\npub fn evil(_: proc_macro::TokenStream) -> proc_macro::TokenStream {{\n    \
             std::io::stdout().write_all({evil}).unwrap();\n    std::io::stderr().write_all({evil}).unwrap();\n    \
             \"fn nothing() {{}}\".parse().unwrap()\n}}\n"
        ),
    );
    project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\nsaves-hostile-macros.path = \"macros\"\n");
    let with_macro = |version: &str| self::plain(version, &["fn at_start() {} saves_hostile_macros::evil!();"]);
    project.write(MAIN, &with_macro("1"));
    let address = free_address();
    let mut cargo_hotrun = command();
    arguments(&mut cargo_hotrun, &project, address);
    cargo_hotrun.args(["--color", "always"]);
    let mut terminal = Terminal::run(cargo_hotrun);
    terminal.wait_for(" serving");
    project.write_by_rename(MAIN, &format!("{}// FAIL\n", with_macro("2")));
    terminal.wait_for("Still serving generation 1");
    project.write_by_rename(MAIN, &with_macro("3"));
    terminal.wait_for("generation 2, pid ");
    assert_eq!(version(address), "3");
    terminal.press("q");
    assert!(terminal.finish().success());

    let said = String::from_utf8(terminal.everything()).expect("what is not UTF-8 was replaced");
    // Three builds, each with a warning of the script; the macro runs in two of them, the failing script says all again.
    assert!(said.matches("HARMLESS").count() >= 5, "{said:?}");
    for evil in ["\x1b]52", "\x1b[2J", "\x1b]0;", "\x1bP", "\u{9b}", "\x08", "\x0b", "\x07"] {
        assert!(!said.contains(evil), "{evil:?} in {said:?}");
    }
}
