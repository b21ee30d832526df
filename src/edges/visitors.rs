//! Those who connect to the control socket, heard side by side by one thread that waits for none of them alone. Whoever says nothing,
//! too much, or leaves is forgotten.
//! Never lives here: what a request means, and answering it.

use super::message::{Request, Status};
use crate::process::{descriptors, events_of, private};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, sockopt};
use std::fs::File;
use std::io::{self, PipeReader};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What each may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many there may be at once, and of one process.
    pub all: usize,
    pub of_one: usize,
    /// The longest request, in bytes.
    pub longest: usize,
    /// How long it may take to come, all of it.
    pub patience: Duration,
}

pub const LIMITS: Limits = Limits { all: 64, of_one: 16, longest: 1024, patience: Duration::from_secs(5) };

/// How long nobody is let in after that was not possible, unless somebody leaves before.
const REST: Duration = Duration::from_secs(1);

/// The way back to somebody who waits for an answer, for as long as they do.
#[derive(Debug)]
pub struct Reply(Weak<UnixStream>);

impl Reply {
    /// Never waits: whoever does not take it at once does not get it.
    pub fn send(self, answer: &Status) {
        let Some(stream) = self.0.upgrade() else { return };
        let line = serde_json::to_string(answer).unwrap_or_default() + "\n";
        // It is shorter than what the socket holds (socket(7), SO_SNDBUF), and the first thing to be put there. Whoever asked may have
        // gone, and nobody misses it then.
        send(stream.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).ok();
        // The thread that hears them sees this end, too, and forgets it.
        stream.shutdown(Shutdown::Both).ok();
    }

