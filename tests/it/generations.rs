//! What becomes of the generations, from the outside: a test for each row of the table in the design, on real processes.

use crate::harness::server::{Arrival, Asked, Gate, SERVER, ask, change, hold, who};
use crate::harness::{
    Project, Session, free_address, freeze, get, hotrun_dependency, is_alive, send, wait_for_end, wait_until_reaped,
};
use crate::load::{Load, Mix};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;

const FRESH: Mix = Mix { fresh: 3, keep_alive: 0, slow: 0, slow_ms: 0 };

/// A session whose first generation serves.
struct Running {
    project: Project,
    address: SocketAddr,
    session: Session,
    gate: Gate,
    /// Of the first generation.
    pid: u32,
}

fn start(name: &str, args: &[&str]) -> Running {
    start_as(name, args, &[])
}

fn start_as(name: &str, args: &[&str], lines: &[&str]) -> Running {
    let project = Project::new(name, &hotrun_dependency("[]"), SERVER);
    change(&project, "1", lines);
    let (address, gate) = (free_address(), Gate::open());
    let mut session = Session::start_with(&project, address, args, |command| {
        command.env("GATE", gate.address());
    });
    let pid = pid(&session.wait_serving(1));
    Running { project, address, session, gate, pid }
}

impl Running {
    fn answers(&self) -> (String, u32) {
        who(&get(self.address, "/").unwrap())
    }

    fn first(&self) -> (String, u32) {
        ("1".to_owned(), self.pid)
    }

    fn arrival(&self) -> Arrival {
        self.gate.arrival()
    }
}

fn pid(event: &Value) -> u32 {
    u32::try_from(event["pid"].as_u64().unwrap()).unwrap()
}

fn is(event: &Value, name: &str, generation: u64) -> bool {
    event["event"] == name && event["generation"] == generation
}

fn place(log: &[Value], name: &str, generation: u64) -> usize {
    log.iter().position(|event| is(event, name, generation)).unwrap_or_else(|| panic!("no {name} of {generation}"))
}

fn queue(address: SocketAddr) -> Vec<Asked> {
    (0..5).map(|_| ask(address, "/").unwrap()).collect()
}

#[test]
fn the_bytes_that_serve_already_are_not_started_again_but_an_upgrade_without_a_build_is() {
    let mut it = start("gen-same", &[]);
    it.session.signal(Signal::SIGUSR1);
    assert_eq!(it.session.wait_for("unchanged")["serving"], 1);
    assert_eq!(it.answers(), it.first());
    it.session.signal(Signal::SIGUSR2);
    let second = pid(&it.session.wait_serving(2));
    assert_ne!(second, it.pid);
    assert_eq!(it.answers(), ("1".to_owned(), second));
    wait_until_reaped(it.pid);
    assert_eq!(it.session.count("building"), 2, "the first, and that of SIGUSR1");
}

#[test]
fn the_newest_wins_and_one_that_hangs_at_its_start_is_ended_for_it() {
    let mut it = start("gen-newest", &[]);
    let load = Load::start(it.address, FRESH);
    change(&it.project, "2", &["fn at_start() { gate() }"]);
    let starting = it.session.wait_for("starting");
    assert_eq!(starting["generation"], 2);
    let hanging = it.arrival();
    load.wait_for(20);
    change(&it.project, "3", &[]);
    let third = pid(&it.session.wait_serving(3));
    hanging.end();
    wait_until_reaped(pid(&starting));
    assert_eq!(it.answers(), ("3".to_owned(), third));
    load.switched("3");
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    let versions: Vec<&str> = tally.by_version.keys().map(String::as_str).collect();
    assert_eq!(versions, ["1", "3"]);
    assert_eq!(it.session.count("serving"), 2);
}

