//! Servers that misbehave in one way each: what they lose is counted, and under its right name.

use super::load::{Load, Loss, Mix, Tally};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

const FRESH: Mix = Mix { fresh: 1, keep_alive: 0, slow: 0, slow_ms: 0 };
const KEPT: Mix = Mix { fresh: 0, keep_alive: 1, slow: 0, slow_ms: 0 };

/// Gives every connection, with its number, to `behave`. The channel hears of each that was dealt with.
fn server(behave: impl Fn(usize, TcpStream) + Send + 'static) -> (SocketAddr, Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (done, served): (Sender<usize>, _) = channel();
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            behave(n, stream.unwrap());
            if done.send(n).is_err() {
                return;
            }
        }
    });
    (addr, served)
}

/// Loads `behave` until it has dealt with three connections.
fn three(mix: Mix, behave: impl Fn(usize, TcpStream) + Send + 'static) -> Tally {
    let (addr, served) = server(behave);
    let load = Load::start(addr, mix);
    for _ in 0..3 {
        served.recv().unwrap();
    }
    load.stop()
}

/// The head of the next request, once its body is read too.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.split_once("Content-Length: ").map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
    stream.read_exact(&mut vec![0; length]).ok().map(|()| head)
}

fn answer(stream: &mut TcpStream, version: &str) {
    let body = format!("version: {version}\nhello\n");
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

fn answer_all(mut stream: TcpStream, version: &str) {
    while let Some(head) = read_request(&mut stream) {
        answer(&mut stream, version);
        if head.contains("Connection: close") {
            return;
        }
    }
}

/// Ends the connection with a reset instead of an end of stream.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
}

/// Only `loss` was counted, and described.
fn assert_only(tally: &Tally, loss: Loss) {
    assert!(tally.lost() >= 2, "{tally:?}");
    let counted = match loss {
        Loss::Refused => tally.refused,
        Loss::Reset => tally.reset,
        Loss::Cut => tally.cut,
        Loss::TimedOut => tally.timed_out,
        Loss::Malformed => tally.malformed,
        Loss::WrongVersion => tally.wrong_version,
    };
    assert_eq!(counted, tally.lost(), "{tally:?}");
    assert!(tally.first_losses.iter().all(|lost| lost.loss == loss), "{tally:?}");
}

#[test]
fn a_good_server_loses_nothing() {
    let (addr, served) = server(|_, stream| {
        thread::spawn(move || answer_all(stream, "1"));
    });
    let load = Load::start(addr, Mix { fresh: 1, keep_alive: 1, slow: 1, slow_ms: 1 });
    for _ in 0..4 {
        served.recv().unwrap();
    }
    let tally = load.stop();
    assert_eq!((tally.lost(), tally.retried), (0, 0), "{tally:?}");
    assert_eq!(tally.by_version.get("1"), Some(&tally.requests));
    assert!(tally.requests >= 4 && tally.latency_worst >= tally.latency_median && tally.first_losses.is_empty());
}

#[test]
fn refused() {
    // Bound, so that it is nobody else's, and nothing listens there. The loss shows in the live tally.
    let bound = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = SocketAddr::try_from(rustix::net::getsockname(&bound).unwrap()).unwrap();
    let load = Load::start(addr, FRESH);
    while load.tally().lost() < 2 {
        thread::yield_now();
    }
    assert_only(&load.stop(), Loss::Refused);
}

