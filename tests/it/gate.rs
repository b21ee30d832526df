//! At the gate: faults, and programs of all kinds that know nothing of the command.

use crate::harness::refuse::refuse;
use crate::harness::server::{Arrival, Gate, ask, freeze, hold, server, wait_until_reaped, who};
use crate::harness::{LONG, Project, Session, free_address, get, is_alive, leavings, send, version, wait_for_end};
use crate::load::{Load, Mix};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

const FRESH: Mix = Mix { fresh: 4, keep_alive: 0, slow: 0, slow_ms: 0 };
const KEPT: Mix = Mix { fresh: 2, keep_alive: 3, slow: 0, slow_ms: 0 };

/// A server without dependencies, with kept connections. A test changes the lines of the functions at its beginning. `/held` is
/// answered in two parts, the second when the client has sent a byte more.
const SERVER: &str = r#"
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, process, thread};

const VERSION: &str = "1";
fn address() -> String { env::var("ADDR").unwrap() }
fn before_bind() {}
fn bind() -> TcpListener { TcpListener::bind(address()).unwrap() }
fn before_accept() {}
fn threads() -> usize { 1 }
fn accept(listener: &TcpListener) -> TcpStream { listener.accept().unwrap().0 }
fn extra() -> String { String::new() }

/// Tells the test that this process is there, and waits for a byte of it.
#[allow(dead_code)]
fn gate() {
    let mut gate = TcpStream::connect(env::var("GATE").unwrap()).unwrap();
    let _ = gate.read_exact(&mut [0]);
}

fn main() {
    before_bind();
    let listener = bind();
    before_accept();
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| loop {
                let conn = accept(&listener);
                thread::spawn(move || serve(conn));
            });
        }
    });
}