#[test]
fn a_start_that_fails_says_how_and_the_old_program_serves_on() {
    let mut it = start("gen-fails", &[]);
    let load = Load::start(it.address, FRESH);
    let fails = [
        ("fn at_start() { panic!(\"no luck\") }", "exit status 101"),
        ("fn at_start() { process::exit(0) }", "exit status 0"),
        ("fn at_start() { process::exit(3) }", "exit status 3"),
        ("fn at_start() { process::abort() }", "signal 6 (SIGABRT)"),
        ("fn before_init() { process::exit(4) }", "exit status 4"),
    ];
    for (generation, (line, end)) in (2..).zip(fails) {
        change(&it.project, "broken", &[line]);
        let starting = it.session.wait_for("starting");
        let failed = it.session.wait_for("start-failed");
        assert_eq!((&starting["generation"], &failed["generation"]), (&generation.into(), &generation.into()));
        assert!(failed["end"].as_str().unwrap().starts_with(end), "{line}: {failed}");
        assert_eq!(failed["serving"], 1);
        wait_until_reaped(pid(&starting));
        assert_eq!(it.answers(), it.first(), "{line}");
    }
    assert!(it.session.stderr().contains("no luck"), "{}", it.session.stderr());
    change(&it.project, "good", &[]);
    it.session.wait_serving(2 + fails.len() as u64);
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    let versions: Vec<&str> = tally.by_version.keys().map(String::as_str).collect();
    assert_eq!(versions, ["1", "good"]);
}

#[test]
fn one_that_is_not_ready_in_time_is_killed_when_it_does_not_go() {
    let mut it = start("gen-late", &["--ready-timeout", "3s", "--kill-timeout", "100ms"]);
    // The library takes SIGTERM as a wish to stop gracefully, and this one never gets so far.
    change(&it.project, "late", &["fn at_start() { gate() }"]);
    let starting = it.session.wait_for("starting");
    let hanging = it.arrival();
    let failed = it.session.wait_for("start-failed");
    assert_eq!((&failed["generation"], &failed["serving"]), (&2.into(), &1.into()));
    assert_eq!(failed["end"], "not ready after 3 s");
    hanging.end();
    wait_until_reaped(pid(&starting));
    assert_eq!(it.answers(), it.first());
    assert_eq!(it.session.count("serving"), 1);
}

#[test]
fn a_start_and_a_drain_that_take_long_are_told_of_meanwhile() {
    let mut it = start("gen-long", &["--drain-timeout", "1h"]);
    let held = hold(it.address);
    change(&it.project, "2", &["fn at_start() { gate() }"]);
    let hanging = it.arrival();
    let told = it.session.wait_for("not-ready");
    assert_eq!((&told["generation"], &told["given-up"]), (&2.into(), &60_000.into()));
    assert!(told["after"].as_u64().unwrap() >= 2_000, "{told}");
    hanging.let_go();
    it.session.wait_serving(2);
    let told = it
        .session
        .wait("the old one to take long", |event| is(event, "draining", 1) && event["after"].as_u64().unwrap() > 0);
    assert!(told["live"] == 1 && told["after"].as_u64().unwrap() >= 2_000, "{told}");
    assert_eq!(who(&held.release().unwrap()), it.first());
    let drained = it.session.wait_for("drained");
    assert!(drained["cut"] == 0 && drained["took"].as_u64() >= told["after"].as_u64(), "{drained}");
}

#[test]
fn a_crash_on_probation_brings_the_old_process_back() {
    let mut it = start("gen-probation", &["--probation", "1h"]);
    let load = Load::start(it.address, FRESH);
    let held = hold(it.address);
    change(&it.project, "2", &[]);
    let second = pid(&it.session.wait_serving(2));
    load.switched("2");
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    assert_eq!(it.answers(), ("2".to_owned(), second));

    // The only request inside is lost.
    assert!(get(it.address, "/crash").is_ok_and(|answer| answer.is_empty()));
    let back = it.session.wait_for("rolled-back");
    assert_eq!((&back["from"], &back["to"]), (&2.into(), &1.into()));
    assert!(back["end"].as_str().unwrap().starts_with("signal 6 (SIGABRT)"), "{back}");
    assert_eq!(it.answers(), it.first());
    assert_eq!(who(&held.release().unwrap()), it.first(), "a pause keeps what is live");
    wait_until_reaped(second);

    // Those who came while nobody accepted had only to wait.
    let load = Load::start(it.address, FRESH);
    change(&it.project, "3", &[]);
    let third = pid(&it.session.wait_serving(3));
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    freeze(third);
    let waiting = queue(it.address);
    send(third, Signal::SIGKILL);
    for asked in waiting {
        assert_eq!(who(&asked.answer().unwrap()), it.first());
    }
    let back = it.session.wait_for("rolled-back");
    assert_eq!((&back["from"], &back["to"]), (&3.into(), &1.into()));
}

