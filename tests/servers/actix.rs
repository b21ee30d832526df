//! A small actix-web server.

use actix_web::rt::time::sleep;
use actix_web::web::{Bytes, Query};
use actix_web::{App, HttpResponse, HttpServer, get, post};
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::convert::Infallible;
use std::{env, io, time::Duration};

const VERSION: &str = "1";

#[actix_web::main]
async fn main() -> io::Result<()> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let app = || App::new().service(hello).service(receive).service(slow);
    HttpServer::new(app).bind(addr)?.run().await
}

#[get("/")]
async fn hello() -> String {
    format!("version: {VERSION}\nhello from actix\n")
}

#[post("/")]
async fn receive(body: Bytes) -> String {
    format!("version: {VERSION}\n{} bytes received\n", body.len())
}

#[get("/slow")]
async fn slow(query: Query<HashMap<String, u64>>) -> HttpResponse {
    let pause = Duration::from_millis(query.get("ms").copied().unwrap_or(0)) / 10;
    let first = format!("version: {VERSION}\nthis takes its time\n");
    let pieces = [first].into_iter().chain((2..=10).map(|n| format!("piece {n} of 10\n")));
    HttpResponse::Ok().streaming(stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Ok::<_, Infallible>(Bytes::from(piece))
    }))
}
