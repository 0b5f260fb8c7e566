//! Ends a request at its deadline: the caller's `grpc-timeout`, or the server's own bound where that is sooner.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use pulse_kernel::{ApiError, Reason};
use tokio::time::Sleep;
use tonic::body::Body;
use tower::Service;

use super::refusal;
use crate::RequestContext;

/// The layer. It bounds the time to the head of the answer; a server stream may then go on, for as long as its caller wants.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    /// Ends the requests to `inner` at the deadline of their [`RequestContext`].
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        DeadlineFuture { inner: self.inner.call(request), timer: None }
    }
}

pin_project! {
    /// The answer on its way.
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        #[pin]
        inner: F,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            return Poll::Ready(answer);
        }
        // A timer is made only for handlers that wait: an answer from memory pays nothing for its deadline.
        let timer = match this.timer {
            Some(timer) => timer,
            None => match RequestContext::with(|context| context.deadline).flatten() {
                Some(deadline) => this.timer.insert(Box::pin(tokio::time::sleep_until(deadline))),
                None => return Poll::Pending,
            },
        };
        timer.as_mut().poll(cx).map(|()| {
            let error = ApiError::new(Reason::DeadlineExceeded, "the request did not finish in time");
            Ok(refusal(&error))
        })
    }
}
