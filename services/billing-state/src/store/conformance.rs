//! What every store does, whatever it is made of.

use std::sync::Arc;

use futures::future::join_all;
use pulse_entitlements::{BillingState, Lookup, Stored, SubscriptionState};
use pulse_kernel::OrgId;
use pulse_store::audit::verify;
use pulse_testkit::{ManualClock, SeededEntropy};

use super::{Committed, Purge, Store, StoreError, file::FileStore, memory::MemoryStore};
use crate::domain::{
    Expected, Write,
    tests::{ask, key, org, set_on, trial_write},
};
use SubscriptionState::{Active, Expired, Suspended};

/// Runs each of the named tests against each store.
macro_rules! conformance {
    ($($test:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $test() {
                super::$test(Arc::new(super::MemoryStore::new(Arc::new(super::SeededEntropy::default())))).await;
            })*
            use std::sync::Arc;
        }
        mod file {
            $(#[tokio::test] async fn $test() {
                let data = tempfile::tempdir().unwrap();
                let (clock, entropy) = (super::ManualClock::default(), super::SeededEntropy::default());
                let store = super::FileStore::open(data.path(), Arc::new(clock), Arc::new(entropy)).unwrap();
                super::$test(Arc::new(store)).await;
            })*
            use std::sync::Arc;
        }
    };
}

conformance! {
    what_is_put_is_there_with_its_revision
    a_write_replaces_only_what_it_expects
    of_many_writes_that_expect_the_same_one_wins
    a_purge_leaves_nothing_and_nothing_comes_back
    a_purge_with_a_key_leaves_alone_what_another_made
    a_purge_of_nothing_keeps_a_late_trial_out
    the_creator_is_who_made_the_first_state
    the_audit_is_a_verified_chain_newest_first_in_pages
    tenants_do_not_see_each_other
    it_can_be_probed
}

type AnyStore = Arc<dyn Store>;

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

async fn a_purge_leaves_nothing_and_nothing_comes_back(store: AnyStore) {
    let trial = put(&store, trial_write("k", 0)).await;
    assert_eq!(store.purge(&org(), None).await.unwrap(), Purge::Removed);
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
    assert_eq!(store.audit(&org(), None, 10).await.unwrap(), []);
    assert_eq!(store.creator(&org()).await.unwrap(), None);
    for write in [trial_write("k", 9), set_on(&trial.state, &ask(Active), 9)] {
        assert!(matches!(store.put(write).await, Err(StoreError::Purged)));
    }
    assert_eq!(store.purge(&org(), None).await.unwrap(), Purge::Nothing);
    assert_eq!(store.purge(&org(), Some(&key("k"))).await.unwrap(), Purge::Nothing);
}

async fn a_purge_with_a_key_leaves_alone_what_another_made(store: AnyStore) {
    let trial = put(&store, trial_write("mine", 0)).await;
    assert_eq!(store.purge(&org(), Some(&key("theirs"))).await.unwrap(), Purge::NotTheirs);
    assert_eq!(get(&store).await, trial);
    put(&store, set_on(&trial.state, &ask(Active), 5)).await;
    assert_eq!(store.purge(&org(), Some(&key("mine"))).await.unwrap(), Purge::Removed);
    assert_eq!(store.get(&org()).await.unwrap(), Lookup::Purged);
}

async fn a_purge_of_nothing_keeps_a_late_trial_out(store: AnyStore) {
    assert_eq!(store.purge(&org(), Some(&key("k"))).await.unwrap(), Purge::Nothing);
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
    let mut write = trial_write("other", 0);
    write.state.org_id = other.clone();
    write.draft.org_id = other.clone();
    put(&store, write).await;
    assert_eq!(store.purge(&other, None).await.unwrap(), Purge::Removed);
    assert_eq!(get(&store).await, trial);
    assert_eq!(store.audit(&other, None, 10).await.unwrap(), []);
    assert_eq!(store.audit(&org(), None, 10).await.unwrap().len(), 1);
}

async fn it_can_be_probed(store: AnyStore) {
    store.ping().await.unwrap();
}
