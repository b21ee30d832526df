//! Files of a crate that come, go and move: right whoever compiles, and so is the next save.

use super::{MAIN, Served, has, says, workspace};
use crate::harness::plain::plain;
use crate::harness::version;
use serde_json::Value;
use std::fs;
use std::process::Command;

impl Served {
    /// Makes the program say that, with these modules.
    fn say(&mut self, word: &str, modules: &str) {
        self.version += 1;
        let modules = format!("fn at_start() {{}} {modules}");
        self.project().write_by_rename(MAIN, &plain(&self.version.to_string(), &[&modules, &says(word)]));
    }

    /// Waits until the change serves, and the program says that word; the next save is right, too, and the one after is built by
    /// replay.
    fn right(&mut self, word: &str) {
        self.next();
        assert_eq!(self.word(), word);
        self.version();
        self.next();
        assert_eq!((version(self.plain.address), self.word()), (self.version.to_string(), word.to_owned()));
        self.plain.session.wait_replay_ready();
        self.edit();
        assert_eq!(self.word(), word);
    }

    /// Waits until the build has failed; what the compiler said of it.
    fn failure(&mut self) -> Vec<String> {
        self.plain.session.wait_for("build-failed");
        self.said()
    }

    /// What the compiler said in the last build.
    fn said(&self) -> Vec<String> {
        let log = &self.plain.session.log;
        let began = log.iter().rposition(|event| event["event"] == "building").unwrap();
        let diagnostics = log[began..].iter().filter(|event| event["event"] == "diagnostic");
        diagnostics.map(|event| event["rendered"].as_str().unwrap().to_owned()).collect()
    }

    /// What the compiler says when cargo builds the same elsewhere.
    fn said_by_cargo(&self) -> Vec<String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--offline",
            "--message-format",
            "json-diagnostic-rendered-ansi",
            "--target-dir",
            "elsewhere",
        ]);
        let output = cargo.current_dir(self.project().root()).output().unwrap();
        let lines = output.stdout.split(|byte| *byte == b'\n');
        let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let rendered = messages.filter_map(|message| Some(message["message"]["rendered"].as_str()?.to_owned()));
        rendered.collect()
    }
}

#[test]
fn a_module_comes_goes_and_moves() {
    let project = workspace("replay-module", "\"none\".into()", "", &[]);
    project.write(".gitignore", "/target\n/elsewhere\n");
    let mut served = Served::start(project);

    served.project().write("src/x.rs", &has("\"x\".into()"));
    served.say("x::word()", "mod x;");
    served.right("x");
    served.project().write("src/x.rs", &has("\"new x\".into()"));
    served.by_replay(&["replay_module"], "new x");

    // The one that serves goes on, and is right again when the file is back.
    let text = served.project().read("src/x.rs");
    fs::remove_file(served.project().path("src/x.rs")).unwrap();
    let said = served.failure();
    assert!(said[0].contains("E0583") && said[0].contains("src/main.rs"), "{said:?}");
    assert_eq!(said, served.said_by_cargo());
    assert_eq!(served.word(), "new x");
    served.project().write("src/x.rs", &text.replace("new x", "x again"));
    served.right("x again");

    // Into a folder of its own.
    fs::create_dir(served.project().path("src/x")).unwrap();
    served.project().write("src/x.rs", &has("\"x in a folder\".into()"));
    served.by_replay(&["replay_module"], "x in a folder");
    served.project().write("new.tmp", &has("\"x of a folder\".into()"));
    fs::rename(served.project().path("new.tmp"), served.project().path("src/x/mod.rs")).unwrap();
    fs::remove_file(served.project().path("src/x.rs")).unwrap();
    served.right("x of a folder");
    served.project().edit("src/x/mod.rs", "of a", "of its");
    served.by_replay(&["replay_module"], "x of its folder");

    // By another name; the old file goes last, when nothing names it.
    fs::copy(served.project().path("src/x/mod.rs"), served.project().path("src/y.rs")).unwrap();
    served.say("y::word()", "mod y;");
    served.right("x of its folder");
    let builds = served.plain.session.count("building");
    fs::remove_dir_all(served.project().path("src/x")).unwrap();
    served.plain.fence();
    assert_eq!(served.plain.session.count("building"), builds);
    served.project().write("src/y.rs", &has("\"y\".into()"));
    served.by_replay(&["replay_module"], "y");
}

#[test]
fn warnings_are_those_of_cargo_and_do_not_go_away() {
    let leaf = has("\"leaf\".into()") + "fn unused_in_leaf() {}\n";
    let crates = [("leaf", "", &*leaf)];
    let project = workspace("replay-warnings", "leaf::word()", "leaf = { path = \"leaf\" }", &crates);
    project.write(".gitignore", "/target\n/elsewhere\n");
    let mut served = Served::start(project);
    served.say("leaf::word()", "fn unused_in_main() { let x = 1; }");
    served.by_replay(&["replay_warnings"], "leaf");
    let said = served.said();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said, served.said_by_cargo());
    // Of a crate that is compiled again its new ones.
    served
        .project()
        .write("leaf/src/lib.rs", &leaf.replace("unused_in_leaf", "unused_again").replace("\"leaf", "\"new leaf"));
    served.by_replay(&["leaf", "replay_warnings"], "new leaf");
    let said = served.said();
    assert!(said[0].contains("unused_again") && said.len() == 3, "{said:?}");
    assert_eq!(said, served.said_by_cargo());
}

