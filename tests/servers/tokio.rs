//! A small HTTP server on tokio alone, with an accept loop of its own.

use std::{env, io, time::Duration};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

const VERSION: &str = "1";

#[tokio::main]
async fn main() -> io::Result<()> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(addr).await?;
    loop {
        let (conn, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(conn).await {
                eprintln!("a connection ended early: {error}");
            }
        });
    }
}

async fn serve(conn: TcpStream) -> io::Result<()> {
    let mut conn = BufReader::new(conn);
    while let Some(request) = Request::read(&mut conn).await? {
        answer(conn.get_mut(), &request).await?;
        if request.close {
            break;
        }
    }
    Ok(())
}

async fn answer(conn: &mut TcpStream, request: &Request) -> io::Result<()> {
    let slow = request.path.strip_prefix("/slow?ms=").and_then(|ms| ms.parse().ok());
    let text = match slow {
        Some(_) => "this took its time\n".repeat(10),
        None => format!("hello, {} bytes received\n", request.length),
    };
    let body = format!("version: {VERSION}\n{text}");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let Some(ms) = slow else {
        return conn.write_all((head + &body).as_bytes()).await;
    };
    conn.write_all(head.as_bytes()).await?;
    for piece in body.as_bytes().chunks(body.len().div_ceil(10)) {
        sleep(Duration::from_millis(ms) / 10).await;
        conn.write_all(piece).await?;
    }
    Ok(())
}

struct Request {
    path: String,
    /// Of the body, which is read and let go.
    length: u64,
    close: bool,
}

impl Request {
    /// `None` when the client has ended the connection.
    async fn read(conn: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
        let mut line = String::new();
        if conn.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Request { path, length: 0, close: false };
        loop {
            line.clear();
            conn.read_line(&mut line).await?;
            match line.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => request.length = value.parse().unwrap_or(0),
                Some(("connection", value)) => request.close = value == "close",
                Some(_) => {}
                None => break, // the empty line after the head
            }
        }
        let mut body = (&mut *conn).take(request.length);
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        Ok(Some(request))
    }
}
