//! The use cases: domain and store, put together.
//!
//! | module | holds |
//! |---|---|
//! | [`tenancy`] | what the sagas of the provisioner ask for: make, activate, abandon, purge |
//! | [`operations`] | what operators ask for: suspend, unsuspend, delete, restore, list |
//! | [`reaper`] | begins the purge of organizations whose retention is over |
//! | [`watch`] | what watchers of organizations are told |
//! | [`status`] | what is known of statuses, for decisions |
//! | [`metrics`] | counters of transitions, the gauge of active tenants |
//!
//! Every change goes the same way: find, decide purely, store on the version that was decided on; when someone else
//! was quicker, again from the start. What was decided is stored, told and counted even if the caller does not wait for it.

pub(crate) mod metrics;
pub(crate) mod operations;
pub(crate) mod reaper;
pub(crate) mod status;
pub(crate) mod tenancy;
pub(crate) mod watch;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pulse_entitlements::cache::CacheConfig;
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_rpc::{RequestContext, watch::hub::Limits};
use pulse_runtime::Shutdown;
use pulse_store::{StoreError, postgres::feed::Event, time::truncate};
use pulse_tenant_guard::StatusCache;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::Instrument as _;

use self::{
    metrics::Metrics,
    watch::{Stored, Watch},
};
use crate::{
    domain::{Author, InvalidTransition, Organization, Removal, StatusKind, Transition},
    error::LifecycleError,
    store::{Creation, Found, Lease, Store, Transaction, Written},
};

/// How long a change that is stored waits for the number of active tenants to be told.
const COUNTED_WITHIN: Duration = Duration::from_millis(250);

/// How long the number of active tenants may rest when others keep changing it.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

/// How often a change is decided anew when others change the organization at the same time.
const ATTEMPTS: usize = 8;

/// The organizations, and what can be done with them. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Organizations {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    watch: Watch,
    statuses: StatusCache,
    /// Told when the number of active tenants may not be up to date.
    outdated: Arc<Notify>,
}

