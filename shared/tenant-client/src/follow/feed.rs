//! What tells one stream from another.

use std::time::Duration;

use jiff::Timestamp;
use pulse_proto::watch::v1 as wire;
use pulse_rpc::convert::try_timestamp;
use tonic::{Request, Status, Streaming};

/// How long a stream may last, for whatever is on the way to the server and ends a call after the time that it asks for: else
/// that would be what a call may take that asks for nothing.
const LONGEST: Duration = Duration::from_hours(24);

/// A stream of changes, and the cache that is told.
pub(super) trait Feed: Send + Sync + 'static {
    /// What the stream is called in metrics, as on the server.
    const STREAM: &'static str;
    /// What the task is called in the log.
    const TASK: &'static str;
    /// What comes on it.
    type Message: Send + 'static;

    /// Opens it where an earlier one was, or anew without a token.
    fn open(
        &self,
        resume_token: String,
    ) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;

    /// Tells the cache if it is a change; says what it was, and the token that came with it.
    fn hear(&self, message: Self::Message) -> (Heard, String);

    /// See [`TenantCache::confirm`](pulse_entitlements::cache::TenantCache::confirm).
    fn confirm(&self, age: Duration);

    /// See [`TenantCache::lost`](pulse_entitlements::cache::TenantCache::lost).
    fn lost(&self);

    /// See [`TenantCache::invalidate_all`](pulse_entitlements::cache::TenantCache::invalidate_all).
    fn invalidate_all(&self);
}

/// The request for a stream.
pub(super) fn lasting<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LONGEST);
    request
}

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// A change, made at that time by the server's clock where it says so.
    Changed(Option<Timestamp>),
    /// That all that had changed was said.
    Synced,
    /// That anything may have changed.
    Reset,
    /// That all has been said that was committed longer ago; none where it does not say how long, or when it was sent.
    Heartbeat(Option<Beat>),
    /// A change of a tenant whose name cannot be read, so that it may be any.
    Garbled,
    /// Something that this version does not know.
    Unknown,
}

/// What a heartbeat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    /// When it was sent, by the server's clock.
    pub(super) server_time: Timestamp,
    /// All has been said that was committed longer than this before that.
    pub(super) age: Duration,
}

impl From<&wire::Heartbeat> for Heard {
    fn from(heartbeat: &wire::Heartbeat) -> Self {
        let age = heartbeat.age.and_then(|age| Duration::try_from(age).ok());
        let server_time = heartbeat.server_time.and_then(|time| try_timestamp(time, "server_time").ok());
        Self::Heartbeat(server_time.zip(age).map(|(server_time, age)| Beat { server_time, age }))
    }
}
