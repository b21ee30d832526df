//! House rules, as tests.

use crate::harness::command;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder of the repository, with its text.
pub fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let mut waiting = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
        }
    }
    assert!(!files.is_empty(), "{folder}");
    files
}

/// Without comments, strings of documentation among them, and without the tests at the end of a file.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines.filter(|line| !line.trim_start().starts_with("//")).fold(String::new(), |code, line| code + line + "\n")
}

fn is_test(path: &Path) -> bool {
    path.to_string_lossy().contains("test")
}

#[test]
fn the_two_rooms_do_not_name_each_other() {
    for (folder, other) in [("src/compile", "upgrade::"), ("src/upgrade", "compile::")] {
        for (path, text) in files(folder) {
            assert!(!code(&text).contains(other), "{} names {other}", path.display());
        }
    }
    let both: Vec<PathBuf> = files("src")
        .into_iter()
        .filter(|(_, text)| code(text).contains("compile::") && code(text).contains("upgrade::"))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(both, [PathBuf::from("src/session.rs")]);
}

#[test]
fn the_cores_touch_no_world() {
    let cores = [
        "src/compile/cycle.rs",
        "src/compile/request.rs",
        "src/upgrade/handover.rs",
        "src/upgrade/deaths.rs",
        "src/upgrade/history.rs",
        "src/upgrade/stage.rs",
        "src/upgrade/standing.rs",
        "src/upgrade/intercept/drain.rs",
        "hotrun/src/control/succession.rs",
        "hotrun/src/control/retirement.rs",
    ];
    for core in cores {
        let text = code(&fs::read_to_string(root().join(core)).unwrap());
        for world in ["std::fs", "std::io", "std::net", "std::process", "std::thread", "Instant::now", "_ =>"] {
            assert!(!text.contains(world), "{core} has {world}");
        }
    }
}

#[test]
fn one_loop_takes_one_event_at_a_time() {
    let outside_of_demo = |path: &Path| !path.starts_with("src/demo") && !is_test(path);
    let receiving: Vec<PathBuf> = files("src")
        .into_iter()
        .filter(|(path, text)| {
            outside_of_demo(path) && (code(text).contains(".recv()") || code(text).contains(".recv_timeout("))
        })
        .map(|(path, _)| path)
        .collect();
    // The probe's is no event: it is how a thread that asks again and again is told to stop.
    for path in &receiving {
        assert!(path.ends_with("session.rs") || path.ends_with("upgrade/probe.rs"), "{}", path.display());
    }
}

#[test]
fn unsafe_stands_in_few_files_and_the_process_ends_in_one() {
    let mut exits = Vec::new();
    for (path, text) in files("src").into_iter().chain(files("hotrun/src")) {
        let code = code(&text);
        let kernel = [
            "hotrun/src/sys.rs",
            "hotrun/src/inherit/spawn.rs",
            "src/process/launch.rs",
            "src/process/guard.rs",
            "src/process/seccomp.rs",
            "src/upgrade/intercept/kernel.rs",
        ];
        if code.contains("unsafe {") {
            assert!(kernel.iter().any(|file| path == Path::new(file)), "{} has unsafe", path.display());
        }
        exits.extend(code.matches("process::exit(").map(|_| path.clone()));
    }
    assert_eq!(exits, [PathBuf::from("src/main.rs")]);
}

/// `report` alone has the way to the user: what others have named is cleaned there.
#[test]
fn nothing_is_printed_past_the_report() {
    for (path, text) in files("src") {
        let code = code(&text);
        // In backticks, it is advice.
        let prints = |word: &str| code.match_indices(word).any(|(at, _)| !code[..at].ends_with(['`', 'e']));
        for word in ["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!("] {
            assert!(!prints(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn a_file_says_what_lives_in_it_and_is_not_long() {
    for (path, text) in files("src").into_iter().chain(files("hotrun/src")).chain(files("tests")) {
        let first = text.lines().next().unwrap_or_default();
        let opens = first.starts_with("//!") || first.starts_with("#![doc");
        assert!(opens, "{} opens with {first:?}", path.display());
        if !is_test(&path) {
            let lines = code(&text).lines().count();
            assert!(lines <= 450, "{} has {lines} lines of code", path.display());
        }
    }
}

/// That is what their tests are about.
#[test]
fn servers_that_are_swapped_as_they_are_know_nothing_of_the_command() {
    for (path, text) in files("tests/servers") {
        assert!(!text.to_lowercase().contains("hotrun"), "{} names it", path.display());
    }
}

#[test]
fn the_repository_speaks_of_the_project_alone() {
    let places = ["src", "hotrun/src", "tests", "README.md", "CHANGELOG.md", "hotrun/README.md", "Cargo.toml"];
    // Written in two parts, so that this file does not find itself.
    let strangers =
        [["crates", ".io/api"], ["static.crates", ".io"], ["index.crates", ".io"], ["/wo", "rk/"], ["/ro", "ot/"]];
    for place in places {
        let path = root().join(place);
        let texts = if path.is_dir() { files(place) } else { vec![(path.clone(), fs::read_to_string(&path).unwrap())] };
        for (path, text) in texts {
            for stranger in strangers.iter().map(|parts| parts.concat()) {
                assert!(!text.contains(&stranger), "{} has {stranger}", path.display());
            }
        }
    }
}

/// The README shows every key with its default, as the file that a test of `config` parses.
#[test]
fn the_readme_has_the_defaults_that_the_command_has() {
    let defaults = fs::read_to_string(root().join("src/config/defaults.toml")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("```toml\n{defaults}```")), "not in the README:\n{defaults}");
}

/// Names of flags that stand in the README are flags.
#[test]
fn the_readme_names_flags_that_there_are() {
    let help = String::from_utf8(command().arg("--help").output().unwrap().stdout).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let others = ["--workspace", "--path", "--template", "--zero-change", "--bench", "--install", "--pid"];
    let flags = readme.split(|c: char| c.is_whitespace() || "`,.;()".contains(c)).filter(|word| word.starts_with("--"));
    for flag in flags.filter(|flag| flag.len() > 2 && !others.contains(flag)) {
        assert!(help.contains(flag), "the README names {flag}");
    }
}
