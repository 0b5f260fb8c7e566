//! The embedded store: a directory per tenant.
//!
//! ```text
//! orgs/<org_id>/billing.json          the state: the truth, and yours to edit
//! orgs/<org_id>/billing-audit.jsonl   its history
//! orgs/<org_id>/billing-audit.head    where the history ends
//! orgs/.purged/<org_id>               a tenant that was, and when it was purged
//! orgs/.lock                          held by the one process that uses all this
//! ```
//!
//! | module | holds |
//! |---|---|
//! | here | [`FileStore`]: the lock on the whole, a lane per tenant, and threads that may block |
//! | `tenant` | one tenant's directory: commit, recovery, edits by hand, purge |
//! | `log` | the audit log |
//! | `disk` | the durable steps that all of it is made of |
//!
//! A start looks at no tenant, however many there are: each is put in order when it is first used.

mod disk;
mod log;
mod tenant;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    hash::{BuildHasher as _, RandomState},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use pulse_entitlements::Lookup;
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_store::{audit::AuditRecord, time};
use tokio::sync::Mutex;

use self::{
    disk::{Disk, RealDisk},
    tenant::{Place, Tenant},
};
use super::{Committed, Purged, Store, StoreError};
use crate::domain::{Key, Write};

/// The folder of tombstones.
pub(super) const PURGED: &str = ".purged";

/// How many lanes there are. Tenants in the same lane wait for each other; more lanes cost only memory.
const LANES: usize = 1024;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The storage below failed.
    #[error("cannot use {}: {source}", path.display())]
    Failed {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Arc<Place>,
    clock: Arc<dyn Clock>,
    lanes: Vec<Arc<Mutex<()>>>,
    lane_of: RandomState,
    /// Held, and released with the store.
    _lock: File,
}

impl FileStore {
    /// Opens the store under `data_dir`, making what is not there.
    ///
    /// # Errors
    /// When another process has it, or the disk fails.
    pub fn open(
        data_dir: &Path,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        Self::open_on(Box::new(RealDisk), data_dir, clock, entropy)
    }

    fn open_on(
        disk: Box<dyn Disk>,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let orgs = data_dir.join("orgs");
        let lock = prepare(&*disk, data_dir, &orgs)
            .map_err(|source| OpenError::Failed { path: orgs.clone(), source })?
            .ok_or_else(|| OpenError::InUse(orgs.clone()))?;
        let lanes = (0..LANES).map(|_| Arc::default()).collect();
        let lane_of = RandomState::new();
        let place = Arc::new(Place { orgs, disk, entropy });
        Ok(Self(Arc::new(Inner { place, clock, lanes, lane_of, _lock: lock })))
    }

    /// Does `work` on a tenant's directory, alone and on a thread that may block; to its end, whoever waits for it.
    async fn with<T: Send + 'static>(
        &self,
        org: &OrgId,
        work: impl FnOnce(&Tenant) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.0.clone();
        let org = org.clone();
        let lane = usize::try_from(inner.lane_of.hash_one(&org) % LANES as u64).unwrap_or_default();
        let turn = inner.lanes[lane].clone().lock_owned().await;
        let span = tracing::Span::current();
        let done = tokio::task::spawn_blocking(move || {
            let (_turn, _span) = (turn, span.entered());
            let now = time::truncate(inner.clock.now());
            work(&Tenant::new(inner.place.clone(), org, now))
        });
        done.await.unwrap_or_else(|error| {
            let source = io::Error::other(error);
            Err(StoreError::Failed { action: "use the disk".to_owned(), source })
        })
    }
}

/// Makes the directories and takes the lock; none when another process has it.
fn prepare(disk: &dyn Disk, data_dir: &Path, orgs: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(data_dir)?;
    disk.create_dir(orgs)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(orgs.join(".lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    disk.create_dir(&Tenant::tombstones(orgs))?;
    disk.sync_dir(orgs)?;
    disk.sync_dir(data_dir)?;
    Ok(Some(lock))
}

#[async_trait]
impl Store for FileStore {
    async fn get(&self, org: &OrgId) -> Result<Lookup, StoreError> {
        self.with(org, Tenant::get).await
    }

    async fn put(&self, write: Write) -> Result<Committed, StoreError> {
        let org = write.state.org_id.clone();
        self.with(&org, move |tenant| tenant.put(write)).await
    }

    async fn creator(&self, org: &OrgId) -> Result<Option<String>, StoreError> {
        self.with(org, Tenant::creator).await
    }

    async fn purge(&self, org: &OrgId, created_by: Option<&Key>) -> Result<Purged, StoreError> {
        let key = created_by.cloned();
        let purge = self.with(org, move |tenant| tenant.purge(key.as_ref())).await?;
        Ok(Purged { purge, transaction: None })
    }

    async fn audit(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.with(org, move |tenant| tenant.audit(before, limit)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let inner = self.0.clone();
        let look = move || fs::metadata(&inner.place.orgs);
        let looked =
            tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        looked
            .map(|_| ())
            .map_err(|source| StoreError::Failed { action: "look at the data directory".to_owned(), source })
    }
}
