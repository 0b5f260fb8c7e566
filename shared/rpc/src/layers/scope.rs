//! Gives every request its [`RequestContext`], and the answer the request's id.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Request, Response};
use pin_project_lite::pin_project;
use tokio::{task::futures::TaskLocalFuture, time::Instant};
use tower::Service;

use crate::{
    RequestContext, RequestId,
    context::{REQUEST_ID, REQUEST_IDS},
};

/// The header that carries how long a gRPC caller waits.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The layer.
#[derive(Debug, Clone)]
pub struct RequestScope<S> {
    inner: S,
    request_timeout: Duration,
}

impl<S> RequestScope<S> {
    /// Requests without a sane id get a new one; none may take longer than `request_timeout`.
    pub const fn new(inner: S, request_timeout: Duration) -> Self {
        Self { inner, request_timeout }
    }
}

impl<S, B, R> Service<Request<B>> for RequestScope<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ScopedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request_id = RequestId::of(request.headers(), &REQUEST_IDS);
        let timeout = grpc_timeout(request.headers())
            .map_or(self.request_timeout, |asked| asked.min(self.request_timeout));
        let deadline = Instant::now().checked_add(timeout);
        let context = RequestContext { request_id, deadline };
        // Layers below may already ask for the context when they are called, not only when polled.
        let inner = context.clone().sync_scope(|| self.inner.call(request));
        ScopedFuture { inner: context.scope(inner) }
    }
}

pin_project! {
    /// The answer on its way.
    #[derive(Debug)]
    pub struct ScopedFuture<F> {
        #[pin]
        inner: TaskLocalFuture<RequestContext, F>,
    }
}

impl<F, R, E> Future for ScopedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.project().inner;
        let mut answer = ready!(inner.as_mut().poll(cx));
        if let (Ok(response), Some(context)) = (&mut answer, inner.take_value()) {
            response.headers_mut().insert(REQUEST_ID, context.request_id.to_header());
        }
        Poll::Ready(answer)
    }
}

/// How long the caller waits (gRPC over HTTP/2: at most 8 digits and a unit); a malformed value counts as none.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The wire form of a timeout: the finest unit in which it takes at most 8 digits.
pub(crate) fn format_grpc_timeout(timeout: Duration) -> String {
    const MAX: u128 = 99_999_999;
    for (unit, count) in [
        ('n', timeout.as_nanos()),
        ('u', timeout.as_micros()),
        ('m', timeout.as_millis()),
        ('S', timeout.as_secs().into()),
        ('M', (timeout.as_secs() / 60).into()),
    ] {
        if count <= MAX {
            return format!("{count}{unit}");
        }
    }
    format!("{}H", u128::from(timeout.as_secs() / 3600).min(MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<Duration> {
        let value = http::HeaderValue::from_str(text).ok()?;
        grpc_timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT, value)]))
    }

    #[test]
    fn reads_every_unit_and_ignores_malformed_timeouts() {
        assert_eq!(read("2H"), Some(Duration::from_hours(2)));
        assert_eq!(read("3M"), Some(Duration::from_mins(3)));
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "1", "100000000S", "-1S", "+1S", "1.5S", "1s", "1é"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_timeout_crosses_the_wire_without_ever_growing(nanos in 0..10_u64.pow(18)) {
            let timeout = Duration::from_nanos(nanos);
            let wire = format_grpc_timeout(timeout);
            let back = read(&wire).unwrap();
            prop_assert!(back <= timeout, "{wire}");
            prop_assert!(timeout.as_secs_f64() - back.as_secs_f64() <= timeout.as_secs_f64() * 1e-5, "{wire}");
        }
    }
}
