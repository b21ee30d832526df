//! An axum server with two ports: one for everybody, one for those who run it.

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
    let admin_addr = env::var("ADMIN_ADDR").unwrap_or_else(|_| "127.0.0.1:3001".to_owned());
    let public = axum::serve(TcpListener::bind(addr).await?, app("everybody")).into_future();
    let admin = axum::serve(TcpListener::bind(admin_addr).await?, app("the admin")).into_future();
    tokio::try_join!(public, admin)?;
    Ok(())
}

fn app(whom: &'static str) -> Router {
    let hello = move || async move { format!("version: {VERSION}\nhello, {whom}\n") };
    Router::new().route("/", get(hello).post(receive)).route("/slow", get(slow))
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