#[test]
fn each_way_to_lose_an_answer_has_its_name() {
    fn ask(stream: &mut TcpStream) {
        read_request(stream);
    }
    fn part(stream: &mut TcpStream, text: &[u8]) {
        ask(stream);
        stream.write_all(text).unwrap();
    }
    type Behave = fn(TcpStream);
    let a_reset: Behave = |mut stream| {
        ask(&mut stream);
        reset(stream);
    };
    let a_reset_while_idle: Behave = |mut stream| {
        ask(&mut stream);
        answer(&mut stream, "1");
        reset(stream);
    };
    let a_body_shorter_than_its_length: Behave =
        |mut stream| part(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nversion: 1\n");
    let chunks_without_the_last_one: Behave =
        |mut stream| part(&mut stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nversion: 1\n\r\n");
    let an_end_before_any_answer: Behave = |mut stream| ask(&mut stream);
    let an_end_inside_a_later_answer: Behave = |mut stream| {
        ask(&mut stream);
        answer(&mut stream, "1");
        part(&mut stream, b"HTTP/1.1 200 OK\r\nConte");
    };
    for (mix, behave, loss) in [
        (FRESH, a_reset, Loss::Reset),
        (KEPT, a_reset_while_idle, Loss::Reset),
        (FRESH, a_body_shorter_than_its_length, Loss::Cut),
        (FRESH, chunks_without_the_last_one, Loss::Cut),
        (FRESH, an_end_before_any_answer, Loss::Cut),
        (KEPT, an_end_before_any_answer, Loss::Cut),
        (KEPT, an_end_inside_a_later_answer, Loss::Cut),
    ] {
        let tally = three(mix, move |_, stream| behave(stream));
        assert_only(&tally, loss);
        assert_eq!(tally.retried, 0);
    }
}

#[test]
fn an_end_between_two_answers_is_retried() {
    let tally = three(KEPT, |_, mut stream| {
        read_request(&mut stream);
        answer(&mut stream, "1");
        // A half-close, then reading on: the client must see an end of stream whenever it looks.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        while stream.read(&mut [0; 512]).is_ok_and(|n| n > 0) {}
    });
    assert_eq!(tally.lost(), 0, "{tally:?}");
    assert!(tally.retried >= 2, "{tally:?}");
    assert_eq!(tally.by_version["1"], tally.requests);
}

#[test]
fn what_is_no_answer() {
    for garbage in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nversion: 1\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nversion: 1\nHTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let tally = three(FRESH, move |_, mut stream| {
            read_request(&mut stream);
            stream.write_all(garbage.as_bytes()).unwrap();
        });
        assert_only(&tally, Loss::Malformed);
    }
}

#[test]
fn a_server_that_says_nothing() {
    let (addr, served) = server(|_, stream| {
        thread::spawn(move || {
            let mut stream = stream;
            while stream.read(&mut [0; 512]).is_ok_and(|n| n > 0) {}
        });
    });
    let load = Load::start_with(addr, FRESH, Duration::from_millis(30));
    for _ in 0..3 {
        served.recv().unwrap();
    }
    assert_only(&load.stop(), Loss::TimedOut);
}

#[test]
fn the_old_version_after_the_switch() {
    let (go_on, may_go_on) = channel::<()>();
    let (addr, served) = server(move |n, stream| {
        if n == 1 {
            may_go_on.recv().unwrap();
        }
        // Newer ones are welcome, the old one is not.
        answer_all(stream, ["1", "2", "3", "1", "1", "1"].get(n).unwrap_or(&"4"));
    });
    let load = Load::start(addr, FRESH);
    load.switched("1");
    served.recv().unwrap();
    // The first answer came from `1`; from the second connection's on, `2` or later is due.
    load.switched("2");
    go_on.send(()).unwrap();
    for _ in 0..7 {
        served.recv().unwrap();
    }
    let tally = load.stop();
    assert_only(&tally, Loss::WrongVersion);
    assert_eq!(tally.wrong_version, 3, "{tally:?}");
    assert_eq!(tally.by_version["1"], 4);
}

#[test]
fn back_to_an_earlier_version() {
    let (addr, served) = server(|_, stream| answer_all(stream, "1"));
    let load = Load::start(addr, FRESH);
    load.switched("1");
    load.switched("2");
    load.switched("1");
    let before = load.tally().wrong_version;
    // Connections of before the last call may still be counted; two later ones are certainly not.
    for _ in 0..4 {
        served.recv().unwrap();
    }
    assert!(load.stop().wrong_version <= before + 1);
}