#[test]
fn a_module_of_a_library_comes_and_goes() {
    let leaf = has("\"leaf\".into()");
    let mut served = Served::start(workspace(
        "replay-inner-module",
        "leaf::word()",
        "leaf = { path = \"leaf\" }",
        &[("leaf", "", &leaf)],
    ));
    served.edit();
    served.project().write("leaf/src/deep/mod.rs", "pub mod er;\n");
    served.project().write("leaf/src/deep/er.rs", &has("\"deeper\".into()"));
    served.project().write("leaf/src/lib.rs", "mod deep;\npub use deep::er::word;\n");
    served.right("deeper");
    served.project().edit("leaf/src/deep/er.rs", "deeper", "deepest");
    served.by_replay(&["leaf", "replay_inner_module"], "deepest");
    served.project().write("leaf/src/lib.rs", &leaf);
    served.by_replay(&["leaf", "replay_inner_module"], "leaf");
    // It is no part of the crate any more.
    let builds = served.plain.session.count("building");
    fs::remove_dir_all(served.project().path("leaf/src/deep")).unwrap();
    served.plain.fence();
    assert_eq!(served.plain.session.count("building"), builds);
    served.edit();
}

#[test]
fn a_file_that_the_last_build_lacked_mends_it() {
    let mut served = Served::start(workspace("replay-lacking", "\"none\".into()", "", &[]));
    served.say("format!(\"{} {}\", late::word(), include_str!(\"../later.txt\"))", "mod late;");
    assert!(served.failure()[0].contains("E0583"));
    assert_eq!(served.word(), "none");
    served.project().write("src/late.rs", &has("\"late\".into()"));
    let said = served.failure().concat();
    assert!(said.contains("later.txt") && !said.contains("E0583"), "{said}");
    served.project().write("later.txt", "later");
    served.right("late later");
    served.project().write("later.txt", "latest");
    served.by_replay(&["replay_lacking"], "late latest");
    // An error of the language, and its end.
    served.project().edit("src/late.rs", "\"late\".into()", "7");
    assert!(served.failure()[0].contains("E0308"));
    assert_eq!(served.word(), "late latest");
    served.project().edit("src/late.rs", "{ 7 }", "{ \"seven\".into() }");
    served.by_replay(&["replay_lacking"], "seven latest");
}

#[test]
fn included_files_and_modules_elsewhere_are_sources() {
    let word =
        "format!(\"{} {} {}\", odd::word(), include_str!(\"inside.txt\"), include_str!(\"../texts/outside.txt\"))";
    let project = workspace("replay-included", word, "", &[]);
    let modules = "fn at_start() {} #[path = \"../elsewhere/odd.rs\"] mod odd;";
    project.write(MAIN, &plain("1", &[&says(word), modules]));
    project.write("elsewhere/odd.rs", &has("\"odd\".into()"));
    project.write("src/inside.txt", "in");
    project.write("texts/outside.txt", "out");
    let mut served = Served::start(project);
    assert_eq!(served.word(), "odd in out");
    let only = ["replay_included"];
    served.project().write("src/inside.txt", "inside");
    served.by_replay(&only, "odd inside out");
    served.project().write("texts/outside.txt", "outside");
    served.by_replay(&only, "odd inside outside");
    served.project().edit("elsewhere/odd.rs", "odd", "even");
    served.by_replay(&only, "even inside outside");
    served.edit();
    // A text that is written by rename, and one that is a link.
    served.project().write_by_rename("texts/outside.txt", "renamed");
    served.by_replay(&only, "even inside renamed");
    served.project().write("texts/real.txt", "real");
    std::os::unix::fs::symlink(served.project().path("texts/real.txt"), served.project().path("link.tmp")).unwrap();
    fs::rename(served.project().path("link.tmp"), served.project().path("texts/outside.txt")).unwrap();
    served.right("even inside real");
    served.project().write("texts/real.txt", "more real");
    served.right("even inside more real");
}

#[test]
fn targets_that_come_are_right() {
    let mut served = Served::start(workspace("replay-targets", "\"main\".into()", "", &[]));
    served.edit();
    // Another program of the package is nothing to this one.
    let builds = served.plain.session.count("building");
    served.project().write("src/bin/other.rs", "fn main() {}\n");
    served.plain.fence();
    assert_eq!(served.plain.session.count("building"), builds);
    served.edit();

    // A library is, as cargo gives it to the program.
    served.project().write("src/lib.rs", &has("\"lib\".into()"));
    served.built();
    served.say("replay_targets::word()", "");
    served.right("lib");
    served.project().write("src/lib.rs", &has("\"new lib\".into()"));
    served.by_replay(&["replay_targets", "replay_targets"], "new lib");
    served.edit();
    fs::remove_file(served.project().path("src/lib.rs")).unwrap();
    assert!(!served.failure().is_empty());
    assert_eq!(served.word(), "new lib");
    served.say("\"alone\".into()", "");
    served.right("alone");
}
