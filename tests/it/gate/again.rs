//! Calls that are made again: because a signal has interrupted them, after the listener was closed, or shut.

use super::{LIBC, start_with};
use crate::harness::refuse::refuse;
use crate::harness::server::ask;
use crate::harness::{command, free_address, is_busy};
use nix::errno::Errno;
use nix::libc;
use serde_json::Value;
use std::io::Read;
use std::net::{TcpListener, TcpStream};

const SOCKET: &str = "socket2 = \"0.6\"";

/// At some moment of each of these binds its thread is called away, by a signal whose handler lets the call be made again (signal(7)).
const INTERRUPTED: &str = "\
fn before_bind() {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::time::{Duration, Instant};
    static CALL: AtomicU64 = AtomicU64::new(0);
    static HEARD: AtomicU64 = AtomicU64::new(0);
    extern \"C\" fn nothing(_: i32) {}
    let me = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()), 0);
        libc::pthread_self() as usize
    };
    let signals = thread::spawn(move || loop {
        let call = CALL.load(SeqCst);
        if call == u64::MAX { return }
        if call == HEARD.load(SeqCst) { thread::yield_now(); continue }
        HEARD.store(call, SeqCst);
        let at = Instant::now() + Duration::from_micros(call % 60 * 10);
        while Instant::now() < at { thread::yield_now() }
        assert_eq!(unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGURG) }, 0);
    });
    for call in 1..=300 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let name = if call % 2 == 0 { \"ADDR\" } else { \"OTHER\" };
        let address: std::net::SocketAddr = env::var(name).unwrap().parse().unwrap();
        CALL.store(call, SeqCst);
        while HEARD.load(SeqCst) != call { thread::yield_now() }
        if let Err(error) = socket.bind(&address.into()) { panic!(\"{call}: {error}\") }
        // What listens is held from then on; the other is not.
        if call % 2 == 0 { socket.listen(64).unwrap() }
    }
    CALL.store(u64::MAX, SeqCst);
    signals.join().unwrap();
}";

#[test]
fn a_bind_that_a_signal_interrupts_is_done_once() {
    let needs = format!("{LIBC}\n{SOCKET}");
    for (name, can_copy) in [("again-interrupted", true), ("again-interrupted-anew", false)] {
        let other = free_address().to_string();
        let mut it = start_with(name, &needs, &["--drain-timeout", "1s"], &[INTERRUPTED], |command| {
            command.env("OTHER", &other);
            if !can_copy {
                refuse(command, libc::SYS_pidfd_getfd, Errno::EPERM);
            }
        });
        assert_eq!(it.answers(), ("1".to_owned(), it.pid));
        // As one that is given what is held, too.
        assert_eq!(it.swap(&[INTERRUPTED])["by"], "bind");
        assert_eq!(it.answers(), ("2".to_owned(), it.pid));
    }
}

const ROUNDS: usize = 20;

/// Asked for the first time, it listens at an address; asked again, it closes that, asks for a connection elsewhere, at which is looked
/// what it has closed, and listens there again.
const CLOSES: &str = "\
fn extra() -> String {
    use std::sync::Mutex;
    static OPEN: Mutex<(usize, Vec<TcpListener>)> = Mutex::new((0, Vec::new()));
    let mut open = OPEN.lock().unwrap();
    let others: Vec<String> = env::var(\"OTHERS\").unwrap().split(',').map(str::to_owned).collect();
    let round = open.0 / 2 * 2;
    let listener = if open.0 % 2 == 0 {
        TcpListener::bind(&others[round]).unwrap()
    } else {
        drop(open.1.pop());
        let elsewhere = TcpListener::bind(&others[round + 1]).unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        assert!(elsewhere.accept().is_err());
        let again = TcpListener::bind(&others[round]).unwrap();
        let clients = again.try_clone().unwrap();
        thread::spawn(move || loop { let _ = clients.accept().unwrap().0.write_all(b\"here\"); });
        std::mem::forget(elsewhere);
        again
    };
    open.0 += 1;
    if open.0 % 2 == 1 { open.1.push(listener) } else { std::mem::forget(listener) }
    String::new()
}";

#[test]
fn a_listener_that_is_closed_and_asked_for_again_at_once_is_served() {
    let others: Vec<_> = (0..2 * ROUNDS).map(|_| free_address()).collect();
    let list = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let it = start_with("again-closed", "", &[], &[CLOSES], |command| {
        command.env("OTHERS", &list);
    });
    let pid = it.session.pid().to_string();
    for round in others.chunks(2) {
        it.answers();
        // Whoever is told that it is held is told after it is.
        let asked = ["status", "--message-format", "json", "--pid", &pid];
        let output = command().args(asked).env("CARGO_TARGET_DIR", it.project.target()).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(status["addresses"].as_array().unwrap().contains(&round[0].to_string().into()), "{status}");
        it.answers();
        let mut said = String::new();
        TcpStream::connect(round[0]).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "here");
    }
}

/// With its first connection it shuts its listener, and later asks it for another one.
const SHUT: &str = "\
fn accept(listener: &TcpListener) -> TcpStream {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    static SHUT: AtomicBool = AtomicBool::new(false);
    let conn = listener.accept().unwrap().0;
    if SHUT.swap(true, SeqCst) { return conn }
    unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
    gate();
    let mut test = TcpStream::connect(env::var(\"GATE\").unwrap()).unwrap();
    let error = listener.accept().unwrap_err();
    test.write_all(format!(\"{:?}\", error.kind()).as_bytes()).unwrap();
    loop { thread::park() }
}";

/// Where nobody can have a connection any more, that is said and not waited for in circles.
#[test]
fn a_listener_that_was_shut_and_whose_address_is_anothers_by_now_keeps_nobody_busy() {
    let it = start_with("again-shut", LIBC, &[], &[SHUT], |_| {});
    let _asked = ask(it.address, "/").unwrap();
    let shut = it.gate.arrival();
    let _stranger = TcpListener::bind(it.address).unwrap();
    shut.let_go();
    let mut asks = it.gate.arrival();
    assert!(!is_busy(it.session.pid()));
    assert_eq!(asks.hear(9), "AddrInUse");
}
