//! A gRPC server with the standard health service, as axum serves it. A client hears GOAWAY and opens its next stream at
//! the next generation; a `Watch` stays where it was opened, and hears NOT_SERVING there.
//!
//!     cargo run -p hotrun --example tonic --features axum         # says its pid
//!     grpc_health_probe -addr 127.0.0.1:3000                      # in another terminal
//!     kill -USR2 PID                                              # the next generation serves

use axum::http::HeaderValue;
use axum::middleware::map_response;
use axum::response::Response;
use std::{env, io, process};
use tonic::service::Routes;
use tonic_health::ServingStatus;

#[tokio::main]
async fn main() -> io::Result<()> {
    let up = hotrun::init()?;
    let generation = up.generation();
    let (health, service) = tonic_health::server::health_reporter();
    tokio::spawn({
        let draining = up.draining();
        async move {
            draining.await;
            health.set_service_status("", ServingStatus::NotServing).await;
        }
    });
    let app = Routes::new(service).into_axum_router().layer(map_response(move |mut answer: Response| async move {
        answer.headers_mut().insert("generation", HeaderValue::from(generation));
        answer
    }));
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let grpc = up.listen("grpc", addr)?.into_tokio()?;
    eprintln!("generation {generation}, pid {}, on {}", process::id(), grpc.local_addr()?);
    axum::serve(grpc, app).with_graceful_shutdown(up.draining()).await?;
    eprintln!("generation {generation} leaves: {:?}", up.drained_async().await);
    Ok(())
}
