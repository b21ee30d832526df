//! Programs that are not written for this command, and servers of all kinds that are.

use crate::harness::server::{Gate, SERVER, ask, change, server, who};
use crate::harness::{
    LONG, Project, Session, free_address, get, hotrun_dependency, is_alive, version, wait_until_reaped,
};
use crate::load::{Load, Mix};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;

const FRESH: Mix = Mix { fresh: 4, keep_alive: 0, slow: 0, slow_ms: 0 };

/// A std server that takes its socket from `socket()`, says that it is there in `ready()`, and leaves at SIGTERM when its
/// last answer is written.
const STD: &str = r#"
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::{env, thread};

const VERSION: &str = "1";
fn socket() -> TcpListener { TcpListener::bind(env::var("ADDR").unwrap()).unwrap() }
fn ready() {}

fn main() -> io::Result<()> {
    let (wake, woken) = io::pipe().map(|(reader, writer)| (writer, reader))?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, wake)?;
    let http = socket();
    // Another process may be quicker to accept.
    http.set_nonblocking(true)?;
    ready();
    let mut answering = Vec::new();
    loop {
        let mut fds = [PollFd::new(http.as_fd(), PollFlags::POLLIN), PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        // Interrupted by the signal, it is told by the pipe.
        let _ = poll(&mut fds, PollTimeout::NONE);
        if fds[1].any() == Some(true) {
            break;
        }
        if let Ok((conn, _)) = http.accept() {
            answering.push(thread::spawn(move || answer(conn)));
        }
    }
    drop(http);
    for thread in answering {
        let _ = thread.join();
    }
    Ok(())
}

fn answer(mut conn: TcpStream) -> io::Result<()> {
    conn.set_nonblocking(false)?;
    for line in BufReader::new(&conn).lines() {
        if line?.is_empty() {
            let body = format!("version: {VERSION}\npid: {}\n", std::process::id());
            return write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    }
    Ok(())
}
"#;
const STD_NEEDS: &str = "nix = { version = \"0.31\", features = [\"poll\"] }\nsignal-hook = \"0.4\"\n";
const LISTENFD: &str =
    "fn socket() -> TcpListener { listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap().expect(\"no socket\") }";
const SD_LISTEN: &str = "fn socket() -> TcpListener { unsafe { std::os::fd::FromRawFd::from_raw_fd(sd_notify::listen_fds().unwrap().next().unwrap()) } }";
const SD_READY: &str = "fn ready() { sd_notify::notify(&[sd_notify::NotifyState::Ready]).unwrap() }";

const TOKIO: &str = r#"
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

const VERSION: &str = "1";

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let http = listenfd::ListenFd::from_env().take_tcp_listener(0)?.expect("no socket");
    http.set_nonblocking(true)?;
    let http = TcpListener::from_std(http)?;
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.recv() => break,
            accepted = http.accept() => {
                let (conn, _) = accepted?;
                answering.spawn(answer(conn));
            }
        }
    }
    drop(http);
    while answering.join_next().await.is_some() {}
    Ok(())
}

async fn answer(conn: TcpStream) -> io::Result<()> {
    let mut conn = BufReader::new(conn);
    let mut line = String::new();
    while conn.read_line(&mut line).await? > 0 {
        if line == "\r\n" {
            let body = format!("version: {VERSION}\n");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            return conn.write_all((head + &body).as_bytes()).await;
        }
        line.clear();
    }
    Ok(())
}
"#;
const TOKIO_NEEDS: &str =
    "tokio = { version = \"1\", features = [\"io-util\", \"macros\", \"net\", \"rt-multi-thread\", \"signal\"] }\n";

fn pid(event: &Value) -> u32 {
    u32::try_from(event["pid"].as_u64().unwrap()).unwrap()
}

fn notes(log: &[Value]) -> Vec<&str> {
    log.iter().filter(|event| event["event"] == "note").filter_map(|event| event["text"].as_str()).collect()
}

