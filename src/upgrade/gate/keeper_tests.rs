//! A keeper and a thread of this process behind its gate: what comes at one moment, which nobody can choose from outside.

use super::*;
use crate::process::seccomp;
use std::io::{self, PipeWriter};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
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

/// A keeper that has yet to begin, with orders for it.
struct Waiting {
    keeper: Keeper,
    orders: Sender<Order>,
    inbox: Receiver<Order>,
    wake: PipeWriter,
    woken: PipeReader,
    seen: Receiver<Seen>,
}

impl Waiting {
    fn at(calls: &OwnedFd) -> Waiting {
        let (orders, inbox) = channel();
        let (woken, wake) = io::pipe().unwrap();
        let (tell, seen) = channel();
        let calls = Calls::new(calls.try_clone().unwrap());
        let tell = Box::new(move |what| drop(tell.send(what)));
        let keeper = Keeper::new(calls, 1, std::process::id(), Arc::default(), false, tell);
        Waiting { keeper, orders, inbox, wake, woken, seen }
    }
}

fn is_readable(fd: &OwnedFd, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLIN)
}

/// Taken by the keeper, it would wait for as long as this process is stopped.
#[test]
fn a_call_that_comes_with_the_order_to_leave_is_left_to_whoever_answers_then() {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = Arc::new(Listener::new(listener.try_clone().unwrap().into()).unwrap());
    let (calls, program) = behind_a_gate(move || listener.accept().unwrap().1);
    assert!(is_readable(&calls, PollTimeout::NONE), "it has asked for a connection");
    let Waiting { keeper, orders, inbox, mut wake, woken, seen } = Waiting::at(&calls);
    keeper.shelf.add(&held);
    let (mut done, doing) = io::pipe().unwrap();
    orders.send(Order::Leave(Arc::new(doing))).unwrap();
    wake.write_all(&[0]).unwrap();
    let keeper = thread::spawn(move || keeper.run(&inbox, woken));
    assert_eq!(done.read(&mut [0]).unwrap(), 0, "it has left");
    // Heard in its next round: whatever it took in that one it has by now.
    orders.send(Order::Close(Which::All)).unwrap();
    wake.write_all(&[0]).unwrap();
    assert!(matches!(seen.recv().unwrap(), Seen::Closed));
    assert!(is_readable(&calls, PollTimeout::ZERO), "the call is there for another one");
    let others = Calls::new(calls.try_clone().unwrap());
    let call = others.next().unwrap().unwrap();
    assert!(matches!(call.what, What::Accept { .. }));
    others.proceed(call.id);
    let client = TcpStream::connect(held.address).unwrap();
    assert_eq!(program.join().unwrap(), client.local_addr().unwrap());
    keeper.join().unwrap();
}
