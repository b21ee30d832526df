//! Calls the greeter at ADDR until its own standard input ends, and says what it has seen: each version when it is the first time,
//! each failure, and at the end how many calls of each kind there were and how many of them failed.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{env, time::Duration};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use zero_tonic::greeter_client::GreeterClient;
use zero_tonic::{Number, Request};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[derive(Default)]
struct Seen {
    versions: Mutex<BTreeSet<String>>,
    hellos: AtomicUsize,
    counts: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
}

#[tokio::main]
async fn main() {
    let addr = env::var("ADDR").expect("ADDR is not set");
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("ADDR is no address");
    let seen: &'static Seen = Box::leak(Box::default());
    let mut clients = JoinSet::new();
    for _ in 0..2 {
        clients.spawn(again_and_again(endpoint.clone(), seen, &seen.hellos, hello));
    }
    for _ in 0..4 {
        clients.spawn(again_and_again(endpoint.clone(), seen, &seen.counts, count));
    }
    tokio::io::stdin().read_to_end(&mut Vec::new()).await.expect("standard input");
    seen.stop.store(true, Ordering::SeqCst);
    clients.join_all().await;
    for (what, number) in [("hellos", &seen.hellos), ("counts", &seen.counts), ("failed", &seen.failed)] {
        println!("{what} {}", number.load(Ordering::SeqCst));
    }
}

/// Each call on a channel of its own, which is left when the call is over.
async fn again_and_again<F: Future<Output = Outcome>>(
    endpoint: Endpoint,
    seen: &'static Seen,
    calls: &'static AtomicUsize,
    call: impl Fn(GreeterClient<Channel>, &'static Seen) -> F,
) {
    while !seen.stop.load(Ordering::SeqCst) {
        let whole = async { call(GreeterClient::new(endpoint.connect().await?), seen).await };
        let outcome = timeout(Duration::from_secs(10), whole).await;
        calls.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = outcome.map_err(Into::into).and_then(|outcome| outcome) {
            seen.failed.fetch_add(1, Ordering::SeqCst);
            println!("failure: {error:?}");
        }
        // A little apart, so that the machine has time left to build.
        sleep(Duration::from_millis(5)).await;
    }
}

async fn hello(mut greeter: GreeterClient<Channel>, seen: &'static Seen) -> Outcome {
    let hello = greeter.hello(Request { name: "client".to_owned() }).await?.into_inner();
    if seen.versions.lock().unwrap().insert(hello.version.clone()) {
        println!("version {}", hello.version);
    }
    if hello.text == "hello, client" { Ok(()) } else { Err(format!("{hello:?}").into()) }
}

async fn count(mut greeter: GreeterClient<Channel>, _: &'static Seen) -> Outcome {
    let mut numbers = greeter.count(Request::default()).await?.into_inner();
    for expected in 1..=10 {
        match numbers.message().await? {
            Some(Number { number }) if number == expected => {}
            other => return Err(format!("{other:?} in place of {expected}").into()),
        }
    }
    match numbers.message().await? {
        None => Ok(()),
        more => Err(format!("{more:?} after the end").into()),
    }
}
