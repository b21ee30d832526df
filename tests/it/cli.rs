//! The command line: how it is started, what it refuses, with which words and exit codes, and that a refusal leaves nothing.

use crate::harness::{Project, command, leavings, plain};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Where the command itself is.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cargo-hotrun")).parent().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs it to its end. What it says on standard error, and its exit code.
fn run(mut command: Command) -> (String, Option<i32>) {
    let Output { stderr, status, .. } = command.stdin(Stdio::null()).output().unwrap();
    (text(&stderr), status.code())
}

/// Runs it in that folder, to an end with that code, and makes sure that nothing is left of it.
fn refused(folder: &Path, args: &[&str], code: i32) -> String {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = command();
    command.args(args).current_dir(folder).env("TMPDIR", temporary.path()).env_remove("CARGO_TARGET_DIR");
    let (said, exit) = run(command);
    assert_eq!(exit, Some(code), "{args:?}: {said}");
    assert!(said.starts_with("error: "), "{said}");
    assert_eq!(leavings(temporary.path()), Vec::<String>::new(), "{args:?}");
    assert!(!folder.join("target").exists(), "{args:?}");
    said
}

#[test]
fn it_can_be_started_in_three_ways() {
    let path = format!("{}:{}", folder().display(), std::env::var("PATH").unwrap());
    let mut by_cargo = Command::new(env!("CARGO"));
    by_cargo.arg("hotrun").env("PATH", path);
    let mut by_hand = command();
    by_hand.arg("hotrun");
    for (mut start, name) in [(by_cargo, "cargo hotrun"), (by_hand, "cargo-hotrun hotrun"), (command(), "cargo-hotrun")]
    {
        start.args(["--listen", "nonsense"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let (said, exit) = run(start);
        assert_eq!(exit, Some(2), "{name}: {said}");
        assert!(said.contains("error: `--listen`: found \"nonsense\""), "{name}: {said}");
    }
}

#[test]
fn the_help_has_its_groups_and_every_key() {
    let Output { stdout, status, .. } = command().args(["hotrun", "--help"]).output().unwrap();
    assert!(status.success());
    let help = text(&stdout);
    for group in ["Package selection:", "Build:", "Server:", "Hot upgrade:", "Watching:", "Output:", "Commands:"] {
        assert!(help.lines().any(|line| line == group), "no {group} in {help}");
    }
    for part in ["Usage: cargo hotrun", "--drain-timeout", "[package.metadata.hotrun]", "kill-timeout = \"2s\""] {
        assert!(help.contains(part), "no {part} in {help}");
    }
    let Output { stdout, status, .. } = command().arg("--version").output().unwrap();
    assert!(status.success());
    assert_eq!(text(&stdout), format!("cargo-hotrun {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_is_a_command_too() {
    for (args, part) in [
        (&["help"][..], "--drain-timeout"),
        (&["help", "stop"], "End a running session"),
        (&["hotrun", "help"], "Usage: cargo hotrun"),
    ] {
        let Output { stdout, status, .. } = command().args(args).output().unwrap();
        assert!(status.success(), "{args:?}");
        assert!(text(&stdout).contains(part), "{args:?}: {}", text(&stdout));
    }
}

#[test]
fn an_argument_for_the_program_is_told_where_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let said = refused(folder.path(), &["--port", "3000"], 2);
    assert!(said.contains("cargo hotrun -- --port 3000") && !said.contains("--probation"), "{said}");
    let said = refused(folder.path(), &["--lisen", "3000"], 2);
    assert!(said.contains("'--listen'"), "{said}");
}

#[test]
fn a_folder_for_temporary_files_that_is_gone_is_told_and_not_used() {
    let project = plain::project("cli-temporary", "");
    // What the server is given is no folder that is not there.
    let line = "fn word() -> String { format!(\"{:?}\", std::env::var_os(\"TMPDIR\")) }";
    project.write("src/main.rs", &plain::plain("1", &[line]));
    let mut plain = plain::Plain::begin_with(project, &[], |command| {
        command.env("TMPDIR", "/tmp/hotrun-test-nowhere/gone");
    });
    assert_eq!(plain.next(), "1");
    let said = plain.session.stderr();
    assert!(said.contains("warning: TMPDIR is \"/tmp/hotrun-test-nowhere/gone\""), "{said}");
    assert_eq!(said.matches("TMPDIR").count(), 1, "once: {said}");
    let answer = crate::harness::get(plain.address, "/").unwrap();
    assert!(answer.contains("word: None"), "{answer}");
    // It is one process still, which is asked and ended as ever.
    plain.session.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, _) = plain.session.finish();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
}

#[test]
fn completions_are_what_their_shell_reads() {
    for (shell, sign) in
        [("bash", "complete -F _cargo"), ("zsh", "#compdef cargo-hotrun"), ("fish", "complete -c cargo-hotrun")]
    {
        let Output { stdout, status, .. } = command().args(["completions", shell]).output().unwrap();
        assert!(status.success());
        let script = text(&stdout);
        assert!(script.contains(sign) && script.contains("drain-timeout"), "{shell}: {script}");
        if shell == "bash" {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            assert!(Command::new("bash").arg("-n").arg(file.path()).status().unwrap().success());
        }
    }
    // Nobody reads: no panic, only an end.
    let mut unread =
        command().args(["completions", "zsh"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let said = unread.wait_with_output().unwrap();
    assert!(!text(&said.stderr).contains("panicked"), "{}", text(&said.stderr));
}

#[test]
fn a_new_project_is_complete_and_compiles() {
    for template in ["std", "axum"] {
        let project = Project::from_template(&format!("cli-new-{template}"), template);
        let mut files: Vec<String> = walk(project.root());
        files.sort();
        assert_eq!(files, [".gitignore", "Cargo.lock", "Cargo.toml", "src/main.rs"]);
        assert!(!project.read("Cargo.toml").contains("{{"), "{}", project.read("Cargo.toml"));
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet"]).current_dir(project.root());
        build.env("CARGO_TARGET_DIR", crate::harness::target_folder());
        let (said, exit) = run(build);
        assert_eq!((exit, said.as_str()), (Some(0), ""));
    }
}

fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(root).unwrap().display().to_string()),
            }
        }
    }
    found
}

