//! A small Rocket server.

use rocket::data::{Data, ToByteUnit};
use rocket::response::stream::TextStream;
use rocket::tokio::time::sleep;
use rocket::{get, launch, post, routes};
use std::net::SocketAddr;
use std::{env, io, time::Duration};

const VERSION: &str = "1";

#[launch]
fn rocket() -> _ {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".to_owned());
    let addr: SocketAddr = addr.parse().expect("ADDR is no address");
    let config = rocket::Config::figment().merge(("address", addr.ip())).merge(("port", addr.port()));
    rocket::custom(config).mount("/", routes![hello, receive, slow])
}

#[get("/")]
fn hello() -> String {
    format!("version: {VERSION}\nhello from Rocket\n")
}

#[post("/", data = "<body>")]
async fn receive(body: Data<'_>) -> io::Result<String> {
    let body = body.open(1.mebibytes()).into_bytes().await?;
    Ok(format!("version: {VERSION}\n{} bytes received\n", body.len()))
}

#[get("/slow?<ms>")]
fn slow(ms: u64) -> TextStream![String] {
    TextStream! {
        for n in 1..=10 {
            sleep(Duration::from_millis(ms) / 10).await;
            yield match n {
                1 => format!("version: {VERSION}\nthis takes its time\n"),
                n => format!("piece {n} of 10\n"),
            };
        }
    }
}
