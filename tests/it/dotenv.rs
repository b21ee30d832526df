//! Files of variables: those that the user names, and the `.env` that a program reads by itself.

use crate::harness::{Project, Session, command, free_address, get};
use std::net::SocketAddr;

/// Reads its `.env`, and answers with a word of it.
const MAIN: &str = r#"
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

const VERSION: &str = "1";

fn main() {
    dotenvy::dotenv().ok();
    let word = std::env::var("WORD").unwrap_or_default();
    let listener = TcpListener::bind(std::env::var("ADDR").unwrap()).unwrap();
    for conn in listener.incoming() {
        let Ok(mut conn) = conn else { continue };
        if BufReader::new(&conn).lines().any(|line| line.is_ok_and(|line| line.is_empty())) {
            let body = format!("version: {VERSION}\nword: {word}\n");
            let _ = write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    }
}
"#;

fn word(address: SocketAddr) -> String {
    let answer = get(address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap().to_owned()
}

fn notes(session: &Session) -> Vec<String> {
    let notes = session.log.iter().filter(|event| event["event"] == "note");
    notes.map(|event| event["text"].as_str().unwrap().to_owned()).filter(|text| text.contains(".env")).collect()
}

#[test]
fn a_dotenv_file_that_nobody_watches_is_told_of_once_with_what_to_write() {
    let project = Project::new("dotenv-told", "dotenvy = \"0.15\"\n", MAIN);
    project.write(".env", "WORD=one\n");
    let address = free_address();
    let mut session = Session::start(&project, address, &[]);
    session.wait_serving(1);
    project.set_version("2");
    session.wait_serving(2);
    let told = notes(&session);
    assert_eq!(told.len(), 1, "{told:?}");
    let written = told[0].split('`').nth(1).unwrap().to_owned();
    assert!(
        written == "watch = [\".env\"]" && told[0].contains("dotenvy") && told[0].contains("Cargo.toml"),
        "{told:?}"
    );
    drop(session);

    // What it says is what helps.
    let manifest = project.read("Cargo.toml");
    project.write("Cargo.toml", &format!("{manifest}\n[package.metadata.hotrun]\n{written}\n"));
    let mut session = Session::start(&project, address, &[]);
    session.wait_serving(1);
    assert_eq!(word(address), "one");
    project.write_by_rename(".env", "WORD=two\n");
    session.wait_serving(2);
    assert_eq!(word(address), "two");
    // One that goes is no error, and may come again.
    std::fs::remove_file(project.path(".env")).unwrap();
    session.wait_serving(3);
    assert_eq!(word(address), "");
    project.write_by_rename(".env", "WORD=three\n");
    session.wait_serving(4);
    assert_eq!(word(address), "three");
    assert_eq!(notes(&session), [""; 0]);
}

#[test]
fn a_dotenv_file_above_is_told_of_and_one_that_something_covers_is_not() {
    let project = Project::new("dotenv-covered", "dotenvy = \"0.15\"\n", MAIN);
    project.write(".env", "WORD=one\n");
    project.write("inner/folder/x", "");
    let (data, ignored) = (format!("{}=none", project.path("*").display()), project.path(".env").display().to_string());
    let cases: [(&[&str], usize); 6] = [
        (&[], 1),
        (&["--env-file", "../../.env"], 0),
        (&["--watch", "../.."], 0),
        (&["--data", &data], 0),
        (&["--ignore", &ignored], 0),
        (&["--watch", "x"], 1),
    ];
    for (args, told) in cases {
        let address = free_address();
        let mut session = Session::start_with(&project, address, args, |command| {
            command.current_dir(project.path("inner/folder"));
        });
        session.wait_serving(1);
        assert_eq!(notes(&session).len(), told, "{args:?}: {:?}", notes(&session));
    }
}

/// The compiler does not know that such a macro reads it, so that watching alone would compile nothing.
#[test]
fn a_dotenv_file_that_a_macro_reads_is_told_of_with_a_line_for_the_build_script() {
    let main = MAIN.replace("dotenvy::dotenv().ok();", "");
    let project = Project::new("dotenv-macro", "dotenvy_macro = { path = \"macro\" }\n", &main);
    project.write("macro/Cargo.toml", "[package]\nname = \"dotenvy_macro\"\nedition = \"2024\"\n");
    project.write("macro/src/lib.rs", "");
    project.write(".env", "WORD=one\n");
    let mut session = Session::start(&project, free_address(), &[]);
    session.wait_serving(1);
    let told = notes(&session);
    assert!(told.len() == 1 && told[0].contains("rerun-if-changed"), "{told:?}");
}

#[test]
fn a_program_without_the_crate_may_have_such_a_file() {
    let main = MAIN.replace("dotenvy::dotenv().ok();", "");
    let project = Project::new("dotenv-other", "", &main);
    project.write(".env", "WORD=one\n");
    let mut session = Session::start(&project, free_address(), &[]);
    session.wait_serving(1);
    assert_eq!(notes(&session), [""; 0]);
}

#[test]
fn files_that_are_named_and_not_there_are_refused_before_anything_is_built() {
    let project = Project::new("dotenv-missing", "", "fn main() { no }");
    for (flag, help) in [("--env-file", "create it"), ("--watch", "correct it")] {
        let output = command().args([flag, "nowhere"]).current_dir(project.root()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("`{flag}`: found ")) && said.contains(help), "{said}");
        assert!(!said.contains("building"), "{said}");
    }
}
