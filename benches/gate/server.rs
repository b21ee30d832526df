//! A server that measures itself: what its calls cost here, wherever that is.

use std::hint::black_box;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const ACCEPTS: u32 = 20_000;
const CALLS: u32 = 2_000_000;

fn main() {
    let listener = TcpListener::bind(std::env::var("ADDR").unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let accept = accept(&listener, address);
    listener.set_nonblocking(true).unwrap();
    let nothing = per(ACCEPTS, || drop(black_box(listener.accept())));
    listener.set_nonblocking(false).unwrap();
    // A call that does nearly nothing in the kernel (getppid(2)).
    let call = per(CALLS, || drop(black_box(std::os::unix::process::parent_id())));
    let figures = format!("{} {} {}", accept.as_nanos(), nothing.as_nanos(), call.as_nanos());
    write!(TcpStream::connect(std::env::var("TELL").unwrap()).unwrap(), "{figures}").unwrap();
    loop {
        drop(listener.accept());
    }
}

/// With a connection that waits, so that it is the call alone that takes time.
fn accept(listener: &TcpListener, address: std::net::SocketAddr) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..ACCEPTS {
        let client = TcpStream::connect(address).unwrap();
        let began = Instant::now();
        let accepted = listener.accept().unwrap();
        took += began.elapsed();
        // The client ends first, so that its port is what waits, and the server's is free.
        drop(client);
        drop(accepted);
    }
    took / ACCEPTS
}

fn per(times: u32, mut what: impl FnMut()) -> Duration {
    let began = Instant::now();
    (0..times).for_each(|_| what());
    began.elapsed() / times
}