/// Some of a list, and where it goes on, if it does.
#[derive(Debug)]
pub(crate) struct Page<T, C> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// Of one item more than fits, so that the last page is known to be the last.
    fn of(mut items: Vec<T>, size: usize, cursor: impl FnOnce(&T) -> C) -> Self {
        let more = items.len() > size;
        items.truncate(size);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

impl Organizations {
    /// Those in `store`, by `clock`; counts them for the metrics. `cache` is for the statuses that decisions are made from.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        cache: CacheConfig,
    ) -> Result<Self, StoreError> {
        let metrics = Metrics::new();
        metrics.show_active_tenants(&*store).await?;
        let stored = Stored(Arc::clone(&store));
        let statuses = StatusCache::new(Arc::new(stored.clone()), cache, Arc::clone(&clock));
        let watch = Watch::new("organizations", stored, Limits::default(), Arc::clone(&clock), entropy);
        Ok(Self { store, clock, metrics, watch, statuses, outdated: Arc::default() })
    }

    /// Tells watchers what changes, lets decisions go by it, and keeps the number of active tenants right, also while other
    /// replicas change organizations, until the process is told to stop.
    pub(crate) fn follow(&self, shutdown: &Shutdown) {
        let (watch, outdated) = (self.watch.clone(), Arc::clone(&self.outdated));
        let statuses = self.statuses.clone();
        let on = move |event| {
            match event {
                Event::Reset => {
                    statuses.invalidate_all();
                    watch.missed();
                }
                Event::Changed(change) => {
                    statuses.invalidate(&change.org_id);
                    watch.changed_to(&change.org_id, u64::try_from(change.version).unwrap_or_default());
                }
            }
            outdated.notify_one();
        };
        let others = self.store.follow(shutdown, Box::new(on));
        self.watch.run(shutdown, others);
        self.keep_statuses(shutdown);
        let outdated = Arc::clone(&self.outdated);
        let this = self.clone();
        let refresh = move || {
            let this = this.clone();
            async move { this.metrics.show_active_tenants(&*this.store).await }
        };
        let draining = shutdown.draining();
        shutdown.spawn("active tenants", async move {
            tokio::select! { () = draining => {}, () = refresh_whenever(&outdated, refresh) => {} }
        });
    }

    /// Now, as precisely as the store keeps it.
    fn now(&self) -> Timestamp {
        truncate(self.clock.now())
    }

    /// The organization of that id.
    ///
    /// # Errors
    /// `NotFound`, also for what was abandoned or purged.
    pub(crate) async fn get(&self, id: &OrgId) -> Result<Organization, LifecycleError> {
        match self.store.find(id).await? {
            Found::Organization(organization) => Ok(organization),
            Found::Tombstone(_) | Found::Nothing => Err(LifecycleError::NotFound),
        }
    }

    /// An operator's change: as [`Organizations::change`], and answered when every replica that is alive has heard of it, so that
    /// none decides by what was before.
    async fn change_everywhere(
        &self,
        id: &OrgId,
        etag: Option<&str>,
        author: Author,
        decide: impl Fn(Organization, Timestamp) -> Result<Transition, InvalidTransition> + Send,
    ) -> Result<Organization, LifecycleError> {
        let (changed, transaction) = self.change(id, etag, author, decide).await?;
        if let Some(transaction) = transaction
            && !self.store.heard(transaction).await
        {
            tracing::warn!(
                "not every replica has heard of a change in time; those that have not go by what was before"
            );
        }
        Ok(changed)
    }

    /// Decides a change on what the organization is now, and stores it.
    async fn change(
        &self,
        id: &OrgId,
        etag: Option<&str>,
        author: Author,
        decide: impl Fn(Organization, Timestamp) -> Result<Transition, InvalidTransition> + Send,
    ) -> Result<(Organization, Transaction), LifecycleError> {
        for _ in 0..ATTEMPTS {
            let current = self.get(id).await?;
            if etag.is_some_and(|etag| etag != current.etag()) {
                return Err(LifecycleError::EtagMismatch);
            }
            let transition = decide(current, self.now())?;
            let changed = transition.organization.clone();
            match self.store_change(transition, author.clone()).await? {
                Written::Done(transaction) => return Ok((changed, transaction)),
                Written::Stale => {}
            }
        }
        Err(LifecycleError::Contended)
    }

    async fn store_creation(&self, new: Transition, author: Author) -> Result<Creation, StoreError> {
        let this = self.clone();
        uncancelled(async move {
            let created = Found::Organization(new.organization.clone());
            let id = new.organization.id.clone();
            let stored = this.store.create(new, author).await;
            let was_stored = |creation: &Creation| *creation == Creation::Created;
            this.settle(stored, &id, &created, Creation::Created, was_stored).await
        })
        .await
    }

    async fn store_change(&self, transition: Transition, author: Author) -> Result<Written, StoreError> {
        let this = self.clone();
        uncancelled(async move {
            let stored = this.store.change(transition.clone(), author).await;
            this.conclude(stored.map(Some), transition).await.map(|written| written.unwrap_or(Written::Stale))
        })
        .await
    }

    /// As [`Organizations::store_change`], as long as the lease is held; none when it is not.
    async fn store_change_under(
        &self,
        lease: Lease,
        transition: Transition,
        author: Author,
    ) -> Result<Option<Written>, StoreError> {
        let this = self.clone();
        uncancelled(async move {
            let stored = this.store.change_under(&lease, transition.clone(), author).await;
            this.conclude(stored, transition).await
        })
        .await
    }

    /// Finds out whether a change was stored, tells of it, and counts it if it was.
    async fn conclude(
        &self,
        stored: Result<Option<Written>, StoreError>,
        Transition { organization, from, .. }: Transition,
    ) -> Result<Option<Written>, StoreError> {
        let (id, to) = (organization.id.clone(), organization.status.kind());
        let (if_done, done) = (Found::Organization(organization), Some(Written::Done(None)));
        let was_stored = |written: &Option<Written>| written.is_some_and(Written::is_done);
        let written = self.settle(stored, &id, &if_done, done, was_stored).await?;
        if was_stored(&written) {
            self.count(from, to.as_str()).await;
        }
        Ok(written)
    }

    async fn store_removal(&self, removal: Removal, author: Author) -> Result<Written, StoreError> {
        let this = self.clone();
        uncancelled(async move {
            let (from, to) = (removal.expected.map(|(from, _)| from), removal.tombstone.kind);
            let removed = Found::Tombstone(removal.tombstone.clone());
            let stored = this.store.remove(removal.clone(), author).await;
            let (id, done) = (&removal.tombstone.id, Written::Done(None));
            let written = this.settle(stored, id, &removed, done, |written| written.is_done()).await?;
            if written.is_done() {
                this.count(from, to.as_str()).await;
            }
            Ok(written)
        })
        .await
    }

    /// Tells of a change that may be stored. Reads back what became of a commit whose outcome is unknown; never assumes it. When
    /// this returns, decisions made here go by what is stored.
    async fn settle<T>(
        &self,
        stored: Result<T, StoreError>,
        id: &OrgId,
        if_done: &Found,
        done: T,
        was_stored: impl Fn(&T) -> bool,
    ) -> Result<T, StoreError> {
        self.watch.changed(id);
        let settled = match stored {
            Err(StoreError::Ambiguous(cause)) => match self.store.find(id).await {
                Ok(found) if found == *if_done => Ok(done),
                Ok(_) | Err(_) => Err(StoreError::Ambiguous(cause)),
            },
            settled => settled,
        };
        self.tell_decisions(id, if_done, settled.as_ref().is_ok_and(was_stored));
        settled
    }

    /// Counts a change that was stored. Who asked for it does not wait long for the number of tenants, which is told all the
    /// same.
    async fn count(&self, from: Option<StatusKind>, to: &'static str) {
        if let Some(from) = from {
            self.metrics.transition(from, to);
        }
        let this = self.clone();
        let told = tokio::spawn(async move {
            if this.metrics.show_active_tenants(&*this.store).await.is_err() {
                this.outdated.notify_one();
            }
        });
        timeout(COUNTED_WITHIN, told).await.ok();
    }
}

/// Refreshes the number of active tenants whenever it may be out of date; changes that come soon after each other share one.
async fn refresh_whenever<F>(outdated: &Notify, mut refresh: impl FnMut() -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    let mut failing = false;
    loop {
        outdated.notified().await;
        let refreshed = refresh().await;
        if let Err(error) = &refreshed {
            if !failing {
                tracing::warn!(%error, "the number of active tenants is not up to date");
            }
            // Until it can be counted.
            outdated.notify_one();
        }
        failing = refreshed.is_err();
        sleep(REFRESH_PAUSE).await;
    }
}

/// Whoever this is, on behalf of the request in hand.
fn on_behalf_of(actor: &str) -> Author {
    let request_id = RequestContext::with(|context| context.request_id.to_string());
    Author { actor: actor.to_owned(), request_id }
}

/// Runs `work` to its end, also when the caller leaves in the middle.
async fn uncancelled<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    // A panic in there was logged as one; to the caller it is one failure among others.
    tokio::spawn(work.in_current_span()).await.unwrap_or(Err(StoreError::Panicked))
}

#[cfg(test)]
mod tests;
