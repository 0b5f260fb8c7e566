//! The use cases: domain decisions carried out on the store, and pushed to those who answer with entitlements.
//!
//! | module | holds |
//! |---|---|
//! | here | [`BillingStates`]: start a trial, read, set, purge, list the audit |
//! | [`source`] | the store as what entitlements are read from |
//!
//! A change that has begun goes on to its end when its caller goes away, so that what is committed is always pushed.

pub(crate) mod source;

use std::sync::Arc;

use opentelemetry::metrics::Histogram;
use pulse_entitlements::{Answer, BillingState, DatabaseSource, Lookup, Stored};
use pulse_kernel::{Clock, OrgId};
use pulse_store::{audit::AuditRecord, time};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    domain::{Author, Key, Plans, SetRequest, Write, set, trial},
    error::BillingError,
    store::{Committed, Purge, Store, StoreError},
};

/// How often a change is decided anew because another one came first.
const ATTEMPTS: usize = 8;

/// The use cases. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct BillingStates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    source: DatabaseSource,
    plans: Plans,
    clock: Arc<dyn Clock>,
    propagation: Histogram<f64>,
}

impl BillingStates {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        source: DatabaseSource,
        plans: Plans,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let propagation = pulse_runtime::telemetry::meter("pulse-billing-state")
            .f64_histogram("pulse_hosted_billing_propagation")
            .with_unit("s")
            .with_description("From the commit of a billing state to its first possible use in an answer")
            .build();
        Self(Arc::new(Inner { store, source, plans, clock, propagation }))
    }

    /// What the tenant may use now.
    pub(crate) async fn entitlements(&self, org: &OrgId) -> Result<Answer, BillingError> {
        Ok(self.0.source.answer(org).await?)
    }

    /// The stored state; none where none is.
    pub(crate) async fn get(&self, org: &OrgId) -> Result<Option<BillingState>, BillingError> {
        match self.0.store.get(org).await? {
            Lookup::Stored(stored) => {
                // Whoever reads an edit by hand spares the others the wait for the next refresh.
                self.0.source.update(org, Lookup::Stored(stored.clone()));
                Ok(Some(stored.state))
            }
            Lookup::NotStored => Ok(None),
            Lookup::Purged => Err(BillingError::NotFound),
        }
    }

    /// What a tenant without a stored state is on.
    pub(crate) fn trial_default(&self, org: &OrgId) -> BillingState {
        self.0.plans.trial_default(org)
    }

    /// Starts a trial where nothing is stored. The state, and whether the request with this key made it.
    pub(crate) async fn start_trial(
        &self,
        org: OrgId,
        key: Key,
        author: Author,
    ) -> Result<(BillingState, bool), BillingError> {
        self.to_the_end(|inner| async move {
            let stored = match inner.store.get(&org).await? {
                Lookup::Purged => return Err(BillingError::NotFound),
                Lookup::NotStored => None,
                Lookup::Stored(stored) => Some(stored.state),
            };
            match trial::start(&org, stored.as_ref(), &key, author, &inner.plans, inner.now()) {
                Ok(write) => match inner.put(write).await {
                    Ok(stored) => return Ok((stored.state, true)),
                    Err(StoreError::Conflict) => {}
                    Err(error) => return Err(error.into()),
                },
                Err(exists) => tracing::debug!(org_id = %org, %exists, "no trial is started"),
            }
            let created = inner.store.creator(&org).await?.as_deref() == Some(key.as_str());
            match inner.store.get(&org).await? {
                Lookup::Stored(stored) => Ok((stored.state, created)),
                Lookup::NotStored => Err(BillingError::Contended),
                Lookup::Purged => Err(BillingError::NotFound),
            }
        })
        .await
    }

    /// Stores what an operator asks for.
    pub(crate) async fn set(
        &self,
        org: OrgId,
        asked: SetRequest,
        author: Author,
    ) -> Result<BillingState, BillingError> {
        self.to_the_end(|inner| async move {
            for _ in 0..ATTEMPTS {
                let stored = match inner.store.get(&org).await? {
                    Lookup::Purged => return Err(BillingError::NotFound),
                    Lookup::NotStored => None,
                    Lookup::Stored(stored) => Some(stored.state),
                };
                let write =
                    set::set(&org, stored.as_ref(), &asked, author.clone(), &inner.plans, inner.now())?;
                match inner.put(write).await {
                    Ok(stored) => return Ok(stored.state),
                    // Another change came first. Decided anew, this one replaces it, or its etag is stale now.
                    Err(StoreError::Conflict) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(BillingError::Contended)
        })
        .await
    }

    /// Removes everything about a tenant. Whether there was a state and it is gone.
    pub(crate) async fn purge(&self, org: OrgId, created_by: Option<Key>) -> Result<bool, BillingError> {
        if org.is_default() {
            return Err(BillingError::DefaultOrg);
        }
        self.to_the_end(|inner| async move {
            let purge = inner.store.purge(&org, created_by.as_ref()).await.inspect_err(|_| {
                inner.source.invalidate(&org);
            })?;
            match purge {
                Purge::Removed | Purge::Nothing => inner.source.update(&org, Lookup::Purged),
                Purge::NotTheirs => tracing::info!(org_id = %org, "left alone: another request made it"),
            }
            Ok(purge == Purge::Removed)
        })
        .await
    }

    /// The audit records with a sequence below `before`, newest first.
    pub(crate) async fn audit(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, BillingError> {
        Ok(self.0.store.audit(org, before, limit).await?)
    }

    /// Does `work` to its end, also when the caller goes away.
    async fn to_the_end<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T, BillingError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BillingError>> + Send + 'static,
    {
        let work = work(self.0.clone()).in_current_span();
        tokio::spawn(work).await.map_err(BillingError::CutOff)?
    }
}

impl Inner {
    /// Now, as precisely as a store keeps it.
    fn now(&self) -> jiff::Timestamp {
        time::truncate(self.clock.now())
    }

    /// Carries out a write and pushes it to whoever answers with entitlements.
    async fn put(&self, write: Write) -> Result<Stored, StoreError> {
        let org = write.state.org_id.clone();
        match self.store.put(write).await {
            Ok(Committed { stored, at }) => {
                self.source.update(&org, Lookup::Stored(Box::new(stored.clone())));
                self.propagation.record(Instant::now().duration_since(at).as_secs_f64(), &[]);
                Ok(stored)
            }
            Err(error) => {
                // It may have happened all the same.
                self.source.invalidate(&org);
                Err(error)
            }
        }
    }
}
