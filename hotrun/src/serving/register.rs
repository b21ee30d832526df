//! Everything with a descriptor that this process serves with, and which its successor is to have.
//! Never lives here: what was inherited and not asked for (`upstream`), and how it travels (`given`).

use crate::serving::lifecycle::{Lifecycle, ListenerGate};
use crate::sys::{self, lock};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketKind {
    Tcp,
    Unix,
    Udp,
}

impl SocketKind {
    /// Asks the kernel, as a name says nothing about what is behind it.
    pub(crate) fn is(self, fd: &OwnedFd) -> bool {
        let Ok(kind) = getsockopt(fd, sockopt::SockType) else { return false };
        let listening = getsockopt(fd, sockopt::AcceptConn) == Ok(true);
        let unix =
            getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|address| SockaddrLike::family(&address))
                == Some(AddressFamily::Unix);
        match self {
            SocketKind::Tcp => kind == SockType::Stream && listening && !unix,
            SocketKind::Unix => kind == SockType::Stream && listening && unix,
            SocketKind::Udp => kind == SockType::Datagram && !unix,
        }
    }

    pub(crate) fn described(self) -> &'static str {
        match self {
            SocketKind::Tcp => "a listening TCP socket",
            SocketKind::Unix => "a listening Unix stream socket",
            SocketKind::Udp => "a UDP socket",
        }
    }
}

/// A socket that is served here.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: SocketKind,
    /// This program, in this or an earlier generation, chose its address: nobody else holds it.
    pub(crate) bound_by_program: bool,
    /// Shared with whoever accepts on it.
    pub(crate) gate: Arc<ListenerGate>,
    /// Of a Unix socket, absolute.
    pub(crate) path: Option<PathBuf>,
    pub(crate) socket: Arc<dyn AsFd + Send + Sync>,
    /// The successor has asked for it.
    pub(crate) taken: bool,
    /// Nobody new comes to it.
    closed: bool,
    /// This process has let it go.
    gone: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

impl Entry {
    /// Somebody waits in its queue, and somebody here can accept him.
    fn is_queued(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // Datagrams come as long as there are clients: their queue is never to be waited for. One gate is this entry's own.
        self.kind != SocketKind::Udp && Arc::strong_count(&self.gate) > 1 && poll(&mut fds, PollTimeout::ZERO) == Ok(1)
    }
}

type Produce = Box<dyn FnMut() -> Vec<u8> + Send>;

#[derive(Default)]
pub(crate) struct Register {
    sockets: Mutex<Vec<Entry>>,
    files: Mutex<Vec<(String, OwnedFd)>>,
    state: Mutex<Vec<(String, Produce)>>,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.sockets).iter()).finish()
    }
}

impl Register {
    pub(crate) fn add(
        &self,
        name: &str,
        kind: SocketKind,
        bound_by_program: bool,
        path: Option<PathBuf>,
        socket: Arc<dyn AsFd + Send + Sync>,
    ) -> Arc<ListenerGate> {
        let gate = Arc::new(ListenerGate::default());
        let entry = Entry {
            name: name.to_owned(),
            kind,
            bound_by_program,
            gate: Arc::clone(&gate),
            path,
            socket,
            taken: false,
            closed: false,
            gone: false,
        };
        lock(&self.sockets).push(entry);
        gate
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        lock(&self.sockets).iter().filter(|entry| !entry.gone).cloned().collect()
    }

    /// A new successor has asked for nothing yet.
    pub(crate) fn forget_taken(&self) {
        lock(&self.sockets).iter_mut().for_each(|entry| entry.taken = false);
    }

    /// The successor has asked for that socket, which is one of those that go on accepting here no longer.
    pub(crate) fn take(&self, name: &str, state: &Lifecycle) {
        let mut sockets = lock(&self.sockets);
        if let Some(entry) = sockets.iter_mut().find(|entry| entry.name == name && !entry.taken) {
            entry.taken = true;
            state.no_longer_exempt(&entry.gate);
            if std::mem::take(&mut entry.closed) && !entry.gone {
                sys::let_in_again(entry.socket.as_fd());
            }
        }
    }

    /// That socket is served here, whatever another process has done to it.
    pub(crate) fn open_again(&self, name: &str) {
        for entry in lock(&self.sockets).iter().filter(|entry| entry.name == name && !entry.gone && !entry.closed) {
            sys::let_in_again(entry.socket.as_fd());
        }
    }

