//! Builds that fail for a wrong reason, and what is said while one takes its time.

use crate::harness::plain::{GATED, Plain, plain, project};
use crate::harness::{Project, children, get, send, version};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

const MAIN: &str = "src/main.rs";
const VERSION: &str = "fn word() -> String { env!(\"CARGO_PKG_VERSION\").into() }";

fn word(plain: &Plain) -> String {
    let answer = get(plain.address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap().to_owned()
}

/// It goes on as before: the next save is served.
fn assert_goes_on(plain: &mut Plain, main: &str) {
    let last: u32 = version(plain.address).parse().unwrap();
    let next = (last + 1).to_string();
    let text = plain.project.read(main);
    plain.project.write_by_rename(main, &text.replace(&format!("{:?}", last.to_string()), &format!("{next:?}")));
    assert_eq!(plain.next(), next);
    assert_eq!(plain.settle()["trouble"], Value::Null);
    assert_eq!(plain.session.count("build-failed"), 0);
}

/// All that was said of trouble, in any way.
fn told(plain: &Plain) -> Vec<String> {
    let text = |event: &Value| match event["event"].as_str()? {
        "diagnostic" => event["rendered"].as_str().filter(|text| !text.contains("rustc --explain")).map(str::to_owned),
        "note" => event["text"].as_str().filter(|text| !text.contains("to the running program")).map(str::to_owned),
        _ => None,
    };
    plain.session.log.iter().filter_map(text).collect()
}

/// A workspace with a member in `crates/app`, the server.
fn workspace(name: &str, more: &str) -> Project {
    let project = project(name, "");
    let manifest = project.read("Cargo.toml").replace("\n[workspace]\n", "\n");
    project.write("crates/app/Cargo.toml", &manifest);
    project.write("Cargo.toml", &format!("[workspace]\nresolver = \"3\"\nmembers = [\"crates/app\"]\n{more}"));
    project.write("crates/app/src/main.rs", &plain("1", &[VERSION]));
    for file in ["fence", "mark"] {
        project.write(&format!("crates/app/{file}"), "");
    }
    fs::remove_dir_all(project.path("src")).unwrap();
    for file in ["fence", "mark"] {
        fs::remove_file(project.path(file)).unwrap();
        std::os::unix::fs::symlink(project.path("crates/app").join(file), project.path(file)).unwrap();
    }
    project
}

#[test]
fn a_new_version_of_the_package_is_served() {
    let project = project("builds-version", "");
    project.write(MAIN, &plain("1", &[VERSION]));
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "0.1.0");
    plain.project.edit("Cargo.toml", "version = \"0.1.0\"", "version = \"0.2.0\"");
    plain.next();
    assert_eq!(word(&plain), "0.2.0");
    assert_goes_on(&mut plain, MAIN);
    plain.project.edit("Cargo.toml", "edition = \"2024\"", "edition = \"2021\"");
    plain.project.edit("Cargo.toml", "version = \"0.2.0\"", "version = \"0.3.0-rc.1\"");
    plain.session.wait("the third version", |event| event["event"] == "serving");
    plain.settle();
    assert_eq!(word(&plain), "0.3.0-rc.1");
    assert_eq!(plain.session.count("build-failed"), 0);
}

#[test]
fn a_new_version_of_the_workspace_is_served() {
    let project = workspace("builds-versions", "[workspace.package]\nversion = \"0.1.0\"\n");
    project.edit("crates/app/Cargo.toml", "version = \"0.1.0\"", "version.workspace = true");
    let mut plain = Plain::start(project);
    plain.project.edit("Cargo.toml", "\"0.1.0\"", "\"0.2.0\"");
    plain.next();
    assert_eq!(word(&plain), "0.2.0");
    assert_goes_on(&mut plain, "crates/app/src/main.rs");
}

