//! Programs that are started with dynamic libraries, which are built again as the program is.

use crate::harness::server::{Gate, ask};
use crate::harness::{Project, Session, free_address, get};
use std::net::SocketAddr;

/// Asks its library for the word at every request, and waits at the gate with the first of `/held`.
const MAIN: &str = r#"
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() {
    let listener = TcpListener::bind(std::env::var("ADDR").unwrap()).unwrap();
    for conn in listener.incoming() {
        let Ok(conn) = conn else { continue };
        std::thread::spawn(move || serve(conn));
    }
}

fn serve(mut conn: TcpStream) {
    let first = BufReader::new(&conn).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).next();
    match first.unwrap_or_default().split(' ').nth(1) {
        Some("/crash") => std::process::abort(),
        Some("/held") => {
            let mut gate = TcpStream::connect(std::env::var("GATE").unwrap()).unwrap();
            gate.read_exact(&mut [0]).unwrap();
        }
        _ => {}
    }
    let body = format!("word: {}\n", shared::word());
    let _ = write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}
"#;

fn shared(word: &str) -> String {
    format!(
        "#[inline(never)]\npub fn word() -> String {{ inner() + \" says\" }}\nfn inner() -> String {{ {word:?}.into() }}\n"
    )
}

/// A program with a member of its workspace as a dynamic library.
fn project(name: &str) -> Project {
    let project = Project::new(name, "shared = { path = \"shared\" }", MAIN).in_folder(name);
    project.write("Cargo.lock", "version = 4\n");
    let manifest =
        "[package]\nname = \"shared\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"dylib\"]\n";
    project.write("shared/Cargo.toml", manifest);
    project.write("shared/src/lib.rs", &shared("one"));
    project
}

fn word(address: SocketAddr) -> String {
    let answer = get(address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn a_program_finds_its_dynamic_libraries_and_new_ones_are_new_code() {
    let project = project("libraries-swapped");
    let (address, gate) = (free_address(), Gate::open());
    let mut session = Session::start_with(&project, address, &["--drain-timeout", "60s"], |command| {
        command.env("GATE", gate.address());
    });
    session.wait_serving(1);
    assert_eq!(word(address), "one says");
    // The old generation goes on with the library that it was started with.
    let held = ask(address, "/held").unwrap();
    let arrival = gate.arrival();
    project.write_by_rename("shared/src/lib.rs", &shared("two"));
    session.wait_serving(2);
    assert_eq!(word(address), "two says");
    arrival.let_go();
    assert!(held.answer().unwrap().contains("word: one says"), "the old one has other code");
    project.write_by_rename("src/main.rs", &MAIN.replace("word: {}", "word: {} again"));
    session.wait_serving(3);
    assert_eq!(word(address), "two says again");
    project.write_by_rename("shared/src/lib.rs", &shared("three"));
    session.wait_serving(4);
    assert_eq!(word(address), "three says again");
}

#[test]
fn a_program_that_is_run_again_finds_the_libraries_that_it_was_built_with() {
    let project = project("libraries-again");
    let address = free_address();
    let mut session = Session::start(&project, address, &[]);
    session.wait_serving(1);
    project.write_by_rename("shared/src/lib.rs", &shared("two"));
    session.wait_serving(2);
    assert_eq!(word(address), "two says");
    // Built, and not served: the program before dies meanwhile and is started again.
    project.write_by_rename("shared/src/lib.rs", &format!("{}#[used]\n#[unsafe(link_section = \".init_array\")]\nstatic AT_START: extern \"C\" fn() = {{ extern \"C\" fn at_start() {{ std::process::abort() }} at_start }};\n", shared("three")));
    session.wait_for("start-failed");
    assert_eq!(word(address), "two says");
    get(address, "/crash").ok();
    session.wait_for("died");
    session.wait_serving(4);
    assert_eq!(word(address), "two says");
    // And the one before that, whose library was built over twice.
    let output = crate::harness::command()
        .args(["rollback", "--pid", &session.pid().to_string(), "--target-dir"])
        .arg(project.target())
        .current_dir(project.root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(word(address), "one says");
}

#[test]
fn a_program_that_prefers_dynamic_linking_runs() {
    let project = project("libraries-std");
    project.write(".cargo/config.toml", "[build]\nrustflags = [\"-Cprefer-dynamic\"]\n");
    let address = free_address();
    let mut session = Session::start(&project, address, &[]);
    session.wait_serving(1);
    project.write_by_rename("src/main.rs", &MAIN.replace("word: {}", "word: {} again"));
    session.wait_serving(2);
    assert_eq!(word(address), "one says again");
}
