//! A supervisor and a thread of this process behind its gate: what comes at one moment, which nobody can choose from outside.

use super::super::listener::{Listener, Shelf};
use super::*;
use crate::process::seccomp::{self, Calls};
use nix::poll::poll;
use std::io::{self, PipeWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

/// Runs that by a thread whose calls arrive there.
fn behind_a_gate<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> (OwnedFd, JoinHandle<T>) {
    let (tell, told) = channel();
    let thread = thread::spawn(move || {
        tell.send(seccomp::install()).unwrap();
        run()
    });
    (told.recv().unwrap().unwrap(), thread)
}

fn is_readable(fd: &OwnedFd, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLIN)
}

/// A supervisor of those calls, for which one order waits when it begins, and where more could come from.
fn ordered(
    calls: &OwnedFd,
    held: &Arc<Listener>,
    handed: &[Arc<Listener>],
    order: Order,
) -> (Supervisor, Receiver<Order>, PipeReader, (Sender<Order>, PipeWriter)) {
    let (tell, inbox) = channel();
    let (woken, mut wake) = io::pipe().unwrap();
    tell.send(order).unwrap();
    wake.write_all(&[0]).unwrap();
    let calls = Calls::new(calls.try_clone().unwrap());
    let shelf = Arc::new(Shelf::default());
    shelf.add(held);
    let mut program = Supervised::new(now(), calls, 1, std::process::id(), shelf, false, Box::new(|_| {}));
    program.is_handed(now(), handed);
    (Supervisor::new(program), inbox, woken, (tell, wake))
}

/// Taken by the supervisor, it would wait for as long as this process is stopped.
#[test]
fn a_call_that_comes_with_the_order_to_leave_is_left_to_whoever_answers_then() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = Arc::new(Listener::new(listener.try_clone().unwrap().into()).unwrap());
    let (calls, program) = behind_a_gate(move || listener.accept().unwrap().1);
    assert!(is_readable(&calls, PollTimeout::NONE), "it has asked for a connection");
    let (mut done, doing) = io::pipe().unwrap();
    let (mut supervisor, inbox, mut woken, _more) = ordered(&calls, &held, &[], Order::Leave(Arc::new(doing)));
    assert!(supervisor.turn(&inbox, &mut woken));
    assert_eq!(done.read(&mut [0]).unwrap(), 0, "it has left");
    assert!(is_readable(&calls, PollTimeout::ZERO), "the call waits for somebody else");
    let call = supervisor.program.calls.next().unwrap().unwrap();
    assert!(matches!(call.what, What::Accept { .. }));
    supervisor.program.calls.proceed(call.id);
    let client = TcpStream::connect(held.address).unwrap();
    assert_eq!(program.join().unwrap(), client.local_addr().unwrap());
}

/// One of our own connections would come to the program as a client, who says nothing for as long as this process is stopped.
#[test]
fn nobody_is_woken_who_is_answered_by_somebody_else() {
    let held = Arc::new(Listener::new(TcpListener::bind("127.0.0.1:0").unwrap().into()).unwrap());
    let (nobody, _) = io::pipe().unwrap();
    let (mut supervisor, ..) = ordered(&nobody.into(), &held, &[Arc::clone(&held)], Order::Open);
    let (_, doing) = io::pipe().unwrap();
    supervisor.obey(Order::Leave(Arc::new(doing)));
    supervisor.program.knock_now(now(), supervisor.away);
    assert!(!held.has_waiting());
    supervisor.obey(Order::Return);
    supervisor.program.knock_now(now(), supervisor.away);
    assert!(held.has_waiting());
}
