//! What is kept from one session to the next, two sessions at once, and how a session is told to replay.

use super::{MAIN, Served, has, says, word_at, workspace};
use crate::harness::plain::plain;
use crate::harness::{Project, Session, free_address, version};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// A program with a library.
fn two_crates(name: &str) -> Project {
    workspace(name, "leaf::word()", "leaf = { path = \"leaf\" }", &[("leaf", "", &has("\"leaf\".into()"))])
}

/// What replay has made: each file with its inode and time.
fn made(project: &Project) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let inner =
        |folder: &Path| -> Vec<PathBuf> { fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let folders = inner(&project.path("target/hotrun/replay"));
    let files = folders.iter().flat_map(|folder| inner(&folder.join("deps")));
    let stamps = files.map(|path| {
        let metadata = fs::metadata(&path).unwrap();
        (path, (metadata.ino(), metadata.modified().unwrap()))
    });
    stamps.collect()
}

#[test]
fn what_replay_has_made_is_kept_for_the_next_session() {
    let mut served = Served::start(two_crates("replay-kept"));
    served.edit();
    served.project().edit("leaf/src/lib.rs", "\"leaf\"", "\"new leaf\"");
    served.by_replay(&["leaf", "replay_kept"], "new leaf");
    let before = made(served.project());
    assert!(before.keys().any(|path| path.to_string_lossy().contains("libleaf-")), "{before:?}");
    let last = served.version;

    // It is ready without compiling anything, and then compiles what has changed and no more.
    let mut served = Served::start(served.stop());
    assert_eq!(served.word(), "new leaf");
    assert_eq!(made(served.project()), before);
    served.version = last;
    served.edit();
    assert_eq!(served.word(), "new leaf");
    served.project().edit("leaf/src/lib.rs", "\"new leaf\"", "\"newest leaf\"");
    served.by_replay(&["leaf", "replay_kept"], "newest leaf");
}

type Edit<'a> = &'a dyn Fn(&Project);

