//! An axum server with a WebSocket. Requests move to the next generation at once; a WebSocket stays where it was opened
//! until its client closes it.
//!
//!     cargo run -p hotrun --example axum --features axum,tower    # says its pid
//!     curl http://127.0.0.1:3000/                                 # in another terminal: the generation that answers
//!     websocat ws://127.0.0.1:3000/ws                             # every message comes back, with the generation
//!     kill -USR2 PID                                              # the next generation serves

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::{any, get};
use std::{env, io, process};

#[tokio::main]
async fn main() -> io::Result<()> {
    let up = hotrun::init()?;
    let generation = up.generation();
    let app = Router::new()
        .route("/", get(move || async move { format!("{generation}\n") }))
        .route("/ws", any(move |ws: WebSocketUpgrade| async move { ws.on_upgrade(move |ws| echo(ws, generation)) }))
        // The last: it is for every answer. A busy client hears in its next answer that it should connect anew.
        .layer(up.connection_close());
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let http = up.listen("http", addr)?.into_tokio()?;
    eprintln!("generation {generation}, pid {}, on {}", process::id(), http.local_addr()?);
    axum::serve(http, app).with_graceful_shutdown(up.draining()).await?;
    // axum no longer counts a connection that has become a WebSocket; hotrun does.
    eprintln!("generation {generation} leaves: {:?}", up.drained_async().await);
    Ok(())
}

async fn echo(mut ws: WebSocket, generation: u32) {
    while let Some(Ok(message)) = ws.recv().await {
        if let Message::Text(text) = message {
            if ws.send(format!("{generation} {text}").into()).await.is_err() {
                break;
            }
        }
    }
}
