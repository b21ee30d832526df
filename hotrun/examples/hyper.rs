//! A hyper server for HTTP/1 and HTTP/2 on one port, with an accept loop of its own. `POST /echo` gives back what it gets
//! while it gets it, for as long as the client likes.
//!
//!     cargo run -p hotrun --example hyper --features tokio,tower  # says its pid
//!     curl http://127.0.0.1:3000/                                 # in another terminal: the generation that answers
//!     curl --http2-prior-knowledge -N -X POST -T. http://127.0.0.1:3000/echo
//!     kill -USR2 PID                                              # the next generation serves

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::pin::pin;
use std::{env, io, process};
use tower::{Layer, service_fn};

#[tokio::main]
async fn main() -> io::Result<()> {
    let up = hotrun::init()?;
    let generation = up.generation();
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let mut http = up.listen("http", addr)?.into_tokio()?;
    eprintln!("generation {generation}, pid {}, on {}", process::id(), http.local_addr()?);
    // A busy client of HTTP/1 hears in its next answer that it should connect anew.
    let service = up.connection_close().layer(service_fn(move |request| answer(request, generation)));
    while let Some((conn, _)) = http.accept().await? {
        let (draining, service) = (up.draining(), TowerToHyperService::new(service.clone()));
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let mut conn = pin!(server.serve_connection(TokioIo::new(conn), service));
            let served = tokio::select! {
                served = conn.as_mut() => served,
                () = draining => {
                    // HTTP/1: ends when it is idle. HTTP/2: GOAWAY, and the streams that are open go on.
                    conn.as_mut().graceful_shutdown();
                    conn.await
                }
            };
            if let Err(error) = served {
                eprintln!("connection: {error}");
            }
        });
    }
    eprintln!("generation {generation} leaves: {:?}", up.drained_async().await);
    Ok(())
}

async fn answer(
    request: Request<Incoming>,
    generation: u32,
) -> Result<Response<Either<Full<Bytes>, Incoming>>, Infallible> {
    Ok(Response::new(match request.uri().path() {
        "/echo" => Either::Right(request.into_body()),
        _ => Either::Left(Full::from(format!("{generation}\n"))),
    }))
}
