//! The connections of a program that knows nothing of us, seen from outside: found in its processes, and ended between two answers.
//! Never lives here: when one may be ended (`drain`).

use super::drain::{self, HeldBack, Past, Patience, Verdict};
use super::kernel::{self, ConnectionState};
use super::listener::inode;
use super::queue::{self, Lies};
use super::readers::{self, ProcessSocket, Reader, Readers, Traced};
use crate::process::descriptors;
use crate::upgrade::proc;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, SockType, getsockopt, shutdown, sockopt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// What was found at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub live: usize,
    /// Those of them that an end would cut.
    pub busy: usize,
}

/// What is remembered of sockets between two looks, by the number that the kernel gives them. No copies: the end of a connection
/// goes out to its client when the last descriptor is closed, and that is to be the program's.
#[derive(Debug, Default)]
pub struct Connections {
    ports: BTreeSet<u16>,
    /// What was done with each that is a connection to one of the ports.
    known: BTreeMap<u64, Option<Past>>,
    readers: Readers,
}

impl Connections {
    pub fn to_ports(ports: impl Iterator<Item = u16>) -> Connections {
        Connections { ports: ports.collect(), ..Connections::default() }
    }

    /// Looks at every connection once, and does with it what is due.
    ///
    /// # Errors
    /// That not all sockets of the program could be looked at: it is not known how many are live.
    pub fn look(&mut self, processes: &BTreeSet<u32>, patience: Patience) -> Result<Count, Errno> {
        let mut readers = std::mem::take(&mut self.readers);
        readers.new_look();
        let looked = self.each(processes, |connection, socket, past| {
            let Ok(facts) = ConnectionState::of(connection) else { return Count::default() };
            if let Past::Watched { last, asked } = past {
                *asked |= drain::has_asked(last, &facts);
                *last = facts;
            }
            look_into(connection, &facts, past);
            match drain::judge(&facts, *past, patience) {
                Verdict::Over => return Count::default(),
                Verdict::Wait => {}
                Verdict::LetIn(then) if let_in(connection, *past) => *past = then,
                // At the next look.
                Verdict::LetIn(_) => {}
                Verdict::Watch if kernel::keep_requests_out(connection).is_ok() => {
                    *past = Past::Watched { last: facts, asked: false };
                }
                // That is for administrators here, or the program has a filter of its own that may not be replaced.
                Verdict::Watch => {
                    *past = Past::Unfiltered { strange: 0 };
                    hold(connection, past, || readers.of(socket));
                }
                Verdict::Hold => hold(connection, past, || readers.of(socket)),
                Verdict::End => {
                    if end(connection, *past) {
                        return Count::default();
                    }
                    if let_in(connection, *past) {
                        *past = Past::Untouched;
                    }
                }
            }
            Count { live: 1, busy: usize::from(drain::is_cut(&facts)) }
        });
        self.readers = readers;
        looked
    }

    /// Ends what is between two answers, and says how many were not, as far as can be told.
    ///
    /// # Errors
    /// As `look`.
    pub fn end_all(&mut self, processes: &BTreeSet<u32>) -> Result<Count, Errno> {
        self.each(processes, |connection, _, past| {
            let Ok(facts) = ConnectionState::of(connection) else { return Count::default() };
            look_into(connection, &facts, past);
            if drain::judge(&facts, *past, Patience::Short) == Verdict::End && end(connection, *past) {
                return Count::default();
            }
            let cut = drain::is_cut(&facts);
            // A client that has its answer reads an end, and not what the end of the program makes of its next request.
            if facts.open && !end(connection, Past::Untouched) {
                let_in(connection, *past);
            }
            Count { live: usize::from(cut), busy: usize::from(cut) }
        })
    }

    fn each(
        &mut self,
        processes: &BTreeSet<u32>,
        mut what: impl FnMut(&TcpStream, ProcessSocket, &mut Past) -> Count,
    ) -> Result<Count, Errno> {
        let mut seen = BTreeSet::new();
        let mut look = Count::default();
        let mut refused = None;
        for process in processes {
            let sockets = match proc::sockets(*process) {
                Ok(sockets) => sockets,
                Err(error) => {
                    refused = descriptors::SystemError::number(&error);
                    continue;
                }
            };
            for (number, inode) in sockets {
                if self.known.get(&inode) == Some(&None) || !seen.insert(inode) {
                    seen.insert(inode);
                    continue;
                }
                let socket = match copy(*process, number, inode) {
                    Ok(Some(socket)) => socket,
                    // Closed, or another one, since it was listed.
                    Ok(None) => continue,
                    Err(error) => {
                        refused = Some(error);
                        continue;
                    }
                };
                let known = self.known.entry(inode).or_insert(Some(Past::Untouched));
                match (connection(socket, &self.ports), known) {
                    (Some(connection), Some(past)) => {
                        let one = what(&connection, ProcessSocket { process: *process, inode }, past);
                        look = Count { live: look.live + one.live, busy: look.busy + one.busy };
                    }
                    (_, known) => *known = None,
                }
            }
        }
        // What may not have been found is not forgotten: it may be held.
        if refused.is_none() {
            self.known.retain(|inode, _| seen.contains(inode));
        }
        refused.map_or(Ok(look), Err)
    }
}