/// A server that takes LISTEN_FDS, swapped under load by nothing but its own graceful stop.
fn swaps_through_listen_fds(name: &str, needs: &str, text: &str, lines: &[&str], ready: &[&[&str]]) {
    let write = |version: &str| server(text, version, lines);
    let project = Project::new(name, needs, &write("0"));
    for (round, args) in ready.iter().enumerate() {
        let address = free_address();
        let listen = format!("http={address}");
        let mut session = Session::start(&project, address, &[&["--listen", &listen], *args].concat());
        let first = session.wait_serving(1);
        assert_eq!(first["by"], "listen-fds");
        assert_eq!(first["addresses"], Value::from(vec![address.to_string()]));
        let load = Load::start(address, FRESH);
        for generation in 2..=4 {
            project.write_by_rename("src/main.rs", &write(&format!("{round}.{generation}")));
            let serving = session.wait_serving(generation);
            session.wait("the old one's end", |event| {
                event["event"] == "drained" && event["generation"] == generation - 1
            });
            assert!(is_alive(pid(&serving)));
            load.switched(&format!("{round}.{generation}"));
            load.wait_for(20);
        }
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{args:?} {tally:#?}");
        assert_eq!(version(address), format!("{round}.4"));
        let (_, log) = session.stop();
        for drained in log.iter().filter(|event| event["event"] == "drained") {
            assert_eq!(drained["end"], "exit status 0", "{drained}");
        }
        assert_eq!(notes(&log), [""; 0]);
    }
}

#[test]
fn a_listenfd_server_on_std_loses_nothing_however_its_readiness_is_seen() {
    let needs = format!("{STD_NEEDS}listenfd = \"1\"");
    let ready: [&[&str]; 3] = [&[], &["--ready", "http:/"], &["--ready", "delay:300ms"]];
    swaps_through_listen_fds("programs-listenfd", &needs, STD, &[LISTENFD], &ready);
}

#[test]
fn a_listenfd_server_on_tokio_loses_nothing() {
    let needs = format!("{TOKIO_NEEDS}listenfd = \"1\"");
    swaps_through_listen_fds("programs-listenfd-tokio", &needs, TOKIO, &[], &[&[]]);
}

#[test]
fn an_sd_notify_server_loses_nothing() {
    let needs = format!("{STD_NEEDS}sd-notify = \"0.5\"");
    swaps_through_listen_fds("programs-sd", &needs, STD, &[SD_LISTEN, SD_READY], &[&[]]);
}

#[test]
fn an_sd_notify_server_that_never_says_ready_is_not_trusted() {
    let needs = format!("{STD_NEEDS}sd-notify = \"0.5\"");
    let write = |version, lines: &[&str]| server(STD, version, lines);
    let project = Project::new("programs-sd-mute", &needs, &write("1", &[SD_LISTEN, SD_READY]));
    let address = free_address();
    let listen = address.to_string();
    let mut session = Session::start(&project, address, &["--listen", &listen, "--ready-timeout", "3s"]);
    let first = pid(&session.wait_serving(1));
    project.write_by_rename("src/main.rs", &write("2", &[SD_LISTEN]));
    let failed = session.wait_for("start-failed");
    assert_eq!((&failed["generation"], &failed["serving"]), (&2.into(), &1.into()));
    assert_eq!(failed["end"], "not ready after 3 s");
    let mute = session.log.iter().find(|event| event["event"] == "starting" && event["generation"] == 2).unwrap();
    wait_until_reaped(pid(mute));
    assert_eq!(who(&get(address, "/").unwrap()), ("1".to_owned(), first));
}

/// It tells the gate when it listens.
const AT_THE_GATE: &str = "fn ready() { let mut gate = TcpStream::connect(env::var(\"GATE\").unwrap()).unwrap(); write!(gate, \"{VERSION}\").unwrap(); std::mem::forget(gate) }";

#[test]
fn a_program_that_binds_for_itself_is_stopped_and_started_and_told_what_would_help_once() {
    let write = |version: &str| server(STD, version, &[AT_THE_GATE]);
    let project = Project::new("programs-binds", STD_NEEDS, &write("1"));
    let (address, gate) = (free_address(), Gate::open());
    let mut session = Session::start_with(&project, address, &["--handoff", "none"], |command| {
        command.env("GATE", gate.address());
    });
    for generation in 1..=4 {
        if generation > 1 {
            project.write_by_rename("src/main.rs", &write(&generation.to_string()));
        }
        let serving = session.wait_serving(generation);
        assert_eq!(serving["by"], "stop-and-start");
        let arrived = gate.arrival();
        assert_eq!(who(&get(address, "/").unwrap()), (generation.to_string(), pid(&serving)));
        // Its end is heard at the next round, or at the end of the test.
        drop(arrived);
    }
    let (_, log) = session.stop();
    let notes = notes(&log);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains(&address.port().to_string()) && notes[0].contains("LISTEN_FDS"), "{notes:?}");
    for generation in 1..4 {
        let place = |name: &str, generation: u64| {
            log.iter().position(|event| event["event"] == name && event["generation"] == generation).unwrap()
        };
        assert!(place("drained", generation) < place("starting", generation + 1));
    }
}

