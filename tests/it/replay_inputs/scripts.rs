//! Build scripts, what they read and what they make; and the environment that a crate reads.

use super::{MAIN, Served, has, workspace};
use serde_json::Value;
use std::fs::{self, File};
use std::time::UNIX_EPOCH;

/// A script that makes a word known of what is in that file, and names that.
fn script(file: &str, named: &str, greeting: &str) -> String {
    format!(
        "fn main() {{\n println!(\"cargo::rerun-if-changed={named}\");\n \
         let text = std::fs::read_to_string({file:?}).unwrap();\n \
         println!(\"cargo::rustc-env=SAID={greeting}{{}}\", text.trim());\n}}\n"
    )
}

const SAID: &str = "option_env!(\"SAID\").unwrap_or(\"nothing\").into()";

#[test]
fn a_build_script_goes_through_cargo_from_its_coming_to_its_end() {
    let project = workspace("replay-script", SAID, "", &[]);
    project.write("word.txt", "one");
    project.write("words/first.txt", "first");
    let mut served = Served::start(project);
    assert_eq!(served.word(), "nothing");
    served.edit();
    served.project().write("build.rs", &script("word.txt", "word.txt", ""));
    served.through_cargo("build.rs changed", "one");
    served.edit();
    served.project().write("build.rs", &script("word.txt", "word.txt", "say "));
    served.through_cargo("build.rs changed", "say one");
    served.edit();
    served.project().write("word.txt", "two");
    served.through_cargo("word.txt changed", "say two");
    served.edit();
    // Of a folder all counts, and what comes into it.
    let all = "let mut all: Vec<_> = std::fs::read_dir(\"words\").unwrap().map(|one| one.unwrap().path()).collect(); all.sort(); \
        let text: String = all.iter().map(|one| std::fs::read_to_string(one).unwrap() + \" \").collect();";
    let reads = "let text = std::fs::read_to_string(\"word.txt\").unwrap();";
    served.project().write("build.rs", &script("word.txt", "words", "").replace(reads, all));
    served.through_cargo("build.rs changed", "first");
    served.edit();
    served.project().write("words/first.txt", "new first");
    served.through_cargo("words/first.txt changed", "new first");
    served.edit();
    served.project().write("words/second.txt", "second");
    served.through_cargo("words", "new first second");
    served.edit();
    fs::remove_file(served.project().path("words/first.txt")).unwrap();
    served.through_cargo("words", "second");
    served.edit();
    fs::remove_file(served.project().path("build.rs")).unwrap();
    served.through_cargo("build.rs changed", "nothing");
    served.edit();
}

/// Cargo compares times. What it takes for old it has to be shown, now or when it builds for another reason.
#[test]
fn files_with_old_dates_are_never_taken_for_the_old_ones() {
    let leaf = has("\"leaf\".into()");
    let word = "format!(\"{} {}\", leaf::word(), option_env!(\"SAID\").unwrap())";
    let project = workspace("replay-old", word, "leaf = { path = \"leaf\" }", &[("leaf", "", &leaf)]);
    project.write("build.rs", &script("word.txt", "word.txt", ""));
    project.write("word.txt", "one");
    let mut served = Served::start(project);
    // The program's crate is new to cargo from here on, so that it has something to do.
    served.edit();
    let come = |served: &Served, path: &str, text: &str| {
        served.project().write("new.tmp", text);
        let file = File::options().append(true).open(served.project().path("new.tmp")).unwrap();
        file.set_modified(UNIX_EPOCH).unwrap();
        fs::rename(served.project().path("new.tmp"), served.project().path(path)).unwrap();
    };
    come(&served, "word.txt", "two");
    served.through_cargo("word.txt changed", "leaf two");
    served.edit();
    come(&served, "leaf/src/lib.rs", &has("\"new leaf\".into()"));
    served.by_replay(&["leaf", "replay_old"], "new leaf two");
    served.project().write("word.txt", "three");
    served.through_cargo("word.txt changed", "new leaf three");
    served.edit();
}

/// A script that asks the test before it reads `word.txt`.
fn gated() -> String {
    let gate = "use std::io::Read; let mut gate = std::net::TcpStream::connect(std::env::var(\"GATE\").unwrap()).unwrap(); \
        gate.read_exact(&mut [0]).unwrap();";
    script("word.txt", "word.txt", "").replace("fn main() {", &format!("fn main() {{ {gate}"))
}