/// A copy of a descriptor of another process, if it is that socket.
///
/// # Errors
/// EPERM or ENOSYS where that is not allowed or not possible, EMFILE and ENFILE where there is no descriptor left for the copy.
pub fn copy(process: u32, number: RawFd, socket: u64) -> Result<Option<OwnedFd>, Errno> {
    match proc::copy(process, number) {
        Ok(copy) => Ok(inode(&copy).is_ok_and(|inode| inode == socket).then_some(copy)),
        Err(error @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS)) => Err(error),
        // It may be there all the same.
        Err(error) if descriptors::is_out(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The socket as a connection that came to one of the ports, if it is one.
pub(super) fn connection(socket: OwnedFd, ports: &BTreeSet<u16>) -> Option<TcpStream> {
    let stream = getsockopt(&socket, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream);
    let listens = getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false);
    let connection = TcpStream::from(socket);
    // Of another family, it has no such address.
    let local = connection.local_addr().ok()?;
    (stream && !listens && ports.contains(&local.port())).then_some(connection)
}

/// What lies in the queue of one that is held.
fn look_into(connection: &TcpStream, facts: &ConnectionState, past: &mut Past) {
    if let Past::HeldBack(held) = past {
        held.lies = if facts.unread > 0 { queue::lies_in(connection) } else { Lies::Nothing };
    }
}

/// Holds back what comes from now on, if the program waits for it in a way that can be undone.
fn hold(connection: &TcpStream, past: &mut Past, reader: impl FnOnce() -> Option<Reader>) {
    let Past::Unfiltered { strange } = *past else { return };
    let sleeps = fcntl(connection, FcntlArg::F_GETFL).is_ok_and(|flags| flags & OFlag::O_NONBLOCK.bits() == 0);
    // A call that sleeps only for some time is not begun anew where it has to be woken, but fails (signal(7)).
    let has_limit = || connection.read_timeout().is_ok_and(|limit| limit.is_some());
    if queue::has_own_lowat(connection) || sleeps && has_limit() {
        *past = Past::Trusted;
        return;
    }
    let held = if sleeps {
        reader().and_then(|reader| {
            readers::with_hold_on(reader, |traced| hold_unless_in_use(connection, Some(traced))).flatten()
        })
    } else {
        hold_unless_in_use(connection, None)
    };
    if let Some((at, sleeper)) = held {
        *past = Past::HeldBack(HeldBack { at, lies: Lies::Nothing, sleeper, strange });
    }
}

/// Where the program waits in calls, one must sleep in a call that began before this: that is woken as it was told.
fn hold_unless_in_use(connection: &TcpStream, traced: Option<&Traced>) -> Option<(ConnectionState, Option<Reader>)> {
    let before = ConnectionState::of(connection).ok()?;
    if !drain::may_be_held(&before) || traced.is_some_and(|traced| !traced.sleeps()) {
        return None;
    }
    queue::hold_back(connection).ok()?;
    match ConnectionState::of(connection) {
        Ok(at) if at.received == before.received => Some((at, traced.map(|traced| traced.reader))),
        Ok(_) | Err(_) => {
            queue::give_all(connection);
            // It may be back already, in a call that waits for more than will come.
            traced.inspect(|traced| traced.wake());
            None
        }
    }
}

/// Whether that was possible at this moment.
fn let_in(connection: &TcpStream, past: Past) -> bool {
    match past {
        Past::HeldBack(HeldBack { sleeper, .. }) => {
            queue::give_all(connection);
            // A signal of the program's own may have woken it meanwhile, and it sleeps in another call.
            sleeper.is_none_or(|reader| reader.wake())
        }
        Past::Untouched | Past::Watched { .. } | Past::Trusted | Past::Unfiltered { .. } => {
            kernel::let_all_in(connection);
            true
        }
    }
}

/// Ends it so that the client reads the end between two answers and the program has seen nothing of what the client may have sent
/// meanwhile: requests are kept out, it is looked at once more, and only then is it ended.
fn end(connection: &TcpStream, past: Past) -> bool {
    if let Past::HeldBack(HeldBack { lies: Lies::Begun | Lies::Whole, .. }) = past {
        // A request that was not read would make a reset of the end. Where nothing is there any more, the program has it.
        return queue::take_all(connection) > 0 && shutdown(connection.as_raw_fd(), Shutdown::Both).is_ok();
    }
    if kernel::keep_requests_out(connection).is_err() {
        // Where that is not possible either, a request may come at this very moment, and is not answered.
        kernel::keep_all_out(connection).ok();
    }
    let between = ConnectionState::of(connection).is_ok_and(|facts| drain::is_still_between(&facts));
    let ended = between && shutdown(connection.as_raw_fd(), Shutdown::Both).is_ok();
    // What was kept out comes in again if it was not ended, and is answered by a reset if it was.
    kernel::let_all_in(connection);
    ended
}