fn serve(conn: TcpStream) -> io::Result<()> {
    let (mut input, mut conn) = (BufReader::new(&conn), &conn);
    loop {
        let (mut first, mut length, mut close) = (String::new(), 0, false);
        if input.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            input.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", value)) => close = value == "close",
                Some(_) => {}
                None => break,
            }
        }
        io::copy(&mut (&mut input).take(length), &mut io::sink())?;
        let body = format!("version: {VERSION}\npid: {}\n{}", process::id(), extra());
        match first.split(' ').nth(1) {
            Some("/crash") => process::abort(),
            Some("/held") => {
                write!(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                input.read_exact(&mut [0])?;
                return write!(conn, "{body}");
            }
            _ => {}
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        conn.write_all(answer.as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
"#;

/// A session whose first generation serves.
struct Running {
    project: Project,
    address: SocketAddr,
    session: Session,
    gate: Gate,
    pid: u32,
    generation: u64,
}

fn start(name: &str, args: &[&str], lines: &[&str]) -> Running {
    start_with(name, "", args, lines, |_| {})
}

fn start_with(name: &str, needs: &str, args: &[&str], lines: &[&str], change: impl FnOnce(&mut Command)) -> Running {
    let project = Project::new(name, needs, &server(SERVER, "1", lines));
    let (address, gate) = (free_address(), Gate::open());
    let session = Session::start_with(&project, address, args, |command| {
        command.env("GATE", gate.address());
        change(command);
    });
    let mut running = Running { project, address, session, gate, pid: 0, generation: 1 };
    running.pid = pid(&running.session.wait_serving(1));
    running
}

impl Running {
    fn save(&self, version: &str, lines: &[&str]) {
        self.project.write_by_rename("src/main.rs", &server(SERVER, version, lines));
    }

    /// Saves that version and waits until it serves; the event.
    fn swap(&mut self, lines: &[&str]) -> Value {
        self.generation += 1;
        self.save(&self.generation.to_string(), lines);
        let serving = self.session.wait_serving(self.generation);
        self.pid = pid(&serving);
        serving
    }

    fn answers(&self) -> (String, u32) {
        who(&get(self.address, "/").unwrap())
    }

    /// Waits until a generation has left.
    fn gone(&mut self, generation: u64) -> Value {
        self.session.see("its end", |event| event["event"] == "drained" && event["generation"] == generation)
    }

    fn notes(&self) -> Vec<&str> {
        let notes = self.session.log.iter().filter(|event| event["event"] == "note");
        notes.filter_map(|event| event["text"].as_str()).collect()
    }
}

fn pid(event: &Value) -> u32 {
    u32::try_from(event["pid"].as_u64().unwrap()).unwrap()
}

/// A connection that is kept, after one answer.
fn keep(address: SocketAddr) -> TcpStream {
    let mut kept = TcpStream::connect(address).unwrap();
    kept.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(who(&exchange(&mut kept)).0, "1");
    kept
}

fn exchange(kept: &mut TcpStream) -> String {
    write!(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = vec![0; 4096];
    let length = kept.read(&mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

#[test]
fn a_start_that_fails_leaves_the_old_one_serving_and_loses_nothing() {
    let mut it = start("gate-fails", &["--ready-timeout", "2s"], &[]);
    let load = Load::start(it.address, KEPT);
    let faults = [
        ("fn before_bind() { panic!() }", "exit status 101"),
        ("fn before_accept() { panic!() }", "exit status 101"),
        ("fn before_accept() { process::exit(0) }", "exit status 0"),
        ("fn before_accept() { process::abort() }", "signal 6 (SIGABRT)"),
        ("fn before_bind() { loop { thread::park() } }", "not ready after 2 s"),
        ("fn before_accept() { loop { thread::park() } }", "not ready after 2 s"),
    ];
    for (nth, (fault, end)) in faults.into_iter().enumerate() {
        it.save(&format!("fault {nth}"), &[fault]);
        let failed = it.session.wait_for("start-failed");
        assert_eq!((failed["end"].as_str(), &failed["serving"]), (Some(end), &1.into()), "{fault}");
        assert_eq!(it.answers(), ("1".to_owned(), it.pid), "{fault}");
        let generation = failed["generation"].clone();
        let starting = |event: &&Value| event["event"] == "starting" && event["generation"] == generation;
        wait_until_reaped(pid(it.session.log.iter().rfind(starting).unwrap()));
        it.generation += 1;
    }
    it.swap(&[]);
    load.switched(&it.generation.to_string());
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

/// An event loop is told once that a connection has come; on the way back the connections that came meanwhile must not be forgotten.
const EVENT_LOOP: &str = "\
fn accept(listener: &TcpListener) -> TcpStream { EventLoop::of(listener).accept() }
struct EventLoop<'a>(&'a TcpListener, i32);
impl<'a> EventLoop<'a> {
    fn of(listener: &'a TcpListener) -> Self {
        use std::os::fd::AsRawFd;
        use std::sync::OnceLock;
        static EPOLL: OnceLock<i32> = OnceLock::new();
        let epoll = *EPOLL.get_or_init(|| {
            listener.set_nonblocking(true).unwrap();
            let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
            unsafe {
                let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
                assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, listener.as_raw_fd(), &mut event), 0);
                epoll
            }
        });
        EventLoop(listener, epoll)
    }
    fn accept(&self) -> TcpStream {
        loop {
            match self.0.accept() {
                Ok((conn, _)) => { conn.set_nonblocking(false).unwrap(); return conn }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            unsafe { libc::epoll_wait(self.1, &mut event, 1, -1) };
        }
    }
}";

#[test]
fn a_crash_after_ready_is_rolled_back_and_clients_have_only_waited() {
    let needs = "libc = \"0.2\"";
    for (name, lines) in [("gate-crash", &[][..]), ("gate-crash-loop", &[EVENT_LOOP])] {
        let mut it = start_with(name, needs, &["--probation", "100s"], lines, |_| {});
        let first = it.pid;
        let kept = keep(it.address);
        it.swap(lines);
        assert_eq!(it.answers(), ("2".to_owned(), it.pid));
        assert!(is_alive(first), "it is on hold");
        freeze(it.pid);
        let asked: Vec<_> = (0..5).map(|_| ask(it.address, "/").unwrap()).collect();
        send(it.pid, Signal::SIGKILL);
        let back = it.session.wait_for("rolled-back");
        assert_eq!((&back["from"], &back["to"]), (&2.into(), &1.into()));
        for asked in asked {
            assert_eq!(who(&asked.answer().unwrap()), ("1".to_owned(), first), "{name}");
        }
        assert_eq!(it.answers(), ("1".to_owned(), first));
        assert_eq!(who(&exchange(&mut { kept })).1, first, "its connections were left alone");
        // And the hand-over after that is as any other.
        it.generation = 2;
        it.swap(lines);
        assert_eq!(it.answers(), ("3".to_owned(), it.pid));
    }
}

#[test]
fn two_hundred_threads_in_accept_are_at_the_gate_at_once() {
    let threads = "fn threads() -> usize { 200 }";
    let mut it = start("gate-threads", &[], &[threads]);
    let load = Load::start(it.address, KEPT);
    load.switched("1");
    for _ in 0..5 {
        it.swap(&[threads]);
        load.switched(&it.generation.to_string());
        load.wait_for(50);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    // All of them: it is the program as it was written.
    let threads = std::fs::read_dir(format!("/proc/{}/task", it.pid)).unwrap().count();
    assert!(threads > 200, "{threads}");
}

#[test]
fn after_the_switch_no_connection_is_the_old_ones() {
    let mut it = start("gate-switch", &["--drain-timeout", "100s"], &["fn threads() -> usize { 8 }"]);
    let held = hold(it.address);
    it.swap(&[]);
    for _ in 0..100 {
        assert_eq!(it.answers(), ("2".to_owned(), it.pid));
    }
    let draining = it.session.see("draining", |event| event["event"] == "draining");
    assert_eq!((&draining["generation"], &draining["live"]), (&1.into(), &1.into()));
    assert_eq!(who(&held.release().unwrap()).0, "1", "what was being answered is answered to the end");
    let drained = it.gone(1);
    assert_eq!(drained["cut"], 0, "{drained}");
}

#[test]
fn a_kept_connection_ends_between_two_answers_when_its_client_asks_again() {
    let mut it = start("gate-kept", &["--drain-timeout", "100s"], &[]);
    let mut kept: Vec<TcpStream> = (0..3).map(|_| keep(it.address)).collect();
    let mut fresh = TcpStream::connect(it.address).unwrap();
    fresh.set_read_timeout(Some(LONG)).unwrap();
    it.swap(&[]);
    for kept in &mut kept {
        write!(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(kept.read(&mut [0]).unwrap(), 0, "a clean end, and no byte of an answer");
    }
    // It was taken by the old one, or by the new one: its first request is answered by whoever has it.
    who(&exchange(&mut fresh));
    drop(fresh);
    assert_eq!(it.gone(1)["cut"], 0);
}

#[test]
fn a_stream_has_until_the_timeout_and_what_was_cut_is_counted() {
    let mut it = start("gate-stream", &["--drain-timeout", "2s"], &[]);
    // The one is silent after its answer; the other has sent the half of a request.
    let mut silent = keep(it.address);
    let mut busy = TcpStream::connect(it.address).unwrap();
    busy.set_read_timeout(Some(LONG)).unwrap();
    write!(busy, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab").unwrap();
    it.swap(&[]);
    let drained = it.gone(1);
    assert_eq!((&drained["cut"], drained["end"].as_str()), (&1.into(), Some("signal 15 (SIGTERM)")));
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it was between two answers");
    drop(busy);
}

#[test]
fn a_session_that_ends_waits_for_answers_and_not_for_kept_connections() {
    let it = start("gate-quit", &["--drain-timeout", "1000s"], &[]);
    let mut kept = keep(it.address);
    let held = hold(it.address);
    it.session.signal(Signal::SIGTERM);
    let mut session = it.session;
    session.wait_for("draining");
    assert_eq!(who(&held.release().unwrap()).0, "1");
    let (_, log) = session.finish();
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
    let drained = log.iter().find(|event| event["event"] == "drained").unwrap();
    assert_eq!(drained["cut"], 0);
}

#[test]
fn nothing_is_stuck_when_the_command_is_killed() {
    // A helper that has left the group, and asks for a connection in vain.
    let helper = "fn before_accept() { if env::args().len() == 1 { let mut helper = process::Command::new(env::current_exe().unwrap()); \
                  std::os::unix::process::CommandExt::process_group(&mut helper, 0); helper.arg(\"helper\").spawn().unwrap(); } }";
    let bind = "fn bind() -> TcpListener { if env::args().len() == 1 { TcpListener::bind(address()).unwrap() } else { let l = TcpListener::bind(\"127.0.0.1:0\").unwrap(); gate(); let _ = l.accept(); process::exit(3) } }";
    let lines = [helper, bind, "fn threads() -> usize { 20 }"];
    let temporary = tempfile::tempdir().unwrap();
    let mut it = start_with("gate-killed", "", &[], &lines, |command| {
        command.env("TMPDIR", temporary.path());
    });
    let helper = it.gate.arrival();
    let parked = keep(it.address);
    it.session.signal(Signal::SIGKILL);
    it.session.finish();
    wait_for_end(it.pid);
    // It binds and accepts where nobody answers any more, and is told so.
    helper.let_go();
    drop(parked);
    while !leavings(temporary.path()).is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(TcpStream::connect(it.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn nothing_is_left_when_the_command_is_killed_in_the_middle_of_a_hand_over() {
    for moment in ["building", "starting", "serving", "draining", "drained"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut it = start_with(&format!("gate-killed-{moment}"), "", &["--drain-timeout", "1s"], &[], |command| {
            command.env("TMPDIR", temporary.path());
        });
        let load = Load::start(it.address, KEPT);
        load.wait_for(20);
        // Keeps the old one from leaving at once.
        let held = hold(it.address);
        it.save("2", &[]);
        it.session.wait_for(moment);
        it.session.signal(Signal::SIGKILL);
        it.session.finish();
        while !leavings(temporary.path()).is_empty() {
            std::thread::yield_now();
        }
        drop((load.stop(), held));
        assert_eq!(TcpStream::connect(it.address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{moment}");
    }
}

#[test]
fn an_ordinary_user_has_it_too() {
    // Root without any capability is to the kernel what every other user is, and can read this project.
    let mut it = start_with("gate-user", "", &[], &[], |command| {
        let plain = std::mem::replace(command, Command::new("setpriv"));
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(plain.get_program()).args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(plain.get_current_dir().unwrap());
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", it.pid)).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let load = Load::start(it.address, KEPT);
    for _ in 0..5 {
        assert_eq!(it.swap(&[])["by"], "bind");
        load.switched(&it.generation.to_string());
        load.wait_for(20);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    assert_eq!(it.notes(), [""; 0]);
}

#[test]
fn a_system_without_the_feature_stops_and_starts_and_says_so_once() {
    for (name, error) in [("gate-none", Errno::ENOSYS), ("gate-forbidden", Errno::EPERM)] {
        let mut it = start_with(name, "", &[], &[], |command| refuse(command, libc::SYS_seccomp, error));
        for _ in 0..2 {
            assert_eq!(it.swap(&[])["by"], "stop-and-start");
        }
        let notes = it.notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("seccomp") && notes[0].contains("hotrun library"), "{notes:?}");
    }
}

#[test]
fn a_system_where_sockets_cannot_be_copied_loses_no_fresh_connection() {
    let mut it = start_with("gate-no-copy", "", &["--drain-timeout", "1s"], &[], |command| {
        refuse(command, libc::SYS_pidfd_getfd, Errno::EPERM)
    });
    let load = Load::start(it.address, FRESH);
    load.switched("1");
    for _ in 0..3 {
        assert_eq!(it.swap(&[])["by"], "bind");
        load.switched(&it.generation.to_string());
        load.wait_for(20);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    it.gone(1);
    let notes = it.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("SYS_PTRACE"), "{notes:?}");
}

#[test]
fn a_system_where_memory_cannot_be_read_stops_and_starts_and_says_so_once() {
    let mut it =
        start_with("gate-no-memory", "", &[], &[], |command| refuse(command, libc::SYS_process_vm_readv, Errno::EPERM));
    for _ in 0..2 {
        assert_eq!(it.swap(&[])["by"], "stop-and-start");
    }
    let notes = it.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("memory"), "{notes:?}");
}

#[test]
fn an_address_of_a_stranger_is_named_with_its_owner_and_the_old_one_serves_on() {
    let mut it = start("gate-stranger", &[], &[]);
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = stranger.local_addr().unwrap();
    it.save("2", &[&format!("fn address() -> String {{ \"{taken}\".to_owned() }}")]);
    let failed = it.session.wait_for("start-failed");
    assert_eq!(failed["serving"], 1);
    let notes = it.notes();
    let us = format!("pid {}", std::process::id());
    assert!(notes.iter().any(|note| note.contains(&taken.to_string()) && note.contains(&us)), "{notes:?}");
    assert_eq!(it.answers(), ("1".to_owned(), it.pid));
}

#[test]
fn an_address_that_changes_is_taken_and_the_old_one_let_go() {
    // Asked to take a connection only when there is one, and by a blocking call.
    for (name, lines) in [("gate-moves", &[][..]), ("gate-moves-loop", &[EVENT_LOOP])] {
        address_changes(name, lines);
    }
}

fn address_changes(name: &str, lines: &[&str]) {
    let mut it = start_with(name, LIBC, &[], lines, |_| {});
    let with = |address: String| -> Vec<String> {
        lines
            .iter()
            .map(ToString::to_string)
            .chain([format!("fn address() -> String {{ \"{address}\".to_owned() }}")])
            .collect()
    };
    let swap = |it: &mut Running, address: String| {
        let lines = with(address);
        it.swap(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let old = it.address;
    let new = free_address();
    let serving = swap(&mut it, new.to_string());
    assert_eq!(serving["addresses"], Value::from(vec![new.to_string()]), "{serving}");
    assert_eq!(version(new), "2");
    it.session.see("let go", |event| {
        event["event"] == "note" && event["text"].as_str().unwrap().contains(&format!("{old} is no longer wanted"))
    });
    assert_eq!(TcpStream::connect(old).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // There and back, and to all interfaces: the same port, in a wider and in a narrower sense.
    let port = new.port();
    for address in [format!("0.0.0.0:{port}"), format!("[::]:{port}"), format!("127.0.0.1:{port}")] {
        let load = Load::start(new, FRESH);
        load.wait_for(20);
        let serving = swap(&mut it, address.clone());
        assert_eq!(serving["addresses"], Value::from(vec![address]), "{serving}");
        it.gone(it.generation - 1);
        assert_eq!(version(new), it.generation.to_string());
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{tally:#?}");
    }
}

#[test]
fn an_address_that_is_bound_twice_is_refused_as_it_would_be_anywhere() {
    let twice = "fn extra() -> String { let again = TcpListener::bind(address()).map(drop).map_err(|error| error.kind()); format!(\"again: {again:?}\\n\") }";
    let mut it = start("gate-twice", &[], &[twice]);
    for _ in 0..2 {
        let answer = get(it.address, "/").unwrap();
        assert!(answer.contains("again: Err(AddrInUse)"), "{answer}");
        it.swap(&[twice]);
    }
}

#[test]
fn a_program_may_close_its_listener_and_bind_again() {
    let again = "fn bind() -> TcpListener { for _ in 0..3 { drop(TcpListener::bind(address()).unwrap()); } TcpListener::bind(address()).unwrap() }";
    let mut it = start("gate-again", &[], &[again]);
    it.swap(&[again]);
    assert_eq!(it.answers(), ("2".to_owned(), it.pid));
}

/// What the kernel would give to a program of its own is not touched: a port of the kernel's choice, a path, datagrams.
#[test]
fn what_is_not_held_is_left_to_the_program() {
    let others = "fn before_bind() { \
        let path = env::var(\"SOCKET\").unwrap(); let _ = std::fs::remove_file(&path); \
        let unix = std::os::unix::net::UnixListener::bind(path).unwrap(); \
        let any = TcpListener::bind(\"127.0.0.1:0\").unwrap(); \
        let client = TcpStream::connect(any.local_addr().unwrap()).unwrap(); \
        assert_eq!(any.accept().unwrap().1, client.local_addr().unwrap()); \
        thread::spawn(move || loop { let (mut conn, _) = unix.accept().unwrap(); let _ = write!(conn, \"{VERSION}\"); }); }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut it = start_with("gate-others", "", &[], &[others], |command| {
        command.env("SOCKET", &path);
    });
    for version in ["1", "2"] {
        let mut said = String::new();
        std::os::unix::net::UnixStream::connect(&path).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, version);
        assert_eq!(it.answers(), (version.to_owned(), it.pid));
        it.swap(&[others]);
    }
}

const LIBC: &str = "libc = \"0.2\"";
/// Four processes that share one listener, as servers of one thread a process do.
const FORKS: &str = "fn before_accept() { for _ in 0..3 { if unsafe { libc::fork() } == 0 { unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) }; return } } }";
/// Four sockets on one address, each with a thread of its own.
const REUSE: &str = "fn bind() -> TcpListener { for _ in 0..3 { let one = socket(); thread::spawn(move || loop { let conn = accept(&one); thread::spawn(move || serve(conn)); }); } socket() }\n\
fn socket() -> TcpListener { let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap(); socket.set_reuse_port(true).unwrap(); \
socket.bind(&address().parse::<std::net::SocketAddr>().unwrap().into()).unwrap(); socket.listen(64).unwrap(); socket.into() }";
/// Its own filter, in place before it binds, which refuses what a server of its kind does not need.
const FILTER: &str = "fn before_bind() { \
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k }; \
    let filter = [op(0x20, 0, 0, 0), op(0x15, 0, 1, libc::SYS_ptrace as u32), op(6, 0, 0, libc::SECCOMP_RET_KILL_PROCESS), op(6, 0, 0, libc::SECCOMP_RET_ALLOW)]; \
    let program = libc::sock_fprog { len: 4, filter: filter.as_ptr() as *mut _ }; \
    unsafe { assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0); assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, 2, &program), 0); } }";
/// Another user than the one who started it, who may look at none of root's processes.
const DROPS: &str = "fn before_accept() { unsafe { if libc::getuid() == 0 { assert_eq!(libc::setgroups(0, std::ptr::null()), 0); assert_eq!(libc::setgid(65534), 0); assert_eq!(libc::setuid(65534), 0); } } }";
/// A helper for every answer.
const HELPS: &str = "fn extra() -> String { String::from_utf8(process::Command::new(\"sh\").args([\"-c\", \"echo help\"]).output().unwrap().stdout).unwrap() }";
/// An accept with a limit of time, as for a loop that looks at something else now and then.
const TIMES: &str = "fn accept(listener: &TcpListener) -> TcpStream { \
    let time = libc::timeval { tv_sec: 0, tv_usec: 20_000 }; \
    unsafe { libc::setsockopt(std::os::fd::AsRawFd::as_raw_fd(listener), libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const time).cast(), 16); } \
    loop { match listener.accept() { Ok((conn, _)) => return conn, Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock) } } }";
/// Signals without end, which interrupt whatever thread waits.
const SIGNALS: &str = "fn before_accept() { unsafe extern \"C\" fn nothing(_: i32) {} \
    let every = libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 500 }, it_value: libc::timeval { tv_sec: 0, tv_usec: 500 } }; \
    unsafe { libc::signal(libc::SIGALRM, nothing as *const () as usize); libc::setitimer(libc::ITIMER_REAL, &every, std::ptr::null_mut()); } }";

/// It ends its loop of accept at SIGTERM in the one way there is, which ends that of every process that has the socket.
const SHUTS: &str = "fn accept(listener: &TcpListener) -> TcpStream { \
    static ONCE: std::sync::Once = std::sync::Once::new(); \
    let number = std::os::fd::AsRawFd::as_raw_fd(listener); \
    ONCE.call_once(|| { let mut stop = signal_hook::iterator::Signals::new([libc::SIGTERM]).unwrap(); \
        thread::spawn(move || { stop.forever().next(); unsafe { libc::shutdown(number, libc::SHUT_RD) }; process::exit(0) }); }); \
    listener.accept().unwrap().0 }";

#[test]
fn programs_of_all_kinds_are_swapped_under_load() {
    let kinds = [
        ("gate-forks", LIBC, FORKS),
        ("gate-reuse", "socket2 = { version = \"0.6\", features = [\"all\"] }", REUSE),
        ("gate-filter", LIBC, FILTER),
        ("gate-drops", LIBC, DROPS),
        ("gate-helps", "", HELPS),
        ("gate-times", LIBC, TIMES),
        ("gate-signals", LIBC, SIGNALS),
        ("gate-loop", LIBC, EVENT_LOOP),
    ];
    for (name, needs, line) in kinds {
        let mut it = start_with(name, needs, &[], &[line], |_| {});
        let load = Load::start(it.address, KEPT);
        load.switched("1");
        for _ in 0..5 {
            assert_eq!(it.swap(&[line])["by"], "bind", "{name}");
            load.switched(&it.generation.to_string());
            load.wait_for(20);
        }
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{name}: {tally:#?}");
        assert_eq!(it.notes(), [""; 0], "{name}");
    }
}

/// What waits in the queue at that moment is reset, as it would be anywhere; nobody is refused for longer than it takes to see it.
#[test]
fn a_listener_that_an_old_program_shuts_listens_again() {
    let needs = format!("{LIBC}\nsignal-hook = \"0.4\"");
    let mut it = start_with("gate-shuts", &needs, &[], &[SHUTS], |_| {});
    for _ in 0..3 {
        let before = it.generation;
        it.swap(&[SHUTS]);
        it.gone(before);
        assert_eq!(it.answers(), (it.generation.to_string(), it.pid));
    }
}

#[test]
fn one_that_cannot_run_twice_leaves_first_and_clients_wait() {
    let mut it = start("gate-alone", &["--overlap", "false"], &[]);
    let load = Load::start(it.address, KEPT);
    load.switched("1");
    for _ in 0..3 {
        let before = it.pid;
        assert_eq!(it.swap(&[])["by"], "bind");
        assert!(!is_alive(before));
        load.switched(&it.generation.to_string());
        load.wait_for(20);
    }
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

#[test]
fn one_that_dies_is_started_again_and_clients_wait() {
    let it = start("gate-dies", &[], &[]);
    let (address, mut session) = (it.address, it.session);
    freeze(it.pid);
    let asked: Vec<_> = (0..5).map(|_| ask(address, "/").unwrap()).collect();
    send(it.pid, Signal::SIGKILL);
    session.wait_for("died");
    let again = pid(&session.wait_serving(2));
    for asked in asked {
        assert_eq!(who(&asked.answer().unwrap()), ("1".to_owned(), again));
    }
}

#[test]
fn a_program_without_room_for_a_descriptor_is_told_so_and_loses_no_connection() {
    let limit = "fn before_accept() { unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: 12, rlim_max: 12 }) }; }";
    // As servers do: wait until there is room.
    let accept = "fn accept(listener: &TcpListener) -> TcpStream { loop { match listener.accept() { Ok((conn, _)) => return conn, \
                  Err(error) => { assert_eq!(error.raw_os_error(), Some(libc::EMFILE)); thread::sleep(std::time::Duration::from_millis(5)) } } } }";
    let it = start_with("gate-full", LIBC, &[], &[limit, accept], |_| {});
    let load = Load::start(it.address, Mix { fresh: 16, ..FRESH });
    load.wait_for(1000);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
}

#[test]
fn one_that_takes_connections_unseen_leaves_first_and_clients_wait() {
    // Not really by io_uring: that it is set up is all that can be known of it.
    let uring = "fn before_bind() { let mut parameters = [0_u8; 120]; \
                 unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) }; }";
    let mut it = start_with("gate-uring", LIBC, &[], &[uring], |_| {});
    let load = Load::start(it.address, FRESH);
    for _ in 0..2 {
        let before = it.pid;
        it.swap(&[uring]);
        assert!(!is_alive(before));
        load.wait_for(20);
    }
    let tally = load.stop();
    assert_eq!((tally.refused, tally.timed_out), (0, 0), "{tally:#?}");
    let notes = it.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("io_uring"), "{notes:?}");
}

/// A connection of which nobody has asked anything for a while is looked after by its client's kernel, whose probes are dropped by ours: no
/// request, and no proof that an answer is over.
#[test]
fn a_quiet_stream_whose_client_probes_it_is_left_alone() {
    let mut it = start("gate-probes", &["--drain-timeout", "100s"], &[]);
    let mut stream = TcpStream::connect(it.address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    for (name, seconds) in [(libc::TCP_KEEPIDLE, 1), (libc::TCP_KEEPINTVL, 1)] {
        let option = set_option(&stream, libc::IPPROTO_TCP, name, seconds);
        assert_eq!(option, 0);
    }
    assert_eq!(set_option(&stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1), 0);
    write!(stream, "GET /held HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    it.swap(&[]);
    // Answers to probes, as the kernel of the client counts them: segments that came in and had nothing in them.
    let before = segments_in(&stream);
    while segments_in(&stream) < before + 3 {
        std::thread::yield_now();
    }
    stream.write_all(b"x").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(who(&rest).0, "1");
    assert_eq!(it.gone(1)["cut"], 0);
}

fn set_option(stream: &TcpStream, level: i32, name: i32, value: i32) -> i32 {
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    // SAFETY: the kernel reads an int.
    unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) }
}

fn segments_in(stream: &TcpStream) -> u32 {
    let (mut info, mut length) = ([0_u32; 64], 256);
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    // SAFETY: the kernel writes at most `length` bytes. tcpi_segs_in stands at 140 of struct tcp_info (linux/tcp.h).
    let done =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length) };
    assert_eq!(done, 0);
    info[35]
}

/// Only sockets of TCP are seen at the gate; one without is ready when it has lived a while, as it was before there were gates.
#[test]
fn a_program_that_takes_a_path_by_listen_fds_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let unix = "fn before_bind() { let unix: std::os::unix::net::UnixListener = unsafe { std::os::fd::FromRawFd::from_raw_fd(3) }; \
                loop { let (mut conn, _) = unix.accept().unwrap(); let _ = write!(conn, \"{VERSION}\"); } }";
    let listen = format!("unix:{}", path.display());
    let mut it = start("gate-path", &["--listen", &listen], &[unix]);
    it.swap(&[unix]);
    it.gone(1);
    let mut said = String::new();
    std::os::unix::net::UnixStream::connect(&path).unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "2");
}

/// Nothing is given to a program that has not shown that it can serve.
#[test]
fn one_that_fails_before_it_is_ready_has_had_no_connection() {
    let mut it = start("gate-early", &["--ready", "delay:1s"], &[]);
    let load = Load::start(it.address, KEPT);
    let dies = "fn before_accept() { thread::spawn(|| { thread::sleep(std::time::Duration::from_millis(300)); process::exit(1) }); }";
    it.save("2", &[dies]);
    it.session.wait_for("start-failed");
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.lost(), 0, "{tally:#?}");
    assert_eq!(tally.by_version.keys().collect::<Vec<_>>(), ["1"]);
}

/// What a helper leaves behind costs nothing.
#[test]
fn a_helper_that_outlives_its_generation_costs_no_time() {
    let is_helper = "fn before_bind() { if env::args().len() > 1 { gate(); process::exit(0) } }";
    let helper = "fn before_accept() { let mut helper = process::Command::new(env::current_exe().unwrap()); \
                  std::os::unix::process::CommandExt::process_group(&mut helper, 0); helper.arg(\"helper\").spawn().unwrap(); }";
    let mut it = start("gate-helper", &[], &[is_helper, helper]);
    let mut helpers = vec![it.gate.arrival()];
    for _ in 0..3 {
        let before = it.generation;
        it.swap(&[is_helper, helper]);
        it.gone(before);
        helpers.push(it.gate.arrival());
    }
    let load = Load::start(it.address, Mix { fresh: 1, ..FRESH });
    let before = ticks(it.session.pid());
    load.wait_for(200);
    // Spinning threads would use all the time there is: a second and more, on each processor.
    let used = ticks(it.session.pid()) - before;
    assert!(used < 50, "{used} hundredths of a second");
    load.stop();
    helpers.into_iter().for_each(Arrival::let_go);
}

/// Time on the processor so far, in hundredths of a second (proc_pid_stat(5)).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_address_that_the_program_closes_is_let_go() {
    let other = free_address();
    let once = format!(
        "fn before_accept() {{ let other = TcpListener::bind(\"{other}\").unwrap(); let _ = other.accept(); }}"
    );
    let mut it = start("gate-closes", &["--ready", "delay:100ms"], &[&once]);
    // A connection to it is what it waits for; then it is closed for good.
    TcpStream::connect(other).unwrap();
    it.session.wait("let go", |event| {
        event["event"] == "note" && event["text"] == format!("{other} was closed by the program: let go")
    });
    assert_eq!(TcpStream::connect(other).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    drop(TcpListener::bind(other).unwrap());
    assert_eq!(it.answers(), ("1".to_owned(), it.pid));
    it.swap(&[]);
    assert_eq!(it.answers(), ("2".to_owned(), it.pid));
}

#[test]
fn an_address_that_was_widened_may_be_narrowed_again_while_the_first_one_drains() {
    let mut it = start_with("gate-undo", LIBC, &["--drain-timeout", "100s"], &[EVENT_LOOP], |_| {});
    let held = hold(it.address);
    let wide = format!("fn address() -> String {{ \"0.0.0.0:{}\".to_owned() }}", it.address.port());
    it.swap(&[EVENT_LOOP, &wide]);
    assert_eq!(it.answers().0, "2");
    it.swap(&[EVENT_LOOP]);
    assert_eq!(it.answers().0, "3");
    assert_eq!(who(&held.release().unwrap()).0, "1");
    it.gone(1);
    it.gone(2);
    assert_eq!(it.answers().0, "3");
}

#[test]
fn a_datagram_socket_is_left_alone_where_sockets_cannot_be_copied() {
    let udp = free_address();
    let bind = format!(
        "fn before_bind() {{ if VERSION == \"1\" {{ let udp = std::net::UdpSocket::bind(\"{udp}\").unwrap(); udp.send_to(b\"x\", \"{udp}\").unwrap(); assert_eq!(udp.recv(&mut [0; 9]).unwrap(), 1); }} }}"
    );
    let it = start_with("gate-udp", "", &[], &[&bind], |command| refuse(command, libc::SYS_pidfd_getfd, Errno::EPERM));
    assert_eq!(it.answers(), ("1".to_owned(), it.pid));
}
