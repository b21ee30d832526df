//! A line protocol on tokio. Every line comes back with the generation that answers; after `watch` a line comes every so
//! often, until the client sends another one or leaves.
//!
//!     cargo run -p hotrun --example lines --features tokio        # says its pid
//!     nc 127.0.0.1 3000                                           # in another terminal; type `watch`
//!     kill -USR2 PID                                              # the next generation serves, the watch goes on

use hotrun::tokio::Conn;
use std::time::Duration;
use std::{env, io, process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> io::Result<()> {
    // The successor has a second to show that it stays, and whoever watches may go on here for an hour.
    let up = hotrun::builder().probation(Duration::from_secs(1)).drain_timeout(Duration::from_secs(3600)).init()?;
    let generation = up.generation();
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let mut lines = up.listen("lines", addr)?.into_tokio()?;
    eprintln!("generation {generation}, pid {}, on {}", process::id(), lines.local_addr()?);
    while let Some((conn, _)) = lines.accept().await? {
        tokio::spawn(serve(conn, generation, up.draining()));
    }
    eprintln!("generation {generation} leaves: {:?}", up.drained_async().await);
    Ok(())
}

async fn serve(conn: Conn<TcpStream>, generation: u32, mut draining: hotrun::Draining) -> io::Result<()> {
    let mut conn = BufReader::new(conn);
    let mut line = String::new();
    loop {
        // Between two lines, and nowhere else, is the time to leave; what has come is looked at first.
        tokio::select! {
            biased;
            more = conn.fill_buf() => if more?.is_empty() { break },
            () = &mut draining => break,
        }
        line.clear();
        conn.read_line(&mut line).await?;
        if line.trim() == "watch" {
            watch(&mut conn, generation).await?;
        } else {
            conn.write_all(format!("{generation} {line}").as_bytes()).await?;
        }
    }
    // The client reads an end of file, never a reset.
    conn.shutdown().await
}

async fn watch(conn: &mut BufReader<Conn<TcpStream>>, generation: u32) -> io::Result<()> {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    for number in 1.. {
        tokio::select! {
            _ = every.tick() => conn.write_all(format!("{generation} watch {number}\n").as_bytes()).await?,
            _ = conn.fill_buf() => break,
        }
    }
    Ok(())
}
