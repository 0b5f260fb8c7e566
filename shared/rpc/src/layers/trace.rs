//! A span around every request, child of the caller's where it sent a W3C `traceparent`.
//!
//! Spans exist where traces are exported, or where `PULSE_LOG` asks for them: one costs as much as a small request
//! does. Log lines have the request id without them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use opentelemetry::{global, propagation::Extractor};
use tower::Service;
use tracing::{Instrument as _, Span, field::Empty, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::methods::Methods;
use crate::RequestContext;

/// The header of the trace context (W3C Trace Context section 3.2).
const TRACEPARENT: &str = "traceparent";

/// The layer.
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S> Trace<S> {
    /// Spans are named after `methods`.
    pub const fn new(inner: S, methods: Arc<Methods>) -> Self {
        Self { inner, methods }
    }

    fn span<B>(&self, request: &Request<B>) -> Span {
        // Asked only where the span is wanted.
        let method = || self.methods.get(self.methods.find(request.uri().path()));
        let span = tracing::debug_span!(
            target: pulse_runtime::telemetry::REQUEST_SPANS,
            "rpc",
            otel.name = method().map(|method| method.path.trim_start_matches('/')),
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = method().map(|method| method.service.as_str()),
            rpc.method = method().map(|method| method.name.as_str()),
            rpc.grpc.status_code = Empty,
            request_id = RequestContext::current().as_ref().map(|context| context.request_id.as_str()),
        );
        if !span.is_disabled() && request.headers().contains_key(TRACEPARENT) {
            let parent =
                global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
            // Fails where no traces are exported; then there is nothing to attach.
            let _ = span.set_parent(parent);
        }
        span
    }
}

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let span = self.span(&request);
        if span.is_disabled() {
            return self.inner.call(request).instrument(span);
        }
        let inner = span.in_scope(|| self.inner.call(request));
        inner.instrument(span)
    }
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
