//! An actix-web server. It accepts by itself, so it is told when to: `up.accepting()` says. `POST /echo` gives back what
//! it gets while it gets it.
//!
//!     cargo run -p hotrun --example actix --features tokio        # says its pid
//!     curl http://127.0.0.1:3000/                                 # in another terminal: the generation that answers
//!     kill -USR2 PID                                              # the next generation serves

use actix_web::dev::Service;
use actix_web::http::ConnectionType;
use actix_web::{rt, web, App, HttpResponse, HttpServer};
use hotrun::Accepting;
use std::{env, io, process};

#[actix_web::main]
async fn main() -> io::Result<()> {
    let up = hotrun::init()?;
    let generation = up.generation();
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let http = up.listen("http", addr)?;
    let on = http.local_addr()?;
    let app = {
        let up = up.clone();
        move || {
            let up = up.clone();
            App::new()
                .route("/", web::get().to(move || async move { format!("{generation}\n") }))
                .route("/echo", web::post().to(|body: web::Payload| async { HttpResponse::Ok().streaming(body) }))
                // actix finishes every connection when it stops, but ends none that is kept busy.
                .wrap_fn(move |request, app| {
                    let (answer, up) = (app.call(request), up.clone());
                    async move {
                        let mut answer = answer.await?;
                        if up.is_draining() {
                            answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
                        }
                        Ok(answer)
                    }
                })
        }
    };
    // Signals are hotrun's.
    let server = HttpServer::new(app).disable_signals().listen(http.into_std()?)?.run();
    let handle = server.handle();
    let mut accepting = up.accepting();
    rt::spawn({
        let up = up.clone();
        async move {
            // Answered once the server runs: only now may the generation before stop.
            handle.resume().await;
            eprintln!("generation {generation}, pid {}, on {on}", process::id());
            up.ready()?;
            loop {
                match accepting.changed().await {
                    Accepting::Open => handle.resume().await,
                    Accepting::Paused => handle.pause().await,
                    // Waits for the connections there are.
                    _ => break handle.stop(true).await,
                }
            }
            io::Result::Ok(())
        }
    });
    server.await?;
    eprintln!("generation {generation} leaves: {:?}", up.drained_async().await);
    Ok(())
}
