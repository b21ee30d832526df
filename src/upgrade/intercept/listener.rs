//! A listening socket that outlives its program, and the place where gates find it. All connections of its queue are taken here,
//! on behalf of whichever generation asks, so that nothing is ever inside accept(2) when a gate closes.
//! Never lives here: which generation may have one.

use super::{address, kernel};
use crate::process::{descriptors, events_of, lock};
use crate::report::Generation;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, setsockopt, shutdown, socket, sockopt};
use rustix::net::sockopt as socket_option;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

/// Of how many generations the flag is remembered.
const FLAGS: usize = 32;

#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    pub address: SocketAddr,
    /// IPV6_V6ONLY, which is part of what an address means.
    pub v6_only: bool,
    /// What the kernel calls the socket, in every process that has it.
    pub inode: u64,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Taken for a caller who was gone before it could be given.
    returned: VecDeque<(TcpStream, SocketAddr)>,
    /// A connection of our own that stands in the queue.
    knock: Option<TcpStream>,
    /// How often it was given to a program.
    given: u64,
    /// The generation that was last given the socket: the flag O_NONBLOCK of its description is that one's.
    newest: Generation,
    /// That of others, as they had made it.
    flags: BTreeMap<Generation, bool>,
    /// On its way out: it is given to nobody any more, and need not listen.
    leaves: bool,
    /// Somebody takes connections from it past the gates, so that what is readable may be gone when it is accepted.
    shared: bool,
    /// A program with the library has it, which waits in poll(2) and must never wait in accept(2): the description stays
    /// non-blocking, whatever another one wants it to be.
    beside_library: bool,
}

impl Listener {
    /// # Errors
    /// A socket that does not listen for TCP.
    pub fn new(socket: OwnedFd) -> io::Result<Listener> {
        let inode = inode(&socket)?;
        let socket = TcpListener::from(socket);
        let address = socket.local_addr()?;
        let v6_only = address.is_ipv6() && socket_option::ipv6_v6only(&socket)?;
        Ok(Listener { socket, address, v6_only, inode, queue: Mutex::default() })
    }

    pub fn is(&self, address: SocketAddr, v6_only: bool) -> bool {
        self.address == address && self.v6_only == v6_only
    }

    /// The next connection of the queue, which may be taken back by `give_back`. Never blocks, whatever the program has made of
    /// the socket's description.
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn take(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let mut queue = lock(&self.queue);
        if let Some(returned) = queue.returned.pop_front() {
            return Ok(Some(returned));
        }
        self.revive(&queue)?;
        // Nobody else takes from this queue while it is locked, so what is readable now can be accepted without waiting.
        while events(self.socket.as_fd()).contains(PollFlags::POLLIN) {
            let Some((connection, peer)) = self.accept(&queue)? else { break };
            match queue.knock.take() {
                Some(knock) if is_end_of(&knock, &connection) => end_at_once(knock, connection),
                knock => {
                    queue.knock = knock;
                    return Ok(Some((connection, peer)));
                }
            }
        }
        Ok(None)
    }

    /// Of a queue that is locked and in which something stands. The description may be a blocking one; its flag is left alone where it
    /// can be, as the program may be setting it at this moment.
    fn accept(&self, queue: &Queue) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let blocks = queue.shared && !self.has_flag();
        if blocks {
            self.socket.set_nonblocking(true)?;
        }
        let accepted = descriptors::with(|| self.socket.accept());
        if blocks {
            self.socket.set_nonblocking(false)?;
        }
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    pub fn give_back(&self, connection: (TcpStream, SocketAddr)) {
        lock(&self.queue).returned.push_front(connection);
    }

    /// Whether a connection waits in the queue.
    pub fn has_waiting(&self) -> bool {
        !lock(&self.queue).returned.is_empty() || events(self.socket.as_fd()).contains(PollFlags::POLLIN)
    }

    /// Listens again, if a program has made it stop.
    pub fn keep_up(&self) {
        // Where that fails, so will accept.
        self.revive(&lock(&self.queue)).ok();
    }

