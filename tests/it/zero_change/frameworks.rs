//! The frameworks that people use, each as its users write it. Their first builds take minutes, so these tests are run only
//! with `--features frameworks`.

use super::{LAST, TOKIO, end, start, swap, swaps_lose_nothing};
use crate::harness::{LONG, Project, free_address, now};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{RwLock, RwLockReadGuard};

const STREAMS: &str = "futures-util = { version = \"0.3\", default-features = false }\n";

/// Builds the project and swaps its server under load.
fn framework_loses_nothing(name: &str, dependencies: &str, main: &str, addresses: &[SocketAddr]) {
    let project = Project::new(name, dependencies, main).in_folder("frameworks");
    let _folder = build(&project);
    swaps_lose_nothing(&project, addresses);
}

/// All build to one folder, so that what they share is compiled once. Written to by a first build, read by a session: that would
/// wait for the build's lock as long as no test waits.
static FOLDER: RwLock<()> = RwLock::new(());

/// The first build, however long it takes. Nobody else's begins before the end of what is returned.
fn build(project: &Project) -> RwLockReadGuard<'static, ()> {
    let alone = FOLDER.write().unwrap();
    let began = now();
    project.build();
    println!("{}: built in {:?}", project.name, began.elapsed());
    drop(alone);
    FOLDER.read().unwrap()
}

#[test]
fn axum_is_swapped_twenty_times_under_load() {
    let dependencies = format!("axum = \"0.8\"\n{STREAMS}{TOKIO}");
    let main = include_str!("../../servers/axum.rs");
    framework_loses_nothing("zero-axum", &dependencies, main, &[free_address()]);
}

#[test]
fn axum_on_two_ports_is_swapped_twenty_times_under_load() {
    let dependencies = format!("axum = \"0.8\"\n{STREAMS}{TOKIO}");
    let main = include_str!("../../servers/two_ports.rs");
    framework_loses_nothing("zero-two-ports", &dependencies, main, &[free_address(), free_address()]);
}

#[test]
fn actix_web_is_swapped_twenty_times_under_load() {
    let actix = "actix-web = { version = \"4\", default-features = false, features = [\"macros\"] }\n";
    let main = include_str!("../../servers/actix.rs");
    framework_loses_nothing("zero-actix", &format!("{actix}{STREAMS}"), main, &[free_address()]);
}

#[test]
fn rocket_is_swapped_twenty_times_under_load() {
    let main = include_str!("../../servers/rocket.rs");
    framework_loses_nothing("zero-rocket", "rocket = \"0.5\"\n", main, &[free_address()]);
}

#[test]
fn hyper_is_swapped_twenty_times_under_load() {
    let hyper = "http-body-util = \"0.1\"\nhyper = { version = \"1\", features = [\"http1\", \"server\"] }\n\
                 hyper-util = { version = \"0.1\", features = [\"tokio\"] }\n";
    let main = include_str!("../../servers/hyper.rs");
    framework_loses_nothing("zero-hyper", &format!("{hyper}{STREAMS}{TOKIO}"), main, &[free_address()]);
}

#[test]
fn warp_is_swapped_twenty_times_under_load() {
    let dependencies = format!("warp = {{ version = \"0.4\", features = [\"server\"] }}\n{STREAMS}{TOKIO}");
    let main = include_str!("../../servers/warp.rs");
    framework_loses_nothing("zero-warp", &dependencies, main, &[free_address()]);
}

#[test]
fn tiny_http_is_swapped_twenty_times_under_load() {
    let main = include_str!("../../servers/tiny_http.rs");
    framework_loses_nothing("zero-tiny-http", "tiny_http = \"0.12\"\n", main, &[free_address()]);
}

/// Over HTTP/2, which the load does not speak: a client of the same project calls.
#[test]
fn tonic_is_swapped_twenty_times_under_calls_and_streams() {
    let dependencies = format!(
        "prost = \"0.14\"\ntonic = \"0.14\"\ntonic-prost = \"0.14\"\n{STREAMS}{TOKIO}\n\
         [build-dependencies]\ntonic-build = {{ version = \"0.14\", default-features = false }}\n"
    );
    let project = Project::new("zero-tonic", &dependencies, include_str!("../../servers/tonic/main.rs"));
    project.write("build.rs", include_str!("../../servers/tonic/build.rs"));
    project.write("src/lib.rs", include_str!("../../servers/tonic/lib.rs"));
    project.write("src/bin/client.rs", include_str!("../../servers/tonic/client.rs"));
    let project = project.in_folder("frameworks");
    let _folder = build(&project);
    let address = free_address();
    let mut session = start(&project, &[address], &["--bin", "zero-tonic"]);
    let began = now();
    let mut client = Client::start(&project, address);
    client.wait_for("version 1");
    swap(&project, &mut session, |_| {});
    client.wait_for(&format!("version {LAST}"));
    let said = client.stop();
    println!("zero-tonic in {:?}: {said:?}", began.elapsed());
    assert_eq!(said.last().map(String::as_str), Some("failed 0"), "{said:#?}\n{}", session.stderr());
    end(session);
}

/// What calls the tonic server, as a process.
struct Client {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Client {
    fn start(project: &Project, address: SocketAddr) -> Client {
        let mut command = Command::new(project.target().join("debug/client"));
        command.env("ADDR", address.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Client { child, lines, said: Vec::new() }
    }

    fn wait_for(&mut self, wanted: &str) {
        while self.said.last().is_none_or(|line| line != wanted) {
            let line = self.lines.recv_timeout(LONG);
            self.said.push(line.unwrap_or_else(|_| panic!("no {wanted:?} after {:#?}", self.said)));
        }
    }

    /// Lets every call come to its end; all that it has said.
    fn stop(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        while let Ok(line) = self.lines.recv_timeout(LONG) {
            self.said.push(line);
        }
        assert!(self.child.wait().unwrap().success());
        std::mem::take(&mut self.said)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}
