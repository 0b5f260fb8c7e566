//! Where billing states are kept, with their history.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@file`] | a directory per tenant: `billing.json` and its audit log |
//! | [`memory`] | a model of the same, with faults on command, for tests and simulation |
//! | `conformance` | the tests that both pass |
//!
//! One method is one transaction: a state and its audit record are stored together or not at all, a write names what
//! it replaces, and writes of one tenant happen one after the other.

#[cfg(test)]
mod conformance;
pub mod file;
pub mod memory;

use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use pulse_entitlements::{BillingStoreError, Lookup, Stored};
use pulse_kernel::OrgId;
use pulse_store::audit::{AuditRecord, Broken};
use tokio::time::Instant;

use crate::domain::{Key, Write};

/// A store of billing states.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What is stored about a tenant. An edit by hand that was not seen before is audited on the way.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], [`StoreError::Failed`].
    async fn get(&self, org: &OrgId) -> Result<Lookup, StoreError>;

    /// Carries out a write.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when something else is stored than the write expects, [`StoreError::Purged`], and as
    /// [`Store::get`]. After [`StoreError::Failed`] the write may or may not have happened.
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
    /// [`StoreError::Failed`].
    async fn purge(&self, org: &OrgId, created_by: Option<&Key>) -> Result<Purge, StoreError>;

    /// The audit records with a sequence below `before`, newest first, at most `limit`; none for a purged tenant. The
    /// whole chain is verified on the way.
    ///
    /// # Errors
    /// [`StoreError::BrokenChain`], and as [`Store::get`].
    async fn audit(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError>;

    /// Whether the store can be used at all.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    async fn ping(&self) -> Result<(), StoreError>;
}

/// A write that is stored for good.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What is stored now.
    pub stored: Stored,
    /// When that could not be lost any more.
    pub at: Instant,
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
    #[error("{}: {problem}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The last state that is known from the history.
        last_known: Option<Box<Stored>>,
    },
    /// The history was altered.
    #[error("{}: the audit chain is broken: {source}", file.display())]
    BrokenChain {
        /// The file.
        file: PathBuf,
        /// The first record that is not what was sealed.
        source: Broken,
    },
    /// The storage below failed.
    #[error("cannot {action}")]
    Failed {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
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
            | StoreError::Failed { .. } => None,
        };
        Self { message, last_known }
    }
}
