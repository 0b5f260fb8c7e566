//! Two stores on one database, as two replicas have them.

use std::sync::Mutex;

use futures::future::join_all;
use jiff::SignedDuration;
use pulse_entitlements::cache::CacheConfig;
use pulse_store::postgres::feed::Event;
use pulse_tenant_guard::{OrganizationStatus, StatusSource as _};
use pulse_testkit::{SeededEntropy, eventually};
use tokio::time::Instant;

use super::*;
use crate::{
    app::{
        Organizations,
        operations::Order,
        reaper::{Reaped, Reaper},
    },
    domain::{Retention, Status},
};

/// Long enough to last through a test.
const LONG: Duration = Duration::from_hours(1);

async fn two() -> (PostgresStore, PostgresStore, Database) {
    let (one, database) = open().await;
    let other = replica(&database).await;
    (one, other, database)
}

/// A number that the database knows, as the superuser sees it.
async fn number(database: &Database, query: &str) -> i64 {
    let mut conn = database.connect().await;
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut conn).await.unwrap()
}

/// Waits until a statement like that waits for a lock.
async fn eventually_waits(database: &Database, statement: &str) {
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%{statement}%'"
    );
    eventually(WAIT, async || number(database, &waits).await > 0).await;
}

#[tokio::test]
async fn one_organization_gets_an_email_whichever_replica_is_asked() {
    let (one, other, database) = two().await;
    let attempts = (0..60).map(|number| {
        let store = if number % 2 == 0 { &one } else { &other };
        // Six ask for each of ten.
        let email = format!("owner-{}@example.com", number / 6);
        store.create(new(&format!("org-{number}"), &email), by("service:test"))
    });
    let outcomes: Vec<_> = join_all(attempts).await.into_iter().map(Result::unwrap).collect();
    for asked in outcomes.chunks(6) {
        let created = asked.iter().filter(|outcome| **outcome == Creation::Created).count();
        let refused = Creation::EmailUsed { by: StatusKind::Provisioning };
        let told = asked.iter().filter(|outcome| **outcome == refused).count();
        assert_eq!((created, told), (1, 5), "{asked:?}");
    }
    assert_eq!(one.counts().await.unwrap().of(StatusKind::Provisioning), 10);
    // Who was refused has left nothing, not even in the feed.
    assert_eq!(number(&database, "SELECT count(*) FROM pulse_lifecycle.changes").await, 11);
    assert_eq!(number(&database, "SELECT count(*) FROM pulse_lifecycle.audit_events").await, 11);
}