#[test]
fn when_the_probation_is_over_the_old_process_leaves() {
    let mut it = start("gen-proved", &["--probation", "1s"]);
    change(&it.project, "2", &[]);
    let starting = it.session.wait_for("starting");
    let second = pid(&it.session.wait_serving(2));
    let drained = it.session.wait_for("drained");
    assert_eq!((&drained["generation"], &drained["cut"]), (&1.into(), &0.into()));
    let stayed = drained["t_us"].as_u64().unwrap() - starting["t_us"].as_u64().unwrap();
    assert!(stayed >= 1_000_000, "it has left after {stayed} µs");
    wait_until_reaped(it.pid);
    assert_eq!(it.answers(), ("2".to_owned(), second));
    // There is nobody left to come back: it is started again.
    send(second, Signal::SIGKILL);
    it.session.wait_for("died");
    let third = pid(&it.session.wait_serving(3));
    assert_eq!(it.answers(), ("2".to_owned(), third));
}

#[test]
fn a_server_that_dies_is_started_again_and_clients_only_wait() {
    let mut it = start("gen-dies", &[]);
    freeze(it.pid);
    let waiting = queue(it.address);
    send(it.pid, Signal::SIGKILL);
    let died = it.session.wait_for("died");
    assert!(died["generation"] == 1 && died["again-in"].is_u64(), "{died}");
    assert!(died["end"].as_str().unwrap().starts_with("signal 9 (SIGKILL)"), "{died}");
    let waiting_still = queue(it.address);
    let second = pid(&it.session.wait_serving(2));
    for asked in waiting.into_iter().chain(waiting_still) {
        assert_eq!(who(&asked.answer().unwrap()), ("1".to_owned(), second));
    }
    assert_eq!(it.session.count("building"), 1);
}

#[test]
fn one_that_keeps_dying_gives_way_to_the_program_that_was_good() {
    let mut it = start("gen-dying", &[]);
    change(&it.project, "2", &["fn after_ready() { process::abort() }"]);
    let of = |name: &'static str, generation: u64| {
        move |event: &Value| event["event"] == name && event["generation"] == generation
    };
    it.session.see("the first death", of("died", 2));
    // Until it has left, the first generation may still take one.
    it.session.see("the end of the first generation", of("drained", 1));
    let waiting = queue(it.address);
    for generation in [3, 4] {
        it.session.see("another death", of("died", generation));
    }
    let good = pid(&it.session.see("the good one", of("serving", 5)));
    for asked in waiting {
        assert_eq!(who(&asked.answer().unwrap()), ("1".to_owned(), good));
    }
}

#[test]
fn a_request_in_flight_is_finished_by_the_program_that_took_it() {
    let mut it = start("gen-drain", &["--drain-timeout", "1h"]);
    let held = hold(it.address);
    change(&it.project, "2", &[]);
    let second = pid(&it.session.wait_serving(2));
    assert_eq!(it.answers(), ("2".to_owned(), second));
    assert!(is_alive(it.pid));
    assert_eq!(who(&held.release().unwrap()), it.first());
    let drained = it.session.wait_for("drained");
    assert_eq!((&drained["generation"], &drained["cut"]), (&1.into(), &0.into()));
    assert_eq!(drained["end"], "exit status 0");
    let draining = it.session.log.iter().find(|event| event["event"] == "draining").unwrap();
    assert_eq!((&draining["generation"], &draining["live"]), (&1.into(), &1.into()));
}