/// Manifest, lock file and sources become others at once.
#[test]
fn another_branch_with_another_version_is_served() {
    let project = project("builds-branch", "");
    project.write(MAIN, &plain("1", &[VERSION]));
    let mut plain = Plain::start(project);
    let lock = plain.project.read("Cargo.lock").replace("0.1.0", "0.2.0");
    let manifest = plain.project.read("Cargo.toml").replace("version = \"0.1.0\"", "version = \"0.2.0\"");
    plain.project.write_by_rename(MAIN, &self::plain("2", &[VERSION]));
    plain.project.write_by_rename("Cargo.lock", &lock);
    plain.project.write_by_rename("Cargo.toml", &manifest);
    assert_eq!(plain.next(), "2");
    plain.settle();
    assert_eq!(word(&plain), "0.2.0");
    assert_eq!(plain.session.count("build-failed"), 0);
}

#[test]
fn a_package_of_another_name_is_served() {
    let mut plain = Plain::start(project("builds-name", ""));
    plain.project.edit("Cargo.toml", "name = \"builds-name\"", "name = \"builds-other\"");
    let building = plain.session.wait("the other package", |event| event["package"] == "builds-other");
    assert_eq!(building["event"], "building");
    plain.session.wait("the other program", |event| event["event"] == "serving" || event["event"] == "unchanged");
    plain.generation = plain.session.log.iter().filter(|event| event["event"] == "serving").count() as u64;
    assert_goes_on(&mut plain, MAIN);
    assert_eq!(plain.settle()["package"], "builds-other");
    assert!(told(&plain).is_empty(), "{:?}", told(&plain));
}

#[test]
fn a_binary_of_another_name_is_served() {
    let project = project("builds-binary", "");
    project.edit(
        "Cargo.toml",
        "\n[dependencies]",
        "\n[[bin]]\nname = \"one\"\npath = \"src/main.rs\"\n\n[dependencies]",
    );
    let name = "fn word() -> String { env!(\"CARGO_BIN_NAME\").into() }";
    project.write(MAIN, &plain("1", &[name]));
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "one");
    plain.project.edit("Cargo.toml", "\"one\"", "\"two\"");
    plain.next();
    assert_eq!(word(&plain), "two");
    assert_goes_on(&mut plain, MAIN);
    assert!(told(&plain).is_empty(), "{:?}", told(&plain));
}

/// Though the old one could still be built.
#[test]
fn another_binary_that_the_manifest_chooses_is_served() {
    let project = project("builds-chosen", "bin = \"builds-chosen\"");
    project.write("src/bin/second.rs", &plain("2", &[]));
    let mut plain = Plain::start(project);
    plain.project.edit("Cargo.toml", "bin = \"builds-chosen\"", "bin = \"second\"");
    assert_eq!(plain.next(), "2");
    assert_goes_on(&mut plain, "src/bin/second.rs");
    // A second one that comes does not make it doubtful which one runs.
    plain.project.edit("Cargo.toml", "bin = \"second\"", "");
    plain.project.write("src/bin/third.rs", "fn main() {}\n");
    // Cargo compiles what replay has compiled last, and links it with another linker: that may be one generation more, of the same code.
    plain.generation = plain.settle()["generation"].as_u64().unwrap();
    assert_goes_on(&mut plain, "src/bin/second.rs");
}

#[test]
fn a_package_that_has_moved_is_served_from_where_it_is() {
    let project = workspace("builds-moved", "");
    let mut plain = Plain::start(project);
    plain.project.edit("Cargo.toml", "crates/app", "services/app");
    fs::create_dir_all(plain.project.path("services")).unwrap();
    fs::rename(plain.project.path("crates/app"), plain.project.path("services/app")).unwrap();
    plain.session.wait("a build there", |event| {
        event["event"] == "building" && event["cause"].as_str().unwrap().contains("services/app")
    });
    plain.session.wait("its program", |event| event["event"] == "serving" || event["event"] == "unchanged");
    plain.generation = plain.session.log.iter().filter(|event| event["event"] == "serving").count() as u64;
    let save = |plain: &Plain, folder: &str, version: &str| {
        plain.project.write_by_rename(&format!("{folder}/src/main.rs"), &self::plain(version, &[VERSION]));
    };
    save(&plain, "services/app", "2");
    assert_eq!(plain.next(), "2");
    // Back, in two steps.
    fs::rename(plain.project.path("services/app"), plain.project.path("crates/app")).unwrap();
    plain.wait_for("build-failed");
    plain.project.edit("Cargo.toml", "services/app", "crates/app");
    plain.session.wait("its program", |event| event["event"] == "serving" || event["event"] == "unchanged");
    plain.generation = plain.session.log.iter().filter(|event| event["event"] == "serving").count() as u64;
    save(&plain, "crates/app", "3");
    assert_eq!(plain.next(), "3");
    assert_eq!(plain.settle()["trouble"], Value::Null);
}

