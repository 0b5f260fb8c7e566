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
//! | `sweep` | looking for edits by hand |
//! | `log` | the audit log |
//! | `disk` | the durable steps that all of it is made of |
//!
//! A start looks at no tenant, however many there are: each is put in order when it is first used.

mod disk;
mod log;
mod sweep;
mod tenant;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirEntry, File, OpenOptions, ReadDir, TryLockError},
    hash::{BuildHasher as _, RandomState},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use pulse_entitlements::Lookup;
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_runtime::Shutdown;
use pulse_store::{audit::AuditRecord, postgres::feed::LastLook, time};
use tokio::sync::Mutex;

use self::{
    disk::{Disk, RealDisk},
    tenant::{Place, STATE, Tenant},
};
use super::{Committed, Listed, Listing, OnEvent, PAGE, Purged, Store, StoreError};
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
    /// Locked, and released with the store.
    lock: File,
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
        Ok(Self(Arc::new(Inner { place, clock, lanes, lane_of, lock })))
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
        blocking(move || {
            let _turn = turn;
            let now = time::truncate(inner.clock.now());
            work(&Tenant::new(inner.place.clone(), org, now))
        })
        .await
    }
}

/// Does `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work));
    done.await.unwrap_or_else(|error| Err(failed("use the disk")(io::Error::other(error))))
}

/// What could not be done.
fn failed(action: &str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Failed { action: action.to_owned(), source }
}

/// The tenants' directories, while they are listed.
enum Folder {
    Unopened(PathBuf),
    Open(ReadDir),
}

impl Folder {
    /// The next tenants, in no particular order; none where there are no more.
    fn next_page(self) -> Result<(Vec<OrgId>, Self), StoreError> {
        let failed = failed("list the tenants");
        let mut entries = match self {
            Self::Unopened(path) => fs::read_dir(path).map_err(&failed)?,
            Self::Open(entries) => entries,
        };
        let mut page = Vec::new();
        while page.len() < PAGE {
            let Some(entry) = entries.next() else { break };
            page.extend(org_of(&entry.map_err(&failed)?));
        }
        Ok((page, Self::Open(entries)))
    }
}

/// The tenant whose directory that is. What is not named by an id is the store's own, or nothing to it.
pub(super) fn org_of(entry: &DirEntry) -> Option<OrgId> {
    entry.file_name().to_str().and_then(|name| OrgId::parse(name).ok())
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

    fn list(&self) -> Listing {
        let folder = Folder::Unopened(self.0.place.orgs.clone());
        let next = |(store, folder): (Self, Folder)| async move {
            let (orgs, folder) = blocking(move || folder.next_page()).await?;
            let mut page = Vec::with_capacity(orgs.len());
            for org in &orgs {
                let stored = match store.get(org).await {
                    Ok(Lookup::Stored(stored)) => Some(*stored),
                    Ok(Lookup::NotStored | Lookup::Purged) => continue,
                    Err(error) => {
                        tracing::error!(org_id = %org, %error, "a billing state cannot be read");
                        None
                    }
                };
                page.push(Listed { org: org.clone(), stored });
            }
            Ok((!orgs.is_empty()).then_some((page, (store, folder))))
        };
        stream::try_unfold((self.clone(), folder), next).boxed()
    }

    /// Tells of edits by hand, of which nobody else would.
    fn follow(&self, shutdown: &Shutdown, on: OnEvent) -> Option<LastLook> {
        shutdown.spawn("edits by hand", sweep::sweep(self.clone(), on, shutdown.clone()));
        None
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let inner = self.0.clone();
        let look = move || fs::metadata(&inner.place.orgs).map_err(failed("look at the data directory"));
        blocking(look).await.map(|_| ())
    }
}
