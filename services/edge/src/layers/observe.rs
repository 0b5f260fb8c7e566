//! A span around every request, child of the caller's where it sent a W3C `traceparent`, and its place in the metrics.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, Method};
use opentelemetry::{KeyValue, global, metrics::Histogram, propagation::Extractor};
use pulse_rpc::RequestContext;
use pulse_runtime::telemetry::{REQUEST_SPANS, meter};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The label of every path that is not served: strangers do not get to make labels up.
const NO_ROUTE: &str = "none";

/// The label of every method that HTTP does not know.
const OTHER_METHOD: &str = "_OTHER";

/// The status of a request whose caller went away before it was answered (as nginx has it).
const CALLER_LEFT: u16 = 499;

/// The metrics of a listener; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Observe(Histogram<f64>);

impl Observe {
    pub(crate) fn new() -> Self {
        let duration = meter("pulse-edge")
            .f64_histogram("http_server_request_duration")
            .with_unit("s")
            .with_description("How long requests take, by method, route and status")
            .build();
        Self(duration)
    }
}

/// The layer.
pub(crate) async fn observe(
    State(Observe(duration)): State<Observe>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut record =
        Record { duration, method: method(request.method()), route, start: Instant::now(), status: None };
    let span = span(&record, request.headers());
    let response = next.run(request).instrument(span.clone()).await;
    record.status = Some(response.status().as_u16());
    span.record("http.response.status_code", response.status().as_u16());
    let status = response.status().as_u16();
    tracing::debug!(parent: &span, status, method = record.method, route = record.route(), "answered");
    response
}

fn span(record: &Record, headers: &HeaderMap) -> Span {
    let span = tracing::debug_span!(
        target: REQUEST_SPANS,
        "http",
        otel.name = format!("{} {}", record.method, record.route()),
        otel.kind = "server",
        http.request.method = record.method,
        http.route = record.route(),
        http.response.status_code = Empty,
        request_id = Empty,
    );
    RequestContext::with(|context| span.record("request_id", context.request_id.as_str()));
    if headers.contains_key("traceparent") {
        let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
        // Fails where no traces are exported; then there is nothing to attach.
        let _ = span.set_parent(parent);
    }
    span
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => OTHER_METHOD,
    }
}

/// One request, counted when this is dropped: however a request ends, it ends exactly once.
#[derive(Debug)]
struct Record {
    duration: Histogram<f64>,
    method: &'static str,
    route: Option<MatchedPath>,
    start: Instant,
    status: Option<u16>,
}

impl Record {
    fn route(&self) -> &str {
        self.route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let labels = [
            KeyValue::new("method", self.method),
            KeyValue::new("route", self.route().to_owned()),
            KeyValue::new("status", i64::from(self.status.unwrap_or(CALLER_LEFT))),
        ];
        self.duration.record(self.start.elapsed().as_secs_f64(), &labels);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
