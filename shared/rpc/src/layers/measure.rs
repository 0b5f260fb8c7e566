//! Counts every request once, with how long it took until its last byte and the code it ended with.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::Service;
use tracing::{Span, level_filters::LevelFilter};

use super::methods::{MethodId, Methods};

/// The header or trailer that holds the code.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The layer.
#[derive(Debug, Clone)]
pub struct Measure<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S> Measure<S> {
    /// Counts into `methods`.
    pub const fn new(inner: S, methods: Arc<Methods>) -> Self {
        Self { inner, methods }
    }
}

impl<S, B> Service<Request<B>> for Measure<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = MeasuredFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let record = Record {
            methods: Arc::clone(&self.methods),
            method: self.methods.find(request.uri().path()),
            start: Instant::now(),
            span: current_span(),
            code: None,
        };
        MeasuredFuture { inner: self.inner.call(request), record: Some(record) }
    }
}

/// The span of the request; looking for it costs something, so only where there may be one.
fn current_span() -> Span {
    if LevelFilter::current() >= LevelFilter::DEBUG { Span::current() } else { Span::none() }
}

/// One request, counted when this is dropped: however a request ends, it ends exactly once.
#[derive(Debug)]
struct Record {
    methods: Arc<Methods>,
    method: MethodId,
    start: Instant,
    span: Span,
    code: Option<Code>,
}

impl Record {
    /// Takes note of the code where these headers or trailers have one.
    fn note(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get(GRPC_STATUS) {
            self.code = Some(Code::from_bytes(value.as_bytes()));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Dropped before there was a status: the caller went away.
        let code = self.code.unwrap_or(Code::Cancelled);
        self.span.record("rpc.grpc.status_code", i32::from(code));
        self.methods.record(self.method, code, self.start.elapsed());
    }
}

pin_project! {
    /// The head of the answer on its way.
    #[derive(Debug)]
    pub struct MeasuredFuture<F> {
        #[pin]
        inner: F,
        record: Option<Record>,
    }
}

impl<F, E> Future for MeasuredFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let Some(mut record) = this.record.take() else { return Poll::Ready(Ok(response)) };
        record.note(response.headers());
        if record.code.is_some() {
            return Poll::Ready(Ok(response));
        }
        Poll::Ready(Ok(response.map(|inner| Body::new(MeasuredBody { inner, record }))))
    }
}

pin_project! {
    /// A body that looks at its trailers as they pass.
    struct MeasuredBody {
        #[pin]
        inner: Body,
        record: Record,
    }
}

impl http_body::Body for MeasuredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.record.note(trailers);
                }
            }
            Some(Err(status)) => this.record.code = Some(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