/// As on a branch that does not have it.
#[test]
fn a_package_that_goes_and_comes_back_is_served_again() {
    let project = workspace("builds-away", "");
    project.edit("Cargo.toml", "crates/app", "crates/*");
    let mut plain = Plain::start(project);
    let away = plain.project.path("target/away");
    fs::rename(plain.project.path("crates/app"), &away).unwrap();
    plain.wait_for("build-failed");
    let told = told(&plain);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("builds-away"), "{told:#?}");
    fs::rename(&away, plain.project.path("crates/app")).unwrap();
    plain.wait_for("unchanged");
    plain.project.write_by_rename("crates/app/src/main.rs", &self::plain("2", &[VERSION]));
    assert_eq!(plain.next(), "2");
}

#[test]
fn a_binary_that_was_asked_for_and_is_gone_is_named_with_those_there_are() {
    let project = project("builds-gone", "");
    project.edit(
        "Cargo.toml",
        "\n[dependencies]",
        "\n[[bin]]\nname = \"one\"\npath = \"src/main.rs\"\n\n[dependencies]",
    );
    let mut plain = Plain::begin(project, &["--bin", "one"]);
    plain.next();
    plain.project.edit("Cargo.toml", "\"one\"", "\"two\"");
    plain.wait_for("build-failed");
    plain.settle();
    let told = told(&plain);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("`--bin`: found \"one\"") && told[0].contains("`two`"), "{told:#?}");
    plain.project.edit("Cargo.toml", "\"two\"", "\"one\"");
    plain.session.wait("the program that came back", |event| event["event"] == "unchanged");
    assert_eq!(plain.settle()["trouble"], Value::Null);
}

/// Whoever reads them cannot go on: the build, and cargo when it is asked for the packages.
#[test]
fn a_file_that_cargo_cannot_read_is_told_once() {
    let project = project("builds-broken", "");
    project.write("part/Cargo.toml", "[package]\nname = \"part\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    project.write("part/src/lib.rs", "");
    project.write(".cargo/config.toml", "[env]\n");
    project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\npart.path = \"part\"\n");
    let mut plain = Plain::start(project);
    for file in ["Cargo.toml", "part/Cargo.toml", ".cargo/config.toml", "Cargo.lock"] {
        let before = plain.project.read(file);
        let told_before = told(&plain).len();
        plain.project.write(file, &format!("{before}[broken\n"));
        plain.wait_for("build-failed");
        plain.settle();
        plain.fence();
        let told = told(&plain).split_off(told_before).concat();
        assert_eq!(told.matches("[broken").count(), 1, "{file}: {told}");
        assert!(!told.contains("cannot read the project"), "{file}: {told}");
        plain.project.write(file, &before);
        plain.wait_for("unchanged");
        // Cargo has read what it was asked for, too: the next fault is not its answer.
        plain.settle();
    }
    assert_goes_on_after_failure(&mut plain);
}

fn assert_goes_on_after_failure(plain: &mut Plain) {
    plain.project.write_by_rename(MAIN, &self::plain("2", &[]));
    assert_eq!(plain.next(), "2");
    assert_eq!(plain.settle()["trouble"], Value::Null);
}

