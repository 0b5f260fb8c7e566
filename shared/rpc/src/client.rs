//! Channels to other services, which carry the request in hand along: its id, its trace and what is left of its time.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{global, propagation::Injector};
use pulse_kernel::{ApiError, Ids, Reason};
use tonic::{
    Request, Status,
    metadata::MetadataMap,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Endpoint,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    RequestContext, RequestId,
    context::{REQUEST_ID, request_ids},
    layers::scope::{GRPC_TIMEOUT, format_grpc_timeout},
    to_status,
};

/// What generated clients of this system are made with.
pub type Channel = InterceptedService<tonic::transport::Channel, Propagate>;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an idle connection is checked, and how long the other end may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// How long a call may take where neither the call nor the request in hand says so.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The URL of a service is not one.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not the URL of a gRPC service; expected such as http://127.0.0.1:50051")]
pub struct InvalidUrl {
    url: String,
    #[source]
    source: Option<tonic::transport::Error>,
}

/// A channel to the service at `url`. It connects when it is first used and again whenever it has to, so the order in
/// which services start does not matter. Must be called within a tokio runtime; clones share the connection.
///
/// # Errors
/// When `url` is not an `http` or `https` URL with a host.
pub fn channel(url: &str) -> Result<Channel, InvalidUrl> {
    let invalid = |source| InvalidUrl { url: url.to_owned(), source };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| invalid(Some(error)))?;
    if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) || endpoint.uri().host().is_none() {
        return Err(invalid(None));
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true);
    Ok(propagating(endpoint.connect_lazy()))
}

/// A channel over a transport made elsewhere, such as an in-memory one in a test.
pub fn propagating(transport: tonic::transport::Channel) -> Channel {
    InterceptedService::new(transport, Propagate { ids: request_ids() })
}

/// Puts the request in hand on every call that is made for it. What a call sets itself stays.
#[derive(Debug, Clone)]
pub struct Propagate {
    ids: Ids,
}

impl Interceptor for Propagate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let (metadata, extensions, ()) = request.into_parts();
        let mut headers = metadata.into_headers();
        let context = RequestContext::current();

        headers.entry(REQUEST_ID).or_insert_with(|| {
            let known = context.as_ref().map(|context| context.request_id.to_header());
            known.unwrap_or_else(|| RequestId::generate(&self.ids).to_header())
        });
        let left = context.as_ref().and_then(RequestContext::remaining);
        if left == Some(Duration::ZERO) {
            let error = ApiError::new(Reason::DeadlineExceeded, "the request did not finish in time");
            return Err(to_status(&error));
        }
        headers.entry(GRPC_TIMEOUT).or_insert_with(|| {
            let text = format_grpc_timeout(left.unwrap_or(DEFAULT_TIMEOUT));
            HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("10S"))
        });
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&Span::current().context(), &mut Headers(&mut headers));
        });
        Ok(Request::from_parts(MetadataMap::from_headers(headers), extensions, ()))
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn propagate(metadata: MetadataMap) -> Result<MetadataMap, Status> {
        let request = Request::from_parts(metadata, tonic::Extensions::default(), ());
        Propagate { ids: request_ids() }.call(request).map(|request| request.into_parts().0)
    }

    fn context(left: Duration) -> RequestContext {
        let request_id = RequestId::accept(&HeaderValue::from_static("req-1")).unwrap();
        RequestContext { request_id, deadline: Some(Instant::now() + left) }
    }

    #[tokio::test(start_paused = true)]
    async fn passes_on_the_request_in_hand() {
        let sent = context(Duration::from_secs(3)).sync_scope(|| propagate(MetadataMap::new())).unwrap();
        assert_eq!(sent.get("x-request-id").unwrap(), "req-1");
        assert_eq!(sent.get("grpc-timeout").unwrap(), "3000000u");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_request_in_hand_there_is_still_an_id_and_a_timeout() {
        let sent = propagate(MetadataMap::new()).unwrap();
        assert_eq!(sent.get("x-request-id").unwrap().len(), 36);
        assert_eq!(sent.get("grpc-timeout").unwrap(), "10000000u");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_keeps_what_it_sets_itself_and_none_is_made_too_late() {
        let mut own = MetadataMap::new();
        own.insert("grpc-timeout", "1S".parse().unwrap());
        let sent = context(Duration::from_secs(3)).sync_scope(|| propagate(own)).unwrap();
        assert_eq!(sent.get("grpc-timeout").unwrap(), "1S");
        let late = context(Duration::ZERO).sync_scope(|| propagate(MetadataMap::new())).unwrap_err();
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn refuses_what_is_not_a_url_of_a_service() {
        for url in ["", "127.0.0.1:50051", "ftp://a:1", "http://", "not a url"] {
            assert!(channel(url).is_err(), "{url}");
        }
        assert!(channel("http://127.0.0.1:50051").is_ok());
    }
}