const WORKER: &str = r#"
use std::io::Write;

const VERSION: &str = "1";
fn work() { loop { std::thread::park() } }

fn main() {
    let mut gate = std::net::TcpStream::connect(std::env::var("GATE").unwrap()).unwrap();
    write!(gate, "{VERSION}").unwrap();
    work()
}
"#;

#[test]
fn a_worker_without_sockets_is_simply_started_again() {
    let project = Project::new("programs-worker", "", WORKER);
    let gate = Gate::open();
    let mut session = Session::start_with(&project, free_address(), &[], |command| {
        command.env("GATE", gate.address());
    });
    session.wait_serving(1);
    let mut worker = gate.arrival();
    // It may be there before it has said anything.
    assert_eq!(worker.hear(1), "1");
    for generation in 2..=3 {
        project.write_by_rename("src/main.rs", &server(WORKER, &generation.to_string(), &[]));
        session.wait_serving(generation);
        assert_eq!(worker.end(), "");
        worker = gate.arrival();
        assert_eq!(worker.hear(1), generation.to_string());
    }
    let (_, log) = session.stop();
    assert_eq!(worker.end(), "");
    assert_eq!(notes(&log), [""; 0]);
}

/// A package may depend on the library and have programs that do not use it.
#[test]
fn a_worker_beside_a_server_is_no_server() {
    let project = Project::new("programs-beside", &hotrun_dependency("[]"), WORKER);
    let gate = Gate::open();
    let mut session = Session::start_with(&project, free_address(), &[], |command| {
        command.env("GATE", gate.address());
    });
    assert_eq!(session.wait_serving(1)["by"], "stop-and-start");
    let worker = gate.arrival();
    project.write_by_rename("src/main.rs", &server(WORKER, "2", &[]));
    session.wait_serving(2);
    assert_eq!(worker.end(), "1");
    drop(gate.arrival());

    // One that is quicker than it could be looked at has come to its end, and has not failed.
    project.write_by_rename("src/main.rs", &server(WORKER, "3", &["fn work() {}"]));
    assert_eq!(session.wait_for("finished")["end"], "exit status 0");
    assert_eq!(session.count("start-failed"), 0);
}

