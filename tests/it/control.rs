//! The control socket: what scripts and editors ask of a running session.

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
    assert_eq!(state["generation"], 4);
    assert_eq!(version(address), "1");
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