#[test]
fn a_build_by_cargo_that_a_save_ends_is_followed_by_one_for_the_same_reason() {
    let project = workspace("replay-ended", SAID, "", &[]);
    project.write("word.txt", "one");
    let mut served = Served::start(project);
    served.project().write("build.rs", &gated());
    let arrival = served.plain.gate.arrival();
    served.version();
    served.plain.wait_for("superseded");
    served.plain.gate.arrival().let_go();
    served.through_cargo("build.rs changed", "one");
    drop(arrival);
    served.edit();
}

/// An input that nobody knew when it was saved, after the build began and before the script did: cargo is started twice more,
/// first for the input and then because it takes it for old.
#[test]
fn replay_is_prepared_after_cargo_was_started_again() {
    let mut served = Served::start(workspace("replay-again", SAID, "", &[]));
    served.project().write("build.rs", &gated());
    let arrival = served.plain.gate.arrival();
    served.project().write("word.txt", "one");
    let scripts = fs::read_dir(served.project().path("target/debug/build")).unwrap();
    let compiled = scripts.filter_map(|folder| fs::metadata(folder.unwrap().path().join("build-script-build")).ok());
    let compiled = compiled.map(|metadata| metadata.modified().unwrap()).max().unwrap();
    let file = File::options().append(true).open(served.project().path("word.txt")).unwrap();
    file.set_modified(compiled).unwrap();
    drop(file);
    served.plain.mark();
    arrival.let_go();
    served.next();
    assert_eq!(served.word(), "one");
    served.plain.gate.arrival().let_go();
    let again =
        |event: &Value| event["event"] == "building" && event["cause"].as_str().unwrap().contains("took for old");
    served.plain.session.see("another build", again);
    served.plain.session.wait_replay_ready();
    served.edit();
    assert_eq!(served.word(), "one");
}

#[test]
fn what_a_script_of_a_library_has_made_goes_through_cargo_and_the_rest_does_not() {
    let leaf = "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\npub fn word() -> String { format!(\"in leaf {MADE}\") }\n";
    let project = workspace("replay-made", "leaf::word()", "leaf = { path = \"leaf\" }", &[("leaf", "", leaf)]);
    let makes = "fn main() {\n println!(\"cargo::rerun-if-changed=made.txt\");\n \
        let text = std::fs::read_to_string(\"made.txt\").unwrap();\n \
        let path = std::path::Path::new(&std::env::var_os(\"OUT_DIR\").unwrap()).join(\"made.rs\");\n \
        std::fs::write(path, format!(\"const MADE: &str = {text:?};\")).unwrap();\n}\n";
    project.write("leaf/build.rs", makes);
    project.write("leaf/made.txt", "one");
    let mut served = Served::start(project);
    assert_eq!(served.word(), "in leaf one");
    served.edit();
    served.project().edit("leaf/src/lib.rs", "in leaf", "in the leaf");
    served.by_replay(&["leaf", "replay_made"], "in the leaf one");
    served.project().write("leaf/made.txt", "two");
    served.through_cargo("leaf/made.txt changed", "in the leaf two");
    served.edit();
    let loud = makes.replace("unwrap();\n let path", "unwrap().to_uppercase();\n let path");
    assert_ne!(loud, makes);
    served.project().write("leaf/build.rs", &loud);
    served.through_cargo("leaf/build.rs changed", "in the leaf TWO");
    served.project().edit("leaf/src/lib.rs", "in the leaf", "in this leaf");
    served.by_replay(&["leaf", "replay_made"], "in this leaf TWO");
}

#[test]
fn a_script_that_names_no_inputs_is_run_again_with_every_file_of_its_package() {
    let leaf = has("env!(\"SAID\").into()");
    let project = workspace("replay-nameless", "leaf::word()", "leaf = { path = \"leaf\" }", &[("leaf", "", &leaf)]);
    let nameless = script("word.txt", "", "").replace(" println!(\"cargo::rerun-if-changed=\");\n", "");
    project.write("leaf/build.rs", &nameless);
    project.write("leaf/word.txt", "one");
    let mut served = Served::start(project);
    assert_eq!(served.word(), "one");
    served.edit();
    served.project().write("leaf/word.txt", "two");
    served.through_cargo("names no inputs", "two");
    served.edit();
    served.project().edit("leaf/src/lib.rs", "env!(\"SAID\").into()", "concat!(env!(\"SAID\"), \" too\").into()");
    served.through_cargo("names no inputs", "two too");
    served.edit();
}