#[test]
fn a_server_with_the_library_may_be_ready_by_time_or_by_an_answer() {
    for (name, ready) in
        [("programs-delay", "delay:300ms"), ("programs-answer", "http:/"), ("programs-accept", "accept")]
    {
        let project = Project::from_template(name, "std");
        let address = free_address();
        let mut session = Session::start(&project, address, &["--ready", ready]);
        session.wait_serving(1);
        let load = Load::start(address, FRESH);
        for generation in 2..=3 {
            project.set_version(&generation.to_string());
            assert_eq!(session.wait_serving(generation)["by"], "library");
            assert_eq!(version(address), generation.to_string());
        }
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{ready}: {tally:#?}");
    }
}

#[test]
fn a_program_that_comes_to_its_end_is_run_again_by_a_change() {
    let write = |version: &str| server(WORKER, version, &["fn work() {}"]);
    let project = Project::new("programs-tool", "", &write("1"));
    let gate = Gate::open();
    let mut session = Session::start_with(&project, free_address(), &[], |command| {
        command.env("GATE", gate.address());
    });
    for generation in 1..=3 {
        if generation > 1 {
            project.write_by_rename("src/main.rs", &write(&generation.to_string()));
        }
        let finished = session.wait_for("finished");
        assert_eq!((&finished["generation"], &finished["end"]), (&generation.into(), &"exit status 0".into()));
        assert_eq!(gate.arrival().end(), generation.to_string());
    }
    let (_, log) = session.stop();
    assert_eq!(notes(&log), [""; 0]);
    assert!(!log.iter().any(|event| event["event"] == "died"), "{log:?}");
}

/// Everything that can be listened on.
const MANY: &str = r#"
use std::io::{self, BufRead, BufReader, Read, Write};
use std::{env, thread};

const VERSION: &str = "1";

fn main() -> io::Result<()> {
    let up = hotrun::init()?;
    let var = |name: &str| env::var(name).unwrap();
    let http = up.listen("http", var("ADDR"))?;
    let six = up.listen("six", var("ADDR6"))?;
    let admin = up.listen("admin", var("ADMIN"))?;
    let unix = up.listen_unix("unix", var("UNIX"))?;
    let udp = up.bind_udp("udp", var("UDP"))?;
    let threads = [
        thread::spawn(move || http.incoming().for_each(|conn| answer("http", conn.unwrap()))),
        thread::spawn(move || six.incoming().for_each(|conn| answer("six", conn.unwrap()))),
        thread::spawn(move || admin.incoming().for_each(|conn| answer("admin", conn.unwrap()))),
        thread::spawn(move || unix.incoming().for_each(|conn| answer("unix", conn.unwrap()))),
        thread::spawn(move || {
            let mut bytes = [0; 16];
            while let Some((_, from)) = udp.recv_from(&mut bytes).unwrap() {
                udp.send_to(format!("version: {VERSION}\nname: udp\n").as_bytes(), from).unwrap();
            }
        }),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
    up.drained();
    Ok(())
}

fn answer(name: &str, mut conn: impl Read + Write) {
    BufReader::new(&mut conn).lines().find(|line| line.as_ref().map_or(true, |line| line.is_empty()));
    let body = format!("version: {VERSION}\nname: {name}\n");
    let _ = write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}
"#;

#[test]
fn every_kind_of_socket_is_handed_over() {
    let project = Project::new("programs-many", &hotrun_dependency("[]"), MANY);
    let (http, code, chosen, udp) = (free_address(), free_address(), free_address(), free_address());
    let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, free_address().port()));
    // A path of the project may be too long for a socket.
    let folder = tempfile::tempdir().unwrap();
    let unix = folder.path().join("many.sock");
    let listen = format!("admin={chosen}");
    let mut session = Session::start_with(&project, http, &["--listen", &listen], |command| {
        command.env("ADDR6", six.to_string()).env("ADMIN", code.to_string());
        command.env("UNIX", &unix).env("UDP", udp.to_string());
    });
    for generation in 1..=3 {
        let now = generation.to_string();
        if generation > 1 {
            project.write_by_rename("src/main.rs", &server(MANY, &now, &[]));
        }
        let serving = session.wait_serving(generation);
        let mut addresses: Vec<&str> =
            serving["addresses"].as_array().unwrap().iter().map(|address| address.as_str().unwrap()).collect();
        addresses.sort_unstable();
        let mut expected = [
            http.to_string(),
            six.to_string(),
            chosen.to_string(),
            format!("udp:{udp}"),
            format!("unix:{}", unix.display()),
        ];
        expected.sort_unstable();
        assert_eq!(addresses, expected);
        for (name, address) in [("http", http), ("six", six), ("admin", chosen)] {
            is_from(&get(address, "/").unwrap(), &now, name);
        }
        let mut stream = UnixStream::connect(&unix).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        is_from(&answer, &now, "unix");
        is_from(&ask_udp(udp), &now, "udp");
        assert!(ask(code, "/").is_err(), "the code's address is not the user's");
    }
    assert!(unix.exists());
    let (_, log) = session.stop();
    assert!(!unix.exists(), "the path is left");
    let cut: u64 = log.iter().filter_map(|event| event["cut"].as_u64()).sum();
    assert_eq!(cut, 0);
    assert_eq!(notes(&log), [""; 0]);
}

