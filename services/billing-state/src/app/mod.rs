//! The use cases: domain decisions carried out on the store, and pushed to those who answer with entitlements.
//!
//! | module | holds |
//! |---|---|
//! | here | [`BillingStates`]: start a trial, read, set, purge, list the audit |
//! | [`current`] | the cache, told of what is done here and of what is heard of others |
//! | [`source`] | the store as what entitlements are read from |
//! | [`watch`] | what watchers of billing states are told |
//!
//! A change that has begun goes on to its end when its caller goes away, so that what is committed is always pushed.
//!
//! Where replicas share the store, each follows what the others change. An operator's change and a purge are answered when
//! every replica that is alive has heard of them: from then on none answers with what was before.

pub(crate) mod current;
pub(crate) mod source;
pub(crate) mod watch;

use std::{sync::Arc, time::Duration};

use opentelemetry::metrics::Histogram;
use pulse_entitlements::{Answer, BillingState, DatabaseSource, Lookup, Stored};
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_rpc::watch::hub::Limits;
use pulse_runtime::Shutdown;
use pulse_store::{audit::AuditRecord, postgres::feed::Change, time};
use tokio::{sync::Semaphore, time::Instant};
use tracing::Instrument as _;

use self::{
    current::Current,
    watch::{States, Watch},
};
use crate::{
    domain::{Author, Key, Plans, SetRequest, Write, set, trial},
    error::BillingError,
    store::{Committed, Event, Purge, Purged, Store, StoreError},
};

/// How often a change is decided anew because another one came first.
const ATTEMPTS: usize = 8;

/// How many tenants that others have changed are read again at a time. More wait until they are asked for, so that no burst of
/// changes keeps the store from everyone else.
const REFRESHING: usize = 4;

/// The use cases. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct BillingStates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    current: Current,
    plans: Plans,
    clock: Arc<dyn Clock>,
    propagation: Histogram<f64>,
    refreshing: Arc<Semaphore>,
    watch: Watch,
}

impl BillingStates {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        source: DatabaseSource,
        plans: Plans,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Self {
        let propagation = pulse_runtime::telemetry::meter("pulse-billing-state")
            .f64_histogram("pulse_hosted_billing_propagation")
            .with_unit("s")
            .with_description(
                "From the commit of a billing state to its first possible use in an answer, in each replica that served an older \
                 one; in another replica than the one that made it, from the decision, by the clocks of the two",
            )
            .build();
        let (current, refreshing) = (Current::new(source), Arc::new(Semaphore::new(REFRESHING)));
        let states = States(Arc::clone(&store));
        let watch = Watch::new("billing_states", states, Limits::default(), Arc::clone(&clock), entropy);
        Self(Arc::new(Inner { store, current, plans, clock, propagation, refreshing, watch }))
    }

    /// From now on watchers are told what changes, and this replica does not go on answering with what another one, or an edit by
    /// hand, has changed.
    pub(crate) fn follow(&self, shutdown: &Shutdown) {
        let inner = self.0.clone();
        let on = move |event| match event {
            Event::Reset => {
                inner.current.reset();
                inner.watch.missed();
            }
            Event::Changed(change) => inner.hear(change),
            Event::Looked { org, found } => {
                inner.watch.changed(&org);
                inner.current.looked(&org, found);
            }
        };
        let others = self.0.store.follow(shutdown, Box::new(on));
        self.0.watch.run(shutdown, others);
    }

    /// What the tenant may use now, where that takes no waiting.
    pub(crate) fn entitlements_at_hand(&self, org: &OrgId) -> Option<Result<Answer, BillingError>> {
        self.0.current.at_hand(org).map(|answer| Ok(answer?))
    }

    /// What the tenant may use now.
    pub(crate) async fn entitlements(&self, org: &OrgId) -> Result<Answer, BillingError> {
        Ok(self.0.current.answer(org).await?)
    }

    /// The stored state; none where none is.
    pub(crate) async fn get(&self, org: &OrgId) -> Result<Option<BillingState>, BillingError> {
        let begun = self.0.current.begin(org);
        match self.0.store.get(org).await? {
            Lookup::Stored(stored) => {
                // Whoever reads an edit by hand spares the others the wait for the next refresh.
                begun.found(Lookup::Stored(stored.clone()));
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
                    Ok((stored, _)) => return Ok((stored.state, true)),
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
                    Ok((stored, transaction)) => {
                        inner.until_heard(transaction).await;
                        return Ok(stored.state);
                    }
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
            let begun = inner.current.begin(&org);
            let purge = inner.store.purge(&org, created_by.as_ref()).await;
            inner.watch.changed(&org);
            let Purged { purge, transaction } = purge.inspect_err(|_| begun.unknown())?;
            match purge {
                Purge::Removed | Purge::Nothing => begun.found(Lookup::Purged),
                Purge::NotTheirs => tracing::info!(org_id = %org, "left alone: another request made it"),
            }
            inner.until_heard(transaction).await;
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

    /// Carries out a write and pushes it to whoever answers with entitlements here. What is stored now, and the transaction, for
    /// [`Inner::until_heard`].
    async fn put(&self, write: Write) -> Result<(Stored, Option<i64>), StoreError> {
        let org = write.state.org_id.clone();
        let begun = self.current.begin(&org);
        let put = self.store.put(write).await;
        self.watch.changed(&org);
        match put {
            Ok(Committed { stored, at, transaction }) => {
                begun.found(Lookup::Stored(Box::new(stored.clone())));
                self.propagated(Instant::now().duration_since(at));
                Ok((stored, transaction))
            }
            Err(error) => {
                // It may have happened all the same.
                begun.unknown();
                Err(error)
            }
        }
    }

    /// Waits, within bounds, until the other replicas do not answer any more with what was before the transaction.
    async fn until_heard(&self, transaction: Option<i64>) {
        let Some(transaction) = transaction else { return };
        if !self.store.heard(transaction).await {
            tracing::warn!(
                "not every replica has heard of a change in time; those that have not serve what was before"
            );
        }
    }

    /// A change was made, here or elsewhere.
    fn hear(self: &Arc<Self>, Change { org_id, version, at }: Change) {
        let revision = u64::try_from(version).unwrap_or_default();
        self.watch.changed_to(&org_id, revision);
        if !self.current.changed(&org_id, revision) {
            return;
        }
        // The other replica's clock to ours: what the two are apart is in it.
        self.propagated(self.clock.now().duration_since(at).try_into().unwrap_or_default());
        // The next who asks would wait for the store, or, should it go away now, be answered with what was before.
        let Ok(permit) = self.refreshing.clone().try_acquire_owned() else { return };
        let inner = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(gone) = inner.current.answer(&org_id).await {
                tracing::debug!(%org_id, %gone, "another replica has removed a tenant");
            }
        });
    }

    fn propagated(&self, after: Duration) {
        self.propagation.record(after.as_secs_f64(), &[]);
    }
}
