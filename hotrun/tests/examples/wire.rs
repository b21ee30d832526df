//! Clients by hand, so that every byte on the wire is seen.

use crate::LONG;
use crate::load::{Answer, Client};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    BufReader::new(stream)
}

/// Asks with a line, and is answered with a line that begins with the generation.
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    pub fn write(&self, text: &str) {
        self.0.get_ref().write_all(text.as_bytes()).unwrap();
    }

    /// Empty at the end of the connection.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

impl Client for Lines {
    fn connect(address: SocketAddr) -> Self {
        Lines(connect(address))
    }

    fn ask(&mut self) -> Option<Answer> {
        self.write("hello\n");
        let line = self.line();
        if line.is_empty() {
            return None;
        }
        let generation = line.strip_suffix(" hello\n").unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        Some(Answer { generation, last: false })
    }
}

/// Asks with `GET /`, and is answered with the generation.
pub struct Http1(BufReader<TcpStream>);

impl Http1 {
    /// The head of an answer in small letters; `None` when the connection ends instead.
    fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.0.read_line(&mut head).unwrap() {
                0 if head.is_empty() => return None,
                0 => panic!("half an answer: {head:?}"),
                _ => {}
            }
        }
        Some(head.to_ascii_lowercase())
    }
}

impl Client for Http1 {
    fn connect(address: SocketAddr) -> Self {
        Http1(connect(address))
    }

    fn ask(&mut self) -> Option<Answer> {
        self.0.get_ref().write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let head = self.head()?;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let (_, length) = head.split_once("content-length: ").unwrap();
        let mut body = vec![0; length.split_once("\r\n").unwrap().0.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        let generation = String::from_utf8(body).unwrap().trim().parse().unwrap();
        let last = head.contains("connection: close\r\n");
        if last {
            assert_eq!(self.0.read(&mut [0]).unwrap(), 0, "an end of file, and no reset");
        }
        Some(Answer { generation, last })
    }
}

/// A request and its answer that go on, piece by piece.
pub struct ChunkedEcho(Http1);

impl ChunkedEcho {
    pub fn open(address: SocketAddr) -> Self {
        let mut client = Http1::connect(address);
        let stream = client.0.get_ref();
        (&*stream).write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let head = client.head().unwrap();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        ChunkedEcho(client)
    }

    pub fn echoes(&mut self) {
        self.comes_back(b"6\r\nhello\n\r\n");
    }

    pub fn close(mut self) {
        self.comes_back(b"0\r\n\r\n");
    }

    fn comes_back(&mut self, chunk: &[u8]) {
        self.0.0.get_ref().write_all(chunk).unwrap();
        let mut back = vec![0; chunk.len()];
        self.0.0.read_exact(&mut back).unwrap();
        assert_eq!(back, chunk);
    }
}

/// RFC 6455, by hand.
pub struct WebSocket(BufReader<TcpStream>);

impl WebSocket {
    pub fn open(address: SocketAddr) -> Self {
        let mut client = Http1::connect(address);
        let upgrade = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.0.get_ref().write_all(upgrade.as_bytes()).unwrap();
        let head = client.head().unwrap();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        WebSocket(client.0)
    }

    pub fn echoes(&mut self, prefix: &str) {
        const TEXT: u8 = 1;
        self.send(TEXT, "hello");
        assert_eq!(self.receive(), (TEXT, format!("{prefix}hello").into_bytes()));
    }

    pub fn close(mut self) {
        const CLOSE: u8 = 8;
        self.send(CLOSE, "");
        assert_eq!(self.receive(), (CLOSE, vec![]));
    }

    /// One frame with a mask of zeros, which changes nothing.
    fn send(&self, kind: u8, text: &str) {
        let mut frame = vec![0x80 | kind, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        self.0.get_ref().write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut start = [0; 2];
        self.0.read_exact(&mut start).unwrap();
        let mut text = vec![0; start[1].into()];
        self.0.read_exact(&mut text).unwrap();
        (start[0] & 0x0f, text)
    }
}
