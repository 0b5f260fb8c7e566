//! Several replicas of the service on one database: what is changed through one is what the others answer with.
//!
//! The clock stands still but where a test moves it, so nothing that a replica has cached is ever too old to be served. What
//! changes in it, changes because the replica has heard of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(test)]
#[expect(dead_code, reason = "this file needs a part of it")]
mod support;

use std::{sync::Arc, time::Duration};

use pulse_billing_state::{
    domain::{Author, Key, Plans, trial},
    store::{Purge, Store as _, postgres::PostgresStore},
};
use pulse_entitlements::Catalog;
use pulse_kernel::{Clock as _, OrgId, OsEntropy, Reason};
use pulse_proto::billing::v1::{
    EntitlementSource, SetBillingStateRequest,
    SubscriptionState::{self, Active, Expired, Grace, Suspended, Trial},
};
use pulse_runtime::DatabaseSettings;
use pulse_testkit::{Database, ManualClock, Postgres, Proxy, eventually};
use tokio::time::Instant;

use self::support::{Answer, Billing, WAIT, to};

const DAY: Duration = Duration::from_hours(24);

fn reason<T: std::fmt::Debug>(answer: Answer<T>) -> Reason {
    answer.unwrap_err().reason()
}

async fn state(replica: &Billing, org_id: &str) -> SubscriptionState {
    replica.entitlements(org_id).await.unwrap().subscription_state()
}

async fn state_and_source(replica: &Billing, org_id: &str) -> (SubscriptionState, EntitlementSource) {
    let found = replica.entitlements(org_id).await.unwrap();
    (found.subscription_state(), found.source())
}

async fn set(replica: &Billing, org_id: &str, state: SubscriptionState) {
    let request = SetBillingStateRequest { allow_missing: true, ..to(org_id, state) };
    replica.set("billing", request).await.unwrap();
}

/// Two replicas on a database of their own, by one clock.
async fn two() -> (Billing, Billing, Database) {
    let database = Postgres::shared().await.database().await;
    let clock = ManualClock::default();
    let one = Billing::replica(&database.url(), clock.clone()).await;
    let other = Billing::replica(&database.url(), clock).await;
    both_follow(&database).await;
    (one, other, database)
}

/// Waits until both replicas have begun to follow what others change: until then they may be told to forget what they serve.
async fn both_follow(database: &Database) {
    let count = "SELECT count(*) FROM pulse_billing_state.followers";
    let mut conn = database.connect().await;
    eventually(WAIT, async || {
        let following: i64 = sqlx::query_scalar(count).fetch_one(&mut conn).await.unwrap();
        following == 2
    })
    .await;
}

/// Somebody who changes what is stored and tells nobody: a replica whose notification is lost.
async fn silent(database: &Database) -> PostgresStore {
    let settings = DatabaseSettings {
        database_url: Some(database.url().into()),
        database_max_connections: 1.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(5),
        database_migrate: false,
    };
    PostgresStore::open(&settings, Arc::new(ManualClock::default()), Arc::new(OsEntropy)).await.unwrap()
}

