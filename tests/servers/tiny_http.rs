//! A small server on tiny_http: a few threads take requests from one queue.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::{env, thread, time::Duration};
use tiny_http::{Method, Request, Response, Server, StatusCode};

const VERSION: &str = "1";
/// Larger than what tiny_http collects before it sends.
const PIECE: usize = 2048;

fn main() {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let server = Arc::new(Server::http(addr).unwrap());
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let server = Arc::clone(&server);
            thread::spawn(move || {
                for request in server.incoming_requests() {
                    if let Err(error) = answer(request) {
                        eprintln!("a request ended early: {error}");
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

fn answer(mut request: Request) -> io::Result<()> {
    let slow = request.url().strip_prefix("/slow?ms=").and_then(|ms| ms.parse().ok());
    if let Some(ms) = slow {
        return request.respond(slow_response(Duration::from_millis(ms)));
    }
    let text = match (request.method(), request.url()) {
        (Method::Get, "/") => format!("version: {VERSION}\nhello from tiny_http\n"),
        (Method::Post, "/") => {
            let length = io::copy(request.as_reader(), &mut io::sink())?;
            format!("version: {VERSION}\n{length} bytes received\n")
        }
        _ => return request.respond(Response::from_string("there is nothing here\n").with_status_code(404)),
    };
    request.respond(Response::from_string(text))
}

fn slow_response(time: Duration) -> Response<Slow> {
    let mut body = format!("version: {VERSION}\n").into_bytes();
    body.resize(10 * PIECE, b'.');
    let length = body.len();
    Response::new(StatusCode(200), Vec::new(), Slow { body: Cursor::new(body), pause: time / 10 }, Some(length), None)
}

/// A body of ten pieces, each of which has to be waited for.
struct Slow {
    body: Cursor<Vec<u8>>,
    pause: Duration,
}

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.body.position() == self.body.get_ref().len() as u64 {
            return Ok(0);
        }
        thread::sleep(self.pause);
        (&mut self.body).take(PIECE as u64).read(buffer)
    }
}
