//! What only the kernel knows of a connection, and the filter that keeps its next request back. One of the few files with
//! `unsafe`: socket options that are structures, and descriptors by number.
//! Never lives here: what follows from it.

use crate::process::descriptors::errno;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::io;
use std::mem::size_of_val;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread;

/// `struct tcp_info` (linux/tcp.h) up to the last field that is read: the C library's has fewer.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct TcpInfo {
    state: u8,
    _flags: [u8; 7],
    _timers_and_sizes: [u32; 4],
    /// Segments sent and not acknowledged.
    unacked: u32,
    _segments: [u32; 4],
    /// Milliseconds since.
    last_data_sent: u32,
    _last_ack_sent: u32,
    last_data_recv: u32,
    _window: [u32; 12],
    _pacing: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    _segments_out: u32,
    segments_in: u32,
    notsent_bytes: u32,
    _more_segments: [u32; 3],
    _rates: [u64; 4],
    _delivered: [u32; 2],
    bytes_sent: u64,
}

/// A connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionState {
    /// Neither side has ended it, or the client has and waits for what is still to come.
    pub open: bool,
    pub received: u64,
    pub sent: u64,
    /// Bytes that the program has not read yet.
    pub unread: u64,
    /// Whether everything sent has arrived.
    pub delivered: bool,
    /// Milliseconds since the last byte went out and came in.
    pub sent_ago: u32,
    pub received_ago: u32,
    /// Segments that were dropped, by a filter or for another reason.
    pub dropped: u32,
    /// Segments that came past the filter, some of which may then have been dropped.
    pub segments: u32,
}

/// include/net/tcp_states.h
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

