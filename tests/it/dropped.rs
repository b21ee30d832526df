//! Programs that do not use the library though their package depends on it: by a line that ends `main` before anything else, or on purpose.

use crate::gate;
use crate::harness::refuse::refuse;
use crate::harness::server::{Gate, SERVER, change, server};
use crate::harness::{Project, Session, command, free_address, hotrun_dependency, send, version};
use crate::load::{Load, Mix, Tally};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
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

fn go_back(project: &Project, session: &Session) {
    let pid = session.pid().to_string();
    let status = command().args(["rollback", "--pid", &pid]).current_dir(project.root()).status().unwrap();
    assert!(status.success());
}

#[test]
fn it_can_be_gone_back_after_a_bad_start() {
    let mut it = start("dropped-back", "std", &[]);
    let text = it.project.read("src/main.rs");
    it.save(&text);
    it.fail(&text, "todo!();");
    go_back(&it.project, &it.session);
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

/// Without seccomp no gate leads the program to the sockets that are held.
#[test]
fn where_there_is_no_gate_a_program_may_leave_the_library_and_come_back() {
    let project = Project::from_template("dropped-ungated", "std");
    let with = project.read("src/main.rs");
    let without = Project::from_template("dropped-ungated-plain", "plain").read("src/main.rs");
    let address = free_address();
    let mut session = Session::start_with(&project, address, &[], |command| {
        refuse(command, libc::SYS_seccomp, Errno::ENOSYS);
    });
    assert_eq!(session.wait_serving(1)["by"], "library");
    let save = |generation: u64, text: &str| {
        let version = format!("VERSION: &str = \"{generation}\"");
        project.write_by_rename("src/main.rs", &text.replace("VERSION: &str = \"1\"", &version));
    };
    // By the first one it is found out, whose address is still held.
    save(2, &without);
    assert_eq!(session.wait_for("start-failed")["serving"], 1);
    assert_eq!(version(address), "1");
    for (generation, text, by, answers) in [
        (3, Some(&without), "stop-and-start", "3"),
        (4, Some(&with), "library", "4"),
        (5, Some(&without), "stop-and-start", "5"),
        (6, Some(&with), "library", "6"),
        (7, Some(&with), "library", "7"),
        (8, None, "library", "6"),
        (9, None, "stop-and-start", "5"),
        (10, Some(&without), "stop-and-start", "10"),
    ] {
        match text {
            Some(text) => save(generation, text),
            None => go_back(&project, &session),
        }
        assert_eq!(session.wait_serving(generation)["by"], by, "{generation}");
        assert_eq!(version(address), answers);
    }
}

/// What it does without is nobody's claim to serve: it says when it is ready.
const WORKER: &str = "fn main() -> std::io::Result<()> { let up = hotrun::init()?; up.ready()?; up.drained(); Ok(()) }";

#[test]
fn a_server_with_the_library_tells_nothing_of_how_long_one_without_it_needs_to_bind() {
    for (name, before, is_gated) in [("dropped-worker", WORKER, true), ("dropped-unseen", SERVER, false)] {
        let project = Project::new(name, &hotrun_dependency("[]"), before);
        let (address, gate) = (free_address(), Gate::open());
        let mut session = Session::start_with(&project, address, &[], |command| {
            command.env("GATE", gate.address());
            if !is_gated {
                refuse(command, libc::SYS_seccomp, Errno::ENOSYS);
            }
        });
        let serving = session.wait_serving(1);
        let none = Value::Array(Vec::new());
        assert_eq!((&serving["by"], serving["addresses"] == none), (&"library".into(), is_gated), "{serving}");
        project.write_by_rename("src/main.rs", &server(gate::SERVER, "2", &["fn before_bind() { gate() }"]));
        let late = gate.arrival();
        let told = session.wait("a slow start", |event| event["event"] == "not-ready" || event["event"] == "serving");
        assert_eq!(told["event"], "not-ready", "{name}");
        late.let_go();
        if is_gated {
            let serving = session.wait_serving(2);
            let its = vec![address.to_string()].into();
            assert_eq!((&serving["by"], &serving["addresses"]), (&"bind".into(), &its), "{serving}");
            assert_eq!(version(address), "2");
        } else {
            // Its address is still held.
            assert_eq!(session.wait_for("start-failed")["serving"], 1);
            assert_eq!(version(address), "1");
        }
    }
}

#[test]
fn what_a_server_with_the_library_does_not_ask_for_is_not_said_to_be_served() {
    let (project, address) = (Project::new("dropped-unasked", &hotrun_dependency("[]"), WORKER), free_address());
    let mut session = Session::start(&project, address, &[&format!("--listen=http={address}")]);
    for generation in 1..=2 {
        let serving = session.wait_serving(generation);
        assert_eq!(
            (&serving["by"], &serving["addresses"]),
            (&"library".into(), &Value::Array(Vec::new())),
            "{serving}"
        );
        session.signal(Signal::SIGUSR2);
    }
    let notes: Vec<&str> = session.log.iter().filter_map(|event| event["text"].as_str()).collect();
    assert!(
        notes.len() == 1 && notes[0].contains(&address.to_string()) && notes[0].contains("unanswered"),
        "{notes:?}"
    );
}

/// By its word to somebody else, or because of the time.
#[test]
fn one_that_counts_as_ready_before_its_hello_is_told_to_accept() {
    let word = "fn before_init() { let word = std::os::unix::net::UnixDatagram::unbound().unwrap(); \
                word.send_to(b\"READY=1\", env::var(\"NOTIFY_SOCKET\").unwrap()).unwrap(); gate() }";
    for (name, args, line) in [
        ("dropped-delay", &["--ready", "delay:100ms"][..], "fn before_init() { gate() }"),
        ("dropped-notify", &[], word),
    ] {
        let project = Project::new(name, &hotrun_dependency("[]"), SERVER);
        let (address, gate) = (free_address(), Gate::open());
        let mut session = Session::start_with(&project, address, args, |command| {
            command.env("GATE", gate.address());
        });
        session.wait_serving(1);
        for generation in 2..=3 {
            change(&project, &generation.to_string(), &[line]);
            let late = gate.arrival();
            assert_eq!(session.wait_serving(generation)["by"], "library", "{name}");
            late.let_go();
            assert_eq!(version(address), generation.to_string(), "{name}");
        }
    }
}

#[test]
fn one_that_is_put_on_hold_before_its_hello_stays_so_until_it_is_gone_back_to() {
    let project = Project::new("dropped-hold", &hotrun_dependency("[]"), SERVER);
    let (address, gate) = (free_address(), Gate::open());
    let args = ["--ready", "delay:100ms", "--probation", "1000s"];
    let mut session = Session::start_with(&project, address, &args, |command| {
        command.env("GATE", gate.address());
    });
    session.wait_serving(1);
    change(&project, "2", &["fn before_init() { gate() }", "fn after_ready() { gate() }"]);
    let late = gate.arrival();
    session.wait_serving(2);
    change(&project, "3", &[]);
    let third = gate::pid(&session.wait_serving(3));
    assert_eq!(version(address), "3");
    late.let_go();
    gate.arrival().let_go();
    for _ in 0..100 {
        assert_eq!(version(address), "3");
    }
    send(third, Signal::SIGKILL);
    assert_eq!(session.wait_for("rolled-back")["to"], 2);
    assert_eq!(version(address), "2");
}
