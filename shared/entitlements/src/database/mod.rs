//! [`DatabaseSource`]: entitlements out of a [`BillingStore`], remembered, and served on when the store fails.
//!
//! | module | holds |
//! |---|---|
//! | here | the source: a [`TenantCache`] of what billing states entitle to |
//! | `facts` | what is known of one tenant, and what it is worth without a store |
//! | `shared` | what many tenants have in common |

mod facts;
mod shared;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use opentelemetry::metrics::Meter;
use pulse_kernel::{Clock, OrgId};

use self::facts::{Billing, Policy};
use crate::{
    Answer, BillingStore, Catalog, EntitlementSource, Lookup, SourceError,
    cache::{CacheConfig, Found, TenantCache},
};

/// Settings of a [`DatabaseSource`].
pub type DatabaseSourceConfig = CacheConfig;

/// An [`EntitlementSource`] over a [`BillingStore`]. Cheap to clone; clones share the cache.
#[derive(Debug, Clone)]
pub struct DatabaseSource(TenantCache<Billing>);

impl DatabaseSource {
    /// A source over `store`, with nothing known yet; `catalog` says what a trial grants.
    pub fn new(
        store: Arc<dyn BillingStore>,
        catalog: &Catalog,
        config: DatabaseSourceConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let policy =
            Policy { trial: catalog.trial().clone(), refresh: config.refresh, max_stale: config.max_stale };
        Self(TenantCache::new(Billing::new(store, policy), "billing", config, clock))
    }

    /// The tenant's entitlements where they are at hand: the hot path. None: ask [`answer`](Self::answer).
    ///
    /// # Errors
    /// When the tenant is known to be gone.
    pub fn cached(&self, org: &OrgId) -> Option<Result<Answer, SourceError>> {
        self.0.hit(org).map(|(fact, age)| fact.confirmed(age, false))
    }

    /// The tenant's entitlements, from the cache, the store, or what is known without it.
    ///
    /// # Errors
    /// When the tenant is gone. A store that fails is not an error.
    pub async fn answer(&self, org: &OrgId) -> Result<Answer, SourceError> {
        match self.0.ask(org).await {
            Found::Confirmed { fact, age, is_fresh } => fact.confirmed(age, is_fresh),
            Found::Unconfirmed { known, is_forgetful, now } => {
                self.0.facts().policy().without_store(known, is_forgetful, org, now)
            }
        }
    }

    /// Takes over a change that the caller knows to be committed: the next answer has it, and a read that began before
    /// does not undo it. A revision older than the one that is known is ignored, and so is any after a purge.
    pub fn update(&self, org: &OrgId, lookup: Lookup) {
        self.0.update(org, lookup);
    }

    /// The same for a change that a feed tells, of whatever tenant; see [`TenantCache::tell`].
    pub fn tell(&self, org: &OrgId, lookup: Lookup) {
        self.0.tell(org, lookup);
    }

    /// The next answer asks the store; until it has answered, what is known stays known.
    pub fn invalidate(&self, org: &OrgId) {
        self.0.invalidate(org);
    }

    /// The same for every tenant; see [`TenantCache::invalidate_all`].
    pub fn invalidate_all(&self) {
        self.0.invalidate_all();
    }

    /// Every change that was committed longer ago than `age` has been told; see [`TenantCache::confirm`].
    pub fn confirm(&self, age: Duration) {
        self.0.confirm(age);
    }

    /// Changes are not told any more; see [`TenantCache::lost`].
    pub fn lost(&self) {
        self.0.lost();
    }

    /// Tells what is counted through `meter`; see [`TenantCache::report`].
    pub fn report(&self, meter: &Meter, name: &'static str) {
        self.0.report(meter, name);
    }
}

#[async_trait]
impl EntitlementSource for DatabaseSource {
    async fn entitlements(&self, org: &OrgId) -> Result<Answer, SourceError> {
        self.answer(org).await
    }

    fn cached(&self, org: &OrgId) -> Option<Result<Answer, SourceError>> {
        Self::cached(self, org)
    }
}
