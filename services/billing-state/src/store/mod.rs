//! Where billing states are kept, with their history.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@file`] | a directory per tenant: `billing.json` and its audit log |
//! | [`postgres`] | a schema in PostgreSQL, which replicas share |
//! | [`memory`] | a model of the same, with faults on command, for tests and simulation |
//! | [`transfer`] | moving the embedded store into PostgreSQL |
//! | `conformance` | the tests that all pass |
//!
//! One method is one transaction: a state and its audit record are stored together or not at all, a write names what
//! it replaces, and writes of one tenant happen one after the other.

#[cfg(test)]
mod conformance;
pub mod file;
pub mod memory;
pub mod postgres;
pub mod transfer;

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use pulse_entitlements::{BillingStoreError, Lookup, Stored};
use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use pulse_store::{
    audit::{AuditRecord, Broken},
    postgres::{
        Failure,
        feed::{self, Change, LastLook},
    },
};
use tokio::time::Instant;

use crate::domain::{Key, Write};

/// What is told of changes that were not made by calling this store.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Anything may have changed.
    Reset,
    /// This has changed.
    Changed(Change),
    /// Somebody has looked at a tenant's state because it may have been edited by hand.
    Looked {
        /// The tenant.
        org: OrgId,
        /// What is there; none where that cannot be understood.
        found: Option<Lookup>,
    },
}

impl From<feed::Event> for Event {
    fn from(event: feed::Event) -> Self {
        match event {
            feed::Event::Reset => Self::Reset,
            feed::Event::Changed(change) => Self::Changed(change),
        }
    }
}

/// What is done with what others have changed.
pub type OnEvent = Box<dyn FnMut(Event) + Send>;

/// Pages of tenants that have a state, in no particular order, each read when it is asked for.
pub type Listing = BoxStream<'static, Result<Vec<Listed>, StoreError>>;

/// How many tenants are on a page at the most.
const PAGE: usize = 64;

/// A store of billing states.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What is stored about a tenant. An edit by hand that was not seen before is audited on the way.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], and [`StoreError::Failed`] or [`StoreError::Database`] when the storage below fails.
    async fn get(&self, org: &OrgId) -> Result<Lookup, StoreError>;

    /// Carries out a write.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when something else is stored than the write expects, [`StoreError::Purged`], and as
    /// [`Store::get`]. When the storage below failed, the write may or may not have happened.
    async fn put(&self, write: Write) -> Result<Committed, StoreError>;

    /// The key of the request that made the tenant's first state, if it was one with a key.
    ///
    /// # Errors
    /// As [`Store::get`].
    async fn creator(&self, org: &OrgId) -> Result<Option<String>, StoreError>;

    /// Removes everything about a tenant but a tombstone, which is left also where nothing was. With a key, a state
    /// that the request with this key did not make is left alone, and no tombstone either.
    ///
    /// # Errors
    /// When the storage below fails.
    async fn purge(&self, org: &OrgId, created_by: Option<&Key>) -> Result<Purged, StoreError>;

    /// The audit records with a sequence below `before`, newest first, at most `limit`; none for a purged tenant. The
    /// chain is verified on the way: the whole of it, or of a very long one the part that is listed.
    ///
    /// # Errors
    /// [`StoreError::BrokenChain`], and as [`Store::get`].
    async fn audit(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError>;

    /// Every tenant that has a state. Those that get one, or are purged, while the pages are read may be on them or not.
    fn list(&self) -> Listing;

    /// Whether the store can be used at all.
    ///
    /// # Errors
    /// When it cannot.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Tells `on` of every change from now on, until the process is told to stop: at least of those that were not made by calling
    /// this store in this process. Returns how far it is, where others make changes by calling such a store in theirs.
    fn follow(&self, shutdown: &Shutdown, on: OnEvent) -> Option<LastLook>;

    /// Waits until everyone who follows has been told of what a transaction changed, but not for long. Whether they have.
    async fn heard(&self, transaction: i64) -> bool {
        let _ = transaction;
        true
    }
}

/// A tenant that has a state.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The tenant.
    pub org: OrgId,
    /// Its state; none where that cannot be understood.
    pub stored: Option<Stored>,
}

/// A write that is stored for good.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What is stored now.
    pub stored: Stored,
    /// When that could not be lost any more.
    pub at: Instant,
    /// The transaction, for [`Store::heard`]; none where nobody else has the store open.
    pub transaction: Option<i64>,
}

/// A purge that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// How it ended.
    pub purge: Purge,
    /// As in [`Committed`]; none also where it changed nothing.
    pub transaction: Option<i64>,
}

/// How a purge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// There was a state, and it is gone.
    Removed,
    /// There was nothing.
    Nothing,
    /// There is a state of another maker, and it stays.
    NotTheirs,
}

/// What a store cannot do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else is stored than the write expects.
    #[error("the billing state has changed")]
    Conflict,
    /// The tenant was purged.
    #[error("the organization was purged")]
    Purged,
    /// What is stored cannot be understood. It is left as it is until someone has mended it.
    #[error("{place}: {problem}")]
    Unreadable {
        /// Where it is.
        place: String,
        /// What is wrong with it.
        problem: String,
        /// The last state that is known from the history.
        last_known: Option<Box<Stored>>,
    },
    /// The history was altered.
    #[error("{place}: the audit chain is broken: {source}")]
    BrokenChain {
        /// Where it is.
        place: String,
        /// The first record that is not what was sealed.
        source: Broken,
    },
    /// The files failed.
    #[error("cannot {action}")]
    Failed {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] pulse_store::StoreError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Failure for StoreError {
    fn as_store(&self) -> Option<&pulse_store::StoreError> {
        match self {
            Self::Database(error) => Some(error),
            Self::Conflict
            | Self::Purged
            | Self::Unreadable { .. }
            | Self::BrokenChain { .. }
            | Self::Failed { .. } => None,
        }
    }
}

impl From<StoreError> for BillingStoreError {
    fn from(error: StoreError) -> Self {
        let mut message = error.to_string();
        if let StoreError::Failed { source, .. } = &error {
            message = format!("{message}: {source}");
        }
        let last_known = match error {
            StoreError::Unreadable { last_known, .. } => last_known,
            StoreError::Conflict
            | StoreError::Purged
            | StoreError::BrokenChain { .. }
            | StoreError::Failed { .. }
            | StoreError::Database(_) => None,
        };
        Self { message, last_known }
    }
}