    /// Whether anybody waits for it still.
    pub fn is_wanted(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// All who are there, the longest there first.
pub struct Visitors {
    listener: UnixListener,
    limits: Limits,
    all: Vec<Visitor>,
    /// Let go for one who comes when there is no descriptor left for them, and taken again when somebody leaves.
    spare: Option<File>,
    /// Nobody is let in until then.
    rest: Option<Instant>,
}

struct Visitor {
    stream: Arc<UnixStream>,
    process: i32,
    said: Vec<u8>,
    /// Until when it is to have said what it wants; none once it has.
    until: Option<Instant>,
}

impl Visitors {
    pub fn new(listener: UnixListener, limits: Limits) -> io::Result<Visitors> {
        // One who has left again before it is let in must not be waited for.
        listener.set_nonblocking(true)?;
        Ok(Visitors { listener, limits, all: Vec::new(), spare: spare(), rest: None })
    }

    /// Until the other end of `over` is closed, and those who were there by then have their answer.
    pub fn hear(mut self, over: &PipeReader, tell: impl Fn(Request, Reply)) {
        let mut is_over = false;
        while !is_over || !self.all.is_empty() {
            let now = now();
            self.rest.take_if(|rest| *rest <= now);
            let welcome = if self.rest.is_some() || is_over { PollFlags::empty() } else { PollFlags::POLLIN };
            let mut fds = vec![PollFd::new(self.listener.as_fd(), welcome)];
            if !is_over {
                fds.push(PollFd::new(over.as_fd(), PollFlags::POLLIN));
            }
            fds.extend(self.all.iter().map(|visitor| PollFd::new(visitor.stream.as_fd(), visitor.wanted())));
            let mut events = events_of(fds, self.timeout(now)).into_iter();
            let comes = events.next().is_some_and(|event| event.contains(PollFlags::POLLIN));
            is_over = is_over || events.next().is_some_and(|event| !event.is_empty());
            self.attend(events, self::now(), &tell);
            // One at a time: those who are there are heard before the next, however many come.
            if comes {
                self.welcome(self::now());
            }
        }
    }

    fn attend(&mut self, mut events: impl Iterator<Item = PollFlags>, now: Instant, tell: &impl Fn(Request, Reply)) {
        let (before, longest) = (self.all.len(), self.limits.longest);
        self.all.retain_mut(|visitor| {
            let event = events.next().unwrap_or(PollFlags::empty());
            visitor.stays(event, now, longest, tell)
        });
        if self.all.len() < before {
            self.has_room();
        }
    }

    fn welcome(&mut self, now: Instant) {
        let mut accepted = self.listener.accept();
        if accepted.as_ref().is_err_and(descriptors::is_out) && self.spare.take().is_some() {
            accepted = self.listener.accept();
        }
        match accepted {
            Ok((stream, _)) => self.let_in(stream, now),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // It stands at the door still, and poll(2) would say so again and again.
            Err(_) => self.rest = Some(now + REST),
        }
    }

    fn let_in(&mut self, stream: UnixStream, now: Instant) {
        // The folder keeps others out. Should it have been opened, this does.
        if !private::is_ours(&stream) || stream.set_nonblocking(true).is_err() {
            return self.has_room();
        }
        let process = getsockopt(&stream, sockopt::PeerCredentials).map_or(0, |peer| peer.pid());
        self.make_room(self.limits.of_one, |visitor| visitor.process == process);
        self.make_room(self.limits.all, |_| true);
        let until = Some(now + self.limits.patience);
        self.all.push(Visitor { stream: Arc::new(stream), process, said: Vec::new(), until });
    }

    /// Where there are as many as there may be, one gives way: whoever has been there longest, those first who have said nothing.
    fn make_room(&mut self, limit: usize, counts: impl Fn(&Visitor) -> bool) {
        let counted = || self.all.iter().enumerate().filter(|(_, visitor)| counts(visitor));
        if counted().count() < limit {
            return;
        }
        let silent = counted().find(|(_, visitor)| visitor.until.is_some());
        if let Some((longest, _)) = silent.or_else(|| counted().next()) {
            self.all.remove(longest);
            self.has_room();
        }
    }

    fn has_room(&mut self) {
        self.rest = None;
        self.spare = self.spare.take().or_else(spare);
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        let first = self.all.iter().filter_map(|visitor| visitor.until).chain(self.rest).min();
        let Some(first) = first else { return PollTimeout::NONE };
        // A part of a millisecond is waited for whole, not in circles.
        let millis = first.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }
}

impl Visitor {
    /// Its end is told whatever is asked for (poll(2), POLLHUP). One that has only ended what it says (shutdown(2)) waits for its answer.
    fn wanted(&self) -> PollFlags {
        if self.until.is_some() { PollFlags::POLLIN } else { PollFlags::empty() }
    }

    fn stays(&mut self, event: PollFlags, now: Instant, longest: usize, tell: &impl Fn(Request, Reply)) -> bool {
        let Some(until) = self.until else { return !event.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) };
        if event.is_empty() {
            return now < until;
        }
        match self.listen(longest) {
            Ok(None) => now < until,
            Ok(Some(request)) => {
                self.until = None;
                tell(request, Reply(Arc::downgrade(&self.stream)));
                true
            }
            Err(_) => false,
        }
    }

    /// What it wants, once that is all there.
    fn listen(&mut self, longest: usize) -> io::Result<Option<Request>> {
        let mut bytes = vec![0; longest - self.said.len()];
        let length = match recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            other => other?,
        };
        self.said.extend_from_slice(&bytes[..length]);
        let end = self.said.iter().position(|byte| *byte == b'\n');
        let all = end.is_some() || length == 0;
        if !all {
            return if self.said.len() < longest { Ok(None) } else { Err(io::ErrorKind::FileTooLarge.into()) };
        }
        let line = &self.said[..end.unwrap_or(self.said.len())];
        Ok(Some(serde_json::from_slice(line.trim_ascii())?))
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

#[allow(clippy::disallowed_methods)] // An edge: how long somebody says nothing is measured here.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::path::PathBuf;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    struct House {
        folder: tempfile::TempDir,
        heard: Receiver<(Request, Reply)>,
        _over: io::PipeWriter,
    }

    impl House {
        fn open(limits: Limits) -> House {
            let folder = private::temporary_folder("visitors-").unwrap();
            let (tell, heard) = channel();
            let visitors = Visitors::new(private::listener(&folder.path().join("door")).unwrap(), limits).unwrap();
            let (ended, over) = io::pipe().unwrap();
            thread::spawn(move || visitors.hear(&ended, |request, reply| drop(tell.send((request, reply)))));
            House { folder, heard, _over: over }
        }

        fn door(&self) -> PathBuf {
            self.folder.path().join("door")
        }

        fn visit(&self) -> UnixStream {
            UnixStream::connect(self.door()).unwrap()
        }

