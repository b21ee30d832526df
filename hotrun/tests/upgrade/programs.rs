//! Point 12 of the plan: which program the next generation is, and programs that cannot be one.

use crate::harness::{Service, Serving, ask, serve};
use hotrun::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// This test binary, in a place of its own.
fn install(path: &Path) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(std::env::current_exe().unwrap(), path).unwrap();
    path.to_owned()
}

fn executable(serving: &Serving) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", serving.pid)).unwrap()
}

fn start(program: &Path, change: impl FnOnce(&mut Command)) -> (Service, Serving) {
    let mut command = Command::new(program);
    serve(&mut command);
    Service::start_as(command, |command, _| change(command))
}

#[test]
fn one_that_was_put_in_place_by_a_rename() {
    let folder = tempfile::tempdir().unwrap();
    let program = install(&folder.path().join("server"));
    let (mut service, first) = start(&program, |_| {});
    fs::rename(install(&folder.path().join("new")), &program).unwrap();
    assert!(executable(&first).to_string_lossy().ends_with(" (deleted)"));
    let second = service.upgrade(&first);
    assert_eq!(executable(&second), program);
    service.stop(&second);
}

/// The kernel will not run what is being written (execve(2), ETXTBSY).
#[test]
fn one_that_is_being_written_to_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let program = install(&folder.path().join("server"));
    let (mut service, first) = start(&program, |_| {});
    let new = install(&folder.path().join("new"));
    fs::rename(&new, &program).unwrap();
    let writing = fs::File::options().append(true).open(&program).unwrap();
    let (_, error) = ask(first.address("http"), "/upgrade");
    assert!(error.starts_with("error Spawn ") && error.contains("ExecutableFileBusy"), "{error}");
    assert!(service.says("failed ").contains("put a new program in place with a rename"));
    drop(writing);
    let second = service.upgrade(&first);
    service.stop(&second);
}

#[test]
fn one_that_is_not_there_or_cannot_be_run_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let program = install(&folder.path().join("server"));
    let (mut service, first) = start(&program, |_| {});
    let http = first.address("http");
    fs::rename(&program, folder.path().join("away")).unwrap();
    assert!(ask(http, "/upgrade").1.contains("kind: NotFound"));
    fs::write(&program, "neither a program nor a script").unwrap();
    assert!(ask(http, "/upgrade").1.contains("PermissionDenied"));
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let (_, error) = ask(http, "/upgrade");
    assert!(error.starts_with("error Spawn "), "{error}");
    fs::rename(folder.path().join("away"), &program).unwrap();
    for _ in 0..3 {
        service.says("failed ");
    }
    let second = service.upgrade(&first);
    service.stop(&second);
}

/// Releases in folders of their own, and a link to the present one: in the program's path, and in the working directory.
#[test]
fn one_behind_a_link_that_leads_to_a_new_release() {
    for relative in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        install(&one.join("server"));
        install(&two.join("server"));
        let current = folder.path().join("current");
        symlink(&one, &current).unwrap();
        let program = if relative { PathBuf::from("./server") } else { current.join("server") };
        let (mut service, first) = start(&program, |command| {
            command.current_dir(&current).env("PWD", &current);
        });
        assert_eq!(executable(&first), one.join("server"));
        symlink(&two, folder.path().join("next")).unwrap();
        fs::rename(folder.path().join("next"), &current).unwrap();
        fs::remove_dir_all(&one).unwrap();
        let second = service.upgrade(&first);
        assert_eq!(executable(&second), two.join("server"));
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", second.pid)).unwrap(), two);
        service.stop(&second);
    }
}

#[test]
fn one_that_is_looked_for_in_path() {
    let folder = tempfile::tempdir().unwrap();
    install(&folder.path().join("hotrun-test-server"));
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let mut command = Command::new("sh");
    // As a shell starts it, so that its name is not a path.
    command.args(["-c", "exec hotrun-test-server \"$@\"", "sh"]).env("PATH", path);
    serve(&mut command);
    let (mut service, first) = Service::start_as(command, |_, _| {});
    fs::rename(install(&folder.path().join("new")), folder.path().join("hotrun-test-server")).unwrap();
    let second = service.upgrade(&first);
    assert_eq!(executable(&second), folder.path().join("hotrun-test-server"));
    service.stop(&second);
}

#[test]
fn another_one_by_choice() {
    let folder = tempfile::tempdir().unwrap();
    let other = install(&folder.path().join("other"));
    let (mut service, first) = Service::start(|command, _| {
        command.env("PROGRAM", &other);
    });
    let second = service.upgrade(&first);
    assert_eq!(executable(&second), other);
    service.stop(&second);
}

/// It was this server's, and is not any more: without the library nobody says READY.
#[test]
fn one_that_does_not_know_the_library_is_not_ready() {
    let (mut service, first) = Service::start(|command, folder| {
        fs::write(folder.join("stranger"), "#!/bin/sh\nexec cat /dev/zero >/dev/null\n").unwrap();
        fs::set_permissions(folder.join("stranger"), PermissionsExt::from_mode(0o755)).unwrap();
        command.env("PROGRAM", folder.join("stranger")).env("READY_MS", "200");
    });
    first.signal(Signal::SIGUSR2);
    let line = service.says("failed ");
    assert!(line.ends_with("was not ready after 200ms, and was killed; it never called hotrun::init"), "{line}");
    assert_eq!(ask(first.address("http"), "/").0, 1);
}