impl ConnectionState {
    pub fn of(socket: impl AsFd) -> Result<ConnectionState, Errno> {
        let mut info = TcpInfo::default();
        get(&socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
        let mut memory = [0_u32; libc::SK_MEMINFO_DROPS as usize + 1];
        get(&socket, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut memory)?;
        Ok(ConnectionState {
            open: matches!(info.state, ESTABLISHED | CLOSE_WAIT),
            received: info.bytes_received,
            sent: info.bytes_sent,
            unread: rustix::io::ioctl_fionread(&socket).map_err(errno)?,
            delivered: info.unacked == 0 && info.notsent_bytes == 0,
            sent_ago: info.last_data_sent,
            received_ago: info.last_data_recv,
            dropped: memory[libc::SK_MEMINFO_DROPS as usize],
            segments: info.segments_in,
        })
    }
}

/// Bytes that the program has read, and those that have arrived at the other side; none of a connection that either side has ended.
pub fn moved(socket: impl AsFd) -> Option<u64> {
    let mut info = TcpInfo::default();
    get(&socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
    let unread = rustix::io::ioctl_fionread(&socket).ok()?;
    let read = info.bytes_received.saturating_sub(unread);
    matches!(info.state, ESTABLISHED | CLOSE_WAIT).then(|| info.bytes_acked.saturating_add(read))
}

/// Plain numbers, in which any bytes are valid.
pub(super) trait Plain: Copy {}
impl Plain for TcpInfo {}
impl<const N: usize> Plain for [u32; N] {}

/// An older kernel knows less and leaves the rest as it is.
pub(super) fn get<T: Plain>(socket: &impl AsFd, level: i32, name: i32, value: &mut T) -> Result<(), Errno> {
    let mut length = size_of_val(value) as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes to `value`, and any bytes are a value of a plain type.
    let done = unsafe { libc::getsockopt(fd, level, name, std::ptr::from_mut(value).cast(), &mut length) };
    Errno::result(done).map(drop)
}

/// An entry of an epoll set.
#[derive(Debug)]
pub struct Watch {
    pub set: OwnedFd,
    pub number: RawFd,
    pub events: u32,
    pub data: u64,
}

/// Has the file watched as those entries say. A set knows what it watches by the file and the number under which it was added (epoll(7),
/// questions and answers, Q1), which is the program's: so it is added by a thread that has a table of descriptors of its own, where
/// the file can have that number, too.
pub fn watch(file: BorrowedFd<'_>, entries: &[Watch]) -> io::Result<()> {
    let Some(last) = entries.iter().map(|entry| entry.number).max() else { return Ok(()) };
    let add = || -> io::Result<()> {
        // SAFETY: from here on the numbers of this thread are its own, and no other's are changed; all are closed with it.
        Errno::result(unsafe { libc::unshare(libc::CLONE_FILES) })?;
        let above = |fd: BorrowedFd<'_>| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(last + 1));
        let file = above(file)?;
        let sets = entries.iter().map(|entry| above(entry.set.as_fd())).collect::<Result<Vec<_>, _>>()?;
        for (entry, set) in entries.iter().zip(sets) {
            let mut event = libc::epoll_event { events: entry.events, u64: entry.data };
            // SAFETY: whatever has the number in this thread's table is used by nobody; the kernel reads the event.
            unsafe {
                Errno::result(libc::dup3(file, entry.number, libc::O_CLOEXEC))?;
                match Errno::result(libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, entry.number, &mut event)) {
                    // The set itself has several numbers.
                    Ok(_) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let added = thread::Builder::new().spawn_scoped(scope, add)?;
        added.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// What the connections of a listener are born with, and how long its own calls wait (socket(7), tcp(7), ip(7)). Sizes of buffers are
/// not among them: they read differently from what was set.
const OPTIONS: [(i32, i32); 12] = [
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_IP, libc::IP_TOS),
];

/// Makes the one socket as the other in all of `OPTIONS`, those that were never set included.
pub fn make_like(socket: impl AsFd, model: impl AsFd) {
    let (to, from) = (socket.as_fd().as_raw_fd(), model.as_fd().as_raw_fd());
    for (level, name) in OPTIONS {
        let mut value = [0_u64; 4];
        let mut length = size_of_val(&value) as libc::socklen_t;
        let place = value.as_mut_ptr();
        // SAFETY: the kernel writes at most `length` bytes to `value`, tells how many, and reads as many from there.
        unsafe {
            if libc::getsockopt(from, level, name, place.cast(), &mut length) == 0 {
                libc::setsockopt(to, level, name, place.cast(), length);
            }
        }
    }
}

/// From now on a segment that begins a request of HTTP/1 does not come in. The client's side of the connection sends it again and
/// again, as if it had been lost on the way.
pub fn keep_requests_out(socket: impl AsFd) -> Result<(), Errno> {
    attach(socket, &no_requests())
}

/// From now on no connection begins at this listener, while those that have begun come into its queue. A client's kernel asks again a
/// second later (RFC 6298, 2.1).
pub fn keep_connections_out(listener: impl AsFd) -> Result<(), Errno> {
    attach(listener, &no_beginnings())
}

fn attach(socket: impl AsFd, filter: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let (fd, length) = (socket.as_fd().as_raw_fd(), size_of_val(&program) as libc::socklen_t);
    let name = libc::SO_ATTACH_FILTER;
    // SAFETY: the kernel reads `program` and the instructions it points to, which live until it has returned.
    let done = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, std::ptr::from_ref(&program).cast(), length) };
    Errno::result(done).map(drop)
}

/// From now on nothing at all comes in, for the moment in which a connection is ended where no filter may be attached. What comes has come
/// over fewer hops than are asked for here, and is dropped (IP_MINTTL of ip(7), and its like for IPv6). What the program sends goes out.
pub fn keep_all_out(connection: &TcpStream) -> Result<(), Errno> {
    set_least_hops(connection, ALL_HOPS)
}

/// More than any packet has left on a way of one hop or more, but for systems that begin with as many.
const ALL_HOPS: i32 = 255;
/// linux/in6.h
const IPV6_MINHOPCOUNT: i32 = 73;

fn set_least_hops(connection: &TcpStream, hops: i32) -> Result<(), Errno> {
    // A connection of IPv4 may be one of a socket for both.
    set(connection, libc::IPPROTO_IP, libc::IP_MINTTL, hops)?;
    if connection.local_addr().is_ok_and(|address| address.is_ipv6()) {
        set(connection, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, hops)?;
    }
    Ok(())
}

/// Ends whatever of both was begun.
pub fn let_all_in(connection: &TcpStream) {
    // There may be none.
    set(connection, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0).ok();
    set_least_hops(connection, 0).ok();
}

pub(super) fn set(socket: impl AsFd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    let (fd, length) = (socket.as_fd().as_raw_fd(), size_of_val(&value) as libc::socklen_t);
    // SAFETY: the kernel reads an int.
    let done = unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), length) };
    Errno::result(done).map(drop)
}

/// How a request line begins (RFC 9112, 3): four bytes of the method are enough to tell it from a frame of HTTP/2, of a WebSocket or
/// of TLS, none of which begins with capital letters. A protocol that is not HTTP is not kept back unless it says the same.
pub(super) const METHODS: [[u8; 4]; 7] = [*b"GET ", *b"HEAD", *b"POST", *b"PUT ", *b"DELE", *b"PATC", *b"OPTI"];

