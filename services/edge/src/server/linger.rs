//! What a request's body still holds once its answer is decided.
//!
//! A server that answers and closes while the caller still sends makes the system reset the connection, and many a
//! caller then never sees why it was refused. So what is left is read and thrown away first, within bounds: a body
//! that goes on beyond them is cut off.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Version, header::EXPECT};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

/// The most that is thrown away, in bytes.
const MOST: usize = 1024 * 1024;

/// How long that may take.
const LONGEST: Duration = Duration::from_secs(2);

/// The request for a handler, and a hold on what the handler leaves of its body.
pub(super) fn split(request: Request<Incoming>) -> (Request<Body>, Rest) {
    // A stream of HTTP/2 is closed alone and in order, and a caller that waits for a go-ahead has not begun to send.
    let nothing_to_throw_away = request.body().is_end_stream()
        || request.version() >= Version::HTTP_2
        || request.headers().contains_key(EXPECT);
    if nothing_to_throw_away {
        return (request.map(Body::new), Rest(None));
    }
    let (parts, body) = request.into_parts();
    let shared = Shared(Arc::new(Mutex::new(body)));
    (Request::from_parts(parts, Body::new(shared.clone())), Rest(Some(shared)))
}

/// What is left of a body.
#[derive(Debug)]
pub(super) struct Rest(Option<Shared>);

impl Rest {
    /// Reads it to its end, or as far as the bounds allow.
    pub(super) async fn discard(self) {
        let Some(mut body) = self.0 else { return };
        let reading = async {
            let mut seen = 0;
            while seen < MOST
                && let Some(Ok(frame)) = body.frame().await
            {
                seen += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // Beyond the bounds the connection is cut off, which is what they are for.
        let _ = timeout(LONGEST, reading).await;
    }
}

/// A body that outlives the handler it was given to. Only one of its two holders ever reads.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Incoming>>);

impl Shared {
    fn with<T>(&self, read: impl FnOnce(&mut Incoming) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl http_body::Body for Shared {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}