fn is_from(answer: &str, version: &str, name: &str) {
    assert!(answer.contains(&format!("version: {version}\nname: {name}\n")), "{version} {name}: {answer:?}");
}

fn ask_udp(address: SocketAddr) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.send_to(b"who", address).unwrap();
    let mut bytes = [0; 256];
    let length = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[test]
fn a_listener_that_is_asked_for_late_is_handed_over_too() {
    let listens = "    after_ready();\n    let late = up.listen(\"late\", env::var(\"LATE\").unwrap())?;\n    \
                   thread::spawn(move || late.incoming().for_each(|conn| drop(serve(conn.unwrap()))));";
    let text = SERVER.replace("    after_ready();", listens);
    let project = Project::new("programs-late", &hotrun_dependency("[]"), &text);
    let (address, late) = (free_address(), free_address());
    let mut session = Session::start_with(&project, address, &[], |command| {
        command.env("LATE", late.to_string());
    });
    let mut last = pid(&session.wait_serving(1));
    // It has bound that one too by now.
    assert_eq!(who(&get(late, "/").unwrap()), ("1".to_owned(), last));
    for generation in 2..=4 {
        project.write_by_rename("src/main.rs", &server(&text, &generation.to_string(), &[]));
        let now = pid(&session.wait_serving(generation));
        wait_until_reaped(last);
        for address in [address, late] {
            assert_eq!(who(&get(address, "/").unwrap()), (generation.to_string(), now));
        }
        last = now;
    }
    assert_eq!(session.count("died"), 0);
}

#[test]
fn ready_by_notification_is_waited_for_from_a_program_that_binds_for_itself() {
    let needs = format!("{STD_NEEDS}sd-notify = \"0.5\"");
    let write = |version: &str, lines: &[&str]| server(STD, version, lines);
    let project = Project::new("programs-notify", &needs, &write("1", &[SD_READY]));
    let address = free_address();
    let mut session = Session::start(&project, address, &["--ready", "notify", "--ready-timeout", "3s"]);
    for generation in 1..=3 {
        if generation > 1 {
            project.write_by_rename("src/main.rs", &write(&generation.to_string(), &[SD_READY]));
        }
        let serving = session.wait_serving(generation);
        assert_eq!(serving["by"], "bind");
        assert_eq!(who(&get(address, "/").unwrap()), (generation.to_string(), pid(&serving)));
    }
    project.write_by_rename("src/main.rs", &write("mute", &[]));
    let failed = session.wait_for("start-failed");
    assert_eq!((&failed["generation"], &failed["end"]), (&4.into(), &"not ready after 3 s".into()));
    assert_eq!(failed["serving"], 3);
    assert_eq!(version(address), "3");
}

#[test]
fn a_servers_children_inherit_nothing_of_the_hand_over() {
    let project = Project::new("programs-child", &hotrun_dependency("[]"), SERVER);
    let address = free_address();
    let listen = format!("http={address}");
    let mut session = Session::start(&project, address, &["--listen", &listen]);
    for generation in 1..=2 {
        if generation > 1 {
            change(&project, "2", &[]);
        }
        session.wait_serving(generation);
        let answer = get(address, "/child").unwrap();
        let parts: Vec<&str> = answer.split("--\n").collect();
        let [env, fds, own, _] = parts[..] else { panic!("{answer}") };
        assert!(env.contains("ADDR=") && own.contains("ADDR"), "{answer}");
        // By which whatever it starts is known to be its.
        let (env, own) = [env, own].map(|text| text.replace("HOTRUN_SESSION", "")).into();
        for name in ["HOTRUN_", "LISTEN_", "NOTIFY_SOCKET", "CARGO_HOTRUN", "MAKEFLAGS"] {
            assert!(!env.contains(name) && !own.contains(name), "{name} in {answer}");
        }
        assert!(env.contains("CARGO_PKG_NAME=programs-child\n"), "{answer}");
        let fds: Vec<&str> = fds.lines().filter(|line| line.contains(" -> ")).collect();
        // Its standard three, and the folder that it reads.
        assert_eq!(fds.len(), 4, "{fds:#?}");
        assert!(!fds.iter().any(|line| line.contains("socket:")), "{fds:#?}");
        assert!(fds.iter().any(|line| line.contains(" 3 -> /proc/")), "{fds:#?}");
    }
}