/// There nothing can be replayed, as even a save of the program runs its script.
#[test]
fn a_program_whose_own_script_names_no_inputs_always_goes_through_cargo() {
    let project = workspace("replay-own-script", "env!(\"SAID\").into()", "", &[]);
    let nameless = script("word.txt", "", "").replace(" println!(\"cargo::rerun-if-changed=\");\n", "");
    project.write("build.rs", &nameless);
    project.write("word.txt", "one");
    let mut served = Served::begin(project, &[], |_| {});
    for (file, text, word) in [("word.txt", "two", "two"), ("word.txt", "three", "three")] {
        served.project().write(file, text);
        let built = served.next();
        assert_eq!((built.by.as_str(), served.word().as_str()), ("cargo", word));
        assert!(built.why.is_some());
        served.version();
        let built = served.next();
        assert_eq!((built.by.as_str(), served.word().as_str()), ("cargo", word));
    }
    assert_eq!(served.plain.session.count("replay-ready"), 0);
}

/// Compilers that replay starts have variables of their own.
#[test]
fn a_crate_that_reads_what_replay_sets_for_compilers_goes_through_cargo() {
    let names = ["MALLOC_CONF", "GLIBC_TUNABLES", "TMPDIR"];
    let reads = "format!(\"{:?}\", option_env!(\"NOBODYS\"))";
    let leaf = has(reads);
    let word = format!("format!(\"{{}} {{}}\", leaf::word(), {reads})");
    let project = workspace("replay-own-env", &word, "leaf = { path = \"leaf\" }", &[("leaf", "", &leaf)]);
    let mut served = Served::start_with(project, &[], |command| {
        for name in names {
            command.env_remove(name);
        }
    });
    for name in names {
        served.edit();
        served.project().edit(MAIN, "NOBODYS", name);
        let built = served.next();
        assert!(built.by == "cargo" && built.why.unwrap().contains(name), "{name}");
        assert_eq!(served.word(), "None None");
        served.project().edit(MAIN, name, "NOBODYS");
        assert_eq!((served.next().by.as_str(), served.word().as_str()), ("cargo", "None None"));
        served.plain.session.wait_replay_ready();
    }
    // The program itself is replayed where only a library is not.
    served.project().edit("leaf/src/lib.rs", "NOBODYS", "TMPDIR");
    served.through_cargo("leaf reads TMPDIR", "None None");
    served.edit();
    served.project().edit("leaf/src/lib.rs", "{:?}", "{:?}!");
    served.through_cargo("leaf/src/lib.rs changed", "None! None");
    served.edit();
}

/// Variables that a crate has read are no change for a session, whose own stay as they are; for the next session they are.
#[test]
fn the_environment_that_a_crate_has_read_is_never_an_old_one() {
    let leaf = has("option_env!(\"REPLAY_SAID\").unwrap_or(\"nothing\").into()");
    let word = "format!(\"{} {}\", leaf::word(), option_env!(\"REPLAY_TOO\").unwrap_or(\"nothing\"))";
    let project = workspace("replay-env", word, "leaf = { path = \"leaf\" }", &[("leaf", "", &leaf)]);
    let mut project = Some(project);
    let mut version = 1;
    for (said, too) in
        [(None, None), (Some("one"), None), (Some("two"), Some("one")), (Some("two"), None), (None, None)]
    {
        let mut served = Served::start_with(project.take().unwrap(), &[], |command| {
            for (name, value) in [("REPLAY_SAID", said), ("REPLAY_TOO", too)] {
                command.env_remove(name);
                command.envs(value.map(|value| (name, value)));
            }
        });
        let word = format!("{} {}", said.unwrap_or("nothing"), too.unwrap_or("nothing"));
        assert_eq!(served.word(), word);
        served.version = version;
        served.edit();
        assert_eq!(served.word(), word, "by replay");
        version = served.version;
        project = Some(served.stop());
    }
}