#[tokio::test]
async fn what_is_set_through_one_is_answered_by_the_other_at_once() {
    let (one, other, _database) = two().await;
    one.start_trial("acme", "k").await.unwrap();
    eventually(WAIT, async || state(&other, "acme").await == Trial).await;
    for _ in 0..5 {
        for (writer, reader, to) in [
            (&one, &other, Suspended),
            (&other, &one, Active),
            (&one, &other, Grace),
            (&other, &one, Expired),
        ] {
            set(writer, "acme", to).await;
            assert_eq!(state(reader, "acme").await, to);
            assert_eq!(state_and_source(writer, "acme").await, (to, EntitlementSource::Cached));
        }
    }
    assert_eq!(one.stored("acme").await.unwrap(), other.stored("acme").await.unwrap());
    assert_eq!(one.audit("acme").await.unwrap(), other.audit("acme").await.unwrap());
    assert_eq!(one.audit("acme").await.unwrap().len(), 21);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_tenant_that_is_made_through_one_is_no_default_for_the_other() {
    let (one, other, _database) = two().await;
    assert_eq!(state_and_source(&other, "acme").await, (Trial, EntitlementSource::Default));
    set(&one, "acme", Suspended).await;
    assert_eq!(state(&other, "acme").await, Suspended);
    let again = other.start_trial("acme", "k").await.unwrap();
    assert!(!again.created, "there is one");

    // Nobody waits for a signup to be heard of everywhere.
    assert_eq!(state_and_source(&other, "new").await, (Trial, EntitlementSource::Default));
    one.start_trial("new", "k").await.unwrap();
    eventually(WAIT, async || other.entitlements("new").await.unwrap().revision == 1).await;
}

#[tokio::test]
async fn of_attempts_through_both_one_makes_the_trial() {
    let (one, other, _database) = two().await;
    let keys: Vec<String> = (0..16).map(|n| format!("attempt-{n}")).collect();
    let attempts = keys.iter().enumerate().map(|(n, key)| {
        let replica = if n % 2 == 0 { &one } else { &other };
        replica.start_trial("acme", key)
    });
    let started = futures::future::join_all(attempts).await;
    assert_eq!(started.iter().filter(|trial| trial.as_ref().unwrap().created).count(), 1);
    assert_eq!(one.audit("acme").await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_purged_through_one_is_gone_from_the_other() {
    let (one, other, _database) = two().await;
    one.start_trial("acme", "k").await.unwrap();
    eventually(WAIT, async || other.entitlements("acme").await.unwrap().revision == 1).await;
    assert_eq!(state_and_source(&other, "never-made").await.1, EntitlementSource::Default);
    assert!(one.purge("acme", "").await.unwrap());
    assert!(!one.purge("never-made", "").await.unwrap());
    for gone in ["acme", "never-made"] {
        assert_eq!(reason(other.entitlements(gone).await), Reason::OrgNotFound);
        assert_eq!(reason(other.stored(gone).await), Reason::OrgNotFound);
        assert_eq!(reason(other.start_trial(gone, "k").await), Reason::OrgNotFound, "a late one");
    }
    assert_eq!(other.audit("acme").await.unwrap(), []);
}

#[tokio::test]
async fn what_nobody_tells_of_is_found_by_looking() {
    let (one, other, database) = two().await;
    let silent = silent(&database).await;
    let org = OrgId::parse("acme").unwrap();
    for replica in [&one, &other] {
        assert_eq!(state_and_source(replica, "acme").await, (Trial, EntitlementSource::Default));
    }
    let plans = Plans {
        catalog: Catalog::built_in(),
        trial: jiff::SignedDuration::from_hours(1),
        grace: jiff::SignedDuration::from_hours(1),
    };
    let author = Author { actor: "silent".to_owned(), request_id: None };
    let key = Key::parse("k", "key").unwrap();
    let trial = trial::start(&org, None, &key, author, &plans, ManualClock::default().now()).unwrap();
    silent.put(trial).await.unwrap();
    for replica in [&one, &other] {
        eventually(WAIT, async || replica.entitlements("acme").await.unwrap().revision == 1).await;
    }
    assert_eq!(silent.purge(&org, None).await.unwrap().purge, Purge::Removed);
    for replica in [&one, &other] {
        eventually(WAIT, async || replica.entitlements("acme").await.is_err()).await;
        assert_eq!(reason(replica.entitlements("acme").await), Reason::OrgNotFound);
    }
}

/// Two operators at once, each through one replica, who look through the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_replica_ever_goes_back() {
    let (one, other, _database) = two().await;
    one.start_trial("acme", "k").await.unwrap();
    let operator = async |writer: &Billing, reader: &Billing| {
        let mut last = 0;
        for n in 0..40 {
            let seen = reader.entitlements("acme").await.unwrap().revision;
            assert!(seen >= last, "{seen} after {last}");
            let mut request = to("acme", Active);
            request.billing_state.as_mut().unwrap().limits.insert("users".into(), n);
            writer.set("billing", request).await.unwrap();
            last = reader.entitlements("acme").await.unwrap().revision;
            assert!(last > seen, "what was set is later than what was seen before: {last} after {seen}");
        }
    };
    tokio::join!(operator(&one, &other), operator(&other, &one));
    for replica in [&one, &other] {
        assert_eq!(replica.entitlements("acme").await.unwrap().revision, 81);
    }
}

#[tokio::test]
async fn a_replica_that_is_cut_off_serves_what_it_knows_unlocks_nothing_and_catches_up() {
    let database = Postgres::shared().await.database().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let clock = ManualClock::default();
    let one = Billing::replica(&database.url(), clock.clone()).await;
    let cut_off = Billing::replica(&database.url_through(proxy.addr()), clock.clone()).await;
    both_follow(&database).await;
    for is_frozen in [false, true] {
        set(&one, "open", Active).await;
        set(&one, "locked", Suspended).await;
        assert_eq!(state(&cut_off, "open").await, Active);
        assert_eq!(state(&cut_off, "locked").await, Suspended);
        if is_frozen {
            proxy.freeze().await;
        } else {
            proxy.cut().await;
        }

        // The others go on, and are not held up for long.
        set(&one, "open", Suspended).await;
        set(&one, "locked", Active).await;
        assert_eq!((state(&one, "open").await, state(&one, "locked").await), (Suspended, Active));
        let served = state_and_source(&cut_off, "open").await;
        assert_eq!(served, (Active, EntitlementSource::Cached), "it knows no better");
        let refused = cut_off.set("billing", to("open", Expired)).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::Unavailable | Reason::DeadlineExceeded), "{refused:?}");
        if refused.reason() == Reason::Unavailable {
            assert!(refused.retry_delay().is_some(), "{refused:?}");
        }

        clock.advance(Duration::from_mins(2));
        assert_eq!(state_and_source(&cut_off, "open").await, (Active, EntitlementSource::Stale));
        assert_eq!(state_and_source(&cut_off, "locked").await, (Suspended, EntitlementSource::Stale));
        let answer = cut_off.entitlements("locked").await.unwrap();
        assert!(answer.age.unwrap().seconds >= 120 && answer.capabilities.is_empty());
        clock.advance(DAY);
        let open = cut_off.entitlements("open").await.unwrap();
        assert_eq!(
            (open.subscription_state(), open.source()),
            (Trial, EntitlementSource::Default),
            "too old"
        );
        assert_eq!(state_and_source(&cut_off, "locked").await, (Suspended, EntitlementSource::Stale));

        proxy.heal().await;
        clock.advance(Duration::from_secs(2));
        eventually(WAIT, async || state(&cut_off, "open").await == Suspended).await;
        eventually(WAIT, async || state(&cut_off, "locked").await == Active).await;
        // It hears again what others change.
        eventually(WAIT, async || {
            set(&one, "open", Grace).await;
            let heard = state(&cut_off, "open").await == Grace;
            set(&one, "open", Active).await;
            heard && state(&cut_off, "open").await == Active
        })
        .await;
    }
}

