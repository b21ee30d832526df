//! The control socket: what scripts and editors ask of a running session.

use crate::harness::plain::{self, Plain};
use crate::harness::{Project, Session, command, free_address, version};
use serde_json::Value;
use std::process::Output;

/// `cargo hotrun WHAT` for that session, with its answer.
fn ask(project: &Project, session: &Session, what: &str) -> (Output, Value) {
    let output = command()
        .args([what, "--message-format", "json", "--pid", &session.pid().to_string(), "--target-dir"])
        .arg(crate::harness::target_folder())
        .current_dir(project.root())
        .output()
        .unwrap();
    let state = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, state)
}

/// The same for people: what is said, and the exit code.
fn say(project: &Project, session: &Session, what: &str) -> (String, Option<i32>) {
    let pid = session.pid().to_string();
    let output = command().args([what, "--pid", &pid]).current_dir(project.root()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8(said).unwrap(), output.status.code())
}

#[test]
fn a_script_asks_waits_and_goes_back() {
    let project = Project::from_template("control-script", "std");
    let address = free_address();
    let mut session = Session::start(&project, address, &[]);
    session.wait_serving(1);
    let (output, state) = ask(&project, &session, "status");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(state["generation"], 1);
    assert_eq!(state["addresses"][0], address.to_string());
    assert_eq!(state["busy"], false);
    let event = |name: &str| session.log.iter().find(|event| event["event"] == name).unwrap();
    assert_eq!(state["service"], event("serving")["service"], "each event of a service says so");
    assert!(state["service"].is_string() && event("building")["service"].is_null(), "{state}");

    project.set_version("2");
    let (output, state) = ask(&project, &session, "rebuild");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(state["generation"], 2, "it answers when the new program serves");
    assert_eq!(version(address), "2");

    let (_, state) = ask(&project, &session, "upgrade");
    assert_eq!(state["generation"], 3);
    assert_eq!(version(address), "2");

    let (output, state) = ask(&project, &session, "rollback");
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&state["generation"], &state["rolled-back"]), (&4.into(), &true.into()));
    assert_eq!(version(address), "1");
    assert_eq!(session.wait_serving(4)["program"], "rolled-back");

    // The program before serves, and so not the newest sources.
    let (output, state) = ask(&project, &session, "wait");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(state["trouble"].as_str().unwrap().contains("rolled back"), "{state}");
    let (output, state) = ask(&project, &session, "status");
    assert_eq!((output.status.code(), &state["rolled-back"]), (Some(0), &true.into()), "{output:?}");
    // There is nothing further back, and not the way forth.
    let (output, state) = ask(&project, &session, "rollback");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(state["refused"].as_str().unwrap().contains("rollback is not possible"), "{state}");
    assert_eq!((&state["generation"], version(address).as_str()), (&4.into(), "1"));
    let (output, state) = ask(&project, &session, "rebuild");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        (&state["rolled-back"], &state["trouble"], &state["refused"]),
        (&false.into(), &Value::Null, &Value::Null)
    );
    assert_eq!(version(address), "2");
}

#[test]
fn each_rollback_goes_one_program_further_back() {
    let mut plain = Plain::start(plain::project("control-back", ""));
    for version in ["2", "3"] {
        plain.project.write_by_rename("src/main.rs", &plain::plain(version, &[]));
        assert_eq!(plain.next(), version);
    }
    let ask = |what: &str| say(&plain.project, &plain.session, what);
    for version in ["2", "1"] {
        let (said, code) = ask("rollback");
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("rolled back") && said.contains("http://127.0.0.1:"), "{said}");
        assert_eq!(crate::harness::version(plain.address), version);
    }
    let (said, code) = ask("rollback");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(crate::harness::version(plain.address), "1");
    // A save ends it.
    plain.project.write_by_rename("src/main.rs", &plain::plain("4", &[]));
    plain.session.wait_serving(6);
    let (said, code) = say(&plain.project, &plain.session, "wait");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn whoever_waits_hears_that_the_newest_sources_do_not_serve() {
    let project = Project::from_template("control-trouble", "std");
    let address = free_address();
    let mut session = Session::start(&project, address, &[]);
    session.wait_serving(1);
    project.write_by_rename("src/main.rs", "this does not compile");
    session.wait_for("build-failed");
    let (output, state) = ask(&project, &session, "wait");
    assert_eq!(output.status.code(), Some(1));
    assert!(state["trouble"].as_str().unwrap().contains("build"), "{state}");
    assert_eq!(state["generation"], 1, "the old one serves");
    assert_eq!(version(address), "1");
    // To be stopped with a build that has failed is to be stopped.
    assert_eq!(say(&project, &session, "stop"), ("control-trouble: stopped\n".to_owned(), Some(0)));
    assert!(!crate::harness::is_alive(session.pid()), "it answers when nothing of it is left");
}

#[test]
fn stop_ends_the_session_and_then_there_is_none() {
    let project = Project::from_template("control-stop", "std");
    let mut session = Session::start(&project, free_address(), &[]);
    session.wait_serving(1);
    let (output, _) = ask(&project, &session, "stop");
    assert!(output.status.success(), "{output:?}");
    let (status, _) = session.finish();
    assert!(status.success());
    let (output, _) = ask(&project, &session, "status");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no session"), "{output:?}");
}