#[test]
fn an_answer_without_end_is_cut_and_counted() {
    let mut it = start_as("gen-cut", &["--drain-timeout", "1s", "--kill-timeout", "1h"], &[]);
    let held = hold(it.address);
    change(&it.project, "2", &[]);
    it.session.wait_serving(2);
    let drained = it.session.wait_for("drained");
    assert_eq!((&drained["generation"], &drained["cut"]), (&1.into(), &1.into()));
    // SIGTERM was enough for the library.
    assert_eq!(drained["end"], "exit status 0");
    assert!(held.answer().is_ok_and(|rest| rest.is_empty()));
}

#[test]
fn one_that_does_not_go_is_killed() {
    let args = ["--drain-timeout", "1s", "--kill-timeout", "1s"];
    let mut it = start_as("gen-stays", &args, &["fn at_end() { gate() }"]);
    let held = hold(it.address);
    change(&it.project, "2", &[]);
    let second = pid(&it.session.wait_serving(2));
    it.arrival().end();
    let drained = it.session.wait_for("drained");
    assert_eq!((&drained["generation"], &drained["cut"]), (&1.into(), &1.into()));
    assert_eq!(drained["end"], "signal 9 (SIGKILL)");
    assert!(held.answer().is_ok_and(|rest| rest.is_empty()));
    assert_eq!(it.answers(), ("2".to_owned(), second));
}

#[test]
fn what_a_generation_has_started_goes_with_it() {
    let grandchild = r#"fn at_start() { let _ = fs::write("grandchild", Command::new("sleep").arg("1000").spawn().unwrap().id().to_string()); }"#;
    let mut it = start_as("gen-group", &[], &[grandchild]);
    let first: u32 = it.project.read("grandchild").parse().unwrap();
    change(&it.project, "2", &[grandchild]);
    it.session.wait_serving(2);
    it.session.wait_for("drained");
    wait_for_end(first);
    let second: u32 = it.project.read("grandchild").parse().unwrap();
    assert!(second != first && is_alive(second));
    it.session.stop();
    wait_for_end(second);
}

/// The old program leaves before the new one starts; the socket stays, so clients wait and none is refused.
fn stops_first(name: &str, flag: &[&str]) {
    let project = Project::from_template(name, "std");
    let init = "let up = hotrun::init()?;";
    project.edit("src/main.rs", init, &format!("assert!(VERSION != \"broken\");\n    {init}"));
    let address = free_address();
    let mut session = Session::start(&project, address, flag);
    let mut last = pid(&session.wait_serving(1));
    let load = Load::start(address, Mix { fresh: 3, keep_alive: 2, slow: 1, slow_ms: 100 });
    for generation in 2..=4 {
        project.set_version(&generation.to_string());
        let starting = session.wait_for("starting");
        assert!(!is_alive(last), "the one before runs still");
        last = pid(&starting);
        session.wait_serving(generation);
        load.switched(&generation.to_string());
        load.wait_for(20);
    }
    project.set_version("broken");
    let failed = session.wait_for("start-failed");
    assert_eq!((&failed["generation"], &failed["serving"]), (&5.into(), &Value::Null));
    session.wait_serving(6);
    load.wait_for(20);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    assert_eq!(crate::harness::version(address), "4");
    let (_, log) = session.stop();
    for generation in 2..=5 {
        let (left, came) = (place(&log, "drained", generation - 1), place(&log, "starting", generation));
        assert!(left < came, "{left} {came}");
    }
}

#[test]
fn a_restart_refuses_nobody() {
    stops_first("gen-restart", &["--strategy", "restart"]);
}

#[test]
fn without_overlap_nobody_is_refused() {
    stops_first("gen-no-overlap", &["--no-overlap"]);
}

/// Nobody waits there for ever: who came a moment before the last process let go is sent away.
fn is_refused(address: SocketAddr) {
    let error = ask(address, "/").and_then(Asked::answer).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset), "{error}");
}

