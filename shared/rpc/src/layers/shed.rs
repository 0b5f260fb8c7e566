//! Bounds the requests in flight. What is too much is refused at once, which costs next to nothing; a queue would
//! only hide the overload until every caller in it has given up.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use pulse_kernel::{ApiError, Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{body::Body, server::NamedService};
use tonic_health::server::HealthService;
use tower::Service;

use super::refusal;

/// What a refused caller is told to wait.
const RETRY: Duration = Duration::from_secs(1);

/// The layer. A server stream holds its place until its head is sent; streams are bounded by the transport, and those that
/// last by their [hub](crate::watch::Hub).
#[derive(Debug, Clone)]
pub struct LoadShed<S> {
    inner: S,
    in_flight: Arc<Semaphore>,
}

impl<S> LoadShed<S> {
    /// Admits as many requests at a time as `in_flight` has permits.
    pub const fn new(inner: S, in_flight: Arc<Semaphore>) -> Self {
        Self { inner, in_flight }
    }
}

impl<S, B> Service<Request<B>> for LoadShed<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ShedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let place = if exempt(request.uri().path()) {
            None
        } else {
            match Arc::clone(&self.in_flight).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return ShedFuture { inner: None, place: None },
            }
        };
        ShedFuture { inner: Some(self.inner.call(request)), place }
    }
}

/// Health checks always get through: a busy server that its orchestrator restarts gets no less busy.
fn exempt(path: &str) -> bool {
    let service = <tonic_health::pb::health_server::HealthServer<HealthService> as NamedService>::NAME;
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(service))
        .is_some_and(|rest| rest.starts_with('/'))
}

pin_project! {
    /// The answer on its way; without an inner future, the refusal.
    #[derive(Debug)]
    pub struct ShedFuture<F> {
        #[pin]
        inner: Option<F>,
        place: Option<OwnedSemaphorePermit>,
    }
}

impl<F, E> Future for ShedFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(inner) = this.inner.as_pin_mut() {
            let answer = ready!(inner.poll(cx));
            drop(this.place.take());
            return Poll::Ready(answer);
        }
        let error = ApiError::new(Reason::Overloaded, "the service is at its capacity; try again");
        Poll::Ready(Ok(refusal(&error.retry_after(RETRY))))
    }
}