/// A package that has come with the change is what cannot be compiled.
#[test]
fn a_failure_after_a_change_of_the_manifest_is_told_with_its_errors() {
    let project = project("builds-new-broken", "");
    project.write("part/Cargo.toml", "[package]\nname = \"part\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    project.write("part/src/lib.rs", "pub fn x() { nowhere }\n");
    let mut plain = Plain::start(project);
    plain.project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\npart.path = \"part\"\n");
    let failed = plain.wait_for("build-failed");
    assert_eq!(failed["errors"], 1);
    assert_eq!(told(&plain).len(), 1, "{:?}", told(&plain));
    plain.project.write("part/src/lib.rs", "pub fn x() {}\n");
    plain.session.wait("the end of the build", |event| event["event"] == "unchanged" || event["event"] == "serving");
    assert_eq!(plain.settle()["trouble"], Value::Null);
}

#[test]
fn a_cargo_that_is_killed_is_said_to_be() {
    let project = project("builds-killed", "");
    project.write("build.rs", GATED);
    let mut plain = Plain::begin(project, &[]);
    let script = plain.gate.arrival();
    let is_cargo = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("--message-format="))
    };
    let cargo = children(plain.session.pid()).into_iter().map(|(pid, _)| pid).find(is_cargo).unwrap();
    send(cargo, Signal::SIGKILL);
    plain.wait_for("build-failed");
    assert!(told(&plain).iter().any(|text| text.contains("SIGKILL")), "{:?}", told(&plain));
    drop(script);
}

/// A crate that the program needs, whose build script waits at the gate of the test; it names its text, and nothing else.
fn with_a_slow_script(project: &Project) {
    project.write("slow/Cargo.toml", "[package]\nname = \"slow\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    project.write("slow/src/lib.rs", "");
    project.write("slow/text", "1");
    project.write("slow/build.rs", &GATED.replace("src/main.rs", "text"));
    project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\nslow.path = \"slow\"\n");
}

/// Which builds there were, and how many of them were ended.
fn builds(plain: &Plain) -> (usize, usize) {
    (plain.session.count("building"), plain.session.count("superseded"))
}

#[test]
fn a_build_script_that_does_not_read_what_is_saved_runs_once() {
    let project = project("builds-slow", "");
    with_a_slow_script(&project);
    let mut plain = Plain::begin(project, &[]);
    // The first build, of which nobody knows yet what it reads.
    let script = plain.gate.arrival();
    for version in ["2", "3"] {
        plain.project.write_by_rename(MAIN, &self::plain(version, &[]));
        plain.mark();
    }
    script.let_go();
    assert_eq!(plain.next(), "3");
    plain.wait_for("unchanged");
    plain.settle();
    assert_eq!(builds(&plain), (2, 0), "{:?}", plain.causes());
    // And when it runs again.
    plain.project.write("slow/text", "2");
    let script = plain.gate.arrival();
    for version in ["4", "5", "6", "7", "8"] {
        plain.project.write_by_rename(MAIN, &self::plain(version, &[]));
        plain.mark();
    }
    script.let_go();
    assert_eq!(plain.next(), "8");
    plain.settle();
    assert_eq!(version(plain.address), "8");
    assert_eq!(builds(&plain), (4, 0), "{:?}", plain.causes());
}

#[test]
fn a_build_script_is_ended_for_what_it_reads() {
    let project = project("builds-slow-reads", "");
    with_a_slow_script(&project);
    let mut plain = Plain::begin(project, &[]);
    plain.gate.arrival().let_go();
    plain.next();
    plain.project.write("slow/text", "2");
    let script = plain.gate.arrival();
    plain.project.write("slow/text", "3");
    plain.wait_for("superseded");
    script.end();
    let script = plain.gate.arrival();
    plain.project.edit("Cargo.toml", "version = \"0.1.0\"", "version = \"0.2.0\"");
    plain.wait_for("superseded");
    script.end();
    plain.gate.arrival().let_go();
    assert_eq!(plain.settle()["trouble"], Value::Null);
}

