//! What belongs to the request in hand: its id and its deadline.
//!
//! The outermost layer of a server puts a [`RequestContext`] into a task-local; errors and logs read the id from
//! it, client channels pass both on. Work that a handler spawns has no context unless it takes one along with
//! [`RequestContext::scope`].

use std::{
    fmt,
    future::Future,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use pulse_kernel::{Entropy, Ids, SystemClock};
use rand::Rng as _;
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Instant, timeout_at},
};

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// The header, and metadata key, that carries a request's id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The same, ready to be looked up.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID_HEADER);

/// The longest request id taken from a caller, in bytes.
const MAX_BYTES: usize = 128;

/// Finds a request again in the logs of every service that it passed: 1 to 128 of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Takes a caller's id, if it is a sane one. Anything else could forge log lines or bloat them.
    pub fn accept(value: &HeaderValue) -> Option<Self> {
        let sane = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let bytes = value.as_bytes();
        (1..=MAX_BYTES)
            .contains(&bytes.len())
            .then_some(bytes)
            .filter(|bytes| bytes.iter().all(sane))
            .map(|_| Self::new(value.clone()))
    }

    /// The id of a request that came with `headers`: the caller's, else a new one from `ids`.
    pub fn of(headers: &http::HeaderMap, ids: &Ids) -> Self {
        headers.get(REQUEST_ID).and_then(Self::accept).unwrap_or_else(|| Self::generate(ids))
    }

    /// A new id.
    pub fn generate(ids: &Ids) -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        let text = ids.uuid().hyphenated().encode_lower(&mut buffer);
        Self::new(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-")))
    }

    /// No two requests have the same id, so HTTP/2 must not remember it for the next: that is what `sensitive` asks
    /// for, and it leaves room in the header table for what does come again (RFC 7541 section 6.2.3).
    fn new(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as the value of a header.
    pub fn to_header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where servers take the ids of requests that came without one.
pub(crate) static REQUEST_IDS: LazyLock<Ids> = LazyLock::new(request_ids);

/// The ids of requests that came without one. They are for reading logs and part of no decision, so they come
/// from the machine's clock and a random generator of the process.
pub fn request_ids() -> Ids {
    Ids::new(Arc::new(SystemClock), Arc::new(ThreadEntropy))
}

/// Asking the operating system for each id would cost as much as the rest of the layers together.
#[derive(Debug)]
struct ThreadEntropy;

impl Entropy for ThreadEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        rand::rng().fill_bytes(buffer);
    }
}

/// The request that the current task works on.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Its id.
    pub request_id: RequestId,
    /// When the caller stops waiting, if it does.
    pub deadline: Option<Instant>,
}

impl RequestContext {
    /// The context of the current task, if it works on a request.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Reads from the context of the current task without cloning it.
    pub fn with<T>(read: impl FnOnce(&Self) -> T) -> Option<T> {
        CURRENT.try_with(read).ok()
    }

    /// Runs `work` with this context.
    pub fn scope<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        // From the first request on, every log line says which request it belongs to.
        pulse_runtime::telemetry::log_request_id(|| Self::with(|context| context.request_id.to_string()));
        CURRENT.scope(self, work)
    }

    /// Runs `decide` with this context.
    pub fn sync_scope<T>(self, decide: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, decide)
    }

    /// How long the caller still waits; zero when the deadline is past.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// Waits for `work` until the deadline of the current request, or for ever where there is none.
///
/// # Errors
/// When the deadline passes first; `work` is dropped.
pub async fn until_deadline<F: Future>(work: F) -> Result<F::Output, tokio::time::error::Elapsed> {
    match RequestContext::with(|context| context.deadline).flatten() {
        Some(deadline) => timeout_at(deadline, work).await,
        None => Ok(work.await),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn new_ids_are_acceptable_ids() {
        let id = RequestId::generate(&request_ids());
        assert_eq!(RequestId::accept(&id.to_header()), Some(id.clone()));
        assert_eq!(id.as_str().len(), 36);
    }

    #[test]
    fn refuses_ids_that_are_empty_long_or_could_forge_a_log_line() {
        let long = "a".repeat(129);
        for text in ["", "a b", "a\tb", "a\"b", "{}", "a/b", &long] {
            assert_eq!(RequestId::accept(&HeaderValue::from_str(text).unwrap()), None, "{text:?}");
        }
        assert_eq!(RequestId::accept(&HeaderValue::from_bytes(&[0xc3, 0xa9]).unwrap()), None);
    }

    proptest! {
        #[test]
        fn accepts_exactly_the_documented_characters(text in "[!-~]{1,140}") {
            let sane = text.len() <= 128
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            prop_assert_eq!(RequestId::accept(&HeaderValue::from_str(&text).unwrap()).is_some(), sane);
        }
    }
}
