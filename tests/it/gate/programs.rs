//! Programs of all kinds, none of which knows of the gate.

use super::{EVENT_LOOP, FRESH, KEPT, LIBC, start, start_with};
use crate::harness::is_alive;
use crate::load::{Load, Mix};
use std::io::Read;

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
