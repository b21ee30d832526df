//! An actix-web server. It accepts by itself, so it is told when to: `up.accepting()` says. `POST /echo` gives back what
//! it gets while it gets it.
//!
//!     cargo run -p hotrun --example actix --features tokio        # says its pid
//!     curl http://127.0.0.1:3000/                                 # in another terminal: the generation that answers
//!     kill -USR2 PID                                              # the next generation serves

use actix_web::dev::Service;
use actix_web::http::ConnectionType;
use actix_web::{App, HttpResponse, HttpServer, rt, web};
use hotrun::Accepting;
use std::{env, io, process};

#[actix_web::main]
async fn main() -> io::Result<()> {
    let up = hotrun::init()?;
    let generation = up.generation();
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let http = up.listen("http", addr)?;
    let on = http.local_addr()?;
    let leaving = up.clone();
    let app = move || {
        let leaving = leaving.clone();
        App::new()
            .route("/", web::get().to(move || async move { format!("{generation}\n") }))
            .route("/echo", web::post().to(|body: web::Payload| async { HttpResponse::Ok().streaming(body) }))
            // A busy client hears in its next answer that it should connect anew; idle connections end after keep_alive().
            .wrap_fn(move |request, app| {
                let (answer, leaving) = (app.call(request), leaving.clone());
                async move {
                    let mut answer = answer.await?;
                    if leaving.is_draining() {
                        answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
                    }
                    Ok(answer)
                }
            })
    };
    let counts = up.clone();
    let server = HttpServer::new(app)
        // Dropped with the connection: `drained` waits for it.
        .on_connect(move |_, connection| drop(connection.insert(counts.guard())))
        .disable_signals() // they are hotrun's
        .listen(http.into_std()?)?
        .run();
    let handle = server.handle();
    let mut server = rt::spawn(server);
    handle.resume().await; // answered once the server runs: only now may the generation before stop
    eprintln!("generation {generation}, pid {}, on {on}", process::id());
    up.ready()?;
    let mut accepting = up.accepting();
    loop {
        let now = tokio::select! {
            now = accepting.changed() => now,
            failed = &mut server => return failed?,
        };
        match now {
            Accepting::Open => handle.resume().await,
            Accepting::Paused => handle.pause().await,
            _ => break handle.pause().await,
        }
    }
    let reason = up.drained_async().await;
    // Not `true`: whatever is left has had its time.
    handle.stop(false).await;
    eprintln!("generation {generation} leaves: {reason:?}");
    Ok(())
}
