//! A small gRPC server.

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use std::{env, time::Duration};
use tokio::time::sleep;
use tonic::{Response, Result, transport::Server};
use zero_tonic::greeter_server::{Greeter, GreeterServer};
use zero_tonic::{Hello, Number, Request};

const VERSION: &str = "1";

struct Service;

#[tonic::async_trait]
impl Greeter for Service {
    async fn hello(&self, request: tonic::Request<Request>) -> Result<Response<Hello>> {
        let text = format!("hello, {}", request.into_inner().name);
        Ok(Response::new(Hello { version: VERSION.to_owned(), text }))
    }

    type CountStream = BoxStream<'static, Result<Number>>;

    async fn count(&self, _: tonic::Request<Request>) -> Result<Response<Self::CountStream>> {
        let later = |number| sleep(Duration::from_millis(100)).map(move |()| Ok(Number { number }));
        Ok(Response::new(stream::iter(1..=10).then(later).boxed()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:50051".to_owned());
    Server::builder().add_service(GreeterServer::new(Service)).serve(addr.parse()?).await?;
    Ok(())
}
