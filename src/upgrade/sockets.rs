//! The sockets that are held for the whole session, whoever serves them.
//! Never lives here: which generation gets them when.

use super::intercept::{Listener, Shelf};
use super::proc;
use crate::config::{Address, Listen};
use crate::error::{Error, Exit, Result};
use crate::report::Note;
use hotrun::holder::BoundPaths;
use nix::sys::socket::{Backlog, listen};
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

/// One socket: the name it is handed over under, and who chose its address.
#[derive(Debug)]
pub struct Socket {
    pub name: String,
    pub address: String,
    pub end: Endpoint,
    pub bound_by_program: bool,
    /// Whether the program that asked last for its sockets has asked for this one; nobody has asked yet.
    pub wanted: bool,
}

/// A socket of some kind; only those of TCP are handed over at bind(2).
#[derive(Debug, Clone)]
pub enum Endpoint {
    Tcp(Arc<Listener>),
    Other(Arc<OwnedFd>),
}

impl Endpoint {
    pub fn new(fd: OwnedFd) -> io::Result<Endpoint> {
        match tcp_address(&fd) {
            Some(_) => Ok(Endpoint::Tcp(Arc::new(Listener::new(fd)?))),
            None => Ok(Endpoint::Other(Arc::new(fd))),
        }
    }

    pub fn tcp(&self) -> Option<&Arc<Listener>> {
        match self {
            Endpoint::Tcp(listener) => Some(listener),
            Endpoint::Other(_) => None,
        }
    }

    pub fn is(&self, listener: &Listener) -> bool {
        self.tcp().is_some_and(|tcp| tcp.inode == listener.inode)
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Endpoint::Tcp(listener) => listener.as_fd(),
            Endpoint::Other(fd) => fd.as_fd(),
        }
    }
}

/// The held sockets. No process's end closes the last descriptor of one of them while this is there.
#[derive(Debug, Default)]
pub struct Held {
    sockets: Vec<Socket>,
    /// What the current program has not asked for or has replaced, and an earlier one had bound: kept until that one has left,
    /// as it may come back.
    former: Vec<Socket>,
    /// Names that the current program has bound.
    added: Vec<String>,
    paths: BoundPaths,
    /// Where gates look for them.
    pub shelf: Arc<Shelf>,
}

impl Held {
    /// # Errors
    /// An address that cannot be had, with who has it where that can be found out.
    pub fn bind(wanted: &[Listen]) -> Result<Held> {
        let mut held = Held::default();
        for listen in wanted {
            let bound = held.bind_one(&listen.address).and_then(Endpoint::new);
            held.add(listen.name.clone(), bound.map_err(|error| refused(listen, &error))?, false);
        }
        Ok(held)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Of those that the program wants.
    pub fn addresses(&self) -> Vec<String> {
        self.iter().filter(|socket| socket.wanted).map(|socket| socket.address.clone()).collect()
    }

    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| Some(socket.end.tcp()?.address)).collect()
    }

    /// The name of a socket that is held.
    pub fn name_of(&self, listener: &Arc<Listener>) -> Option<String> {
        self.sockets.iter().chain(&self.former).find(|socket| socket.end.is(listener)).map(|socket| socket.name.clone())
    }

    /// The sockets of a program that has become the current one, or of the current one when it asks for more: those it bound are
    /// held from now on, and those which an earlier one had bound are set aside where it does not want them (`taken` has all
    /// names it wants, those it bound before included). Says what it ought to have asked for, once.
    pub fn adopt(&mut self, offered: Vec<(String, Endpoint)>, taken: &BTreeSet<String>) -> Vec<Note> {
        let mut said = Vec::new();
        let new: BTreeSet<String> = offered.iter().map(|(name, _)| name.clone()).collect();
        // Asked for late.
        let (back, former) =
            std::mem::take(&mut self.former).into_iter().partition(|socket| taken.contains(&socket.name));
        self.former = former;
        self.sockets.extend::<Vec<Socket>>(back);
        for mut socket in std::mem::take(&mut self.sockets) {
            let wanted = taken.contains(&socket.name) && !new.contains(&socket.name);
            if !wanted && socket.bound_by_program {
                self.former.push(socket);
                continue;
            }
            if !wanted && socket.wanted {
                said.push(Note::Unasked { address: socket.address.clone(), name: socket.name.clone() });
            }
            socket.wanted = wanted;
            self.sockets.push(socket);
        }
        for (name, end) in offered {
            self.added.push(name.clone());
            self.add(name, end, true);
        }
        said
    }

    /// The program has closed a socket; says whether it was one that a program had bound, which is let go.
    pub fn close(&mut self, listener: &Listener) -> bool {
        let before = self.sockets.len();
        self.sockets.retain(|socket| !(socket.bound_by_program && socket.end.is(listener)));
        self.sockets.len() < before
    }

    /// A program that has ended may have made them stop listening.
    pub fn keep_up(&self) {
        self.sockets.iter().filter_map(|socket| socket.end.tcp()).for_each(|listener| listener.keep_up());
    }

    /// Whether a generation with the library has them, too.
    pub fn beside_library(&self, is_there: bool) {
        let all = self.sockets.iter().chain(&self.former).filter_map(|socket| socket.end.tcp());
        all.for_each(|listener| listener.beside_library(is_there));
    }

    /// Another program is about to become the current one: nothing is its own yet.
    pub fn new_owner(&mut self) {
        self.added.clear();
    }

    /// The program before the last one that was adopted serves again.
    pub fn restore(&mut self) {
        self.sockets.retain(|socket| !self.added.contains(&socket.name));
        self.sockets.append(&mut self.former);
        self.sockets.iter_mut().for_each(|socket| socket.wanted = true);
        self.added.clear();
    }

    /// No earlier program is left that may come back: what the current one does not want is let go. Says what.
    pub fn settle(&mut self) -> Vec<Socket> {
        std::mem::take(&mut self.former)
    }

    /// The program binds for itself from now on.
    pub fn forget_bound(&mut self) {
        self.sockets.retain(|socket| !socket.bound_by_program);
        self.former.clear();
    }

    fn add(&mut self, name: String, end: Endpoint, bound_by_program: bool) {
        let address = match &end {
            Endpoint::Tcp(listener) => {
                self.shelf.add(listener);
                listener.address.to_string()
            }
            Endpoint::Other(fd) => self.describe(fd, bound_by_program),
        };
        self.sockets.push(Socket { name, address, end, bound_by_program, wanted: true });
    }

    /// Asks the kernel, which is the one that knows.
    fn describe(&self, fd: &OwnedFd, bound_by_program: bool) -> String {
        let Ok(copy) = fd.try_clone() else { return "a socket".to_owned() };
        if proc::is_datagram(&copy) {
            let address = UdpSocket::from(copy).local_addr();
            return address.map_or_else(|_| "a datagram socket".to_owned(), |at| format!("udp:{at}"));
        }
        let address = UnixListener::from(copy).local_addr().ok();
        match address.as_ref().and_then(|address| address.as_pathname()) {
            Some(path) => {
                // The program leaves it to its holder to remove the path. One that is gone already needs nobody.
                if bound_by_program {
                    self.paths.own(path).ok();
                }
                format!("unix:{}", crate::report::short(path))
            }
            None => "a Unix socket".to_owned(),
        }
    }

    fn bind_one(&self, address: &Address) -> io::Result<OwnedFd> {
        match address {
            Address::Tcp(at) => {
                let listener = TcpListener::bind(at)?;
                // While nobody accepts, the queue is all that clients have. listen(2) may be repeated.
                listen(&listener, Backlog::MAXCONN)?;
                Ok(listener.into())
            }
            Address::Udp(at) => Ok(UdpSocket::bind(at)?.into()),
            Address::Unix(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let listener = self.paths.bind(path, true)?;
                listen(&listener, Backlog::MAXCONN)?;
                Ok(listener.into())
            }
        }
    }
}

