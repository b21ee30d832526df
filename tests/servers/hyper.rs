//! A small server on hyper, with an accept loop of its own.

use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::{env, io, time::Duration};
use tokio::net::TcpListener;
use tokio::time::sleep;

const VERSION: &str = "1";

type Answer = Response<BoxBody<Bytes, Infallible>>;

#[tokio::main]
async fn main() -> io::Result<()> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(addr).await?;
    loop {
        let (conn, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            let http = http.timer(TokioTimer::new());
            if let Err(error) = http.serve_connection(TokioIo::new(conn), service_fn(answer)).await {
                eprintln!("a connection ended early: {error}");
            }
        });
    }
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Answer> {
    let answer = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => text(format!("version: {VERSION}\nhello from hyper\n")),
        (&Method::GET, "/slow") => {
            let ms = request.uri().query().and_then(|query| query.strip_prefix("ms=")?.parse().ok());
            slow(Duration::from_millis(ms.unwrap_or(0)))
        }
        (&Method::POST, "/") => {
            let body = request.into_body().collect().await?.to_bytes();
            text(format!("version: {VERSION}\n{} bytes received\n", body.len()))
        }
        _ => {
            let mut answer = text("there is nothing here\n".to_owned());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        }
    };
    Ok(answer)
}

fn text(text: String) -> Answer {
    Response::new(Full::from(text).boxed())
}

fn slow(time: Duration) -> Answer {
    let first = format!("version: {VERSION}\nthis takes its time\n");
    let pieces = [first].into_iter().chain((2..=10).map(|n| format!("piece {n} of 10\n")));
    let frames = stream::iter(pieces).then(move |piece| async move {
        sleep(time / 10).await;
        Ok(Frame::data(Bytes::from(piece)))
    });
    Response::new(BodyExt::boxed(StreamBody::new(frames)))
}
