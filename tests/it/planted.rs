//! Links, files and folders that stand where this command makes its own: nothing is followed, nothing is written through.

use crate::harness::plain::{Plain, arguments, plain, project};
use crate::harness::{command, free_address};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// What a session says that does not begin.
fn refused(project: &crate::harness::Project) -> String {
    let mut command = command();
    arguments(&mut command, project, free_address());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_session_does_not_begin_where_its_programs_would_be_kept_elsewhere() {
    let (project, elsewhere) = (project("planted-run", ""), tempfile::tempdir().unwrap());
    for below in ["target/hotrun", "target/hotrun/run"].map(|below| project.path(below)) {
        fs::create_dir_all(below.parent().unwrap()).unwrap();
        symlink(elsewhere.path(), &below).unwrap();
        let said = refused(&project);
        assert!(said.contains(&format!("{} is a link", below.display())), "{said}");
        fs::remove_file(&below).unwrap();
        fs::write(&below, "").unwrap();
        let said = refused(&project);
        assert!(said.contains("make a folder for programs"), "{said}");
        fs::remove_file(&below).unwrap();
    }
    assert_eq!(entries(elsewhere.path()), 0);
}

#[test]
fn saves_go_through_cargo_where_replay_would_write_elsewhere() {
    let (project, elsewhere) = (project("planted-replay", ""), tempfile::tempdir().unwrap());
    fs::create_dir_all(project.path("target/hotrun")).unwrap();
    for below in ["target/hotrun/calls", "target/hotrun/replay"] {
        symlink(elsewhere.path(), project.path(below)).unwrap();
    }
    let mut it = Plain::begin(project, &[]);
    it.next();
    it.project.write_by_rename("src/main.rs", &plain("2", &[]));
    assert_eq!(it.next(), "2");
    // Without one of them, the other is looked at.
    fs::remove_file(it.project.path("target/hotrun/calls")).unwrap();
    it.project.write_by_rename("src/main.rs", &plain("3", &[]));
    assert_eq!(it.next(), "3");
    assert_eq!(entries(elsewhere.path()), 0);
}

/// A folder of an earlier session, in which somebody has planted links.
#[test]
fn replay_opens_no_lock_and_no_folder_through_a_link() {
    let mut it = Plain::start(project("planted-lock", ""));
    it.session.see("replay", |event| event["event"] == "replay-ready");
    let Plain { project, session, .. } = it;
    session.stop();
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = fs::read_dir(project.path("target/hotrun/replay")).unwrap().next().unwrap().unwrap().path();
    let file = elsewhere.path().join("made");
    fs::remove_file(folder.join("lock")).unwrap();
    symlink(&file, folder.join("lock")).unwrap();
    let mut it = Plain::start(project);
    it.project.write_by_rename("src/main.rs", &plain("2", &[]));
    assert_eq!(it.next(), "2");
    assert!(!file.exists());
    let Plain { project, session, .. } = it;
    session.stop();
    fs::remove_file(folder.join("lock")).unwrap();
    for inner in ["deps", "records"] {
        fs::remove_dir_all(folder.join(inner)).unwrap();
        symlink(elsewhere.path(), folder.join(inner)).unwrap();
    }
    let mut it = Plain::start(project);
    it.project.write_by_rename("src/main.rs", &plain("3", &[]));
    assert_eq!(it.next(), "3");
    assert_eq!(entries(elsewhere.path()), 0);
}

/// The link leads to where others may write.
#[test]
fn a_new_project_is_not_put_through_a_link_that_leads_nowhere() {
    let (above, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(elsewhere.path().join("api"), above.path().join("api")).unwrap();
    let output = command().args(["new", "--template", "plain"]).arg(above.path().join("api")).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("make the folder") && said.contains("api"), "{said}");
    assert_eq!(entries(elsewhere.path()), 0);
    assert!(above.path().join("api").is_symlink(), "what was there is left alone");
}