/// Where it listens, if it is a TCP socket.
fn tcp_address(fd: &OwnedFd) -> Option<SocketAddr> {
    let copy = fd.try_clone().ok().filter(|fd| !proc::is_datagram(fd))?;
    TcpListener::from(copy).local_addr().ok()
}

impl Drop for Held {
    fn drop(&mut self) {
        self.paths.remove();
    }
}

fn refused(listen: &Listen, error: &io::Error) -> Error {
    let text = format!("listen on {} for {:?}: {error}", listen.address, listen.name);
    let refused = Error::new(Exit::Address, text);
    if error.kind() != io::ErrorKind::AddrInUse {
        return refused;
    }
    let stranger = match &listen.address {
        Address::Tcp(at) | Address::Udp(at) => proc::who_listens(at.port()),
        Address::Unix(_) => None,
    };
    match stranger {
        Some(who) => refused.help(format!("{who} has it: stop that first, or choose another address")),
        None => refused.help("another process has it: stop that first, or choose another address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(address: &str) -> Endpoint {
        Endpoint::new(TcpListener::bind(address).unwrap().into()).unwrap()
    }

    #[test]
    fn what_a_program_bound_is_held_until_a_later_one_wants_it_no_more() {
        let configured = Listen { name: "admin".into(), address: Address::Tcp("127.0.0.1:0".parse().unwrap()) };
        let mut held = Held::bind(&[configured]).unwrap();
        let said = held.adopt(vec![("http".into(), offer("127.0.0.1:0"))], &["admin".into()].into());
        assert!(said.is_empty(), "{said:?}");
        assert_eq!(held.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["admin", "http"]);
        assert_eq!(held.tcp_addresses().len(), 2);

        held.new_owner();
        let said = held.adopt(Vec::new(), &BTreeSet::new());
        assert_eq!(said.len(), 1);
        assert!(matches!(said[0], Note::Unasked { .. }), "{said:?}");
        assert!(!held.iter().next().unwrap().wanted);
        assert!(held.adopt(Vec::new(), &BTreeSet::new()).is_empty(), "it was said");
        assert_eq!(held.settle().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["http"]);
        assert_eq!(held.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["admin"]);
    }

    #[test]
    fn a_new_address_takes_the_place_of_the_old_one() {
        let mut held = Held::default();
        let _ = held.adopt(vec![("http".into(), offer("127.0.0.1:0"))], &BTreeSet::new());
        let before = held.tcp_addresses();
        held.new_owner();
        let said = held.adopt(vec![("http".into(), offer("127.0.0.1:0"))], &BTreeSet::new());
        assert!(said.is_empty(), "{said:?}");
        assert_ne!(held.tcp_addresses(), before);
        assert_eq!(held.tcp_addresses().len(), 1);
        held.restore();
        assert_eq!(held.tcp_addresses(), before, "the program before it serves again");
        let _ = held.adopt(vec![("http".into(), offer("127.0.0.1:0"))], &BTreeSet::new());
        held.settle();
        held.restore();
        assert_ne!(held.tcp_addresses(), before, "there is no way back");
    }

    #[test]
    fn whoever_has_the_address_is_named() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(stranger.local_addr().unwrap());
        let error = Held::bind(&[Listen { name: "http".into(), address }]).unwrap_err();
        assert_eq!(error.exit(), Exit::Address);
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_path_is_removed_with_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/http.sock");
        let held = Held::bind(&[Listen { name: "http".into(), address: Address::Unix(path.clone()) }]).unwrap();
        assert!(path.exists());
        drop(held);
        assert!(!path.exists());
    }
}
