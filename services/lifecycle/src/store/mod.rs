//! Where organizations are kept: what the service asks of a store, and the stores there are.
//!
//! | module | holds |
//! |---|---|
//! | [`sqlite`] | the embedded database |
//! | [`postgres`] | a database that several replicas share |
//! | [`transfer`] | moving from the first to the second |
//! | [`memory`] | a model of it for simulation and tests, with faults on demand |
//! | `rows` | rows to domain values and back |
//! | `conformance` | what every store has to do, as tests that run against each |
//!
//! One method is one transaction. A change is stored together with its audit record and its history, or not at all,
//! and only if the organization is still at the version that the change was decided on.

#[cfg(test)]
mod conformance;
pub mod memory;
pub mod postgres;
mod rows;
pub mod sqlite;
pub mod transfer;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{Clock, OrgId};
use pulse_runtime::Shutdown;
use pulse_store::{
    OpenError, PgOpenError, StoreError,
    audit::AuditRecord,
    postgres::feed::{Event, LastLook},
    time::truncate,
};
use serde::{Deserialize, Serialize};

use crate::domain::{Author, Organization, Removal, StatusKind, Tombstone, Transition};

pub use memory::MemoryStore;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;

/// What is done with what others have changed.
pub type OnEvent = Box<dyn FnMut(Event) + Send>;

/// Who makes the changes that no caller asked for.
pub const SELF: &str = "service:lifecycle";

/// The store of this service. Times are kept to the microsecond.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Stores a new organization, if its id was never used and no other has its owner's email.
    async fn create(&self, new: Transition, author: Author) -> Result<Creation, StoreError>;

    /// Stores a change of an organization, if it is still at the version that the change was decided on.
    async fn change(&self, transition: Transition, author: Author) -> Result<Written, StoreError>;

    /// As [`Store::change`], as long as the lease is held; none when it is not, and then nothing was stored. Nobody else gets
    /// the lease while this is being stored.
    async fn change_under(
        &self,
        lease: &Lease,
        transition: Transition,
        author: Author,
    ) -> Result<Option<Written>, StoreError>;

    /// Puts a tombstone in the place of an organization, or of none, and erases the details of its audit records,
    /// if it is still as it was when that was decided.
    async fn remove(&self, removal: Removal, author: Author) -> Result<Written, StoreError>;

    /// What there is under an id.
    async fn find(&self, id: &OrgId) -> Result<Found, StoreError>;

    /// Organizations in order of their ids, those after `after`, at most `limit`.
    async fn list(
        &self,
        status: Option<StatusKind>,
        after: Option<&OrgId>,
        limit: usize,
    ) -> Result<Vec<Organization>, StoreError>;

    /// Organizations whose retention is over at `now`, in order of when it was, those after `after`.
    async fn due(
        &self,
        now: Timestamp,
        after: Option<&QueueEntry>,
        limit: usize,
    ) -> Result<Vec<QueueEntry>, StoreError>;

    /// Organizations that are being purged, in order of when that began, those after `after`.
    async fn purging(&self, after: Option<&QueueEntry>, limit: usize) -> Result<Vec<QueueEntry>, StoreError>;

    /// How many tenants there are in each status; costs the same however many there are.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// The statuses that an organization went through, oldest first; none once it is removed.
    async fn history(&self, id: &OrgId) -> Result<Vec<StatusChange>, StoreError>;

    /// The audit records of an organization with a sequence below `before`, newest first, at most `limit`; also
    /// once it is removed.
    async fn audit_events(
        &self,
        id: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError>;

    /// Takes the lease of that name for so long from now on, by the store's own clock, or renews it where `owner` has it
    /// already; none while another has it. The token grows whenever the lease is taken, and stays when it is renewed.
    async fn take_lease(
        &self,
        name: &'static str,
        owner: &str,
        lasting: Duration,
    ) -> Result<Option<Lease>, StoreError>;

    /// Gives a lease back before its time, if it is still held.
    async fn return_lease(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Tells `on` of every change from now on, this process's own too, until the process is told to stop; it begins with a
    /// [`Event::Reset`]. Returns how far it is. A store that no other process can change has nothing to tell, and returns none.
    fn follow(&self, shutdown: &Shutdown, on: OnEvent) -> Option<LastLook> {
        let _ = (shutdown, on);
        None
    }

    /// Waits until everyone who follows has been told of what a transaction changed, but not for long. Whether they have.
    async fn heard(&self, transaction: i64) -> bool {
        let _ = transaction;
        true
    }

    /// Whether it can be read and written.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Finishes what is being written and lets go of the data.
    async fn close(&self);
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The embedded database cannot be used.
    #[error(transparent)]
    Sqlite(#[from] OpenError),
    /// The database cannot be used.
    #[error(transparent)]
    Postgres(#[from] PgOpenError),
    /// The default organization could not be made.
    #[error("the default organization cannot be stored")]
    Default(#[from] StoreError),
}

/// Makes the default organization where there is none.
async fn make_default(store: &impl Store, clock: &dyn Clock) -> Result<(), StoreError> {
    if store.find(&OrgId::default_org()).await? == Found::Nothing {
        let default = Organization::create_default(truncate(clock.now()));
        // Another replica may be quicker.
        store.create(default, Author { actor: SELF.to_owned(), request_id: None }).await?;
    }
    Ok(())
}

/// What became of a new organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// It is stored.
    Created,
    /// Its id is, or was, an organization's.
    IdUsed,
    /// Its owner's email is that of another organization, in that status.
    EmailUsed { by: StatusKind },
}

/// The transaction that stored a change, for [`Store::heard`]; none where nobody else has the store open, or where it was only found
/// out later that the change is stored.
pub type Transaction = Option<i64>;

/// What became of a decided change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is stored, by that transaction.
    Done(Transaction),
    /// Nothing was stored: the organization is not any more what the decision was based on.
    Stale,
}

impl Written {
    /// Whether it is stored.
    pub const fn is_done(self) -> bool {
        matches!(self, Self::Done(_))
    }
}

/// The right to do what only one process may do at a time, until it is over or given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: &'static str,
    /// Who has it.
    pub owner: String,
    /// Greater than that of everyone who had it before: what its holder does is refused once another has a greater one.
    pub token: i64,
}

/// What there is under an id.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// An organization.
    Organization(Organization),
    /// What was left of one.
    Tombstone(Tombstone),
    /// Nothing, and there never was.
    Nothing,
}

/// A place in a queue of organizations, and what follows it when given as `after`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueueEntry {
    pub at: Timestamp,
    pub id: OrgId,
}

/// One step of an organization's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusChange {
    /// The organization's version after it.
    pub version: i64,
    /// None for its beginning.
    pub from: Option<StatusKind>,
    pub to: StatusKind,
    pub at: Timestamp,
}

/// How many tenants there are in each status. The default organization is not a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<StatusKind, u64>);

impl Counts {
    /// How many are in this status.
    pub fn of(&self, status: StatusKind) -> u64 {
        self.0.get(&status).copied().unwrap_or_default()
    }
}

impl FromIterator<(StatusKind, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (StatusKind, u64)>>(counts: I) -> Self {
        Self(counts.into_iter().filter(|(_, count)| *count > 0).collect())
    }
}