/// A socket filter (the classic BPF of Documentation/networking/filter.rst) on what begins with the TCP header. It returns how
/// many bytes may come in.
fn no_requests() -> Vec<libc::sock_filter> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let pass = METHODS.len() as u8;
    let mut filter = vec![
        // X = length of the header: the upper half of its byte 12, in words.
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 12),
        op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 0, 0, 4),
        op(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 0, 0, 2),
        op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        // Acknowledgements, ends, and anything shorter than a method pass.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0),
        op(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1 + pass, 4),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0, 0, 0),
    ];
    for (nth, method) in (0..).zip(METHODS) {
        let request = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        filter.push(op(request, pass - nth, 0, u32::from_be_bytes(method)));
    }
    let verdict = libc::BPF_RET | libc::BPF_K;
    filter.extend([op(verdict, 0, 0, u32::MAX), op(verdict, 0, 0, 0)]);
    filter
}

/// Of the flags at byte 13 of the TCP header, SYN without ACK (RFC 9293, 3.1).
fn no_beginnings() -> Vec<libc::sock_filter> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    vec![
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x12),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0x02),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;

    pub(in crate::upgrade::intercept) fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn the_structure_is_as_long_as_the_kernel_has_it() {
        assert_eq!(std::mem::offset_of!(TcpInfo, last_data_sent), 44);
        assert_eq!(std::mem::offset_of!(TcpInfo, bytes_received), 128);
        assert_eq!(std::mem::offset_of!(TcpInfo, segments_in), 140);
        assert_eq!(std::mem::offset_of!(TcpInfo, notsent_bytes), 144);
        assert_eq!(std::mem::offset_of!(TcpInfo, bytes_sent), 200);
    }

    #[test]
    fn the_kernel_tells_what_a_connection_is_at() {
        let (mut client, mut server) = pair();
        let fresh = ConnectionState::of(&server).unwrap();
        assert!(fresh.open && fresh.received == 0 && fresh.sent == 0);
        client.write_all(b"hello").unwrap();
        assert_eq!(ConnectionState::of(&server).unwrap().unread, 5);
        server.read_exact(&mut [0; 5]).unwrap();
        server.write_all(b"world!").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        let told = ConnectionState::of(&server).unwrap();
        assert_eq!((told.received, told.sent, told.unread, told.delivered), (5, 6, 0, true));
        assert!(told.sent_ago <= told.received_ago);
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        assert!(ConnectionState::of(&server).unwrap().open, "an answer may still be on its way");
    }

    #[test]
    fn requests_are_kept_out_and_all_else_comes_in() {
        let (mut client, mut server) = pair();
        server.set_nonblocking(true).unwrap();
        keep_requests_out(&server).unwrap();
        for frame in [&b"\x81\x85abcdhello"[..], b"\x00\x00\x08\x06\x00", b"x", b"GETx / HTTP/1.1\r\n", b"get key\r\n"]
        {
            client.write_all(frame).unwrap();
            let mut came = vec![0; frame.len()];
            server.set_nonblocking(false).unwrap();
            server.read_exact(&mut came).unwrap();
            assert_eq!(came, frame);
        }
        assert_eq!(ConnectionState::of(&server).unwrap().dropped, 0);
        server.set_nonblocking(true).unwrap();
        client.write_all(b"POST / HTTP/1.1\r\n").unwrap();
        // Sent over the loopback device, it has arrived when write(2) returns.
        assert_eq!(ConnectionState::of(&server).unwrap().dropped, 1);
        assert_eq!(server.read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let_all_in(&server);
        server.set_nonblocking(false).unwrap();
        let mut came = [0; 17];
        server.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"POST / HTTP/1.1\r\n", "it was only delayed");
    }

    #[test]
    fn all_is_kept_out_and_only_delayed() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            // The last is asked by IPv4.
            let port = listener.local_addr().unwrap().port();
            let host = if address.starts_with("[::1]") { "::1" } else { "127.0.0.1" };
            let mut client = TcpStream::connect((host, port)).unwrap();
            let mut server = listener.accept().unwrap().0;
            keep_all_out(&server).unwrap();
            client.write_all(b"GET /").unwrap();
            let closed = ConnectionState::of(&server).unwrap();
            assert_eq!(closed.received, 0, "{address}");
            assert_eq!(closed.segments, ConnectionState::of(&server).unwrap().segments, "{address}");
            assert!(closed.dropped > 0, "{address}");
            server.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            let_all_in(&server);
            let mut came = [0; 5];
            server.read_exact(&mut came).unwrap();
            assert_eq!(&came, b"GET /", "{address}");
        }
    }
}