#[test]
fn a_new_project_is_refused_where_it_would_do_harm() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("full")).unwrap();
    std::fs::write(folder.path().join("full/kept.txt"), "kept").unwrap();
    std::fs::write(folder.path().join("file"), "kept").unwrap();
    for (args, part) in [
        (&["new", "full"][..], "full is there already and not empty"),
        (&["new", "file"], "use file as the project's folder"),
        (&["new", "9lives"], "must begin with a letter"),
        (&["new", "fine", "--name", "fn"], "keyword"),
        (&["new", "deep/er/fine", "--name", "a b"], "only letters"),
        (&["new", "tokio"], "depends on a crate of that name"),
    ] {
        let said = refused(folder.path(), args, 2);
        assert!(said.contains(part) && said.contains("help: ") != (args[1] == "file"), "{args:?}: {said}");
    }
    let mut left = walk(folder.path());
    left.sort();
    assert_eq!(left, ["file", "full/kept.txt"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a folder was made");
}

#[test]
fn what_means_nothing_in_the_manifest_is_refused_with_its_place() {
    for (name, keys, place, part) in [
        (
            "cli-key",
            "lisen = \"3000\"",
            "13:1",
            "unknown key `lisen` in [package.metadata.hotrun]; did you mean `listen`?",
        ),
        ("cli-port", "listen = \"300000\"", "13:10", "not a port"),
        ("cli-time", "drain-timeout = \"5\"", "13:17", "write \"5s\" or \"5ms\""),
        ("cli-way", "strategy = \"reload\"", "13:12", "restart"),
        ("cli-bin", "bin = \"other\"", "13:", "`cli-bin`"),
    ] {
        let project = plain::project(name, keys);
        let said = refused(project.root(), &[], 2);
        let place = format!("Cargo.toml:{place}");
        assert!(said.contains(&place) && said.contains(part), "{place} or {part:?} not in {said}");
    }
}

#[test]
fn what_means_nothing_among_the_flags_is_refused() {
    let project = plain::project("cli-flags", "");
    for (flag, value, part) in [
        ("--listen", "1.2.3", "not an address"),
        ("--listen", "127.0.0.1:99999", "not a port"),
        ("--drain-timeout", "5x", "not a unit of time"),
        ("--probation", "-1s", ""),
        ("--strategy", "reload", "possible values: upgrade, restart"),
        ("--bin", "cli-flag", "did you mean `cli-flags`?"),
        ("-p", "cli-flag", "did you mean `cli-flags`?"),
        ("--ready", "soon", "--ready"),
    ] {
        let flag_and_value = format!("{flag}={value}");
        let said = refused(project.root(), &[&flag_and_value], 2);
        assert!(said.contains(part), "{flag_and_value}: {said}");
    }
}

#[test]
fn of_several_binaries_one_has_to_be_chosen() {
    let project = plain::project("cli-several", "");
    project.write("src/bin/second.rs", "fn main() {}\n");
    let said = refused(project.root(), &[], 2);
    for part in ["`cli-several`, `second`", "--bin NAME", "bin = \"NAME\"", "Cargo.toml"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn a_project_that_cannot_be_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let said = refused(folder.path(), &[], 4);
    assert!(said.contains("could not find `Cargo.toml`") && said.contains("--manifest-path"), "{said}");
    refused(folder.path(), &["--manifest-path", "nowhere/Cargo.toml"], 4);
    std::fs::write(folder.path().join("Cargo.toml"), "[package\n").unwrap();
    let said = refused(folder.path(), &[], 4);
    assert!(said.contains("Cargo.toml:1:"), "{said}");
}

#[test]
fn an_address_that_another_has_is_refused_with_its_name() {
    let project = plain::project("cli-address", "");
    let here = format!("pid {}", std::process::id());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = refused(project.root(), &["--listen", &tcp.local_addr().unwrap().to_string()], 3);
    assert!(said.contains(&here), "{said}");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    refused(project.root(), &["--listen", &format!("udp:{}", udp.local_addr().unwrap())], 3);
    let unix = UnixListener::bind(project.path("taken.sock")).unwrap();
    refused(project.root(), &["--listen", "unix:taken.sock"], 3);
    // And nothing was taken from those who have them.
    std::os::unix::net::UnixStream::connect(project.path("taken.sock")).unwrap();
    unix.accept().unwrap();
}
