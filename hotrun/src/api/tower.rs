//! A layer for tower's services, and so for axum, tonic and hyper: answers of a process that is leaving end their connection.
//! It is made by [`Upgrader::connection_close`]; connections that are idle are ended by the server itself, at
//! [`Upgrader::draining`].

use crate::Upgrader;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_layer::Layer;
use tower_service::Service;

/// A layer that adds `Connection: close` to answers while this process is leaving, from [`Upgrader::connection_close`].
#[derive(Debug, Clone)]
pub struct ConnectionClose {
    up: Upgrader,
}

/// A service that [`ConnectionClose`] was laid around.
#[derive(Debug, Clone)]
pub struct Closing<S> {
    inner: S,
    up: Upgrader,
}

pin_project! {
    /// The answer of a [`Closing`] service.
    #[derive(Debug)]
    pub struct ClosingFuture<F> {
        #[pin]
        inner: F,
        // None where the connection has no such header.
        up: Option<Upgrader>,
    }
}

impl ConnectionClose {
    pub(crate) fn new(up: Upgrader) -> Self {
        ConnectionClose { up }
    }
}

impl<S> Layer<S> for ConnectionClose {
    type Service = Closing<S>;

    fn layer(&self, inner: S) -> Closing<S> {
        Closing { inner, up: self.up.clone() }
    }
}

impl<S, A, B> Service<Request<A>> for Closing<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = ClosingFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let up = (request.version() < Version::HTTP_2).then(|| self.up.clone());
        ClosingFuture { inner: self.inner.call(request), up }
    }
}

impl<F, B, E> Future for ClosingFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(context))?;
        // Asked now: the answer may have taken longer than the hand-over.
        if this.up.as_ref().is_some_and(Upgrader::is_draining) {
            answer.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Bell;
    use crate::serving::Serving;
    use crate::serving::bound_path::BoundPaths;
    use crate::serving::lifecycle::{Lifecycle, Why};
    use crate::serving::register::Register;
    use crate::serving::unclaimed::Unclaimed;
    use crate::upstream::{Upstream, UpstreamKind};
    use nix::sys::eventfd::EventFd;
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::sync::{Arc, Mutex, mpsc};
    use std::task::Waker;

    /// One that nobody has started, with the state that it goes by.
    fn upgrader() -> (Upgrader, Arc<Lifecycle>) {
        let state = Lifecycle::new().unwrap();
        let bell = Bell { event: Arc::new(EventFd::new().unwrap()), requests: mpsc::channel().0 };
        let serving = Serving {
            state: Arc::clone(&state),
            upstream: Upstream::new(None, UpstreamKind::Nobody, None, None, bell),
            paths: BoundPaths::default(),
            register: Register::default(),
            unclaimed: Unclaimed::default(),
            generation: 1,
            predecessor: None,
            inherited_files: Mutex::default(),
            inherited_state: Mutex::default(),
        };
        (Upgrader { serving: Arc::new(serving) }, state)
    }

    /// Answers with what it was asked with.
    struct Mirror;

    impl Service<Request<()>> for Mirror {
        type Response = Response<()>;
        type Error = Infallible;
        type Future = Ready<Result<Response<()>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            let mut answer = Response::new(());
            *answer.headers_mut() = request.headers().clone();
            ready(Ok(answer))
        }
    }

    fn finish<F: Future>(future: F) -> F::Output {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn connection(service: &mut Closing<Mirror>, version: Version, own: Option<&str>) -> Option<String> {
        let mut request = Request::builder().version(version);
        if let Some(own) = own {
            request = request.header(CONNECTION, own);
        }
        let answer = finish(service.call(request.body(()).unwrap())).unwrap();
        answer.headers().get(CONNECTION).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_a_process_that_is_leaving_closes_and_only_http_1_says_so() {
        let (up, state) = upgrader();
        let mut service = up.connection_close().layer(Mirror);
        for step in [|_: &Lifecycle| {}, |state: &Lifecycle| state.pause(&[])] {
            step(&state);
            assert_eq!(connection(&mut service, Version::HTTP_11, None), None, "it may come back");
        }
        state.stop_accepting(Why::Upgraded, &[]);
        for (version, own, expected) in [
            (Version::HTTP_10, None, Some("close")),
            (Version::HTTP_11, None, Some("close")),
            (Version::HTTP_11, Some("upgrade"), Some("upgrade")),
            (Version::HTTP_2, None, None),
            (Version::HTTP_3, None, None),
        ] {
            assert_eq!(connection(&mut service, version, own).as_deref(), expected, "{version:?} {own:?}");
        }
    }

    #[test]
    fn an_answer_that_was_begun_before_says_it_too() {
        let (up, state) = upgrader();
        let answer = up.connection_close().layer(Mirror).call(Request::new(()));
        state.stop_accepting(Why::Stopped, &[]);
        assert_eq!(finish(answer).unwrap().headers()[CONNECTION], "close");
    }
}