#[test]
fn an_edit_while_no_session_ran_is_noticed() {
    let mut served = Served::start(two_crates("replay-between"));
    served.edit();
    let mut last = served.version;
    let between: [(&str, Edit<'_>); 4] = [
        ("new leaf", &|project| project.edit("leaf/src/lib.rs", "\"leaf\"", "\"new leaf\"")),
        ("new leaf too", &|project| project.edit(MAIN, "leaf::word()", "leaf::word() + \" too\"")),
        ("NEW LEAF too", &|project| {
            project.edit("Cargo.toml", "path = \"leaf\"", "path = \"leaf\", features = [\"loud\"]");
            let manifest = project.read("leaf/Cargo.toml");
            project.write("leaf/Cargo.toml", &format!("{manifest}[features]\nloud = []\n"));
            let loud = "if cfg!(feature = \"loud\") { \"NEW LEAF\" } else { \"leaf\" }.into()";
            project.edit("leaf/src/lib.rs", "\"new leaf\".into()", loud);
        }),
        ("leaf too", &|project| project.edit("Cargo.toml", ", features = [\"loud\"]", "")),
    ];
    for (word, edit) in between {
        let project = served.stop();
        edit(&project);
        served = Served::start(project);
        assert_eq!(served.word(), word);
        served.version = last;
        served.edit();
        last = served.version;
        assert_eq!(served.word(), word, "by replay");
    }
}

/// Flags that change what is built have caches of their own.
#[test]
fn a_session_with_other_flags_is_right() {
    let loud = has("if cfg!(feature = \"loud\") { \"LOUD\" } else { \"calm\" }.into()");
    let project = workspace(
        "replay-flags",
        "leaf::word()",
        "leaf = { path = \"leaf\" }",
        &[("leaf", "[features]\nloud = []", &loud)],
    );
    project.edit("Cargo.toml", "[workspace]", "[features]\nloud = [\"leaf/loud\"]\n[workspace]");
    let (mut project, mut last) = (Some(project), 1);
    for (flags, word) in [(&[][..], "calm"), (&["--features", "loud"], "LOUD"), (&[], "calm"), (&["--release"], "calm")]
    {
        let mut served = Served::begin(project.take().unwrap(), flags, |_| {});
        assert_eq!(served.word(), word);
        served.version = last;
        if flags.contains(&"--release") {
            // Which cargo does not compile incrementally, unless it is told to.
            served.version();
            assert_eq!(served.next().by, "cargo");
        } else {
            served.plain.session.wait_replay_ready();
            served.edit();
        }
        assert_eq!(served.word(), word);
        last = served.version;
        project = Some(served.stop());
    }
}

/// Of variables that tell cargo how to compile.
#[test]
fn a_session_with_other_flags_in_its_environment_is_right() {
    let word = "[(cfg!(flagged), \"flagged\"), (cfg!(debug_assertions), \"checked\"), (true, \"leaf\")]
        .iter().filter(|(on, _)| *on).map(|(_, what)| *what).collect::<Vec<_>>().join(\" \")";
    let leaf = format!("#![allow(unexpected_cfgs)]\n{}", has(word));
    let project = workspace("replay-variables", "leaf::word()", "leaf = { path = \"leaf\" }", &[("leaf", "", &leaf)]);
    let (flags, profile) = (("RUSTFLAGS", "--cfg flagged"), ("CARGO_PROFILE_DEV_DEBUG_ASSERTIONS", "false"));
    let (mut project, mut last) = (Some(project), 1);
    for (variables, word) in [
        (&[][..], "checked leaf"),
        (&[flags], "flagged checked leaf"),
        (&[flags, profile], "flagged leaf"),
        (&[], "checked leaf"),
        (&[profile], "leaf"),
    ] {
        let mut served = Served::start_with(project.take().unwrap(), &[], |command| {
            command.env_remove(flags.0).env_remove(profile.0).envs(variables.iter().copied());
        });
        assert_eq!(served.word(), word);
        served.version = last;
        served.edit();
        assert_eq!(served.word(), word, "by replay");
        last = served.version;
        project = Some(served.stop());
    }
}

#[test]
fn a_session_that_is_told_not_to_never_replays() {
    let mut served = Served::begin(two_crates("replay-not"), &["--no-replay"], |_| {});
    for word in ["one", "two"] {
        served.project().write("leaf/src/lib.rs", &has(&format!("{word:?}.into()")));
        let built = served.next();
        assert_eq!((built.by.as_str(), built.why.as_deref()), ("cargo", Some("replay is switched off")));
        assert_eq!((served.word().as_str(), built.crates.len()), (word, 0));
    }
    assert_eq!(served.plain.session.count("replay-ready"), 0);
    assert!(!served.project().path("target/hotrun/replay").exists());
    assert!(!served.project().path("target/hotrun/calls").exists());
}

/// Names of variables are told to debuggers alone; lines are told in backtraces, too.
#[test]
fn debug_data_is_as_much_as_is_asked_for() {
    let leaf = "#[inline(never)]\npub fn word() -> String {\n    let a_variable_of_leaf = std::hint::black_box(7);\n    \
        let trace = std::backtrace::Backtrace::force_capture().to_string();\n    \
        std::hint::black_box(&a_variable_of_leaf);\n    trace.replace('\\n', \" \")\n}\n";
    let project = workspace("replay-debug", "leaf::word()", "leaf = { path = \"leaf\" }", &[("leaf", "", leaf)]);
    let (mut project, mut last) = (Some(project), 1);
    for (flags, is_full) in [(&[][..], false), (&["--debug", "full"], true), (&["--debug", "line-tables"], false)] {
        let mut served = Served::start_with(project.take().unwrap(), flags, |_| {});
        served.version = last;
        served.version();
        last = served.version;
        assert_eq!(served.next().by, "replay");
        let word = served.word();
        assert!(word.contains("leaf/src/lib.rs:4") && word.contains("src/main.rs:"), "{flags:?}: {word}");
        let serving = served.plain.session.log.iter().rfind(|event| event["event"] == "serving").unwrap();
        let program = fs::read(format!("/proc/{}/exe", serving["pid"])).unwrap();
        let name = b"a_variable_of_leaf";
        assert_eq!(program.windows(name.len()).any(|window| window == name), is_full, "{flags:?}");
        project = Some(served.stop());
    }
}

/// With all that replay has made, while the session runs.
#[test]
fn what_is_cleaned_away_is_built_again() {
    let mut served = Served::start(two_crates("replay-cleaned"));
    served.edit();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["clean", "--offline"]).current_dir(served.project().root()).env_remove("CARGO_TARGET_DIR");
    assert!(cargo.output().unwrap().status.success());
    assert!(!served.project().path("target/hotrun").exists());
    served.project().write("leaf/src/lib.rs", &has("\"one\".into()"));
    served.through_cargo("changed", "one");
    served.edit();
    served.project().write("leaf/src/lib.rs", &has("\"two\".into()"));
    served.by_replay(&["leaf", "replay_cleaned"], "two");
    // And what replay has made alone.
    fs::remove_dir_all(served.project().path("target/hotrun/replay")).unwrap();
    served.project().write("leaf/src/lib.rs", &has("\"three\".into()"));
    served.next();
    assert_eq!(served.word(), "three");
    served.version();
    served.next();
    assert_eq!(served.word(), "three");
    served.plain.session.wait_replay_ready();
    served.edit();
}

/// Another session on the project of the first.
struct Beside {
    session: Session,
    address: SocketAddr,
    generation: u64,
}

impl Beside {
    fn start(first: &Served) -> Beside {
        let address = free_address();
        let args = [&*format!("--listen={address}"), "--timings"];
        let mut session = Session::start_with(first.project(), address, &args, |command| {
            command.env_remove("CARGO_TARGET_DIR");
        });
        session.wait_serving(1);
        Beside { session, address, generation: 1 }
    }

    /// Its next generation is built by cargo for that reason, and says that word.
    fn through_cargo(&mut self, why: &str, word: &str) {
        self.generation += 1;
        let generation = self.generation;
        self.session.wait_serving(generation);
        let event =
            |name: &'static str, number| move |event: &Value| event["event"] == name && event["generation"] == number;
        self.session.see("the end of the old one", event("drained", generation - 1));
        let timings = self.session.see("timings", event("timings", generation));
        assert!(timings["why-cargo"].as_str().is_some_and(|said| said.contains(why)), "{timings}");
        assert_eq!(word_at(self.address), word);
    }
}

/// On the same target folder: one of them replays.
#[test]
fn two_sessions_at_once_are_both_right() {
    let mut first = Served::start(two_crates("replay-two"));
    first.edit();
    let mut other = Beside::start(&first);
    assert_eq!(version(other.address), "2");

    for word in ["one", "two"] {
        first.project().write("leaf/src/lib.rs", &has(&format!("{word:?}.into()")));
        first.by_replay(&["leaf", "replay_two"], word);
        other.through_cargo("another session compiles in", word);
    }
    first.project().write(MAIN, &plain("3", &[&says("format!(\"{} too\", leaf::word())")]));
    first.by_replay(&["replay_two"], "two too");
    other.through_cargo("another session compiles in", "two too");
    first.project().edit("Cargo.toml", "[workspace]", "[profile.dev]\nopt-level = 1\n[workspace]");
    first.through_cargo("Cargo.toml changed", "two too");
    other.through_cargo("another session compiles in", "two too");
    first.version = 3;
    first.edit();
    other.through_cargo("another session compiles in", "two too");
    assert_eq!(version(other.address), "4");
}
