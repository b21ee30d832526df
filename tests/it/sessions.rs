//! Which session a control command finds: that of the project it is asked in, whatever folder it builds to, and whatever has
//! become of that folder.

use crate::harness::plain::{Plain, plain, project};
use crate::harness::{Project, command, is_alive, listed, version};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;

/// What is said in that folder, on both streams, and the exit code.
fn ask(folder: &Path, args: &[&str]) -> (String, Option<i32>) {
    let output = command().args(args).current_dir(folder).env_remove("CARGO_TARGET_DIR").output().unwrap();
    (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.code())
}

fn serves(said: &(String, Option<i32>), plain: &Plain) -> bool {
    let pid = plain.session.log.iter().rfind(|event| event["event"] == "serving").unwrap()["pid"].to_string();
    said.1 == Some(0) && said.0.contains(&format!("serves, pid {pid}"))
}

/// A session that builds to that folder, whose first generation serves.
fn building_to(target: &Path, project: Project) -> Plain {
    let mut plain = Plain::begin_with(project, &[], |command| {
        command.env("CARGO_TARGET_DIR", target);
    });
    plain.next();
    plain
}

#[test]
fn with_one_target_folder_for_all_projects_stop_ends_the_one_it_is_asked_in() {
    let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let one = building_to(target.path(), project("sessions-one", ""));
    let mut other = building_to(target.path(), project("sessions-other", ""));
    for asked in [&one, &other] {
        let said = ask(&asked.project.path("src"), &["status"]);
        assert!(serves(&said, asked), "{said:?}");
    }
    let said = ask(other.project.root(), &["stop"]);
    assert_eq!(said, ("sessions-other: stopped\n".to_owned(), Some(0)));
    other.session.finish();
    assert!(is_alive(one.session.pid()));
    assert_eq!(version(one.address), "1");
    // From elsewhere: by its manifest, and not at all.
    let manifest = one.project.path("Cargo.toml").display().to_string();
    for args in [["status", "--manifest-path", &manifest], ["--manifest-path", &manifest, "status"]] {
        let said = ask(other.project.root(), &args);
        assert!(serves(&said, &one), "{said:?}");
    }
    let (said, code) = ask(other.project.root(), &["status"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no session runs on") && said.contains("sessions-one (pid "), "{said}");
}

#[test]
fn a_session_is_found_after_its_target_folder_was_cleaned() {
    let mut it = Plain::start(project("sessions-clean", ""));
    let cleaned =
        Command::new(env!("CARGO")).arg("clean").current_dir(it.project.root()).env_remove("CARGO_TARGET_DIR").output();
    assert!(cleaned.unwrap().status.success());
    assert!(!it.project.path("target").exists());
    let said = ask(it.project.root(), &["status"]);
    assert!(serves(&said, &it), "{said:?}");
    // Its program is started again all the same.
    assert_eq!(ask(it.project.root(), &["upgrade"]).1, Some(0));
    it.session.wait_serving(2);
    it.project.write_by_rename("src/main.rs", &plain("2", &[]));
    it.session.wait_serving(3);
    assert_eq!(ask(it.project.root(), &["stop"]).1, Some(0));
    assert!(it.session.finish().0.success());
}

#[test]
fn a_manifest_that_is_broken_for_the_moment_keeps_nobody_from_asking() {
    let mut it = Plain::start(project("sessions-broken", ""));
    let manifest = it.project.read("Cargo.toml");
    it.project.write_by_rename("Cargo.toml", &manifest.replace("[package]", "[package"));
    it.wait_for("build-failed");
    let (said, code) = ask(it.project.root(), &["wait"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("generation 1 serves") && said.contains("build of the newest sources has failed"), "{said}");
    assert_eq!(ask(it.project.root(), &["status"]).1, Some(0));
    it.project.write_by_rename("Cargo.toml", &manifest);
    assert_eq!(ask(it.project.root(), &["rebuild"]).1, Some(0));
    it.project.write_by_rename("Cargo.toml", "");
    assert_eq!(ask(it.project.root(), &["stop"]), ("sessions-broken: stopped\n".to_owned(), Some(0)));
    it.session.finish();
}

/// A workspace with two servers, and a member that is none.
fn workspace() -> Project {
    let project = project("sessions-workspace", "");
    let server = project.read("src/main.rs");
    for member in ["api", "web"] {
        let manifest = project.read("Cargo.toml").replace("sessions-workspace", &format!("sessions-{member}"));
        project.write(&format!("{member}/Cargo.toml"), &manifest.replace("[workspace]\n", ""));
        project.write(&format!("{member}/src/main.rs"), &server);
        for file in ["fence", "mark"] {
            project.write(&format!("{member}/{file}"), "");
        }
    }
    project.write("lib/Cargo.toml", "[package]\nname = \"sessions-lib\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    project.write("lib/src/lib.rs", "");
    std::fs::remove_dir_all(project.path("src")).unwrap();
    project.write("Cargo.toml", "[workspace]\nmembers = [\"api\", \"web\", \"lib\"]\nresolver = \"3\"\n");
    project
}

#[test]
fn a_package_is_named_before_or_after_the_command_and_its_folder_is_its_own() {
    let project = workspace();
    let root = project.root().to_owned();
    let session = |package: &str| {
        let address = crate::harness::free_address();
        let args = [format!("--listen={address}"), format!("--package={package}")];
        let mut session =
            crate::harness::Session::start_with(&project, address, &[args[0].as_str(), args[1].as_str()], |command| {
                command.env_remove("CARGO_TARGET_DIR");
            });
        session.wait_serving(1);
        session
    };
    let (mut api, web) = (session("sessions-api"), session("sessions-web"));
    let (said, code) = ask(&root, &["status"]);
    assert_eq!(code, Some(2), "{said}");
    for part in ["sessions-api (pid ", "sessions-web (pid ", &web.pid().to_string(), "-p NAME"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    for (folder, args) in [
        ("web", &["status"][..]),
        ("lib/src", &["-p", "sessions-web", "status"]),
        ("api", &["status", "-p", "sessions-web"]),
        ("", &["--package=sessions-web", "wait"]),
    ] {
        let (said, code) = ask(&root.join(folder), args);
        assert!(code == Some(0) && said.starts_with("sessions-web: generation 1 serves"), "{folder} {args:?}: {said}");
    }
    let (said, code) = ask(&root.join("lib"), &["stop"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("sessions-api (pid ") && said.contains("-p NAME"), "{said}");
    assert_eq!(ask(&root, &["-p", "sessions-api", "stop"]).1, Some(0));
    assert!(api.finish().0.success());
    // The one that is left is meant.
    assert!(ask(&root, &["status"]).0.starts_with("sessions-web: "));
    assert!(is_alive(web.pid()));
}

#[test]
fn a_session_that_was_killed_is_not_listed_any_more() {
    let mut it = Plain::start(project("sessions-killed", ""));
    let file = listed(it.session.pid());
    assert!(file.exists());
    it.session.signal(Signal::SIGKILL);
    it.session.finish();
    let (said, code) = ask(it.project.root(), &["status"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no session runs on"), "{said}");
    assert!(!file.exists());
}

#[test]
fn a_home_that_cannot_be_written_is_told_and_no_reason_not_to_run() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("hotrun"), "no folder").unwrap();
    let mut it = Plain::begin_with(project("sessions-home", ""), &[], |command| {
        command.env("CARGO_HOME", home.path());
    });
    it.next();
    let told = it.session.see("a note", |event| {
        event["event"] == "note" && event["text"].as_str().unwrap().contains("will not find this session")
    });
    assert!(told["text"].as_str().unwrap().contains("set CARGO_HOME"), "{told}");
}
