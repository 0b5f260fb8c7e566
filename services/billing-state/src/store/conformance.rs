//! What every store does, whatever it is made of.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures::{TryStreamExt as _, future::join_all};
use pulse_entitlements::{BillingState, Lookup, Stored, SubscriptionState};
use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use pulse_store::{
    audit::{AuditRecord, verify},
    postgres::feed::LastLook,
};
use pulse_testkit::{ManualClock, Postgres, SeededEntropy};

use super::{
    Committed, Listed, Listing, OnEvent, Purge, Purged, Store, StoreError,
    file::FileStore,
    memory::MemoryStore,
    postgres::{PostgresStore, tests::open},
};
use crate::domain::{
    Expected, Key, Write,
    tests::{ask, key, org, set_on, trial_write, trial_write_of},
};
use SubscriptionState::{Active, Expired, Suspended};

/// Runs each of the named tests against each store.
macro_rules! conformance {
    ($($test:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $test() {
                let entropy = super::Arc::new(super::SeededEntropy::default());
                super::$test(super::Arc::new(super::MemoryStore::new(entropy))).await;
            })*
        }
        mod postgres {
            $(#[tokio::test] async fn $test() {
                let database = super::Postgres::shared().await.database().await;
                super::$test(super::Arc::new(super::open(&database, 4).await)).await;
            })*
        }
        mod replicas {
            $(#[tokio::test] async fn $test() {
                super::$test(super::Arc::new(super::Replicas::start().await)).await;
            })*
        }
        mod file {
            $(#[tokio::test] async fn $test() {
                let data = tempfile::tempdir().unwrap();
                let (clock, entropy) = (super::ManualClock::default(), super::SeededEntropy::default());
                let (clock, entropy) = (super::Arc::new(clock), super::Arc::new(entropy));
                let store = super::FileStore::open(data.path(), clock, entropy).unwrap();
                super::$test(super::Arc::new(store)).await;
            })*
        }
    };
}

conformance! {
    what_is_put_is_there_with_its_revision
    a_write_replaces_only_what_it_expects
    of_many_writes_that_expect_the_same_one_wins
    of_many_first_writes_one_wins
    a_purge_among_writes_is_the_last_of_them
    a_purge_leaves_nothing_and_nothing_comes_back
    a_purge_with_a_key_leaves_alone_what_another_made
    a_purge_of_nothing_keeps_a_late_trial_out
    the_creator_is_who_made_the_first_state
    the_audit_is_a_verified_chain_newest_first_in_pages
    tenants_do_not_see_each_other
    every_tenant_with_a_state_is_listed_once
    it_can_be_probed
}

type AnyStore = Arc<dyn Store>;

/// The stores of two replicas on one database, of which each call goes to the other one than the last.
#[derive(Debug)]
struct Replicas {
    stores: [PostgresStore; 2],
    calls: AtomicUsize,
}

impl Replicas {
    async fn start() -> Self {
        let database = Postgres::shared().await.database().await;
        Self { stores: [open(&database, 4).await, open(&database, 4).await], calls: AtomicUsize::new(0) }
    }

    fn next(&self) -> &PostgresStore {
        &self.stores[self.calls.fetch_add(1, Ordering::Relaxed) % 2]
    }
}

#[async_trait]
impl Store for Replicas {
    async fn get(&self, org: &OrgId) -> Result<Lookup, StoreError> {
        self.next().get(org).await
    }
    async fn put(&self, write: Write) -> Result<Committed, StoreError> {
        self.next().put(write).await
    }
    async fn creator(&self, org: &OrgId) -> Result<Option<String>, StoreError> {
        self.next().creator(org).await
    }
    async fn purge(&self, org: &OrgId, created_by: Option<&Key>) -> Result<Purged, StoreError> {
        self.next().purge(org, created_by).await
    }
    async fn audit(
        &self,
        org: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.next().audit(org, before, limit).await
    }
    fn list(&self) -> Listing {
        self.next().list()
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.next().ping().await
    }
    fn follow(&self, shutdown: &Shutdown, on: OnEvent) -> Option<LastLook> {
        self.next().follow(shutdown, on)
    }
}