#[tokio::test]
async fn replicas_outlive_a_restart_of_the_server() {
    let mut server = Postgres::start().await;
    let database = server.database().await;
    let clock = ManualClock::default();
    let one = Billing::replica(&database.url(), clock.clone()).await;
    let other = Billing::replica(&database.url(), clock.clone()).await;
    set(&one, "acme", Suspended).await;
    assert_eq!(state(&other, "acme").await, Suspended);
    for is_crash in [false, true] {
        if is_crash {
            server.kill().await;
        } else {
            server.stop().await;
        }
        let refused = one.set("billing", to("acme", Active)).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::Unavailable, "{refused:?}");
        assert!(refused.retry_delay().is_some(), "{refused:?}");
        for replica in [&one, &other] {
            assert_eq!(state(replica, "acme").await, Suspended);
        }
        server.start_again().await;
        eventually(WAIT, async || one.set("billing", to("acme", Active)).await).await;
        eventually(WAIT, async || {
            clock.advance(Duration::from_secs(1));
            state(&other, "acme").await == Active
        })
        .await;
        eventually(WAIT, async || {
            set(&other, "acme", Expired).await;
            set(&other, "acme", Suspended).await;
            state(&one, "acme").await == Suspended
        })
        .await;
    }
}

#[tokio::test]
async fn a_change_waits_for_a_replica_that_does_not_hear_but_not_for_long() {
    let (one, _other, database) = two().await;
    let mut superuser = database.connect().await;
    let deaf = "INSERT INTO pulse_billing_state.followers VALUES (gen_random_uuid(), '1:1:', now() + interval '1 hour')";
    sqlx::query(deaf).execute(&mut superuser).await.unwrap();
    let begun = Instant::now();
    set(&one, "acme", Active).await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(state(&one, "acme").await, Active);
}
