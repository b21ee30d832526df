//! Macros and build scripts that print without end: what they say costs the command no more than a bound, and an error is still shown.

use crate::harness::plain::{Plain, plain, project};
use crate::harness::{Project, command};
use serde_json::Value;
use std::fs;

const MAIN: &str = "src/main.rs";
/// Times 100 kB in lines, and half as much in one: 60 MB to both outputs.
const MUCH: usize = 200;
/// More than before there was anything to say, in kB.
const MOST_MEMORY: u64 = 60_000;

/// Prints lines, and one that is as long as all of them, to both outputs.
fn talkative() -> String {
    format!(
        r#"
use std::io::Write;
fn talk(mut out: impl Write) {{
    let lines = format!("{{:0>99}}\n", 1).repeat(1_000);
    for _ in 0..{MUCH} {{
        out.write_all(lines.as_bytes()).unwrap();
    }}
    for _ in 0..{MUCH} {{
        out.write_all(&[b'x'; 50_000]).unwrap();
    }}
    writeln!(out).unwrap();
    out.flush().unwrap();
}}
"#
    )
}

/// With a macro that prints that much and gives nothing.
fn with_macro(project: &Project) {
    let name = format!("{}-macro", project.name);
    let manifest =
        format!("[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\nproc-macro = true\n");
    let text = format!(
        "{}\n#[proc_macro]\npub fn talk_much(_: proc_macro::TokenStream) -> proc_macro::TokenStream {{\n\
         talk(std::io::stdout().lock());\ntalk(std::io::stderr().lock());\n\
         Default::default()\n}}\n",
        talkative()
    );
    project.write("talking/Cargo.toml", &manifest);
    project.write("talking/src/lib.rs", &text);
    project.edit(
        "Cargo.toml",
        "[dependencies]\n",
        &format!("[dependencies]\ntalking = {{ path = \"talking\", package = {name:?} }}\n"),
    );
}

/// The most memory that the command has had, in kB (proc_pid_status(5)).
fn peak(plain: &Plain) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", plain.session.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

fn assert_bounded(plain: &Plain, before: u64) {
    let more = peak(plain) - before;
    assert!(more < MOST_MEMORY, "{more} kB more than {before}");
}

/// What was shown since then, and what was said of the rest.
fn told(plain: &Plain, begin: usize) -> (Vec<String>, Option<String>) {
    let log = &plain.session.log[begin..];
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let shown = log.iter().filter(|event| event["event"] == "diagnostic").map(|event| text(event, "rendered"));
    let mut notes = log.iter().filter(|event| event["event"] == "note").map(|event| text(event, "text"));
    let left_out = notes.find(|note| note.contains("left out"));
    (shown.collect(), left_out)
}

/// In cargo's builds and in replayed ones.
#[test]
fn a_macro_that_prints_without_end_costs_little_and_the_error_is_shown() {
    for (name, args) in [("printing-cargo", &["--no-replay"][..]), ("printing-replay", &[])] {
        let project = project(name, "");
        with_macro(&project);
        let mut session = Plain::begin(project, args);
        session.next();
        if args.is_empty() {
            session.session.wait_replay_ready();
        }
        let (begin, before) = (session.session.log.len(), peak(&session));
        let broken = plain("2", &[]) + "talking::talk_much!();\nfn broken() -> u32 { \"text\" }\n";
        session.project.write_by_rename(MAIN, &broken);
        assert_eq!(session.wait_for("build-failed")["errors"], 1, "{name}");
        let (shown, left_out) = told(&session, begin);
        assert!(shown.iter().any(|text| text.contains("mismatched types")), "{name}: {} messages", shown.len());
        assert!(shown.iter().map(String::len).sum::<usize>() < 4 << 20, "{name}");
        let left_out = left_out.unwrap();
        assert!(left_out.contains("MB") && left_out.contains("cargo build"), "{left_out}");
        // It goes on: nobody was kept from writing.
        session.project.write_by_rename(MAIN, &broken.replace("\"text\"", "1"));
        assert_eq!(session.next(), "2");
        let by_cargo = session.session.log[begin..].iter().any(|event| event["event"] == "progress");
        assert_eq!(by_cargo, !args.is_empty(), "{name}");
        assert_bounded(&session, before);
        let pid = session.session.pid().to_string();
        let status = command().args(["status", "--pid", &pid]).current_dir(session.project.root()).output().unwrap();
        assert!(status.status.success() && status.stdout.len() < 4_000, "{} bytes", status.stdout.len());
    }
}

/// Cargo prints all that a script has printed when it fails, and keeps it in a file when it does not.
#[test]
fn a_build_script_that_prints_without_end_costs_little_and_its_reason_is_shown() {
    let project = project("printing-script", "");
    let script = format!(
        "{}\nfn main() {{\nlet bad = std::fs::read_to_string(\"bad\").unwrap();\nif bad == \"quiet\" {{ return; }}\ntalk(std::io::stdout().lock());\nprintln!(\"\\ncargo::rerun-if-changed=bad\");\n\
         assert!(bad.is_empty(), \"this is the reason\");\n}}\n",
        talkative()
    );
    project.write("build.rs", &script);
    project.write("bad", "quiet");
    let mut plain = Plain::begin(project, &["--no-replay"]);
    plain.next();
    let before = peak(&plain);
    plain.project.write("bad", "");
    plain.session.wait("an end of the build", |event| event["event"] == "unchanged");
    assert_bounded(&plain, before);
    // Its last line was read.
    plain.project.write("bad", "bad");
    plain.wait_for("build-failed");
    let (shown, left_out) = told(&plain, 0);
    assert!(shown.iter().any(|text| text.contains("failed to run custom build command")), "{:?}", shown.first());
    assert!(shown.iter().any(|text| text.contains("this is the reason")), "{:?}", shown.last());
    assert!(left_out.unwrap().contains("MB"));
    assert_bounded(&plain, before);
}
