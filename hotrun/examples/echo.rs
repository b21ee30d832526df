//! A line server on std, with a thread a connection: every line comes back with the generation that answers.
//!
//!     cargo run -p hotrun --example echo      # says its pid
//!     nc 127.0.0.1 3000                       # in another terminal
//!     kill -USR2 PID                          # the next generation serves; `cat echo.pid` has its number
//!     kill -HUP PID                           # new configuration without a new process

use hotrun::{Conn, Signal};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{env, process, thread};

fn main() -> io::Result<()> {
    let up = hotrun::builder()
        .probation(Duration::from_secs(1)) // so long may this process come back
        .pid_file("echo.pid")
        .reload_on(&[Signal::SIGHUP])
        .init()?;
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let lines = up.listen("lines", addr)?;
    let generation = up.generation();
    let reloads = up.reloads();
    thread::spawn(move || {
        // A service manager is told that the reload is over when `_reload` is dropped.
        for _reload in reloads {
            eprintln!("generation {generation} reads its configuration");
        }
    });
    eprintln!("generation {generation}, pid {}, on {}", process::id(), lines.local_addr()?);
    for conn in lines.incoming() {
        let conn = conn?;
        thread::spawn(move || serve(conn, generation));
    }
    eprintln!("generation {generation} leaves: {:?}", up.drained());
    Ok(())
}

fn serve(conn: Conn<TcpStream>, generation: u32) -> io::Result<()> {
    let mut input = BufReader::new(&conn);
    let mut line = String::new();
    // `more` looks at the socket; the next line may be in the buffer already.
    while !input.buffer().is_empty() || conn.more()? {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            break;
        }
        (&conn).write_all(format!("{generation} {line}").as_bytes())?;
    }
    conn.finish()
}