        /// Asks and is answered.
        fn is_served(&self, mut visitor: UnixStream) {
            visitor.write_all(b"\"status\"\n").unwrap();
            let (request, reply) = self.heard.recv().unwrap();
            assert_eq!(request, Request::Status);
            reply.send(&Status::default());
            let mut answer = String::new();
            visitor.read_to_string(&mut answer).unwrap();
            assert_eq!(serde_json::from_str::<Status>(&answer).unwrap(), Status::default());
        }
    }

    fn is_there(visitor: &UnixStream) -> bool {
        visitor.set_nonblocking(true).unwrap();
        let read = (&mut &*visitor).read(&mut [0]);
        visitor.set_nonblocking(false).unwrap();
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    const LONG: Limits = Limits { patience: Duration::from_secs(600), ..LIMITS };

    #[test]
    fn one_who_says_nothing_keeps_nobody_waiting() {
        let house = House::open(LONG);
        let (silent, mut slow) = (house.visit(), house.visit());
        slow.write_all(b"\"sta").unwrap();
        house.is_served(house.visit());
        assert!(is_there(&silent) && is_there(&slow), "nobody was sent away for that");
        slow.write_all(b"tus\"").unwrap();
        slow.shutdown(Shutdown::Write).unwrap();
        let (request, reply) = house.heard.recv().unwrap();
        assert_eq!(request, Request::Status, "the end of what it says is as good as the end of a line");
        reply.send(&Status::default());
        let mut line = String::new();
        BufReader::new(slow).read_line(&mut line).unwrap();
        assert!(line.ends_with("}\n"), "half a connection is enough for an answer: {line:?}");
    }

    #[test]
    fn one_byte_now_and_then_does_not_make_the_time_longer() {
        let house = House::open(Limits {
            patience: Duration::from_millis(200),
            longest: usize::MAX / 2_usize.pow(40),
            ..LIMITS
        });
        let (silent, mut slow) = (house.visit(), house.visit());
        // Until it is gone (EPIPE).
        while slow.write_all(b" ").is_ok() {
            thread::yield_now();
        }
        assert_eq!((&silent).read(&mut [0]).unwrap(), 0);
        house.is_served(house.visit());
    }

    #[test]
    fn one_who_says_too_much_or_what_means_nothing_is_sent_away() {
        let house = House::open(LONG);
        for said in [&[b'x'; 2000][..], b"nonsense\n", b"\n", b"\xff\n"] {
            let mut visitor = house.visit();
            visitor.write_all(said).ok();
            // ECONNRESET, where a part of it was not even read.
            assert!(matches!(visitor.read(&mut [0]), Ok(0) | Err(_)));
        }
        let mut nothing = house.visit();
        nothing.shutdown(Shutdown::Write).unwrap();
        assert_eq!(nothing.read(&mut [0]).unwrap(), 0);
        house.is_served(house.visit());
        assert!(house.heard.try_recv().is_err());
    }

    #[test]
    fn where_there_are_too_many_the_one_who_is_silent_for_longest_gives_way() {
        let house = House::open(Limits { all: 8, of_one: 6, ..LONG });
        let mut asking = house.visit();
        asking.write_all(b"\"wait\"\n").unwrap();
        let (_, reply) = house.heard.recv().unwrap();
        let mut silent: Vec<UnixStream> = (0..20).map(|_| house.visit()).collect();
        for gone in silent.drain(..15) {
            assert_eq!((&gone).read(&mut [0]).unwrap(), 0);
        }
        assert!(reply.is_wanted(), "who has asked is kept");
        house.is_served(house.visit());
        assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
        assert!(silent[1..].iter().all(is_there));
        // And where all have asked, whoever did so first.
        let mut replies = vec![reply];
        for mut waits in (0..6).map(|_| house.visit()) {
            waits.write_all(b"\"wait\"\n").unwrap();
            replies.push(house.heard.recv().unwrap().1);
            silent.push(waits);
        }
        assert!(!replies[0].is_wanted() && replies[1..].iter().all(Reply::is_wanted));
    }

    #[test]
    fn one_who_leaves_is_forgotten_at_once() {
        let house = House::open(LONG);
        let mut waits = house.visit();
        waits.write_all(b"\"wait\"\n").unwrap();
        let (_, reply) = house.heard.recv().unwrap();
        assert!(reply.is_wanted());
        drop(waits);
        while reply.is_wanted() {
            thread::yield_now();
        }
        reply.send(&Status::default());
        house.is_served(house.visit());
    }
}
