//! A panic in a handler is logged and answers `INTERNAL`; it takes neither the connection nor its message along.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::future::{CatchUnwind, FutureExt as _};
use http::{Request, Response};
use pin_project_lite::pin_project;
use pulse_kernel::ApiError;
use tonic::body::Body;
use tower::Service;

use super::refusal;
use crate::RequestContext;

/// The layer.
#[derive(Debug, Clone)]
pub struct CatchPanic<S> {
    inner: S,
}

impl<S> CatchPanic<S> {
    /// Catches the panics of `inner`.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for CatchPanic<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CaughtFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Nothing of a request that panicked is used again, so broken invariants inside it harm nobody.
        let called = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        let inner = called.map(|inner| AssertUnwindSafe(inner).catch_unwind());
        CaughtFuture { inner: inner.inspect_err(|panic| log(panic.as_ref())).ok() }
    }
}

pin_project! {
    /// The answer on its way; without an inner future, the one in its place.
    pub struct CaughtFuture<F> {
        #[pin]
        inner: Option<CatchUnwind<AssertUnwindSafe<F>>>,
    }
}

impl<F, E> Future for CaughtFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().inner.as_pin_mut() {
            Some(inner) => match ready!(inner.poll(cx)) {
                Ok(done) => Poll::Ready(done),
                Err(panic) => {
                    log(panic.as_ref());
                    Poll::Ready(Ok(refusal(&ApiError::internal())))
                }
            },
            None => Poll::Ready(Ok(refusal(&ApiError::internal()))),
        }
    }
}

fn log(panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let context = RequestContext::current();
    let request_id = context.as_ref().map(|context| context.request_id.as_str());
    tracing::error!(request_id, panic = text.unwrap_or("without a message"), "a handler panicked");
}