/// Lists the descriptors of the process that it is compiled into.
const LISTING: &str = r#"
fn listing() -> String {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let names = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    names.map(|name| format!("fd {}\n", name.display())).collect()
}
"#;

/// As the library of the first version of the protocol said HELLO.
const OLDER: &str = r#"
fn main() {
    let channel = std::env::var("HOTRUN_CTL").unwrap();
    let (number, token) = channel.split_once(':').unwrap();
    let token = u64::from_str_radix(token, 16).unwrap();
    let bytes = [[1, 0].as_slice(), &token.to_le_bytes(), &std::process::id().to_le_bytes()].concat();
    let text = bytes.iter().fold(String::from("H"), |text, byte| format!("{text}\\{byte:03o}"));
    std::process::Command::new("sh").args(["-c", &format!("printf '{text}' >&{number}")]).status().unwrap();
    std::thread::park();
}
"#;

#[test]
fn a_library_of_an_older_version_is_told_of() {
    let project = Project::new("programs-older", &hotrun_dependency("[]"), OLDER);
    let mut session = Session::start(&project, free_address(), &[]);
    let expected = "its library hotrun is older than this holder's (protocol 1, here 2): build it with the newer one";
    session.wait("a note of the library", |event| {
        event["event"] == "note" && event["text"].as_str().is_some_and(|text| text.contains(expected))
    });
    session.stop();
}

#[test]
fn build_scripts_and_macros_see_no_socket() {
    let needs = format!("{}\nfds = {{ path = \"fds\" }}", hotrun_dependency("[]"));
    let lists = "fn at_start() { fs::write(\"seen\", concat!(include_str!(concat!(env!(\"OUT_DIR\"), \"/fds\")), \"--\\n\", fds::fds!())).unwrap() }";
    let write = |version: &str| server(SERVER, version, &[lists]);
    let project = Project::new("programs-build", &needs, &write("1"));
    project.write("fds/Cargo.toml", "[package]\nname = \"fds\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n");
    let expand = "#[proc_macro]\npub fn fds(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    format!(\"{:?}\", listing()).parse().unwrap()\n}\n";
    project.write("fds/src/lib.rs", &format!("{LISTING}{expand}"));
    let script = |n: u32| {
        let main = format!(
            "fn main() {{ std::fs::write(std::env::var(\"OUT_DIR\").unwrap() + \"/fds\", listing() + \"build {n}\\n\").unwrap() }}"
        );
        format!("{LISTING}{main}")
    };
    project.write("build.rs", &script(1));
    let address = free_address();
    let (listen, unix) = (format!("http={address}"), "other=unix:other.sock");
    let mut session = Session::start(&project, address, &["--listen", &listen, "--listen", unix]);
    for generation in 1..=2 {
        if generation > 1 {
            project.write_by_rename("build.rs", &script(2));
        }
        session.wait_serving(generation);
        let seen = project.read("seen");
        assert!(seen.contains(&format!("build {generation}\n")), "{seen}");
        let (script, expanded) = seen.split_once("--\n").unwrap();
        for seen in [script, expanded] {
            assert!(seen.matches("fd ").count() >= 3, "{seen}");
            assert!(!seen.contains("socket:"), "{seen}");
        }
    }
}
