//! Names and texts of others that would steer a terminal, on each of the ways on which they come to one.

use crate::harness::plain::{Plain, project};
use crate::harness::{LONG, command, free_address, now};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Output, Stdio};

/// Clears the screen, sets the title, writes to the clipboard, in the forms of one and of two characters, turns text around, and deletes.
const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}H\u{1b}]52;c;eA==\u{1b}\\\u{9d}0;t\u{9c}\u{202e}\u{7f}\u{8}b";
const TOML: &str = r"a\u001b[2J\u001b]0;t\u0007\u009bH\u001b]52;c;eA==\u001b\\\u009d0;t\u009c\u202e\u007f\u0008b";

/// Nothing of it is left but what makes colours.
fn is_clean(said: &[u8]) {
    let said = std::str::from_utf8(said).unwrap();
    let mut rest = said.to_owned();
    while let Some(at) = rest.find("\u{1b}[") {
        let end = rest[at + 2..].find(|c: char| !c.is_ascii_digit() && c != ';').map(|end| at + 2 + end).unwrap();
        assert_eq!(&rest[end..=end], "m", "{said:?}");
        rest.replace_range(at..=end, "");
    }
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t' || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!rest.contains(steers), "{said:?}");
}

/// All that is said by the command in that folder, which has been looked at.
fn said(folder: &Path, args: &[&str]) -> String {
    let mut command = command();
    command.args(args).current_dir(folder).stdin(Stdio::null());
    // As on a terminal.
    command.env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR").env_remove("CARGO_TARGET_DIR");
    let Output { stdout, stderr, .. } = command.output().unwrap();
    let both = [stdout, stderr].concat();
    is_clean(&both);
    let said = String::from_utf8(both).unwrap();
    assert!(!said.is_empty());
    said
}

#[test]
fn arguments_that_are_wrong_are_named_without_what_they_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let (flag, value) = (format!("--{HOSTILE}"), format!("--color={HOSTILE}"));
    let timeout = format!("--drain-timeout={HOSTILE}");
    let here = env!("CARGO_MANIFEST_DIR").as_ref();
    for (folder, args) in [
        (folder.path(), &[flag.as_str()][..]),
        (folder.path(), &[&value]),
        (folder.path(), &[HOSTILE]),
        (folder.path(), &["status", HOSTILE]),
        (folder.path(), &["completions", HOSTILE]),
        (folder.path(), &["new", "x", "--template", HOSTILE]),
        (folder.path(), &["new", "x", "--name", HOSTILE]),
        (folder.path(), &["new", HOSTILE]),
        (folder.path(), &["--manifest-path", HOSTILE]),
        (folder.path(), &["status", "--manifest-path", HOSTILE]),
        (here, &[&timeout]),
        (here, &["--listen", HOSTILE]),
        (here, &["--listen", &format!("{HOSTILE}=3000")]),
        (here, &["--ready", HOSTILE]),
        (here, &["--bin", HOSTILE]),
        (here, &["-p", HOSTILE]),
        (here, &["--env", &HOSTILE.replace('=', "")]),
        (here, &["--data", &HOSTILE.replace('=', "")]),
    ] {
        said(folder, args);
    }
}

#[test]
fn so_are_keys_of_the_manifest_and_names_of_folders() {
    for (nth, metadata) in [
        format!("\"{TOML}\" = 1"),
        format!("listen = {{ \"{TOML}\" = \"3000\" }}"),
        format!("listen = \"{TOML}\""),
        format!("strategy = \"{TOML}\""),
        format!("env = {{ \"{TOML}=\" = \"x\" }}"),
    ]
    .iter()
    .enumerate()
    {
        let project = project(&format!("hostile-key-{nth}"), metadata);
        said(project.root(), &[]);
    }
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(OsStr::from_bytes(HOSTILE.as_bytes()));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("Cargo.toml"), "[package]\nname = \"x\"\nversion = \"0.1.0\"\n").unwrap();
    assert!(said(&folder, &["status"]).contains("no session runs on"));
    std::fs::write(folder.join("Cargo.toml"), "[package").unwrap();
    said(&folder, &[]);
}

/// A line of ours, as it would look; and a name on two lines, of which that is the second.
const FORGED: &str = "error: all is lost";
const LINES: &str = "a\nerror: all is lost\nb";

