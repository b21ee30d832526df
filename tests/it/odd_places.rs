//! Places that are not as they should be: folders with odd names, caches that are damaged, disks that are full.

use crate::harness::plain::{Plain, plain, project};
use crate::harness::{Project, command};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const MAIN: &str = "src/main.rs";
const WORD: &str = "fn word() -> String { include_str!(\"word.txt\").into() }";

#[test]
fn saves_are_seen_in_folders_of_any_name_in_which_cargo_builds() {
    for (number, name) in ["new\nline", "tab\tx", "blank s 'q \"d \\b #h $d \r"].into_iter().enumerate() {
        let project = project(&format!("odd-name-{number}"), "").moved_into(name);
        project.write(MAIN, &plain("1", &[WORD]));
        project.write("src/word.txt", "one");
        let mut session = Plain::start(project);
        session.project.write_by_rename(MAIN, &plain("2", &[WORD]));
        assert_eq!(session.next(), "2", "{name:?}");
        session.project.write_by_rename("src/word.txt", "two");
        assert_eq!(session.next(), "2", "{name:?}");
        assert_eq!(session.session.count("build-failed"), 0, "{name:?}");
    }
}

#[test]
fn a_folder_in_which_cargo_cannot_build_is_named() {
    let mut session = Plain::begin(project("odd-colon", "").moved_into("co:lon"), &[]);
    session.wait_for("build-failed");
    let words = ["cargo cannot build in", "co:lon", "`:`"];
    let told = |event: &serde_json::Value| event["rendered"].as_str().map(str::to_owned);
    let told: Vec<String> = session.session.log.iter().filter_map(told).collect();
    assert!(told.iter().any(|text| words.iter().all(|word| text.contains(word))), "{told:?}");

    let project = project("odd-bytes", "");
    let folder = project.path("src").join(OsStr::from_bytes(b"no\xfftext"));
    fs::create_dir(&folder).unwrap();
    let output = command().current_dir(&folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("is not UTF-8") && text.contains("rename"), "{text}");
    assert_eq!(output.status.code(), Some(4));
}

/// Cuts all objects of incremental caches below that folder; how many.
fn cut(folder: &Path) -> usize {
    let mut cut = 0;
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            cut += self::cut(&path);
        } else if path.extension() == Some(OsStr::new("o")) && path.to_string_lossy().contains("/incremental/") {
            fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
            cut += 1;
        }
    }
    cut
}

/// As a crash of the machine, or a full disk, leaves them.
#[test]
fn damaged_incremental_caches_are_built_without_once() {
    for (name, args) in [("odd-cache-cargo", &["--no-replay"][..]), ("odd-cache-replay", &[])] {
        let mut session = Plain::begin(project(name, ""), args);
        session.next();
        if args.is_empty() {
            session.session.wait_replay_ready();
        }
        assert!(cut(&session.project.path("target")) > 1);
        session.project.write_by_rename(MAIN, &plain("2", &[]));
        assert_eq!(session.next(), "2", "{name}");
        if !args.is_empty() {
            let is_told =
                |event: &serde_json::Value| event["text"].as_str().is_some_and(|it| it.contains("incremental"));
            assert!(session.session.log.iter().any(is_told), "{name}");
        }
        session.project.write_by_rename(MAIN, &plain("3", &[]));
        assert_eq!(session.next(), "3", "{name}");
        assert_eq!(session.session.count("build-failed"), 0, "{name}");
    }
}

/// Has the command see a file system of that size in that folder (mount_namespaces(7)).
fn small_disk(command: &mut Command, folder: &Path, size: &str) {
    let mut inside = Command::new("unshare");
    let script = format!("mount -t tmpfs -o size={size} none \"$0\" && exec \"$@\"");
    inside.args(["-rm", "sh", "-c", &script]).arg(folder).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside.current_dir(command.get_current_dir().unwrap());
    inside.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    *command = inside;
}

#[test]
fn a_full_disk_is_named_with_what_is_free_there() {
    let project: Project = project("odd-disk", "");
    let target = project.path("target");
    fs::create_dir(&target).unwrap();
    let mut session = Plain::begin_with(project, &[], |command| small_disk(command, &target, "1m"));
    session.wait_for("build-failed");
    let told = |event: &serde_json::Value| event["rendered"].as_str().map(str::to_owned);
    let told: Vec<String> = session.session.log.iter().filter_map(told).collect();
    let is_it = |text: &String| text.contains("disk is full") && text.contains("free in target");
    assert!(told.iter().any(is_it), "{told:#?}");
}

/// By which a linker ends that writes to a full disk, too; here there is room, and nothing else is known of it.
#[test]
fn a_linker_that_a_fault_has_ended_is_told_as_that_where_there_is_room() {
    let project = project("odd-bus", "");
    let linker = project.path("linker.sh");
    fs::write(&linker, "#!/bin/sh\nkill -BUS $$\n").unwrap();
    fs::set_permissions(&linker, fs::Permissions::from_mode(0o755)).unwrap();
    project.write(".cargo/config.toml", &format!("[build]\nrustflags = [\"-Clinker={}\"]\n", linker.display()));
    let mut session = Plain::begin(project, &[]);
    session.wait_for("build-failed");
    let told = |event: &serde_json::Value| event["rendered"].as_str().map(str::to_owned);
    let told: Vec<String> = session.session.log.iter().filter_map(told).collect();
    assert!(told.iter().any(|text| text.contains("linker.sh") && text.contains("SIGBUS")), "{told:#?}");
    assert!(!told.iter().any(|text| text.contains("disk")), "{told:#?}");
}
