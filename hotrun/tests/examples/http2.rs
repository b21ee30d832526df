//! Clients for HTTP/2 and gRPC, over hyper's own.

use crate::LONG;
use crate::load::{Answer, Client};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use tokio::runtime::Runtime;

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn wait<F: Future>(future: F) -> F::Output {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().unwrap());
    runtime.block_on(async { tokio::time::timeout(LONG, future).await.unwrap() })
}

/// Asks with `GET /`.
pub struct Http2(SendRequest<Body>);

impl Http2 {
    fn send(&mut self, request: Request<Body>) -> Option<Response<Incoming>> {
        wait(async {
            self.0.ready().await.ok()?;
            match self.0.try_send_request(request).await {
                Ok(answer) => Some(answer),
                Err(mut error) => match error.take_message() {
                    // It has not been sent: GOAWAY was there first.
                    Some(_) => None,
                    None => panic!("{:?}", error.into_error()),
                },
            }
        })
    }
}

impl Client for Http2 {
    fn connect(address: SocketAddr) -> Self {
        let stream = wait(tokio::net::TcpStream::connect(address)).unwrap();
        let (client, connection) = wait(handshake(TokioExecutor::new(), TokioIo::new(stream))).unwrap();
        wait(async { drop(tokio::spawn(connection)) });
        Http2(client)
    }

    fn ask(&mut self) -> Option<Answer> {
        let answer = self.send(Request::get("http://x/").body(Empty::new().boxed_unsync()).unwrap())?;
        assert_eq!(answer.status(), 200);
        let body = wait(answer.into_body().collect()).unwrap().to_bytes();
        let generation = std::str::from_utf8(&body).unwrap().trim().parse().unwrap();
        Some(Answer { generation, last: false })
    }
}

/// A request and its answer that go on, piece by piece.
pub struct Http2Echo {
    sender: Sender<Bytes>,
    answer: Incoming,
    _client: Http2,
}

impl Http2Echo {
    pub fn open(address: SocketAddr) -> Self {
        let mut client = Http2::connect(address);
        let (sender, body) = Channel::new(1);
        let answer = client.send(Request::post("http://x/echo").body(body.boxed_unsync()).unwrap()).unwrap();
        Http2Echo { sender, answer: answer.into_body(), _client: client }
    }

    pub fn echoes(&mut self) {
        wait(self.sender.send_data(Bytes::from_static(b"hello\n"))).unwrap();
        assert_eq!(next(&mut self.answer).unwrap(), "hello\n");
    }

    pub fn close(self) {
        let Http2Echo { sender, answer, _client } = self;
        drop(sender);
        assert_eq!(wait(answer.collect()).unwrap().to_bytes(), "", "the end, and nothing that was not asked for");
    }
}

/// The next piece of an answer.
fn next(answer: &mut Incoming) -> Option<Bytes> {
    wait(answer.frame()).map(|frame| frame.unwrap().into_data().unwrap())
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
pub const SERVING: u8 = 1;
pub const NOT_SERVING: u8 = 2;

/// Asks with the health service's `Check`, by hand: a message of gRPC is five bytes of length, and protobuf.
pub struct Health(Http2);

impl Health {
    fn call(&mut self, method: &str) -> Option<Response<Incoming>> {
        // About the whole server, which is the empty name, and so the empty message.
        let request = Request::post(format!("http://x/grpc.health.v1.Health/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::from(vec![0; 5]).boxed_unsync());
        let answer = self.0.send(request.unwrap())?;
        assert_eq!(answer.status(), 200);
        Some(answer)
    }
}

impl Client for Health {
    fn connect(address: SocketAddr) -> Self {
        Health(Http2::connect(address))
    }

    fn ask(&mut self) -> Option<Answer> {
        let answer = self.call("Check")?;
        let generation = answer.headers()["generation"].to_str().unwrap().parse().unwrap();
        let whole = wait(answer.into_body().collect()).unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
        let status = status(&whole.to_bytes());
        // A process that is leaving says so.
        assert!(status == SERVING || generation == 1, "{status}");
        Some(Answer { generation, last: false })
    }
}

/// The health service's `Watch`.
pub struct HealthWatch {
    answer: Incoming,
    _client: Health,
}

impl HealthWatch {
    pub fn open(address: SocketAddr) -> Self {
        let mut client = Health::connect(address);
        let answer = client.call("Watch").unwrap().into_body();
        HealthWatch { answer, _client: client }
    }

    /// The next one it hears of.
    pub fn status(&mut self) -> u8 {
        status(&next(&mut self.answer).unwrap())
    }
}

/// The status is field 1, a varint.
fn status(message: &[u8]) -> u8 {
    assert_eq!(message[..6], [0, 0, 0, 0, 2, 0x08], "{message:?}");
    message[6]
}