#[test]
fn a_name_of_several_lines_is_one_and_says_nothing_of_its_own() {
    let of_its_own = |said: &str| said.lines().any(|line| line.starts_with(FORGED));
    let folder = tempfile::tempdir().unwrap();
    let here: &Path = env!("CARGO_MANIFEST_DIR").as_ref();
    for (folder, args) in [
        (folder.path(), &[&format!("--{LINES}")[..]][..]),
        (folder.path(), &[&format!("--color={LINES}")]),
        (folder.path(), &[LINES]),
        (folder.path(), &["completions", LINES]),
        (folder.path(), &["new", "x", "--name", LINES]),
        (folder.path(), &["new", LINES]),
        (folder.path(), &["--manifest-path", LINES]),
        (folder.path(), &["status", "--manifest-path", LINES]),
        (here, &["--listen", LINES]),
        (here, &["--listen", &format!("{LINES}=3000")]),
        (here, &["--bin", LINES]),
        (here, &["-p", LINES]),
        (here, &["--env-file", LINES]),
        (here, &["--watch", LINES]),
    ] {
        let said = said(folder, args);
        assert!(!of_its_own(&said), "{args:?}: {said}");
        assert!(said.contains(r"a\nerror: all is lost\nb"), "{args:?}: {said}");
    }
    let toml = r"a\nerror: all is lost\nb";
    for (nth, metadata) in [
        format!("\"{toml}\" = 1"),
        format!("listen = {{ \"{toml}\" = \"3000\" }}"),
        format!("env = {{ \"{toml}=\" = \"x\" }}"),
        format!("watch = \"{toml}\""),
    ]
    .iter()
    .enumerate()
    {
        let project = project(&format!("hostile-lines-{nth}"), metadata);
        let said = said(project.root(), &[]);
        assert!(!of_its_own(&said), "{metadata}: {said}");
    }
    let folder = folder.path().join(LINES);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("Cargo.toml"), "[package]\nname = \"x\"\nversion = \"0.1.0\"\n").unwrap();
    let no_session = said(&folder, &["status"]);
    assert!(no_session.contains(r"a\nerror: all is lost\nb") && !of_its_own(&no_session), "{no_session}");
    // What cargo says is on as many lines as it has.
    std::fs::write(folder.join("Cargo.toml"), "[package").unwrap();
    let unread = said(&folder, &[]);
    assert!(unread.contains("cargo cannot read the project") && unread.lines().count() > 3, "{unread}");
    assert!(!of_its_own(&unread), "{unread}");
}

/// What a session tells of itself, to people and to programs; a terminal need not tell one from the other.
#[test]
fn so_is_what_a_session_says() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join(HOSTILE);
    let listen = format!("{}=unix:{}", "odd", socket.display());
    let mut it = Plain::begin_with(project("hostile-session", ""), &["--listen", &listen], |_| {});
    it.session.wait_serving(1);
    let heard = it.session.log.iter().any(|event| event["address"].as_str().is_some_and(|at| at.contains(HOSTILE)));
    assert!(heard, "for programs it is as it was: {:?}", it.session.log);
    let pid = it.session.pid().to_string();
    for args in [&["status", "--pid", &pid][..], &["wait", "--pid", &pid], &["stop", "--pid", "1"]] {
        let mut command = command();
        let Output { stdout, stderr, .. } = command.args(args).current_dir(it.project.root()).output().unwrap();
        is_clean(&[stdout, stderr].concat());
    }
    let text = said(it.project.root(), &["status", "--pid", &pid]);
    assert!(text.contains("unix:"), "{text}");
    let json = command().args(["status", "--pid", &pid, "--message-format", "json"]).output().unwrap().stdout;
    is_clean(&json);
    let state: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert!(state["addresses"].as_array().unwrap().iter().any(|at| at.as_str().unwrap().contains(HOSTILE)), "{state}");
}

/// Raw, as a terminal is given it.
#[test]
fn so_are_the_lines_of_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["human", "json"] {
        let project = project(&format!("hostile-{format}"), "");
        let odd = format!("odd=unix:{}", folder.path().join(format!("{format}{HOSTILE}")).display());
        let mut command = command();
        command.args(["--message-format", format, "--color", "always", "--listen"]);
        command
            .arg(free_address().to_string())
            .args(["--listen", &odd, "--manifest-path"])
            .arg(project.path("Cargo.toml"));
        command.env_remove("CARGO_TARGET_DIR").current_dir(project.root()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pid = child.id().to_string();
        // Until it can be asked, it is not there; then it is ended when it serves.
        let ask = |what: &str| {
            let mut ask = crate::harness::command();
            ask.args([what, "--pid", &pid]).current_dir(project.root()).output().unwrap().status.success()
        };
        let limit = now() + LONG;
        while !ask("wait") {
            if now() > limit {
                child.kill().unwrap();
                panic!("it does not serve");
            }
        }
        assert!(ask("stop"));
        let Output { stdout, stderr, .. } = child.wait_with_output().unwrap();
        is_clean(&stdout);
        is_clean(&stderr);
        let told = if format == "json" { stdout } else { stderr };
        assert!(String::from_utf8(told).unwrap().contains("unix:"), "{format}");
    }
}