    /// Attaches the filter that lets queues run empty to those, and returns their names.
    pub(crate) fn close_intake(&self, which: impl Fn(&Entry) -> bool) -> Vec<String> {
        let mut sockets = lock(&self.sockets);
        let wanted = sockets.iter_mut().filter(|entry| !entry.gone && !entry.closed && which(entry));
        let close = |entry: &mut Entry| {
            // Where there is a filter of the user's own, a client that comes in the very last moment may be reset: no reason
            // not to leave.
            entry.closed = entry.kind == SocketKind::Tcp && sys::refuse_new(entry.socket.as_fd()).is_ok();
            entry.name.clone()
        };
        wanted.map(close).collect()
    }

    /// Somebody waits in a queue that nobody else will serve.
    pub(crate) fn is_any_queued(&self, state: &Lifecycle) -> bool {
        lock(&self.sockets).iter().any(|entry| !entry.gone && state.admit(&entry.gate).is_some() && entry.is_queued())
    }

    /// Lets go of those sockets, also where a listener of the server's is still in scope. UDP sockets stay, as answers are sent
    /// through them.
    pub(crate) fn release(&self, state: &Lifecycle, which: impl Fn(&Entry) -> bool) {
        for entry in lock(&self.sockets).iter_mut().filter(|entry| entry.kind != SocketKind::Udp && !entry.gone) {
            if which(entry) {
                // Nothing can be done about a kernel that does not close; the end of this process does.
                let _ = sys::release(entry.socket.as_fd(), state.drain_event());
                entry.gone = true;
            }
        }
    }

    pub(crate) fn keep_file(&self, name: &str, file: OwnedFd) {
        replace(&mut lock(&self.files), name, file);
    }

    pub(crate) fn files(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let files = lock(&self.files);
        files.iter().map(|(name, file)| Ok((name.clone(), file.try_clone()?))).collect()
    }

    pub(crate) fn on_handoff(&self, name: &str, produce: Produce) {
        replace(&mut lock(&self.state), name, produce);
    }

    /// The state of this moment, each piece in a file of its own that nobody can change any more.
    pub(crate) fn state(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut state = lock(&self.state);
        let produced = |(name, produce): &mut (String, Produce)| {
            // It is the user's, and runs on the thread that hears the signals.
            let bytes = catch_unwind(AssertUnwindSafe(produce))
                .map_err(|_| io::Error::other(format!("the function that makes the state {name:?} has panicked")))?;
            Ok((name.clone(), sealed(&bytes)?))
        };
        state.iter_mut().map(produced).collect()
    }
}

fn replace<T>(list: &mut Vec<(String, T)>, name: &str, value: T) {
    list.retain(|(other, _)| other != name);
    list.push((name.to_owned(), value));
}

/// memfd_create(2), fcntl(2) F_ADD_SEALS.
fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let mut file = File::from(memfd_create("hotrun-state", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// The bytes of a sealed file. One that can still be changed was made by somebody else.
pub(crate) fn unseal(file: OwnedFd) -> io::Result<Vec<u8>> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let seals = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the state that was handed over is not sealed"));
    }
    let mut file = File::from(file);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_comes_back_as_it_was_and_only_sealed() {
        let register = Register::default();
        let mut count = 0;
        register.on_handoff(
            "keys",
            Box::new(move || {
                count += 1;
                vec![count; 3]
            }),
        );
        let (name, file) = register.state().unwrap().pop().unwrap();
        assert_eq!((name.as_str(), unseal(file).unwrap()), ("keys", vec![1, 1, 1]));
        let (_, file) = register.state().unwrap().pop().unwrap();
        let mut written = File::from(file.try_clone().unwrap());
        assert!(written.write_all(b"x").is_err(), "sealed");
        assert_eq!(unseal(file).unwrap(), [2, 2, 2]);
        let open = memfd_create("open", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert_eq!(unseal(open).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_socket_that_was_let_go_is_closed_though_a_listener_is_in_scope() {
        let (register, state) = (Register::default(), Lifecycle::new().unwrap());
        let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        register.add("http", SocketKind::Tcp, true, None, Arc::clone(&listener) as Arc<dyn AsFd + Send + Sync>);
        std::net::TcpStream::connect(address).unwrap();
        register.release(&state, |_| true);
        assert_eq!(std::net::TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(register.entries().is_empty());
    }
}
