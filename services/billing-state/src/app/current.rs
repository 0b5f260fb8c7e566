//! What this replica answers with, kept up to date by what it does itself and by what it hears of the others.
//!
//! Both may be late: a change that was made here may be told to the cache after a later one that was made elsewhere was heard
//! of. The state of the earlier one is still news then, but no answer to rely on. So whoever is about to read or to change a
//! tenant's state begins with [`Current::begin`], and what is heard of the tenant meanwhile is remembered until it is told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pulse_entitlements::{Answer, DatabaseSource, Lookup, SourceError};
use pulse_kernel::OrgId;

/// The cache of entitlements. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    source: DatabaseSource,
    under_way: Arc<Mutex<HashMap<OrgId, UnderWay>>>,
}

/// What this process is doing about a tenant.
#[derive(Debug, Default)]
struct UnderWay {
    count: usize,
    /// The newest revision that was heard of meanwhile.
    heard: u64,
}

/// Something that this process reads or changes.
#[derive(Debug)]
pub(crate) struct Begun {
    current: Current,
    org: OrgId,
}

impl Current {
    pub(crate) fn new(source: DatabaseSource) -> Self {
        Self { source, under_way: Arc::default() }
    }

    /// The answer where it is cached.
    pub(crate) fn at_hand(&self, org: &OrgId) -> Option<Result<Answer, SourceError>> {
        self.source.cached(org)
    }

    pub(crate) async fn answer(&self, org: &OrgId) -> Result<Answer, SourceError> {
        self.source.answer(org).await
    }

    /// Something about the tenant is going to be read or changed.
    pub(crate) fn begin(&self, org: &OrgId) -> Begun {
        self.under_way().entry(org.clone()).or_default().count += 1;
        Begun { current: self.clone(), org: org.clone() }
    }

    /// Someone has changed the tenant's state to this revision. Says whether an older one was served from here until now, and is
    /// not the concern of something that is under way here.
    pub(crate) fn changed(&self, org: &OrgId, revision: u64) -> bool {
        let mut under_way = self.under_way();
        let is_ours =
            under_way.get_mut(org).map(|under_way| under_way.heard = under_way.heard.max(revision)).is_some();
        match self.source.cached(org) {
            Some(Err(SourceError::Purged)) => false,
            Some(Ok(answer)) if answer.revision >= revision => false,
            served => {
                // Also where nothing is served: a read that is under way may have come too early.
                self.source.invalidate(org);
                served.is_some() && !is_ours
            }
        }
    }

    /// This was found where an edit by hand was looked for; none: something that cannot be understood.
    pub(crate) fn looked(&self, org: &OrgId, found: Option<Lookup>) {
        match found {
            // What was told after that has a later revision.
            Some(lookup) => self.source.update(org, lookup),
            None => self.source.invalidate(org),
        }
    }

