//! An axum server that can be replaced while it serves.
//!
//!     cargo hotrun                    # in this folder
//!     curl http://127.0.0.1:3000/     # in another terminal
//!
//! Change `VERSION` below, save, and ask again: the new program answers, and no request was refused on the way. What
//! makes that possible is marked (1) to (3); the rest is plain axum.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::routing::get;
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::convert::Infallible;
use std::{env, io, time::Duration};
use tokio::time::sleep;

const VERSION: &str = "1";

#[tokio::main]
async fn main() -> io::Result<()> {
    let up = hotrun::init()?; // (1) before anything else: are there sockets to inherit?
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let http = up.listen("http", &addr)?.into_tokio()?; // (2) the inherited socket, or a new one
    let app = Router::new()
        .route("/", get(hello).post(receive))
        .route("/slow", get(slow));
    // (3) when a successor has taken over, live connections finish and the program ends
    axum::serve(http, app)
        .with_graceful_shutdown(up.draining())
        .await
}

async fn hello() -> String {
    format!("version: {VERSION}\nhello from hotrun\n")
}

async fn receive(body: Bytes) -> String {
    format!("version: {VERSION}\n{} bytes received\n", body.len())
}

/// `/slow?ms=500` writes its answer in ten pieces over half a second.
async fn slow(Query(query): Query<HashMap<String, u64>>) -> Body {
    let pause = Duration::from_millis(query.get("ms").copied().unwrap_or(0)) / 10;
    let first = format!("version: {VERSION}\nthis takes its time\n");
    let pieces = [first]
        .into_iter()
        .chain((2..=10).map(|n| format!("piece {n} of 10\n")));
    Body::from_stream(stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Ok::<_, Infallible>(piece)
    }))
}
