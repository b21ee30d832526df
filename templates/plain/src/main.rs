//! A small HTTP server on `std`, as anyone would write it: it binds, accepts in a loop, and knows of nothing else.
//!
//!     cargo hotrun                    # in this folder
//!     curl http://127.0.0.1:3000/     # in another terminal
//!
//! Change `VERSION` below, save, and ask again: the new program answers, and no request was refused on the way.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, thread, time::Duration};

const VERSION: &str = "1";

fn main() {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(addr).unwrap();
    loop {
        let (conn, _) = listener.accept().unwrap();
        thread::spawn(move || {
            if let Err(error) = serve(&conn) {
                eprintln!("a connection ended early: {error}");
            }
        });
    }
}

fn serve(conn: &TcpStream) -> io::Result<()> {
    let mut input = BufReader::new(conn);
    while let Some(request) = Request::read(&mut input)? {
        answer(conn, &request)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

fn answer(mut conn: &TcpStream, request: &Request) -> io::Result<()> {
    let slow = request
        .path
        .strip_prefix("/slow?ms=")
        .and_then(|ms| ms.parse().ok());
    let (status, text) = match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => ("200 OK", "hello\n".to_owned()),
        ("POST", "/") => ("200 OK", format!("{} bytes received\n", request.length)),
        ("GET", _) if slow.is_some() => ("200 OK", "this took its time\n".repeat(10)),
        _ => ("404 Not Found", "there is nothing here\n".to_owned()),
    };
    let body = format!("version: {VERSION}\n{text}");
    let connection = if request.close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    );
    let Some(ms) = slow else {
        return conn.write_all((head + &body).as_bytes());
    };
    conn.write_all(head.as_bytes())?;
    for piece in body.as_bytes().chunks(body.len().div_ceil(10)) {
        thread::sleep(Duration::from_millis(ms) / 10);
        conn.write_all(piece)?;
    }
    Ok(())
}

struct Request {
    method: String,
    path: String,
    /// Of the body, which is read and let go.
    length: u64,
    /// The client wants no further answer on this connection.
    close: bool,
}

impl Request {
    /// `None` when the client has ended the connection.
    fn read(input: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut head = input.by_ref().take(16 * 1024).lines();
        let Some(first) = head.next().transpose()? else {
            return Ok(None);
        };
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "this is not HTTP",
            ));
        };
        let mut request = Request {
            method,
            path,
            length: 0,
            close: false,
        };
        for line in head {
            let line = line?.to_ascii_lowercase();
            match line
                .split_once(':')
                .map(|(name, value)| (name, value.trim()))
            {
                Some(("content-length", value)) => request.length = value.parse().unwrap_or(0),
                Some(("connection", value)) => request.close = value == "close",
                Some(_) => {}
                None => break, // the empty line after the head
            }
        }
        io::copy(&mut input.take(request.length), &mut io::sink())?;
        Ok(Some(request))
    }
}