    /// Anything may have changed.
    pub(crate) fn reset(&self) {
        let mut under_way = self.under_way();
        for under_way in under_way.values_mut() {
            under_way.heard = u64::MAX;
        }
        self.source.invalidate_all();
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<OrgId, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    /// This is what is stored, or was until what was heard of meanwhile.
    pub(crate) fn found(&self, lookup: Lookup) {
        let revision = match &lookup {
            Lookup::Stored(stored) => stored.revision,
            Lookup::NotStored => 0,
            // Nothing comes after it.
            Lookup::Purged => u64::MAX,
        };
        let under_way = self.current.under_way();
        self.current.source.update(&self.org, lookup);
        if under_way.get(&self.org).is_some_and(|under_way| under_way.heard > revision) {
            self.current.source.invalidate(&self.org);
        }
    }

    /// What is stored now has to be asked for.
    pub(crate) fn unknown(&self) {
        let _under_way = self.current.under_way();
        self.current.source.invalidate(&self.org);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut under_way = self.current.under_way();
        if let Some(entry) = under_way.get_mut(&self.org) {
            entry.count -= 1;
            if entry.count == 0 {
                under_way.remove(&self.org);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use SubscriptionState::{Active, Expired, Suspended, Trial};
    use async_trait::async_trait;
    use pulse_entitlements::{
        BillingState, BillingStore, BillingStoreError, Catalog, DatabaseSourceConfig, Source, Stored,
        SubscriptionState,
    };
    use pulse_testkit::ManualClock;

    use super::*;
    use crate::domain::tests::{org, trial_write};

    /// What is stored, and whether it can be read.
    #[derive(Debug, Default)]
    struct Store(Mutex<Option<Lookup>>);

    #[async_trait]
    impl BillingStore for Store {
        async fn billing_state(&self, _: &OrgId) -> Result<Lookup, BillingStoreError> {
            self.0.lock().unwrap().clone().ok_or_else(|| BillingStoreError::new("away"))
        }
    }

    fn stored(subscription_state: SubscriptionState, revision: u64) -> Lookup {
        let state = BillingState { subscription_state, ..trial_write("k", 0).state };
        Lookup::Stored(Box::new(Stored { state, revision }))
    }

    struct Bench {
        store: Arc<Store>,
        current: Current,
    }

    impl Bench {
        /// With a trial that is stored and served.
        async fn on_trial() -> Self {
            let store = Arc::new(Store::default());
            let clock = Arc::new(ManualClock::at(crate::domain::tests::at(0)));
            let config = DatabaseSourceConfig::default();
            let source = DatabaseSource::new(store.clone(), &Catalog::built_in(), config, clock);
            let bench = Self { store, current: Current::new(source) };
            bench.is(stored(Trial, 1));
            assert_eq!(bench.look().await, (Trial, Source::Fresh));
            bench
        }

        /// Stored by someone else.
        fn is(&self, lookup: Lookup) {
            *self.store.0.lock().unwrap() = Some(lookup);
        }

        fn is_away(&self) {
            *self.store.0.lock().unwrap() = None;
        }

        async fn look(&self) -> (SubscriptionState, Source) {
            let answer = self.current.answer(&org()).await.unwrap();
            (answer.entitlements.subscription_state, answer.source)
        }
    }

    #[tokio::test]
    async fn what_is_heard_of_is_asked_for_unless_it_is_known() {
        let bench = Bench::on_trial().await;
        assert!(!bench.current.changed(&org(), 1));
        assert_eq!(bench.look().await, (Trial, Source::Cached));
        bench.is(stored(Active, 2));
        assert!(bench.current.changed(&org(), 2));
        assert!(!bench.current.changed(&org(), 2), "it is not served any more");
        assert_eq!(bench.look().await, (Active, Source::Fresh));
        assert!(!bench.current.changed(&org(), 2));
        assert!(!bench.current.changed(&org(), 1), "an older one");
        assert_eq!(bench.look().await, (Active, Source::Cached));

        bench.is(Lookup::Purged);
        assert!(bench.current.changed(&org(), 3));
        assert_eq!(bench.current.answer(&org()).await, Err(SourceError::Purged));
        assert!(!bench.current.changed(&org(), 3));
        assert!(!bench.current.changed(&OrgId::parse("unknown").unwrap(), 1));
    }

    #[tokio::test]
    async fn a_change_that_was_made_here_is_served_at_once_also_when_it_is_heard_of_first() {
        let bench = Bench::on_trial().await;
        let begun = bench.current.begin(&org());
        bench.is(stored(Suspended, 2));
        assert!(!bench.current.changed(&org(), 2), "whoever made it tells");
        begun.found(stored(Suspended, 2));
        drop(begun);
        assert_eq!(bench.look().await, (Suspended, Source::Cached));
        assert!(!bench.current.changed(&org(), 2));
    }

    #[tokio::test]
    async fn what_is_told_late_is_known_but_not_relied_on() {
        let bench = Bench::on_trial().await;
        for reset in [false, true] {
            let (begun, other) = (bench.current.begin(&org()), bench.current.begin(&org()));
            bench.is(stored(Expired, 3));
            if reset {
                bench.current.reset();
            } else {
                bench.current.changed(&org(), 3);
            }
            drop(other);
            begun.found(stored(Suspended, 2));
            assert_eq!(bench.look().await, (Expired, Source::Fresh), "and not that of revision 2");
            drop(begun);
            assert!(bench.current.under_way().is_empty());
        }

        // While the store is away, it is better than what was known before.
        let begun = bench.current.begin(&org());
        bench.current.changed(&org(), 5);
        bench.is_away();
        begun.found(stored(Suspended, 4));
        assert_eq!(bench.look().await, (Suspended, Source::Stale));
    }

    #[tokio::test]
    async fn what_began_before_a_change_and_ends_after_it_is_asked_for_again() {
        let bench = Bench::on_trial().await;
        let begun = bench.current.begin(&org());
        begun.found(stored(Active, 2));
        assert_eq!(bench.look().await, (Active, Source::Cached));
        bench.is(stored(Suspended, 3));
        assert!(!bench.current.changed(&org(), 3));
        assert_eq!(bench.look().await, (Suspended, Source::Fresh));
        begun.unknown();
        assert_eq!(bench.look().await, (Suspended, Source::Fresh));
        begun.found(Lookup::Purged);
        assert_eq!(bench.current.answer(&org()).await, Err(SourceError::Purged));
    }

    #[tokio::test]
    async fn a_reset_has_everything_asked_for_and_unlocks_nothing() {
        let bench = Bench::on_trial().await;
        bench.is(stored(Suspended, 2));
        bench.current.reset();
        assert_eq!(bench.look().await, (Suspended, Source::Fresh));
        bench.is_away();
        bench.current.reset();
        assert_eq!(bench.look().await, (Suspended, Source::Stale));
    }
}