    /// A program that leaves may shut its listener (shutdown(2)), which shuts it for every process that has it.
    fn revive(&self, queue: &Queue) -> io::Result<()> {
        if !queue.leaves && events(self.socket.as_fd()).contains(PollFlags::POLLHUP) {
            // With the longest queue that the system allows; it keeps its address, unless somebody else has taken it meanwhile.
            rustix::net::listen(&self.socket, i32::from(u16::MAX))?;
        }
        Ok(())
    }

    /// Puts a connection of our own into the queue, unless one stands there: every program that waits for the socket is woken, asks for
    /// the connection, and is not given it. An event loop is told of a socket once, and asks only then.
    pub fn knock(&self) {
        let mut queue = lock(&self.queue);
        // One that stands in no queue was taken past this gate, or has not come through.
        let stands = queue.knock.is_some() && events(self.socket.as_fd()).contains(PollFlags::POLLIN);
        if !stands {
            // Where that is not possible (a full queue, a firewall), the next client is the one who wakes it.
            queue.knock = connect_to(address::door(self.address, self.v6_only)).ok();
        }
    }

    /// Knocks again where a knock stands already, which may have been answered in vain while the gate was closed.
    pub fn wake(&self) {
        self.withdraw();
        self.knock();
    }

    /// From now on somebody takes connections past the gates. A knock would be one of them.
    pub fn share(&self) {
        lock(&self.queue).shared = true;
        self.withdraw();
    }

    /// Takes a knock out of the queue. What stands before it is given first to the next who asks.
    pub fn withdraw(&self) {
        let mut queue = lock(&self.queue);
        while queue.knock.is_some() && events(self.socket.as_fd()).contains(PollFlags::POLLIN) {
            let Ok(Some((connection, peer))) = self.accept(&queue) else { break };
            match queue.knock.take() {
                Some(knock) if is_end_of(&knock, &connection) => end_at_once(knock, connection),
                knock => {
                    queue.knock = knock;
                    queue.returned.push_back((connection, peer));
                }
            }
        }
        queue.knock = None;
    }

    /// A generation is given the socket: the flag O_NONBLOCK of its description is as on the socket that the program had made for itself.
    /// What an earlier one had made of it is remembered.
    pub fn hand_to(&self, generation: Generation, non_blocking: bool) -> io::Result<()> {
        let mut queue = lock(&self.queue);
        queue.given += 1;
        let aside = queue.beside_library && !non_blocking;
        let (before, flag) = if aside { (generation, false) } else { (queue.newest, self.has_flag()) };
        queue.flags.insert(before, flag);
        // Those before have long ended.
        while queue.flags.len() > FLAGS {
            queue.flags.pop_first();
        }
        if aside {
            return Ok(());
        }
        queue.newest = generation;
        self.socket.set_nonblocking(non_blocking)
    }

    pub fn beside_library(&self, is_there: bool) {
        lock(&self.queue).beside_library = is_there;
    }

    /// The description is as that generation had made it, if another one has been given the socket since.
    pub fn hand_back(&self, generation: Generation) {
        let flag = self.is_non_blocking(generation);
        if lock(&self.queue).newest != generation {
            // A description that is open has the flag.
            self.hand_to(generation, flag).ok();
        }
    }

    /// As that generation has made it: a later one may have made it otherwise.
    pub fn is_non_blocking(&self, generation: Generation) -> bool {
        // Not while a connection is being taken.
        let queue = lock(&self.queue);
        match queue.flags.get(&generation) {
            Some(flag) if queue.newest != generation => *flag,
            Some(_) | None => self.has_flag(),
        }
    }

