//! What says how the program is built, and is no source of it: all of that goes through cargo.

use super::{Served, has, workspace};
use crate::harness::Project;
use std::process::Command;

/// Says which features and flags it was compiled with, and so does its crate `leaf`.
fn telling(name: &str) -> Project {
    let word = r#"[
        (cfg!(feature = "extra"), "extra"), (cfg!(debug_assertions), "checked"), (cfg!(flagged), "flagged"),
        (option_env!("SAID") == Some("config"), "configured"), (option_env!("SAID") == Some("again"), "again"),
        (true, leaf::word()),
    ].iter().filter(|(on, _)| *on).map(|(_, what)| *what).collect::<Vec<_>>().join(" ")"#;
    let leaf = "pub fn word() -> &'static str { if cfg!(feature = \"loud\") { \"LEAF\" } else { \"leaf\" } }\n";
    let other = "pub fn word() -> &'static str { \"other\" }\n";
    let crates = [("leaf", "[features]\nloud = []", leaf), ("other", "", other)];
    let word = word.replace('\n', " ");
    let project = workspace(name, &word, "leaf = { path = \"leaf\" }", &crates);
    let members = "[workspace]\nmembers = [\"leaf\", \"other\"]";
    project.edit("Cargo.toml", "[workspace]", &format!("[lints.rust]\nunexpected_cfgs = \"allow\"\n{members}"));
    project
}

#[test]
fn the_manifest_goes_through_cargo() {
    let mut served = Served::start(telling("replay-manifest"));
    assert_eq!(served.word(), "checked leaf");
    served.edit();

    served.project().edit("Cargo.toml", "[workspace]", "[features]\nextra = []\ndefault = [\"extra\"]\n[workspace]");
    served.through_cargo("Cargo.toml changed", "extra checked leaf");
    served.edit();
    served.project().edit("Cargo.toml", "[workspace]", "[profile.dev]\ndebug-assertions = false\n[workspace]");
    served.through_cargo("Cargo.toml changed", "extra leaf");
    served.edit();
    served.project().edit("Cargo.toml", "path = \"leaf\"", "path = \"leaf\", features = [\"loud\"]");
    served.through_cargo("Cargo.toml changed", "extra LEAF");
    served.edit();
    served.project().edit("Cargo.toml", ", features = [\"loud\"]", "");
    served.through_cargo("Cargo.toml changed", "extra leaf");
    served.project().edit("leaf/Cargo.toml", "loud = []", "loud = []\ndefault = [\"loud\"]");
    served.through_cargo("leaf/Cargo.toml changed", "extra LEAF");
    served.edit();
    // One crate takes another's place, which nobody has compiled yet.
    served.project().edit("Cargo.toml", "path = \"leaf\"", "path = \"other\", package = \"other\"");
    served.through_cargo("Cargo.toml changed", "extra other");
    served.edit();
    served.project().edit("other/src/lib.rs", "\"other\"", "\"another\"");
    served.by_replay(&["other", "replay_manifest"], "extra another");
}

#[test]
fn the_configuration_of_cargo_goes_through_cargo() {
    let mut served = Served::start(telling("replay-config"));
    served.edit();
    // Neither the folder nor the file was there.
    served.project().write(".cargo/config.toml", "[env]\nSAID = \"config\"\n");
    served.through_cargo("config.toml changed", "checked configured leaf");
    served.edit();
    served.project().write(".cargo/config.toml", "[env]\nSAID = \"again\"\n");
    served.through_cargo("config.toml changed", "checked again leaf");
    served.edit();
    served.project().write(".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"flagged\"]\n");
    served.through_cargo("config.toml changed", "checked flagged leaf");
    served.edit();
    std::fs::remove_file(served.project().path(".cargo/config.toml")).unwrap();
    served.through_cargo("config.toml changed", "checked leaf");
    served.edit();
}

/// A feature that is turned on for a crate by another one that needs it too.
#[test]
fn a_feature_that_another_crate_asks_for_goes_through_cargo() {
    let leaf = "pub fn word() -> &'static str { if cfg!(feature = \"loud\") { \"LEAF\" } else { \"leaf\" } }\n";
    let needs = "[dependencies]\nleaf = { path = \"../leaf\" }";
    let crates =
        [("leaf", "[features]\nloud = []", leaf), ("side", needs, "pub fn word() -> &'static str { leaf::word() }\n")];
    let dependencies = "leaf = { path = \"leaf\" }\nside = { path = \"side\" }";
    let word = "format!(\"{} {}\", leaf::word(), side::word())";
    let mut served = Served::start(workspace("replay-unified", word, dependencies, &crates));
    served.edit();
    served.project().edit("side/Cargo.toml", "\"../leaf\"", "\"../leaf\", features = [\"loud\"]");
    served.through_cargo("side/Cargo.toml changed", "LEAF LEAF");
    served.edit();
    assert_eq!(served.word(), "LEAF LEAF");
}

/// Two versions of a crate of a registry, of which the lock file chooses one.
#[test]
fn the_lock_file_goes_through_cargo() {
    let project = workspace("replay-lock", "worded::word()", "worded = \"0.1\"", &[]);
    for version in ["0.1.0", "0.1.1"] {
        let folder = format!("vendor/worded-{version}");
        let package = format!("[package]\nname = \"worded\"\nversion = \"{version}\"\nedition = \"2024\"\n");
        project.write(&format!("{folder}/Cargo.toml"), &package);
        project.write(&format!("{folder}/src/lib.rs"), &has(&format!("{version:?}.into()")));
        project.write(&format!("{folder}/.cargo-checksum.json"), "{\"files\":{}}");
    }
    let sources = "[source.crates-io]\nreplace-with = \"vendored\"\n[source.vendored]\ndirectory = \"vendor\"\n";
    project.write(".cargo/config.toml", sources);
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo.args(["generate-lockfile", "--offline"]).current_dir(project.root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let choose = |project: &Project, from: &str, to: &str| {
        let line = |version: &str| format!("name = \"worded\"\nversion = {version:?}");
        project.edit("Cargo.lock", &line(from), &line(to));
    };
    choose(&project, "0.1.1", "0.1.0");
    let mut served = Served::start(project);
    assert_eq!(served.word(), "0.1.0");
    served.edit();
    choose(served.project(), "0.1.0", "0.1.1");
    served.through_cargo("Cargo.lock changed", "0.1.1");
    served.edit();
    assert_eq!(served.word(), "0.1.1");
}

/// The file wins where nothing else has chosen the toolchain, as when the command is started by its own name.
#[test]
fn the_toolchain_file_goes_through_cargo() {
    let list = Command::new("rustup").args(["toolchain", "list"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let names = || list.lines().filter_map(|line| line.split(' ').next());
    let active = list.lines().find(|line| line.contains("active")).and_then(|line| line.split(' ').next()).unwrap();
    let other = names().find(|name| *name != active && !name.contains("nightly")).unwrap_or(active);
    let leaf = has("option_env!(\"RUSTUP_TOOLCHAIN\").unwrap_or_default().into()");
    let dependency = "leaf = { path = \"leaf\" }";
    let project = workspace("replay-toolchain", "leaf::word()", dependency, &[("leaf", "", &leaf)]);
    let mut served = Served::start_with(project, &[], |command| {
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    });
    assert_eq!(served.word(), active);
    served.edit();
    served.project().write("rust-toolchain.toml", &format!("[toolchain]\nchannel = {other:?}\n"));
    served.through_cargo("rust-toolchain.toml changed", other);
    served.edit();
}
