//! What is known about one tenant's billing state, and what that is worth when the store does not answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::OrgId;

use super::shared::Shared;
use crate::{
    Answer, BillingStore, Entitlements, Grants, Lookup, Name, Plan, Source, SourceError, SubscriptionState,
    cache::{Facts, ReadError, Reading, Told},
    effective,
};

/// What the store last said.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// The tenant has a state, and this is what it entitles to.
    Tenant(Arc<Entitlements>),
    /// The tenant has none, so this is what a trial grants.
    NotStored(Arc<Entitlements>),
    /// The tenant was purged.
    Purged,
}

/// The same, and the state's revision; 0 when there is none.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub(super) known: Known,
    pub(super) revision: u64,
}

/// The settings that decide without a store.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) trial: Plan,
    pub(super) refresh: Duration,
    pub(super) max_stale: Duration,
}

/// Entitlements out of a store of billing states.
#[derive(Debug)]
pub(super) struct Billing {
    store: Arc<dyn BillingStore>,
    policy: Policy,
    shared: Mutex<(Shared<Name>, Shared<Grants>)>,
}

impl Billing {
    pub(super) fn new(store: Arc<dyn BillingStore>, policy: Policy) -> Self {
        Self { store, policy, shared: Mutex::default() }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }
}

#[async_trait]
impl Facts for Billing {
    type Fact = Fact;
    type Lookup = Lookup;

    async fn read(&self, org: &OrgId) -> Result<Reading<Lookup>, ReadError<Lookup>> {
        self.store.recalled(org).await.map_err(|error| ReadError {
            message: error.message,
            last_known: error.last_known.map(Lookup::Stored),
        })
    }

    fn learn(&self, org: &OrgId, lookup: Lookup, at: Timestamp) -> Fact {
        match lookup {
            Lookup::Stored(stored) => {
                let mut entitlements = effective(&stored.state, at);
                let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                entitlements.plan_version = shared.0.share(entitlements.plan_version);
                entitlements.grants = shared.1.share(entitlements.grants);
                Fact { known: Known::Tenant(Arc::new(entitlements)), revision: stored.revision }
            }
            Lookup::NotStored => {
                let trial = Arc::new(self.policy.trial_default(org, at));
                Fact { known: Known::NotStored(trial), revision: 0 }
            }
            Lookup::Purged => Fact { known: Known::Purged, revision: 0 },
        }
    }

    /// A store that is read is right, whatever was known. An update, and what others remember, may be late; and what a store
    /// finds in its history is no more than that.
    fn after(&self, known: &Fact, new: Fact, told: Told) -> Option<Fact> {
        let is_newer = match (told, &new.known, &known.known) {
            (Told::ByUpdate | Told::ByMemory, Known::Tenant(_), Known::Tenant(_)) => {
                new.revision >= known.revision
            }
            (Told::ByHistory, Known::Tenant(_), Known::Tenant(_)) => new.revision > known.revision,
            // Ids are never used twice: nothing comes after a purge.
            (Told::ByUpdate | Told::ByMemory | Told::ByHistory, Known::Tenant(_), Known::Purged) => false,
            _ => true,
        };
        is_newer.then_some(new)
    }

    /// It is locked or gone, will be at a known time, or has less than a trial.
    fn must_be_remembered(&self, fact: &Fact) -> bool {
        match &fact.known {
            Known::Purged => true,
            Known::Tenant(known) => {
                known.valid_until.is_some() || !known.grants.covers(&self.policy.trial.grants)
            }
            Known::NotStored(_) => false,
        }
    }

    fn closes(&self, fact: &Fact) -> bool {
        match &fact.known {
            Known::Purged => true,
            Known::Tenant(known) => known.is_locked(),
            Known::NotStored(_) => false,
        }
    }

    fn holds_at(&self, fact: &Fact, now: Timestamp) -> bool {
        match &fact.known {
            Known::Tenant(known) | Known::NotStored(known) => known.holds_at(now),
            Known::Purged => true,
        }
    }

    fn carried_to(&self, fact: &Fact, now: Timestamp) -> Fact {
        let known = match &fact.known {
            Known::Tenant(known) => {
                Known::Tenant(known.past_its_end(now).map_or_else(|| known.clone(), Arc::new))
            }
            // That default ends only to be asked for again.
            Known::NotStored(known) => {
                Known::NotStored(Arc::new(self.policy.trial_default(&known.org_id, now)))
            }
            Known::Purged => Known::Purged,
        };
        Fact { known, revision: fact.revision }
    }
}

impl Fact {
    /// The answer while the store answers.
    pub(super) fn confirmed(self, age: Duration, is_fresh: bool) -> Result<Answer, SourceError> {
        let (entitlements, source) = match self.known {
            Known::Tenant(known) if is_fresh => (known, Source::Fresh),
            Known::Tenant(known) => (known, Source::Cached),
            Known::NotStored(trial) => (trial, Source::Default),
            Known::Purged => return Err(SourceError::Purged),
        };
        Ok(Answer { entitlements, source, age, revision: self.revision, confirmed: true })
    }
}

impl Policy {
    /// What a tenant without a known state may use: a trial without an end of its own, so that no later check refuses
    /// it, to be asked for again after the refresh age.
    pub(super) fn trial_default(&self, org: &OrgId, now: Timestamp) -> Entitlements {
        Entitlements {
            org_id: org.clone(),
            subscription_state: SubscriptionState::Trial,
            plan_version: self.trial.name.clone(),
            grants: self.trial.grants.clone(),
            trial_started_at: None,
            trial_ends_at: None,
            valid_until: Some(now.checked_add(self.refresh).unwrap_or(Timestamp::MAX)),
        }
    }

    /// The answer while the store fails, from what is known of the tenant at `now`.
    ///
    /// - Locked and purged tenants stay so, however long.
    /// - Any other known state is served while the last read is within the bound on staleness.
    /// - Beyond it a trial is granted, but no more than the last known state has, and no longer.
    /// - Where nothing is known, a trial is granted; unless something that had to be remembered is forgotten, as it
    ///   could be this very tenant.
    pub(super) fn without_store(
        &self,
        known: Option<(Fact, Duration)>,
        is_forgetful: bool,
        org: &OrgId,
        now: Timestamp,
    ) -> Result<Answer, SourceError> {
        let answer = |entitlements, source, age, revision| Answer {
            entitlements,
            source,
            age,
            revision,
            confirmed: false,
        };
        let Some((Fact { known, revision }, age)) = known else {
            let mut trial = self.trial_default(org, now);
            if is_forgetful {
                trial.subscription_state = SubscriptionState::Expired;
                trial.grants = Arc::default();
            }
            let source = if is_forgetful { Source::Stale } else { Source::Default };
            return Ok(answer(Arc::new(trial), source, Duration::ZERO, 0));
        };
        match known {
            Known::Purged => Err(SourceError::Purged),
            Known::Tenant(known) if known.is_locked() || age <= self.max_stale => {
                Ok(answer(known, Source::Stale, age, revision))
            }
            Known::Tenant(known) => {
                let mut trial = self.trial_default(org, now);
                if !known.grants.covers(&trial.grants) {
                    trial.grants = Arc::new(trial.grants.meet(&known.grants));
                }
                trial.valid_until = trial.valid_until.into_iter().chain(known.valid_until).min();
                Ok(answer(Arc::new(trial), Source::Default, age, revision))
            }
            Known::NotStored(_) => {
                Ok(answer(Arc::new(self.trial_default(org, now)), Source::Default, age, revision))
            }
        }
    }
}