    fn has_flag(&self) -> bool {
        // An open descriptor has flags.
        fcntl(&self.socket, FcntlArg::F_GETFL)
            .is_ok_and(|flags| OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK))
    }

    /// Whether it may be given to a program.
    pub fn is_to_stay(&self) -> bool {
        !lock(&self.queue).leaves
    }

    /// No connection begins here any more; those that have begun are still to be taken.
    pub fn leave(&self) {
        lock(&self.queue).leaves = true;
        // Where that is not possible, those that begin at the last moment are reset.
        kernel::keep_connections_out(&self.socket).ok();
    }

    /// Accepts no more, in any process that has it: from now on connections reach others that listen on its address.
    pub fn shut_down(&self) {
        self.shut(&mut lock(&self.queue));
    }

    pub fn times_given(&self) -> u64 {
        lock(&self.queue).given
    }

    /// As `shut_down`, unless somebody was given it since it had been given so often. Says whether that was so.
    pub fn shut_down_unless_given(&self, times: u64) -> bool {
        let mut queue = lock(&self.queue);
        let is_closed = queue.given == times;
        if is_closed {
            self.shut(&mut queue);
        }
        is_closed
    }

    fn shut(&self, queue: &mut Queue) {
        queue.leaves = true;
        // One that does not listen any more is what was wanted.
        shutdown(self.socket.as_raw_fd(), Shutdown::Both).ok();
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where gates find the sockets that are held. It owns none: a socket is let go by those who hold it.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<Vec<Weak<Listener>>>);

impl Shelf {
    pub fn add(&self, listener: &Arc<Listener>) {
        let mut all = lock(&self.0);
        all.retain(|held| held.strong_count() > 0);
        all.push(Arc::downgrade(listener));
    }

    pub fn find(&self, wanted: impl Fn(&Listener) -> bool) -> Option<Arc<Listener>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).find(|listener| wanted(listener))
    }

    pub fn filter(&self, wanted: impl Fn(&Listener) -> bool) -> Vec<Arc<Listener>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).filter(|listener| wanted(listener)).collect()
    }
}

/// The number of the socket in the kernel's file system of sockets; `socket:[4711]` in /proc/PID/fd.
pub fn inode(socket: impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(socket)?.st_ino)
}

fn events(fd: BorrowedFd<'_>) -> PollFlags {
    events_of(vec![PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO)[0]
}

/// Whether these are the two ends of one connection. A knock that was reset, as by the end of a listener that stood before this one,
/// has no other end any more (getpeername(2)), while its port may be a client's by now.
fn is_end_of(knock: &TcpStream, connection: &TcpStream) -> bool {
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let same = |one: io::Result<SocketAddr>, other: io::Result<SocketAddr>| {
        one.is_ok_and(|one| other.is_ok_and(|other| canonical(one) == canonical(other)))
    };
    same(knock.peer_addr(), connection.local_addr()) && same(knock.local_addr(), connection.peer_addr())
}

/// Both ends of a connection of our own, without leaving its port in TIME_WAIT.
fn end_at_once(knock: TcpStream, connection: TcpStream) {
    let reset = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&knock, sockopt::Linger, &reset).ok();
    drop(knock);
    drop(connection);
}

