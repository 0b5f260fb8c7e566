//! Streams of changes: what there is, then what changes, to thousands of watchers of one service.
//!
//! | module | holds |
//! |---|---|
//! | here | what a service brings along, [`Source`], and what a watcher is told, [`Event`] |
//! | [`hub`] | [`Hub`]: hears which tenants have changed, reads each once, and publishes what it read |
//! | `hints` | what the hub has heard and not read yet |
//! | `ring` | the last changes, shared by all watchers |
//! | `watcher` | one stream: a snapshot or a replay, then what is published |
//! | [`request`] | what a watcher asks for, and its resume token |
//! | `metrics` | how many watch, and what they are told |
//!
//! A hint says that a tenant has changed and nothing more: the hub then reads what the tenant is now. So a tenant's versions
//! never go backwards in the ring, whatever order hints come in, and a change costs one read however many watch.
//!
//! A watcher's snapshot is read page by page. Between two pages it catches up with the ring, in which a change of a tenant on
//! that page may be older than the page: the hub read it earlier and published it later. Therefore a watcher waits, after each
//! page, until no read of the hub is under way that began before the page was read. What is published after that was read
//! later than the page, and so is no older; what was published until then is compared with the page. A watcher needs to know
//! the versions of one page, never of all tenants.
//!
//! Whatever the number of tenants, changes and watchers, and however slow these are, memory is bounded: hints are counted in
//! tenants, and too many become one [`ResetReason::ChangesMissed`]; the ring forgets; a watcher holds one page and no queue, and
//! one that has not kept up with the ring is told so and ends.

mod hints;
pub mod hub;
mod metrics;
pub mod request;
mod ring;
#[cfg(test)]
mod tests;
mod watcher;

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use jiff::Timestamp;
use pulse_kernel::OrgId;
use pulse_proto::watch::v1 as wire;
use tonic::Status;

pub use self::{hub::Hub, request::WatchRequest};
use crate::{ServiceError, convert};

/// Where a service has what is watched.
pub trait Source: Send + Sync + 'static {
    /// What is told of a tenant. Equal states are told once.
    type State: Clone + PartialEq + Send + Sync + 'static;
    /// Why it cannot be read. A state that is there but makes no sense is no error but [`Now::Unreadable`].
    type Error: ServiceError + Send;

    /// What the tenant is now; none where there is nothing and never was. Never older than what a read said that ended before
    /// this one began.
    fn current(
        &self,
        org: &OrgId,
    ) -> impl Future<Output = Result<Option<Now<Self::State>>, Self::Error>> + Send;

    /// Everything there is, in pages of some tens, each read when it is asked for. Tenants that come into being, or go, while
    /// it is read may be in it or not.
    fn everything(&self) -> Pages<Self>;
}

/// Pages of tenants.
pub type Pages<S> = BoxStream<'static, Result<Vec<Change<<S as Source>::State>>, <S as Source>::Error>>;

/// What a tenant is at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now<T> {
    /// This, since its change of that number.
    State {
        /// Grows with every change of the tenant.
        version: u64,
        /// All of it.
        state: T,
    },
    /// Removed for good.
    Gone,
    /// Nobody knows: what is stored cannot be read.
    Unreadable,
}

impl<T> Now<T> {
    /// What the tenant's versions are compared by; nothing comes after its end. None where it is not known.
    pub(crate) const fn version(&self) -> Option<u64> {
        match self {
            Self::State { version, .. } => Some(*version),
            Self::Gone => Some(u64::MAX),
            Self::Unreadable => None,
        }
    }
}

/// A tenant, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// The tenant.
    pub org: OrgId,
    /// What it is since.
    pub now: Now<T>,
}

/// What a watcher is told. See `pulse/watch/v1/watch.proto` for what it may rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// A tenant is this now.
    Changed(Arc<Change<T>>),
    /// That was all there is.
    Synced,
    /// What was told before may be out of date.
    Reset(ResetReason),
    /// The stream is alive.
    Heartbeat(Heartbeat),
}

/// An event, and how to go on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<T> {
    /// What is told.
    pub event: Event<T>,
    /// What a later stream begins with to go on from here; empty before the first [`Event::Synced`] and after a reset.
    pub resume_token: String,
}

/// A stream of messages. It ends with an error, and only with one.
pub type Messages<T> = BoxStream<'static, Result<Message<T>, Status>>;

/// Why what was told before may be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// The resume token is not one of this hub's for these tenants.
    TokenUnknown,
    /// The ring has forgotten what came after the resume token.
    TokenExpired,
    /// The hub may have missed changes.
    ChangesMissed,
}

impl ResetReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TokenUnknown, Self::TokenExpired, Self::ChangesMissed];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::ChangesMissed => "changes_missed",
        }
    }
}

/// That a stream is alive, and how far it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// What time it is.
    pub server_time: Timestamp,
    /// Everything that was committed longer ago than this has been told, once the stream is synced.
    pub age: Duration,
}

impl From<ResetReason> for wire::Reset {
    fn from(reason: ResetReason) -> Self {
        let reason = match reason {
            ResetReason::TokenUnknown => wire::ResetReason::TokenUnknown,
            ResetReason::TokenExpired => wire::ResetReason::TokenExpired,
            ResetReason::ChangesMissed => wire::ResetReason::ChangesMissed,
        };
        Self { reason: reason.into() }
    }
}

impl From<Heartbeat> for wire::Heartbeat {
    fn from(Heartbeat { server_time, age }: Heartbeat) -> Self {
        Self { server_time: Some(convert::timestamp(server_time)), age: Some(convert::duration(age)) }
    }
}