async fn every_tenant_with_a_state_is_listed_once(store: AnyStore) {
    let pages = |store: &AnyStore| store.list().try_collect::<Vec<_>>();
    assert_eq!(pages(&store).await.unwrap().concat(), []);
    let of = |number: usize| OrgId::parse(&format!("org-{number}")).unwrap();
    let mut expected = Vec::new();
    for number in 0..150 {
        let stored = put(&store, trial_write_of(&of(number), "k", 0)).await;
        if number == 7 {
            store.purge(&of(number), None).await.unwrap();
        } else {
            expected.push(Listed { org: of(number), stored: Some(stored) });
        }
    }
    store.purge(&of(200), None).await.unwrap();
    let mut listed = pages(&store).await.unwrap().concat();
    listed.sort_by(|one, other| one.org.cmp(&other.org));
    expected.sort_by(|one, other| one.org.cmp(&other.org));
    assert_eq!(listed, expected);
}

async fn put(store: &AnyStore, write: Write) -> Stored {
    let Committed { stored, .. } = store.put(write).await.unwrap();
    stored
}

async fn get(store: &AnyStore) -> Stored {
    match store.get(&org()).await.unwrap() {
        Lookup::Stored(stored) => *stored,
        other => panic!("{other:?}"),
    }
}

async fn what_is_put_is_there_with_its_revision(store: AnyStore) {
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::NotStored);
    let trial = put(&store, trial_write("k", 0)).await;
    assert_eq!((trial.revision, &trial.state), (1, &trial_write("k", 0).state));
    assert_eq!(get(&store).await, trial);
    let active = put(&store, set_on(&trial.state, &ask(Active), 5)).await;
    assert_eq!((active.revision, active.state.subscription_state), (2, Active));
    assert_eq!(get(&store).await, active);
}

async fn a_write_replaces_only_what_it_expects(store: AnyStore) {
    let trial = put(&store, trial_write("k", 0)).await;
    let again = store.put(trial_write("k", 9)).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    let outdated = Write { expected: Expected::Etag("stale".to_owned()), ..trial_write("k", 9) };
    assert!(matches!(store.put(outdated.clone()).await, Err(StoreError::Conflict)));
    assert_eq!(get(&store).await, trial);
    assert_eq!(store.audit(&org(), None, 10).await.unwrap().len(), 1, "what is refused is not audited");

    let nobody = OrgId::parse("nobody").unwrap();
    let state = BillingState { org_id: nobody.clone(), ..outdated.state.clone() };
    let missing = store.put(Write { state, ..outdated }).await;
    assert!(matches!(missing, Err(StoreError::Conflict)), "{missing:?}");
    assert_eq!(store.get(&nobody).await.unwrap(), Lookup::NotStored);
}

async fn of_many_writes_that_expect_the_same_one_wins(store: AnyStore) {
    let trial = put(&store, trial_write("k", 0)).await;
    let writes = (1..=20).map(|second| store.put(set_on(&trial.state, &ask(Active), second)));
    let outcomes = join_all(writes).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(StoreError::Conflict))));
    assert_eq!(get(&store).await.revision, 2);
    assert_eq!(store.audit(&org(), None, 50).await.unwrap().len(), 2);
}

async fn of_many_first_writes_one_wins(store: AnyStore) {
    let keys: Vec<String> = (0..20).map(|n| format!("k-{n}")).collect();
    let outcomes = join_all(keys.iter().map(|key| store.put(trial_write(key, 0)))).await;
    let won = outcomes.iter().position(Result::is_ok).unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(StoreError::Conflict))));
    assert_eq!(store.creator(&org()).await.unwrap().as_ref(), Some(&keys[won]));
    assert_eq!(get(&store).await.revision, 1);
    assert_eq!(store.audit(&org(), None, 50).await.unwrap().len(), 1);
}