/// The package's own, which says what it reads when it has run once.
#[test]
fn the_programs_own_build_script_runs_once_for_saves_that_it_does_not_read() {
    let project = project("builds-slow-own", "");
    project.write("text", "1");
    project.write("build.rs", &GATED.replace("src/main.rs", "text"));
    let mut plain = Plain::begin(project, &[]);
    plain.gate.arrival().let_go();
    plain.next();
    plain.settle();
    plain.project.write("text", "2");
    let script = plain.gate.arrival();
    for version in ["2", "3"] {
        plain.project.write_by_rename(MAIN, &self::plain(version, &[]));
        plain.mark();
    }
    script.let_go();
    assert_eq!(plain.next(), "3");
    plain.settle();
    assert_eq!(plain.session.count("superseded"), 0);
    assert_eq!(version(plain.address), "3");
}

/// A crate that is compiled already when it is saved again, while another's script goes on.
#[test]
fn what_was_compiled_before_it_was_saved_is_compiled_again_after_the_slow_part() {
    let project = project("builds-slow-quick", "");
    with_a_slow_script(&project);
    project.write("quick/Cargo.toml", "[package]\nname = \"quick\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    project.write("quick/src/lib.rs", "pub fn word() -> String { \"one\".into() }\n");
    project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\nquick.path = \"quick\"\n");
    project.write(MAIN, &plain("1", &["fn word() -> String { quick::word() }"]));
    let mut plain = Plain::begin(project, &["--jobs", "2"]);
    let script = plain.gate.arrival();
    plain.session.see("the quick one's end", |event| {
        event["event"] == "progress" && event["done"].as_u64().is_some_and(|done| done >= 2)
    });
    plain.project.write("quick/src/lib.rs", "pub fn word() -> String { \"two\".into() }\n");
    plain.project.write_by_rename(MAIN, &self::plain("2", &["fn word() -> String { quick::word() }"]));
    plain.mark();
    script.let_go();
    assert_eq!(plain.next(), "2");
    assert_eq!(word(&plain), "two");
    assert_eq!(plain.settle()["trouble"], Value::Null);
    assert_eq!((plain.session.count("build-failed"), plain.session.count("superseded")), (0, 0));
    assert_eq!(plain.session.count("serving"), 1, "half of the save is never served");
}

