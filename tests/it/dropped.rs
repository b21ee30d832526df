//! Programs that do not use the library though their package depends on it: by a line that ends `main` before anything else, or on purpose.

use crate::harness::server::{Gate, SERVER, change};
use crate::harness::{Project, Session, command, free_address, hotrun_dependency, version};
use crate::load::{Load, Mix, Tally};
use serde_json::Value;
use std::net::SocketAddr;

const MIX: Mix = Mix { fresh: 3, keep_alive: 2, slow: 1, slow_ms: 100 };
const INIT: &str = "    let up = hotrun::init()?;";

/// A session of a template under load, whose first generation serves.
struct Loaded {
    project: Project,
    session: Session,
    address: SocketAddr,
    load: Load,
    generation: u64,
}

fn start(name: &str, template: &str, args: &[&str]) -> Loaded {
    let (project, address) = (Project::from_template(name, template), free_address());
    let args: Vec<String> = args.iter().map(|arg| arg.replace("ADDR", &address.to_string())).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut session = Session::start(&project, address, &args);
    session.wait_serving(1);
    let load = Load::start(address, MIX);
    load.switched("1");
    Loaded { project, session, address, load, generation: 1 }
}

impl Loaded {
    /// Saves a good program, and waits until it serves; the event.
    fn save(&mut self, text: &str) -> Value {
        self.generation += 1;
        let version = self.generation.to_string();
        self.project
            .write("src/main.rs", &text.replace("VERSION: &str = \"1\"", &format!("VERSION: &str = {version:?}")));
        let serving = self.session.wait_serving(self.generation);
        self.load.switched(&version);
        self.load.wait_for(20);
        serving
    }

    /// Saves one that ends before anything else, and waits until that has failed.
    fn fail(&mut self, text: &str, line: &str) {
        self.generation += 1;
        assert!(text.contains(INIT));
        self.project.write("src/main.rs", &text.replace(INIT, &format!("    {line}\n{INIT}")));
        let serving = self.session.log.iter().rfind(|event| event["event"] == "serving").unwrap()["generation"].clone();
        let failed = self.session.wait_for("start-failed");
        assert_eq!((&failed["generation"], &failed["serving"]), (&self.generation.into(), &serving), "{line}");
        self.load.wait_for(20);
    }

    fn end(self) -> Tally {
        let Loaded { session, load, .. } = self;
        let tally = load.stop();
        session.stop();
        tally
    }
}

fn a_bad_save_is_over_with_the_next_good_one(name: &str, template: &str, args: &[&str]) {
    let mut it = start(name, template, args);
    let text = it.project.read("src/main.rs");
    for line in ["todo!();", "std::process::exit(0);"] {
        it.fail(&text, line);
        for _ in 0..3 {
            assert_eq!(it.save(&text)["by"], "library", "{line}");
        }
    }
    let tally = it.end();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

#[test]
fn one_bad_start_of_the_std_template_changes_nothing_of_what_is_known() {
    a_bad_save_is_over_with_the_next_good_one("dropped-std", "std", &[]);
}

#[test]
fn one_bad_start_of_the_axum_template_changes_nothing_of_what_is_known() {
    a_bad_save_is_over_with_the_next_good_one("dropped-axum", "axum", &[]);
}

#[test]
fn one_bad_start_changes_nothing_where_the_address_is_configured() {
    a_bad_save_is_over_with_the_next_good_one("dropped-listen", "std", &["--listen", "http=ADDR"]);
}

#[test]
fn a_first_program_that_ends_at_once_changes_nothing_either() {
    let project = Project::from_template("dropped-first", "std");
    let text = project.read("src/main.rs");
    project.write("src/main.rs", &text.replace(INIT, &format!("    todo!();\n{INIT}")));
    let address = free_address();
    let mut session = Session::start(&project, address, &[]);
    session.wait_for("start-failed");
    for generation in 2..=4 {
        project.write("src/main.rs", &text);
        project.set_version(&generation.to_string());
        assert_eq!(session.wait_serving(generation)["by"], "library");
        assert_eq!(version(address), generation.to_string());
    }
}

/// Both kinds of program are there at once, on one socket.
#[test]
fn a_program_may_leave_the_library_and_come_back_under_load() {
    let mut it = start("dropped-purpose", "std", &[]);
    let with = it.project.read("src/main.rs");
    let without = Project::from_template("dropped-purpose-plain", "plain").read("src/main.rs");
    for (text, by) in
        [(&without, "bind"), (&without, "bind"), (&with, "library"), (&with, "library"), (&without, "bind")]
    {
        assert_eq!(it.save(text)["by"], by);
    }
    it.fail(&with, "todo!();");
    assert_eq!(it.save(&with)["by"], "library");
    let tally = it.end();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

/// A process that does not own its socket alone never keeps connections out of it, however it is started.
#[test]
fn a_server_with_the_library_is_swapped_at_a_gate_as_any_other() {
    let mut it = start("dropped-gate", "std", &["--handoff", "bind"]);
    let text = it.project.read("src/main.rs");
    for _ in 0..4 {
        assert_eq!(it.save(&text)["by"], "bind");
    }
    let tally = it.end();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

#[test]
fn it_can_be_gone_back_after_a_bad_start() {
    let mut it = start("dropped-back", "std", &[]);
    let text = it.project.read("src/main.rs");
    it.save(&text);
    it.fail(&text, "todo!();");
    let status = command()
        .args(["rollback", "--pid", &it.session.pid().to_string()])
        .current_dir(it.project.root())
        .status()
        .unwrap();
    assert!(status.success());
    it.generation += 1;
    assert_eq!(it.session.wait_serving(it.generation)["by"], "library");
    assert_eq!(version(it.address), "1");
    for _ in 0..2 {
        assert_eq!(it.save(&text)["by"], "library");
    }
    let Loaded { load, session, .. } = it;
    let tally = load.stop();
    session.stop();
    // The first version serves again after the second, which the load takes for a wrong one.
    assert_eq!(tally.lost(), tally.wrong_version, "{tally:#?}");
}

#[test]
fn a_program_that_says_hello_late_is_handed_over_by_the_library() {
    let project = Project::new("dropped-late", &hotrun_dependency("[]"), SERVER);
    let (address, gate) = (free_address(), Gate::open());
    let mut session = Session::start_with(&project, address, &[], |command| {
        command.env("GATE", gate.address());
    });
    session.wait_serving(1);
    for generation in 2..=3 {
        change(&project, &generation.to_string(), &["fn before_init() { gate() }"]);
        let late = gate.arrival();
        let told = session.wait_for("not-ready");
        assert_eq!(told["generation"], generation);
        late.let_go();
        assert_eq!(session.wait_serving(generation)["by"], "library");
        assert_eq!(version(address), generation.to_string());
    }
}