#[tokio::test]
async fn an_email_that_is_just_being_freed_is_taken_or_still_used() {
    let (one, other, _database) = two().await;
    for round in 0..20 {
        let (first, second) = (format!("first-{round}"), format!("second-{round}"));
        let email = format!("{first}@example.com");
        let leaving = make(&one, &first, StatusKind::Provisioning).await.abandon(START).unwrap();
        let (removed, created) = tokio::join!(
            one.remove(leaving, by("service:test")),
            other.create(new(&second, &email), by("service:test")),
        );
        assert!(removed.unwrap().is_done());
        match created.unwrap() {
            Creation::Created => {}
            Creation::EmailUsed { by: StatusKind::Provisioning } => {
                let later = one.create(new(&second, &email), by("service:test")).await.unwrap();
                assert_eq!(later, Creation::Created);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(other.counts().await.unwrap().of(StatusKind::Provisioning), 20);
}

#[tokio::test]
async fn of_two_changes_of_one_version_one_is_made() {
    let (one, other, _database) = two().await;
    for round in 0..10 {
        let org = format!("org-{round}");
        let active = make(&one, &org, StatusKind::Active).await;
        let suspend = active.clone().suspend(None, START).unwrap();
        let delete = active.soft_delete(Retention::from_days(1.0).unwrap(), None, START).unwrap();
        let (suspended, deleted) =
            tokio::join!(one.change(suspend, by("ann")), other.change(delete, by("ben")));
        let status = organization(&one, &org).await.status.kind();
        match (suspended.unwrap(), deleted.unwrap()) {
            (Written::Done(_), Written::Stale) => assert_eq!(status, StatusKind::Suspended),
            (Written::Stale, Written::Done(_)) => assert_eq!(status, StatusKind::PendingDeletion),
            both => panic!("{both:?}"),
        }
        assert_eq!(one.audit_events(&id(&org), None, 10).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn an_id_is_made_or_barred_but_never_both() {
    let (one, other, _database) = two().await;
    for round in 0..20 {
        let org = format!("org-{round}");
        let (created, barred) = tokio::join!(
            one.create(new(&org, &format!("{org}@example.com")), by("service:test")),
            other.remove(Removal::of_unknown(id(&org), START), by("service:test")),
        );
        match (created.unwrap(), barred.unwrap(), other.find(&id(&org)).await.unwrap()) {
            (Creation::Created, Written::Stale, Found::Organization(_))
            | (Creation::IdUsed, Written::Done(_), Found::Tombstone(_)) => {}
            both => panic!("{both:?}"),
        }
    }
}

#[tokio::test]
async fn changes_of_many_organizations_neither_lose_a_count_nor_run_into_each_other() {
    let (one, other, database) = two().await;
    let lives = (0..64).map(|number| {
        let store = if number % 2 == 0 { &one } else { &other };
        async move {
            let kind = StatusKind::ALL[number % 5];
            let made = make(store, &format!("org-{number}"), kind).await;
            if kind == StatusKind::Provisioning {
                let removed = store.remove(made.abandon(START).unwrap(), by("service:test")).await;
                assert!(removed.unwrap().is_done());
            }
        }
    });
    join_all(lives).await;
    let counts = one.counts().await.unwrap();
    // Of 64 the first four statuses have one more.
    assert_eq!(StatusKind::ALL.map(|kind| counts.of(kind)), [0, 13, 13, 13, 12]);
    let rows = "SELECT count(*) FROM pulse_lifecycle.status_counts WHERE active + suspended + purging > 0";
    assert!(number(&database, rows).await > 8, "they are spread over the rows");

    // The server counts deadlocks when the connections that ran into them end.
    one.close().await;
    other.close().await;
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename IS NOT NULL";
    eventually(WAIT, async || number(&database, others).await == 1).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(number(&database, deadlocks).await, 0);
}

#[tokio::test]
async fn every_change_is_in_the_feed_with_the_version_after_it() {
    let (one, other, database) = two().await;
    let purging = make(&one, "acme", StatusKind::Purging).await;
    let stale = purging.clone().finish_purge(START).unwrap();
    other.remove(stale.clone(), by("service:test")).await.unwrap();
    assert_eq!(one.remove(stale, by("service:test")).await.unwrap(), Written::Stale);
    other.remove(Removal::of_unknown(id("late"), START), by("service:test")).await.unwrap();
    let mut conn = database.connect().await;
    let changes: Vec<(String, i64)> =
        sqlx::query_as("SELECT org_id, version FROM pulse_lifecycle.changes ORDER BY sequence")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    let changes: Vec<_> = changes.iter().map(|(org, version)| (org.as_str(), *version)).collect();
    let expected =
        [("default", 1), ("acme", 1), ("acme", 2), ("acme", 3), ("acme", 4), ("acme", 5), ("late", 1)];
    assert_eq!(changes, expected);
}

#[tokio::test]
async fn a_replica_hears_of_what_another_changes() {
    let (one, other, _database) = two().await;
    let shutdown = Shutdown::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let note = move |event| {
        hearing.lock().unwrap().push(match event {
            Event::Reset => "reset".to_owned(),
            Event::Changed(change) => format!("{} {}", change.org_id, change.version),
        });
    };
    let last_look = other.follow(&shutdown, Box::new(note)).unwrap();
    // It begins with whatever there is.
    eventually(WAIT, async || *heard.lock().unwrap() == ["reset"]).await;
    let active = make(&one, "acme", StatusKind::Active).await;
    eventually(WAIT, async || *heard.lock().unwrap() == ["reset", "acme 1", "acme 2"]).await;
    let before = Instant::now();
    one.change(active.suspend(None, START).unwrap(), by("ann")).await.unwrap();
    eventually(WAIT, async || heard.lock().unwrap().last().is_some_and(|last| last == "acme 3")).await;
    eventually(WAIT, async || last_look.borrow().is_some_and(|look| look > before)).await;
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}

/// The use cases of one replica, by a clock at which what was deleted for a day is due.
async fn organizations(store: &PostgresStore) -> Organizations {
    let clock = ManualClock::at(START + SignedDuration::from_hours(24));
    let (kept, by) = (Arc::new(store.clone()), Arc::new(clock));
    Organizations::new(kept, by, &SeededEntropy::default(), CacheConfig::default()).await.unwrap()
}

#[tokio::test]
async fn what_one_replica_suspends_another_refuses_before_the_operator_is_answered() {
    let (one, other, database) = two().await;
    let (asked, deciding) = (organizations(&one).await, organizations(&other).await);
    let shutdown = Shutdown::new();
    asked.follow(&shutdown);
    deciding.follow(&shutdown);
    let acme = make(&one, "acme", StatusKind::Active).await;
    // By its own clock, which stands still, it would never look again.
    let decided_by = async || deciding.statuses().status(&acme.id).await.unwrap().status;
    eventually(WAIT, async || decided_by().await == OrganizationStatus::Active).await;
    let order = || Order { id: acme.id.clone(), etag: None, note: None };
    // Until it follows, it is not waited for.
    eventually(WAIT, async || number(&database, "SELECT count(*) FROM pulse_lifecycle.followers").await == 2)
        .await;
    for _ in 0..20 {
        asked.suspend(order(), "ann").await.unwrap();
        assert_eq!(decided_by().await, OrganizationStatus::Suspended);
        asked.unsuspend(order(), "ann").await.unwrap();
        assert_eq!(decided_by().await, OrganizationStatus::Active);
    }
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}

#[tokio::test]
async fn an_operator_waits_for_a_replica_that_does_not_hear_but_not_for_long() {
    let (one, _other, database) = two().await;
    let acme = make(&one, "acme", StatusKind::Active).await;
    let deaf =
        "INSERT INTO pulse_lifecycle.followers VALUES (gen_random_uuid(), '1:1:', now() + interval '1 hour')";
    run(&mut database.connect().await, deaf).await.unwrap();
    let begun = Instant::now();
    let order = Order { id: acme.id, etag: None, note: None };
    organizations(&one).await.suspend(order, "ann").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_replica_reaps_and_another_follows_when_it_is_gone() {
    let (one, other, _database) = two().await;
    for number in 0..5 {
        make(&one, &format!("org-{number}"), StatusKind::PendingDeletion).await;
    }
    let reaper = async |store: &PostgresStore, owner: &str| {
        Reaper::new(organizations(store).await, owner.to_owned(), Duration::from_millis(50), false)
    };
    let (mut first, mut second) = (reaper(&one, "first").await, reaper(&other, "second").await);
    let (first_look, second_look) = tokio::join!(first.reap(|| false), second.reap(|| false));
    let looks = [first_look.unwrap(), second_look.unwrap()];
    let took_all = Some(Reaped { due: 5, begun: 5 });
    assert!(looks.contains(&took_all) && looks.contains(&None), "{looks:?}");

    // The holder is gone without a word: it does not renew the lease any more.
    make(&one, "org-5", StatusKind::PendingDeletion).await;
    let mut next = if looks[0].is_none() { first } else { second };
    let look = eventually(WAIT, async || next.reap(|| false).await.unwrap()).await;
    assert_eq!(look, Reaped { due: 1, begun: 1 });
    assert_eq!(one.counts().await.unwrap().of(StatusKind::Purging), 6);
}

#[tokio::test]
async fn a_reaper_that_loses_its_lease_in_the_middle_changes_nothing() {
    let (one, other, database) = two().await;
    let deleted = make(&one, "acme", StatusKind::PendingDeletion).await;
    let lease = one.take_lease("reaper", "one", LONG).await.unwrap().unwrap();

    // Its write is on its way, and waits for another of the same organization.
    let mut blocking = database.connect().await;
    let block = "SELECT pg_advisory_lock(hashtextextended('pulse_lifecycle/acme', 0))";
    run(&mut blocking, block).await.unwrap();
    let due = deleted.status.deletion().unwrap().purge_after;
    let purge = deleted.clone().begin_purge(due).unwrap();
    let (reaper, held) = (one.clone(), lease.clone());
    let late = tokio::spawn(async move { reaper.change_under(&held, purge, by("service:lifecycle")).await });
    eventually_waits(&database, "pg_advisory_xact_lock").await;

    // Meanwhile another takes over.
    one.return_lease(&lease).await.unwrap();
    let taken = other.take_lease("reaper", "other", LONG).await.unwrap().unwrap();
    assert!(taken.token > lease.token);
    blocking.close().await.unwrap();
    assert_eq!(late.await.unwrap().unwrap(), None);
    assert_eq!(organization(&other, "acme").await, deleted);
    assert_eq!(other.audit_events(&deleted.id, None, 10).await.unwrap().len(), 3);
    let changes = "SELECT count(*) FROM pulse_lifecycle.changes WHERE org_id = 'acme'";
    assert_eq!(number(&database, changes).await, 3);
}

#[tokio::test]
async fn a_lease_is_not_taken_over_in_the_middle_of_a_change_under_it() {
    let (one, other, database) = two().await;
    let deleted = make(&one, "acme", StatusKind::PendingDeletion).await;
    let lease = one.take_lease("reaper", "one", Duration::from_secs(1)).await.unwrap().unwrap();

    // The lease was looked at, and the organization is not to be had yet.
    let mut blocking = database.connect().await;
    run(&mut blocking, "BEGIN; SELECT FROM pulse_lifecycle.organizations WHERE id = 'acme' FOR UPDATE")
        .await
        .unwrap();
    let due = deleted.status.deletion().unwrap().purge_after;
    let purge = deleted.begin_purge(due).unwrap();
    let (reaper, held) = (one.clone(), lease.clone());
    let slow = tokio::spawn(async move { reaper.change_under(&held, purge, by("service:lifecycle")).await });
    eventually_waits(&database, "UPDATE organizations").await;

    // The lease runs out, and whoever takes it now waits for what was begun under it.
    let next = tokio::spawn(async move {
        loop {
            if let Some(lease) = other.take_lease("reaper", "other", LONG).await.unwrap() {
                let status = organization(&other, "acme").await.status.kind();
                return (lease.token, status);
            }
        }
    });
    eventually_waits(&database, "INTO leases").await;
    assert!(!next.is_finished() && !slow.is_finished());
    blocking.close().await.unwrap();
    assert!(slow.await.unwrap().unwrap().is_some_and(Written::is_done));
    assert_eq!(next.await.unwrap(), (lease.token + 1, StatusKind::Purging));
}

/// With one connection, which is not to be had when the change is stored and the tenants are to be counted.
#[tokio::test]
async fn a_change_that_is_stored_is_answered_although_nobody_can_count() {
    let (_one, database) = open().await;
    let mut one = settings(database.url(), 1);
    one.database_acquire_timeout = WAIT;
    let entropy = Arc::new(SeededEntropy::default());
    let store = PostgresStore::open(&one, &ManualClock::default(), entropy).await.unwrap();
    make(&store, "acme", StatusKind::Active).await;
    let organizations = organizations(&store).await;
    let mut blocking = database.connect().await;
    let tenant = "hashtextextended('pulse_lifecycle/acme', 0)";
    run(&mut blocking, &format!("SELECT pg_advisory_lock({tenant}), pg_advisory_lock(42)")).await.unwrap();

    let order = Order { id: id("acme"), etag: None, note: None };
    let suspending = tokio::spawn(async move { organizations.suspend(order, "ann").await });
    eventually_waits(&database, "pg_advisory_xact_lock").await;
    let reader = store.clone();
    let reading = tokio::spawn(async move {
        let read = reader.db.read(Scope::EveryTenant, &(), |(), conn| {
            // Without a limit of its own it has the connection for as long as a transaction may take.
            let hold = "SET LOCAL lock_timeout = 0; SELECT pg_advisory_lock(42)";
            Box::pin(async move { Ok::<_, StoreError>(run(conn, hold).await?) })
        });
        read.await
    });
    eventually(WAIT, async || store.db.load() == (1, 1)).await;
    run(&mut blocking, &format!("SELECT pg_advisory_unlock({tenant})")).await.unwrap();
    assert_eq!(suspending.await.unwrap().unwrap().status.kind(), StatusKind::Suspended);
    assert!(!reading.is_finished(), "the connection is not free yet");
    blocking.close().await.unwrap();
    reading.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_gone_in_one_replica_is_gone_in_the_other() {
    let (one, other, _database) = two().await;
    let active = make(&one, "acme", StatusKind::Active).await;
    assert_eq!(organization(&other, "acme").await, active);
    let suspended = active.suspend(None, START).unwrap();
    assert!(other.change(suspended.clone(), by("ann")).await.unwrap().is_done());
    assert_eq!(organization(&one, "acme").await, suspended.organization);
    assert_eq!(one.counts().await.unwrap(), other.counts().await.unwrap());
    let default = organization(&other, "default").await;
    assert_eq!(default.status, Status::Active);
}
