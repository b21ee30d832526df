//! A socket that the program has copied, or given to an event loop, before it binds it: the held one takes the place of all.

use super::{FRESH, KEPT, LIBC, start_with};
use crate::harness::refuse::refuse;
use crate::load::Load;
use nix::errno::Errno;
use nix::libc;

const SOCKET: &str = "socket2 = { version = \"0.6\", features = [\"all\"] }";
/// What is bound and listens is a copy, and what accepts another; the first is closed in between.
const COPIED: &str = "fn bind() -> TcpListener { let first = socket(); let copy = first.try_clone().unwrap(); let third = copy.try_clone().unwrap(); \
    copy.bind(&address().parse::<std::net::SocketAddr>().unwrap().into()).unwrap(); drop(copy); first.listen(64).unwrap(); drop(first); third.into() }\n\
fn socket() -> socket2::Socket { let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap(); \
    socket.set_reuse_address(true).unwrap(); socket }";
/// An event loop that knows the socket before it is bound, by the number of a copy that is closed then. Told once, and told again only
/// when it asks for that, by the number.
const WATCHED: &str = "fn bind() -> TcpListener { use std::os::fd::AsRawFd; let first = socket(); first.set_nonblocking(true).unwrap(); \
    unsafe { EPOLL = libc::epoll_create1(libc::EPOLL_CLOEXEC); assert!(libc::dup(EPOLL) > EPOLL); let other = libc::epoll_create1(libc::EPOLL_CLOEXEC); \
        let mut event = libc::epoll_event { events: EVENTS, u64: 0xFEED_0000_BEEF }; \
        assert_eq!(libc::epoll_ctl(EPOLL, libc::EPOLL_CTL_ADD, first.as_raw_fd(), &mut event), 0); \
        assert_eq!(libc::epoll_ctl(other, libc::EPOLL_CTL_ADD, first.as_raw_fd(), &mut event), 0); } \
    first.bind(&address().parse::<std::net::SocketAddr>().unwrap().into()).unwrap(); first.listen(64).unwrap(); first.into() }\n\
static mut EPOLL: i32 = -1;\n\
const EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLONESHOT) as u32;\n\
fn socket() -> socket2::Socket { let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap(); \
    socket.set_reuse_address(true).unwrap(); socket }";
const LOOP: &str = "fn accept(listener: &TcpListener) -> TcpStream { use std::os::fd::AsRawFd; loop { \
    let mut event = libc::epoll_event { events: EVENTS, u64: 0xFEED_0000_BEEF }; \
    unsafe { assert_eq!(libc::epoll_ctl(EPOLL, libc::EPOLL_CTL_MOD, listener.as_raw_fd(), &mut event), 0); \
        assert_eq!(libc::epoll_wait(EPOLL, &mut event, 1, -1), 1); } \
    let data = event.u64; assert_eq!(data, 0xFEED_0000_BEEF); \
    match listener.accept() { Ok((conn, _)) => { conn.set_nonblocking(false).unwrap(); return conn } \
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock) } } }";

/// While it binds, children are on their way to become other programs, with all that their parent has.
const CHILDREN: &str = "fn bind() -> TcpListener { let first = socket(); \
    let children = thread::spawn(|| for _ in 0..20 { process::Command::new(\"true\").status().unwrap(); }); thread::yield_now(); \
    first.bind(&address().parse::<std::net::SocketAddr>().unwrap().into()).unwrap(); first.listen(64).unwrap(); \
    children.join().unwrap(); first.into() }\n\
fn socket() -> socket2::Socket { socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap() }";

#[test]
fn a_socket_that_was_copied_or_watched_before_it_is_bound_is_handed_over_whole() {
    let needs = format!("{LIBC}\n{SOCKET}");
    for (name, lines) in
        [("copies-copied", &[COPIED][..]), ("copies-watched", &[WATCHED, LOOP]), ("copies-children", &[CHILDREN])]
    {
        let mut it = start_with(name, &needs, &[], lines, |_| {});
        let load = Load::start(it.address, KEPT);
        load.switched("1");
        for _ in 0..5 {
            assert_eq!(it.swap(lines)["by"], "bind", "{name}");
            load.switched(&it.generation.to_string());
            load.wait_for(20);
        }
        let tally = load.stop();
        assert_eq!(tally.lost(), 0, "{name}: {tally:#?}");
        assert_eq!(it.notes(), [""; 0], "{name}");
    }
}

#[test]
fn a_copy_is_replaced_where_sockets_cannot_be_copied_from_outside_and_an_event_loop_is_told_of() {
    let needs = format!("{LIBC}\n{SOCKET}");
    let no_copies = |command: &mut std::process::Command| refuse(command, libc::SYS_pidfd_getfd, Errno::EPERM);
    let mut it = start_with("copies-no-copy", &needs, &["--drain-timeout", "1s"], &[COPIED], no_copies);
    let load = Load::start(it.address, FRESH);
    load.switched("1");
    assert_eq!(it.swap(&[COPIED])["by"], "bind");
    load.switched("2");
    assert_eq!(load.stop().lost(), 0);

    let mut it = start_with("copies-no-watch", &needs, &[], &[WATCHED, LOOP], no_copies);
    assert_eq!(it.answers().0, "1");
    assert_eq!(it.swap(&[WATCHED, LOOP])["by"], "stop-and-start");
    assert_eq!(it.answers().0, "2");
    assert!(it.notes().iter().any(|note| note.contains("event loop")), "{:?}", it.notes());
}

#[test]
fn a_socket_that_another_process_has_before_it_is_bound_is_told_of_and_the_old_one_serves_on() {
    let shared = "fn bind() -> TcpListener { let first = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap(); first.set_reuse_address(true).unwrap(); \
        unsafe { if libc::fork() == 0 { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM); loop { libc::pause(); } } } \
        first.bind(&address().parse::<std::net::SocketAddr>().unwrap().into()).unwrap(); first.listen(64).unwrap(); first.into() }";
    let needs = format!("{LIBC}\n{SOCKET}");
    let mut it = start_with("copies-shared", &needs, &[], &[shared], |_| {});
    for version in ["2", "3"] {
        it.save(version, &[shared]);
        assert_eq!(it.session.wait_for("start-failed")["serving"], 1);
    }
    assert_eq!(it.answers(), ("1".to_owned(), it.pid));
    let notes = it.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("another process") && notes[0].contains("handoff"), "{notes:?}");
}
