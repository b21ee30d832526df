//! As much HTTP/1.1 as the clients speak, and one way to end a kept connection without a client losing a request: the
//! same for each library. Never lives here: accepting, and when it is time to leave.

use crate::ballast;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

/// How long a kept connection may stay silent once the process is to leave. A client that asks within it hears
/// `Connection: close` with its answer; one that does not would lose nothing but a connection that it does not use.
const GRACE: Duration = Duration::from_millis(100);

struct Request {
    slow: Duration,
    close: bool,
}

/// Answers until the client has enough, or until `draining` and one more answer.
pub async fn serve<S>(mut stream: S, draining: impl Future<Output = ()>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut draining = pin!(draining);
    let mut leaving = false;
    let mut input = Vec::with_capacity(32 * 1024);
    loop {
        if let Some(request) = Request::take(&mut input)? {
            let close = request.close || leaving;
            answer(&mut stream, &request, close).await?;
            if close {
                break;
            }
            continue;
        }
        tokio::select! {
            biased;
            () = &mut draining, if !leaving => leaving = true,
            read = stream.read_buf(&mut input) => if read? == 0 {
                return Ok(());
            },
            () = sleep(GRACE), if leaving && input.is_empty() => break,
        }
    }
    see_it_end(stream, input).await
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), request: &Request, close: bool) -> io::Result<()> {
    ballast::touch();
    // A process identifier: the harness knows which process it started when.
    let body = format!("version: {}\nhello\n", std::process::id());
    let (length, connection) = (body.len(), if close { "close" } else { "keep-alive" });
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n");
    if request.slow.is_zero() {
        return stream.write_all((head + &body).as_bytes()).await;
    }
    let (first, second) = body.split_at(body.len() / 2);
    stream.write_all((head + first).as_bytes()).await?;
    sleep(request.slow).await;
    stream.write_all(second.as_bytes()).await
}

/// Reads until the client has closed its side (RFC 9112, 9.6): a close with bytes unread would be a reset, which could
/// overtake the answer.
async fn see_it_end(mut stream: impl AsyncRead + AsyncWrite + Unpin, mut scrap: Vec<u8>) -> io::Result<()> {
    let ending = async {
        stream.shutdown().await?;
        scrap.clear();
        while stream.read_buf(&mut scrap).await? > 0 {
            scrap.clear();
        }
        Ok(())
    };
    timeout(Duration::from_secs(1), ending).await.unwrap_or(Ok(()))
}

impl Request {
    /// The next one, once all of it is there, its body included.
    fn take(input: &mut Vec<u8>) -> io::Result<Option<Request>> {
        let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let head = str::from_utf8(&input[..end]).map_err(io::Error::other)?;
        let mut lines = head.split("\r\n");
        let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let slow = target.strip_prefix("/slow?ms=").and_then(|ms| ms.parse().ok()).unwrap_or(0);
        let mut request = Request { slow: Duration::from_millis(slow), close: false };
        let mut length = 0;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().map_err(io::Error::other)?;
            } else if name.eq_ignore_ascii_case("connection") {
                request.close = value.eq_ignore_ascii_case("close");
            }
        }
        let whole = end + 4 + length;
        if input.len() < whole {
            return Ok(None);
        }
        input.drain(..whole);
        Ok(Some(request))
    }
}
