//! A small warp server.

use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::{env, time::Duration};
use tokio::time::sleep;
use warp::hyper::body::Bytes;
use warp::{Filter, Reply};

const VERSION: &str = "1";

#[tokio::main]
async fn main() {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3030".to_owned());
    let addr: SocketAddr = addr.parse().expect("ADDR is no address");
    let hello = warp::path::end().and(warp::get()).map(|| format!("version: {VERSION}\nhello from warp\n"));
    let receive = warp::path::end()
        .and(warp::post())
        .and(warp::body::bytes())
        .map(|body: Bytes| format!("version: {VERSION}\n{} bytes received\n", body.len()));
    let slow = warp::path!("slow").and(warp::get()).and(warp::query()).map(slow);
    warp::serve(hello.or(receive).or(slow)).run(addr).await;
}

fn slow(query: HashMap<String, u64>) -> impl Reply {
    let pause = Duration::from_millis(query.get("ms").copied().unwrap_or(0)) / 10;
    let first = format!("version: {VERSION}\nthis takes its time\n");
    let pieces = [first].into_iter().chain((2..=10).map(|n| format!("piece {n} of 10\n")));
    warp::reply::stream(stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Ok::<_, Infallible>(piece)
    }))
}