/// Begins to connect, and does not wait for it.
fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = descriptors::with(|| socket(family, SockType::Stream, flags, None))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn listener() -> Listener {
        Listener::new(TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap()
    }

    #[test]
    fn a_blocking_socket_is_asked_without_waiting() {
        let listener = listener();
        assert!(!listener.is_non_blocking(0));
        assert!(listener.take().unwrap().is_none());
        let mut client = TcpStream::connect(listener.address).unwrap();
        let (connection, peer) = listener.take().unwrap().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(!listener.has_waiting());
        listener.give_back((connection, peer));
        assert!(listener.has_waiting());
        client.write_all(b"x").unwrap();
        assert_eq!(listener.take().unwrap().unwrap().1, peer);
        assert!(listener.take().unwrap().is_none());
    }

    #[test]
    fn each_generation_keeps_the_flag_that_it_had_set() {
        let listener = listener();
        listener.hand_to(1, false).unwrap();
        listener.socket.set_nonblocking(true).unwrap();
        assert!(listener.is_non_blocking(1), "as the program itself has set it");
        listener.hand_to(2, false).unwrap();
        assert_eq!((listener.is_non_blocking(1), listener.is_non_blocking(2)), (true, false));
        listener.hand_back(1);
        assert!(listener.has_flag());
        assert_eq!((listener.is_non_blocking(1), listener.is_non_blocking(2)), (true, false));
    }

    #[test]
    fn beside_the_library_a_socket_never_blocks_and_each_has_the_flag_that_it_wanted() {
        let listener = listener();
        listener.hand_to(1, true).unwrap();
        listener.beside_library(true);
        listener.hand_to(2, false).unwrap();
        assert!(listener.has_flag(), "the library's accept would wait");
        assert_eq!((listener.is_non_blocking(1), listener.is_non_blocking(2)), (true, false));
        listener.beside_library(false);
        listener.hand_to(3, false).unwrap();
        assert_eq!(
            (listener.has_flag(), listener.is_non_blocking(2), listener.is_non_blocking(3)),
            (false, false, false)
        );
    }

    #[test]
    fn a_knock_wakes_and_is_never_given_to_anybody() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listener = Listener::new(TcpListener::bind(address).unwrap().into()).unwrap();
            listener.knock();
            listener.knock();
            assert!(listener.has_waiting(), "{address}");
            let client = TcpStream::connect(address::door(listener.address, listener.v6_only)).unwrap();
            let taken = listener.take().unwrap().unwrap().1;
            assert_eq!(taken.port(), client.local_addr().unwrap().port(), "{address}");
            assert!(listener.take().unwrap().is_none(), "{address}");
            listener.knock();
            assert!(listener.has_waiting(), "it can knock again: {address}");
            assert!(listener.take().unwrap().is_none());
        }
    }

    #[test]
    fn a_client_at_the_port_of_a_knock_that_was_reset_is_a_client() {
        let listener = listener();
        listener.knock();
        let (taken, peer) = listener.socket.accept().unwrap();
        setsockopt(&taken, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(taken);
        let client =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
        rustix::net::bind(&client, &peer).unwrap();
        rustix::net::connect(&client, &listener.address).unwrap();
        assert_eq!(listener.take().unwrap().expect("the client").1, peer);
        // One that was taken past this gate and is still open is no client's.
        listener.knock();
        let (taken, _) = listener.socket.accept().unwrap();
        let other = TcpStream::connect(listener.address).unwrap();
        assert_eq!(listener.take().unwrap().unwrap().1, other.local_addr().unwrap());
        drop(taken);
    }

    #[test]
    fn a_knock_that_is_withdrawn_leaves_the_clients_in_their_order() {
        let listener = listener();
        let first = TcpStream::connect(listener.address).unwrap();
        listener.knock();
        let second = TcpStream::connect(listener.address).unwrap();
        listener.withdraw();
        for client in [first, second] {
            assert_eq!(listener.take().unwrap().unwrap().1, client.local_addr().unwrap());
        }
        assert!(listener.take().unwrap().is_none());
        listener.wake();
        listener.wake();
        assert!(listener.has_waiting());
        assert!(listener.take().unwrap().is_none());
    }

    #[test]
    fn one_that_a_program_has_shut_listens_again() {
        // Only an address that was asked for is kept.
        let address = listener().address;
        let listener = Listener::new(TcpListener::bind(address).unwrap().into()).unwrap();
        shutdown(listener.socket.as_raw_fd(), Shutdown::Read).unwrap();
        assert!(TcpStream::connect(listener.address).is_err());
        assert!(listener.take().unwrap().is_none());
        let client = TcpStream::connect(listener.address).unwrap();
        assert_eq!(listener.take().unwrap().unwrap().1, client.local_addr().unwrap());
        listener.shut_down();
        assert!(!matches!(listener.take(), Ok(Some(_))));
        assert!(TcpStream::connect(listener.address).is_err(), "that was on purpose");
    }

    #[test]
    fn one_that_was_given_since_it_was_closed_is_not_let_go() {
        let listener = listener();
        let closed = listener.times_given();
        listener.hand_to(1, false).unwrap();
        assert!(!listener.shut_down_unless_given(closed) && listener.is_to_stay());
        assert!(TcpStream::connect(listener.address).is_ok());
        assert!(listener.shut_down_unless_given(listener.times_given()) && !listener.is_to_stay());
        assert!(TcpStream::connect(listener.address).is_err());
    }

    #[test]
    fn the_shelf_forgets_what_nobody_holds() {
        let shelf = Shelf::default();
        let listener = Arc::new(listener());
        let address = listener.address;
        shelf.add(&listener);
        assert!(shelf.find(|held| held.is(address, false)).is_some());
        assert!(shelf.find(|held| held.is(address, true)).is_none());
        drop(listener);
        assert!(shelf.find(|_| true).is_none());
    }
}
