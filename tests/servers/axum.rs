//! A small axum server.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::routing::get;
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::convert::Infallible;
use std::{env, io, time::Duration};
use tokio::net::TcpListener;
use tokio::time::sleep;

const VERSION: &str = "1";

#[tokio::main]
async fn main() -> io::Result<()> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let app = Router::new().route("/", get(hello).post(receive)).route("/slow", get(slow));
    let listener = TcpListener::bind(addr).await?;
    axum::serve(listener, app).await
}

async fn hello() -> String {
    format!("version: {VERSION}\nhello from axum\n")
}

async fn receive(body: Bytes) -> String {
    format!("version: {VERSION}\n{} bytes received\n", body.len())
}

async fn slow(Query(query): Query<HashMap<String, u64>>) -> Body {
    let pause = Duration::from_millis(query.get("ms").copied().unwrap_or(0)) / 10;
    let first = format!("version: {VERSION}\nthis takes its time\n");
    let pieces = [first].into_iter().chain((2..=10).map(|n| format!("piece {n} of 10\n")));
    Body::from_stream(stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Ok::<_, Infallible>(piece)
    }))
}