fn at(address: SocketAddr) -> String {
    format!("fn address() -> String {{ {:?}.to_owned() }}", address.to_string())
}

#[test]
fn a_program_that_wants_another_address_gets_it_and_the_old_one_is_let_go() {
    let mut it = start("gen-address", &[]);
    let elsewhere = free_address();
    change(&it.project, "2", &[&at(elsewhere)]);
    let serving = it.session.wait_serving(2);
    assert_eq!(serving["addresses"], Value::from(vec![elsewhere.to_string()]));
    assert_eq!(who(&get(elsewhere, "/").unwrap()), ("2".to_owned(), pid(&serving)));
    let old = it.address.to_string();
    it.session.wait("note that it is let go", |event| {
        event["text"].as_str().is_some_and(|note| note.contains(&old) && note.contains("let go"))
    });
    assert_eq!(it.session.count("drained"), 1);
    is_refused(it.address);
}

#[test]
fn a_crash_on_probation_brings_the_old_address_back_too() {
    let mut it = start("gen-address-back", &["--probation", "1h"]);
    let elsewhere = free_address();
    change(&it.project, "2", &[&at(elsewhere)]);
    let second = it.session.wait_serving(2);
    assert_eq!(who(&get(elsewhere, "/").unwrap()), ("2".to_owned(), pid(&second)));
    send(pid(&second), Signal::SIGKILL);
    it.session.wait_for("rolled-back");
    assert_eq!(it.answers(), it.first());
    // Nobody serves the other one any more.
    wait_until_reaped(pid(&second));
    change(&it.project, "3", &[]);
    let third = it.session.wait_serving(3);
    assert_eq!(third["addresses"], Value::from(vec![it.address.to_string()]));
    assert_eq!(it.answers(), ("3".to_owned(), pid(&third)));
    is_refused(elsewhere);
}

#[test]
fn a_stop_lets_requests_finish_and_ends_as_the_signal_would() {
    let mut it = start("gen-stop", &["--drain-timeout", "1h"]);
    let held = hold(it.address);
    it.session.signal(Signal::SIGTERM);
    it.session.wait_for("stopping");
    let draining = it.session.wait_for("draining");
    assert_eq!((&draining["generation"], &draining["live"]), (&1.into(), &1.into()));
    assert_eq!(who(&held.release().unwrap()), it.first());
    let (status, log) = it.session.finish();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    let drained = &log[place(&log, "drained", 1)];
    assert_eq!((&drained["cut"], &drained["end"]), (&0.into(), &"exit status 0".into()));
    assert_eq!(log.last().unwrap()["event"], "stopped");
    assert!(!is_alive(it.pid));
    assert_eq!(TcpStream::connect(it.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut it = start("gen-hurry", &["--drain-timeout", "1h", "--kill-timeout", "1h"]);
    let held = hold(it.address);
    it.session.signal(Signal::SIGINT);
    // Signals that come at once are one (signal(7)).
    it.session.wait_for("draining");
    it.session.signal(Signal::SIGINT);
    let (status, log) = it.session.finish();
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32));
    let drained = &log[place(&log, "drained", 1)];
    assert_eq!((&drained["cut"], &drained["end"]), (&1.into(), &"signal 9 (SIGKILL)".into()));
    assert_eq!(log.last().unwrap()["event"], "stopped");
    // The end of the stream, or a reset; but no answer.
    assert!(held.answer().map_or(true, |rest| rest.is_empty()));
    wait_for_end(it.pid);
}

/// Also before anything serves.
#[test]
fn a_stop_ends_a_program_that_is_starting() {
    let project = Project::new("gen-stop-early", &hotrun_dependency("[]"), SERVER);
    change(&project, "1", &["fn before_init() { gate() }"]);
    let gate = Gate::open();
    let mut session = Session::start_with(&project, free_address(), &[], |command| {
        command.env("GATE", gate.address());
    });
    let hanging = gate.arrival();
    session.signal(Signal::SIGTERM);
    hanging.end();
    let (status, log) = session.finish();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(log.last().unwrap()["event"], "stopped");
}