/// Holds what cargo needs for a build, as another cargo would.
pub fn hold_build_folder(project: &Project) -> Flock<File> {
    let lock = project.path("target/debug/.cargo-lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let file = File::options().create(true).truncate(false).write(true).open(lock).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).unwrap()
}

#[test]
fn who_holds_the_lock_is_said_and_that_it_is_free() {
    let project = project("builds-lock", "");
    let held = hold_build_folder(&project);
    let mut plain = Plain::begin(project, &[]);
    // On a busy machine it may not have come as far by the first one.
    let waits = |event: &Value| event["event"] == "still-building" && event["waiting"].is_string();
    let still = plain.session.wait("what it waits for", waits);
    assert!(still["waiting"].as_str().unwrap().starts_with("file lock on "), "{still}");
    assert!(still["waited"].as_u64().unwrap() > 0 && still["took"].as_u64().unwrap() >= 3000, "{still}");
    assert_eq!(still["holder"]["pid"], std::process::id());
    assert!(still["holder"]["command"].as_str().unwrap().starts_with("it-"), "{still}");
    drop(held);
    let over = plain.wait_for("wait-over");
    assert_eq!(over["waiting"], still["waiting"]);
    plain.next();
    let told = plain.session.log.iter().rev().find(|event| event["event"] == "progress").unwrap();
    assert_eq!(told["waiting"], Value::Null, "it is not waited for any more");
}

#[test]
fn a_long_build_says_what_it_does() {
    let project = project("builds-long", "");
    with_a_slow_script(&project);
    let mut plain = Plain::begin(project, &[]);
    let script = plain.gate.arrival();
    let still = plain.wait_for("still-building");
    assert!(still["doing"].as_str().unwrap().starts_with("Compiling "), "{still}");
    assert_eq!((&still["waiting"], &still["holder"]), (&Value::Null, &Value::Null));
    script.let_go();
    plain.next();
}

/// A package all of whose files its build script may read keeps them.
#[test]
fn a_new_version_leaves_what_the_build_script_reads() {
    let project = project("builds-version-script", "");
    let script =
        "fn main() { println!(\"cargo::rustc-env=WORD={}\", std::fs::read_to_string(\"word.txt\").unwrap()); }\n";
    project.write("build.rs", script);
    project.write("word.txt", "one");
    project.write(
        MAIN,
        &plain("1", &["fn word() -> String { concat!(env!(\"WORD\"), env!(\"CARGO_PKG_VERSION\")).into() }"]),
    );
    let mut plain = Plain::start(project);
    plain.project.edit("Cargo.toml", "version = \"0.1.0\"", "version = \"0.2.0\"");
    plain.next();
    assert_eq!(word(&plain), "one0.2.0");
    plain.project.write("word.txt", "two");
    plain.next();
    assert_eq!(word(&plain), "two0.2.0");
}

/// Which may be waiting for the network.
#[test]
fn a_failure_does_not_wait_for_ever_for_what_cargo_says_of_the_packages() {
    let project = project("builds-metadata-hangs", "");
    let cargo = std::env::var("CARGO").unwrap();
    project.write(
        "cargo",
        &format!("#!/bin/sh\n[ \"$1\" = metadata ] && [ -e hang ] && read x < hang\nexec {cargo} \"$@\"\n"),
    );
    fs::set_permissions(project.path("cargo"), PermissionsExt::from_mode(0o755)).unwrap();
    let program = project.path("cargo");
    let mut plain = Plain::begin_with(project, &[], |command| {
        command.env("CARGO", program);
    });
    plain.next();
    nix::unistd::mkfifo(&plain.project.path("hang"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let manifest = plain.project.read("Cargo.toml");
    plain.project.write("Cargo.toml", &format!("{manifest}nonsense\n"));
    plain.wait_for("build-failed");
    assert!(plain.settle()["trouble"].is_string());
    // What it says then is no news.
    fs::write(plain.project.path("hang"), "x\n").unwrap();
    fs::remove_file(plain.project.path("hang")).unwrap();
    plain.project.write("Cargo.toml", &manifest);
    plain.wait_for("unchanged");
    assert_goes_on_after_failure(&mut plain);
    assert_eq!(told(&plain).iter().filter(|text| text.contains("cannot read the project")).count(), 0);
}

/// With the caches from before where only the version is another one.
#[test]
fn saves_are_replayed_after_another_version_and_another_name() {
    let project = project("builds-replayed", "");
    project.write(MAIN, &plain("1", &[VERSION]));
    let mut plain = Plain::begin(project, &["--timings"]);
    plain.next();
    plain.session.wait_replay_ready();
    let folders = |plain: &Plain| fs::read_dir(plain.project.path("target/hotrun/replay")).unwrap().count();
    let assert_replayed = |plain: &mut Plain, version: &str| {
        plain.session.wait_replay_ready();
        plain.project.write_by_rename(MAIN, &self::plain(version, &[VERSION]));
        assert_eq!(plain.next(), version);
        let generation = plain.generation;
        let is_it = |event: &Value| event["event"] == "timings" && event["generation"] == generation;
        assert_eq!(plain.session.see("timings", is_it)["built-by"], "replay");
    };
    plain.project.edit("Cargo.toml", "version = \"0.1.0\"", "version = \"0.2.0\"");
    plain.next();
    assert_replayed(&mut plain, "2");
    assert_eq!(folders(&plain), 1);
    plain.project.edit("Cargo.toml", "name = \"builds-replayed\"", "name = \"builds-named\"");
    plain.next();
    assert_replayed(&mut plain, "3");
    assert_eq!(folders(&plain), 2);
}
