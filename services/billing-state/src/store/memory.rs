//! A store in memory that fails on command.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use pulse_entitlements::{BillingState, Lookup, Stored};
use pulse_kernel::{Entropy, OrgId};
use pulse_runtime::Shutdown;
use pulse_store::{
    audit::{AuditRecord, Salt, memory::Chains},
    postgres::feed::LastLook,
};
use tokio::time::Instant;

use super::{Committed, Listed, Listing, OnEvent, Purge, Purged, Store, StoreError};
use crate::domain::{Expected, Key, Write, document};

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entropy: Arc<dyn Entropy>,
    tenants: Mutex<Tenants>,
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Tenants {
    /// None: purged.
    states: BTreeMap<OrgId, Option<Stored>>,
    chains: Chains,
}

impl MemoryStore {
    /// An empty store; salts come from `entropy`.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self(Arc::new(Inner { entropy, tenants: Mutex::default(), failing: AtomicBool::new(false) }))
    }

    /// From now on every call fails, or none does.
    pub fn fail(&self, failing: bool) {
        self.0.failing.store(failing, Ordering::SeqCst);
    }

    fn tenants(&self, action: &str) -> Result<MutexGuard<'_, Tenants>, StoreError> {
        if self.0.failing.load(Ordering::SeqCst) {
            let source = io::Error::other("told to fail");
            return Err(StoreError::Failed { action: action.to_owned(), source });
        }
        Ok(self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tenants {
    fn creator(&self, org: &OrgId) -> Option<String> {
        let first = self.chains.list(org, Some(2), 1).pop()?;
        document::created_by_key(first.details?.after.as_ref()?).map(str::to_owned)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, org: &OrgId) -> Result<Lookup, StoreError> {
        Ok(match self.tenants("read")?.states.get(org) {
            None => Lookup::NotStored,
            Some(None) => Lookup::Purged,
            Some(Some(stored)) => Lookup::Stored(Box::new(stored.clone())),
        })
    }

    async fn put(&self, Write { expected, state, draft }: Write) -> Result<Committed, StoreError> {
        let mut tenants = self.tenants("write")?;
        let found = match tenants.states.get(&state.org_id) {
            Some(None) => return Err(StoreError::Purged),
            Some(Some(stored)) => Expected::Etag(BillingState::etag(&stored.state)),
            None => Expected::Nothing,
        };
        if found != expected {
            return Err(StoreError::Conflict);
        }
        let record = tenants.chains.append(draft, Salt::random(&*self.0.entropy));
        let stored = Stored { state, revision: u64::try_from(record.sequence).unwrap_or_default() };
        tenants.states.insert(stored.state.org_id.clone(), Some(stored.clone()));
        Ok(Committed { stored, at: Instant::now(), transaction: None })
    }

    async fn creator(&self, org: &OrgId) -> Result<Option<String>, StoreError> {
        Ok(self.tenants("read")?.creator(org))
    }

    async fn purge(&self, org: &OrgId, created_by: Option<&Key>) -> Result<Purged, StoreError> {
        let mut tenants = self.tenants("purge")?;
        let stored = matches!(tenants.states.get(org), Some(Some(_)));
        let theirs = created_by.is_none_or(|key| tenants.creator(org).as_deref() == Some(key.as_str()));
        if stored && !theirs {
            return Ok(Purged { purge: Purge::NotTheirs, transaction: None });
        }
        tenants.states.insert(org.clone(), None);
        tenants.chains.delete(org);
        let purge = if stored { Purge::Removed } else { Purge::Nothing };
        Ok(Purged { purge, transaction: None })
    }

    async fn audit(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let tenants = self.tenants("read the audit")?;
        match tenants.chains.verify_all().into_iter().find(|(broken, _)| broken == org) {
            Some((_, source)) => Err(StoreError::BrokenChain { place: "memory".to_owned(), source }),
            None => Ok(tenants.chains.list(org, before, limit)),
        }
    }

    fn list(&self) -> Listing {
        let page = self.tenants("list").map(|tenants| {
            let listed = |(org, stored): (&OrgId, &Option<Stored>)| {
                stored.clone().map(|stored| Listed { org: org.clone(), stored: Some(stored) })
            };
            tenants.states.iter().filter_map(listed).collect()
        });
        stream::iter([page]).boxed()
    }

    /// Nobody else can change it.
    fn follow(&self, _: &Shutdown, _: OnEvent) -> Option<LastLook> {
        None
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.tenants("be reached").map(|_| ())
    }
}