async fn a_purge_among_writes_is_the_last_of_them(store: AnyStore) {
    let trial = put(&store, trial_write("k", 0)).await;
    let writing = async {
        let mut state = trial.state.clone();
        for second in 1.. {
            match store.put(set_on(&state, &ask(Active), second)).await {
                Ok(Committed { stored, .. }) => state = stored.state,
                Err(StoreError::Purged) => break,
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
    };
    let purging = async {
        while store.audit(&org(), None, 50).await.unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        let org = org();
        join_all((0..4).map(|_| store.purge(&org, None))).await
    };
    let ((), purges) = tokio::join!(writing, purging);
    let removed = purges.into_iter().filter(|purge| purge.as_ref().unwrap().purge == Purge::Removed);
    assert_eq!(removed.count(), 1);
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
    assert_eq!(store.audit(&org(), None, 10).await.unwrap(), []);
}

async fn a_purge_leaves_nothing_and_nothing_comes_back(store: AnyStore) {
    let trial = put(&store, trial_write("k", 0)).await;
    assert_eq!(store.purge(&org(), None).await.unwrap().purge, Purge::Removed);
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
    assert_eq!(store.audit(&org(), None, 10).await.unwrap(), []);
    assert_eq!(store.creator(&org()).await.unwrap(), None);
    for write in [trial_write("k", 9), set_on(&trial.state, &ask(Active), 9)] {
        assert!(matches!(store.put(write).await, Err(StoreError::Purged)));
    }
    assert_eq!(store.purge(&org(), None).await.unwrap().purge, Purge::Nothing);
    assert_eq!(store.purge(&org(), Some(&key("k"))).await.unwrap().purge, Purge::Nothing);
}

async fn a_purge_with_a_key_leaves_alone_what_another_made(store: AnyStore) {
    let trial = put(&store, trial_write("mine", 0)).await;
    assert_eq!(store.purge(&org(), Some(&key("theirs"))).await.unwrap().purge, Purge::NotTheirs);
    assert_eq!(get(&store).await, trial);
    put(&store, set_on(&trial.state, &ask(Active), 5)).await;
    assert_eq!(store.purge(&org(), Some(&key("mine"))).await.unwrap().purge, Purge::Removed);
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
}

async fn a_purge_of_nothing_keeps_a_late_trial_out(store: AnyStore) {
    assert_eq!(store.purge(&org(), Some(&key("k"))).await.unwrap().purge, Purge::Nothing);
    assert!(matches!(store.put(trial_write("k", 0)).await, Err(StoreError::Purged)));
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
}

async fn the_creator_is_who_made_the_first_state(store: AnyStore) {
    assert_eq!(store.creator(&org()).await.unwrap(), None);
    let mut state = put(&store, trial_write("the-key", 0)).await.state;
    for second in 1..5 {
        state = put(&store, set_on(&state, &ask(Expired), second)).await.state;
    }
    assert_eq!(store.creator(&org()).await.unwrap().as_deref(), Some("the-key"));
}

async fn the_audit_is_a_verified_chain_newest_first_in_pages(store: AnyStore) {
    assert_eq!(store.audit(&org(), None, 10).await.unwrap(), []);
    let mut state = put(&store, trial_write("k", 0)).await.state;
    for (second, to) in (1..).zip([Active, Suspended, Active, Expired, Active, Suspended]) {
        state = put(&store, set_on(&state, &ask(to), second)).await.state;
    }
    let all = store.audit(&org(), None, 100).await.unwrap();
    let sequences: Vec<i64> = all.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(verify(all.iter().rev(), None).unwrap(), all[0].head());
    assert_eq!(store.audit(&org(), None, 3).await.unwrap(), all[..3]);
    assert_eq!(store.audit(&org(), Some(5), 3).await.unwrap(), all[3..6]);
    assert_eq!(store.audit(&org(), Some(1), 3).await.unwrap(), []);
    assert_eq!((all[0].actor.as_str(), all[6].action.as_str()), ("ann", "trial_started"));
    assert_eq!(all[0].details.as_ref().unwrap().request_id.as_deref(), Some("req-1"));
}

async fn tenants_do_not_see_each_other(store: AnyStore) {
    let trial = put(&store, trial_write("k", 0)).await;
    let other = OrgId::parse("acme-2").unwrap();
    put(&store, trial_write_of(&other, "other", 0)).await;
    assert_eq!(store.purge(&other, None).await.unwrap().purge, Purge::Removed);
    assert_eq!(get(&store).await, trial);
    assert_eq!(store.audit(&other, None, 10).await.unwrap(), []);
    assert_eq!(store.audit(&org(), None, 10).await.unwrap().len(), 1);
}

async fn it_can_be_probed(store: AnyStore) {
    store.ping().await.unwrap();
}
