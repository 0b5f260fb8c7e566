//! Writes of several replicas at once. Each has a store of its own on the one database.

use futures::future::join_all;
use pulse_tenant_guard::TenantRole;
use sqlx::Connection as _;

use super::*;
use crate::{
    saga::{Lease, State, Step},
    store::{
        Effect,
        conformance::{
            NOW, account_of, advance, change, email, ended, owner_of, provision, purge, records, tenant,
        },
    },
};

/// The advance of a purge that deletes everything about the tenant.
fn deletion(org_id: &OrgId) -> Advance {
    let mut saga = purge(org_id);
    saga.progress.state = State::Running(Step::FinishPurge);
    advance(saga, Effect::DeleteTenant)
}

/// A tenant that is about to be deleted.
async fn doomed(store: &PostgresStore, address: &str) -> (OrgId, UserId) {
    let (org_id, owner) = tenant(store, address).await;
    store.begin(purge(&org_id)).await.unwrap();
    (org_id, owner)
}

async fn memberships(database: &Database) -> i64 {
    let mut conn = superuser(database).await;
    sqlx::query_scalar("SELECT count(*) FROM memberships").fetch_one(&mut conn).await.unwrap()
}

/// I1: however many ask, on whichever replica.
#[tokio::test]
async fn an_address_is_claimed_once_on_all_replicas_together() {
    let (one, database) = open().await;
    let two = open_on(&database).await;
    for round in 0..5 {
        let address = format!("owner-{round}@example.com");
        let tries = (0..20).map(|number| {
            let store = if number % 2 == 0 { &one } else { &two };
            store.begin(provision(&address))
        });
        let begun: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(begun.iter().filter(|begun| **begun == Begun::Started).count(), 1, "{begun:?}");
    }
}

/// I1: the account that a saga commits as it lets go of its claim is seen by the one that gets the claim after it.
#[tokio::test]
async fn an_account_that_is_made_while_its_address_is_being_claimed_is_seen() {
    let (store, database) = open().await;
    let first = provision("ann@example.com");
    store.begin(first.clone()).await.unwrap();
    let account = account_of(&first);

    // What the last advance of the first saga does, halfway.
    let mut conn = superuser(&database).await;
    let mut advancing = conn.begin().await.unwrap();
    accounts::insert(&mut advancing, &account).await.unwrap();
    sagas::update(&mut advancing, &ended(&first, State::Done)).await.unwrap();

    let second = provision("Ann@example.com");
    let begun = tokio::spawn({
        let (store, second) = (store.clone(), second.clone());
        async move { store.begin(second).await }
    });
    until_waiting(&database, 1).await;
    advancing.commit().await.unwrap();
    assert_eq!(begun.await.unwrap().unwrap(), Begun::Taken);
    assert!(store.find_saga(&second.id()).await.unwrap().is_none(), "what did not begin leaves nothing");
    let holder = store.find_by_email(&email("ann@example.com")).await.unwrap();
    assert!(matches!(holder, Some(EmailHolder::Account { .. })), "{holder:?}");
}

/// The other way round: the saga fails, and the claim goes to the one that waited for it.
#[tokio::test]
async fn a_claim_that_is_let_go_without_an_account_passes_on() {
    let (store, database) = open().await;
    let first = provision("ann@example.com");
    store.begin(first.clone()).await.unwrap();
    let mut conn = superuser(&database).await;
    let mut advancing = conn.begin().await.unwrap();
    sagas::update(&mut advancing, &ended(&first, State::Undone)).await.unwrap();

    let begun = tokio::spawn({
        let store = store.clone();
        async move { store.begin(provision("Ann@example.com")).await }
    });
    until_waiting(&database, 1).await;
    advancing.commit().await.unwrap();
    assert_eq!(begun.await.unwrap().unwrap(), Begun::Started);
}

/// The fence: of all who take a saga over at once, one gets it.
#[tokio::test]
async fn a_saga_is_taken_over_by_one_replica() {
    let (one, database) = open().await;
    let two = open_on(&database).await;
    let saga = provision("ann@example.com");
    one.begin(saga.clone()).await.unwrap();
    let tries = (0..20).map(|number| {
        let store = if number % 2 == 0 { &one } else { &two };
        let lease = Some(Lease { owner: format!("runner-{number}"), until: NOW });
        store.advance(advance(Saga { lease, ..saga.clone() }, Effect::None))
    });
    let (taken, refused): (Vec<_>, Vec<_>) = join_all(tries).await.into_iter().partition(Result::is_ok);
    assert_eq!(taken.len(), 1);
    assert!(refused.iter().all(|refused| matches!(refused, Err(AdvanceError::Fenced))), "{refused:?}");
}

#[tokio::test]
async fn the_last_owner_stays_whichever_replicas_are_asked() {
    let (one, database) = open().await;
    let two = open_on(&database).await;
    let (acme, ann) = tenant(&one, "ann@example.com").await;
    let (_, bob) = tenant(&one, "bob@example.com").await;
    for _ in 0..10 {
        for user in [ann, bob] {
            one.set_roles(change(&acme, user, &[TenantRole::Owner])).await.unwrap();
        }
        let (first, second) = tokio::join!(
            one.set_roles(change(&acme, ann, &[TenantRole::Viewer])),
            two.set_roles(change(&acme, bob, &[])),
        );
        assert_eq!(
            [&first, &second].into_iter().filter(|set| set.is_ok()).count(),
            1,
            "{first:?} {second:?}"
        );
        let refused = first.and(second).unwrap_err();
        assert!(matches!(refused, SetRolesError::LastOwner(_)), "{refused:?}");
    }
    assert!(audit_is_intact(&one).await);
}

/// I9: a place that is being given to an account that goes at the same time is either never given, or recorded twice.
#[tokio::test]
async fn a_role_that_is_given_too_late_is_refused() {
    let (one, database) = open().await;
    let two = open_on(&database).await;
    let (acme, ann) = doomed(&one, "ann@example.com").await;
    let (globex, _) = tenant(&one, "bob@example.com").await;
    let (initech, _) = tenant(&one, "eve@example.com").await;
    one.set_roles(change(&globex, ann, &[TenantRole::Admin])).await.unwrap();

    // The deletion has to wait for the tenant in which she is a guest, when her account is gone already but not committed.
    let mut conn = superuser(&database).await;
    let lock =
        |function: &str| format!("SELECT {function}(hashtextextended('pulse_provisioner/{globex}', 0))");
    sqlx::query(sqlx::AssertSqlSafe(lock("pg_advisory_lock"))).execute(&mut conn).await.unwrap();
    let deleted = tokio::spawn({
        let (one, deletion) = (one.clone(), deletion(&acme));
        async move { one.advance(deletion).await }
    });
    until_waiting(&database, 1).await;
    let given = tokio::spawn({
        let change = change(&initech, ann, &[TenantRole::Member]);
        async move { two.set_roles(change).await }
    });
    until_waiting(&database, 2).await;
    sqlx::query(sqlx::AssertSqlSafe(lock("pg_advisory_unlock"))).execute(&mut conn).await.unwrap();

    deleted.await.unwrap().unwrap();
    let refused = given.await.unwrap().unwrap_err();
    assert!(matches!(refused, SetRolesError::UnknownAccount), "{refused:?}");
    assert_eq!(records(&one, &initech).await, ["tenant_provisioned"]);
    assert_eq!(records(&one, &globex).await.last().unwrap(), "account_roles_changed");
    assert_eq!(memberships(&database).await, 2, "the two owners' own");
    assert!(audit_is_intact(&one).await);
}

#[tokio::test]
async fn a_role_that_is_given_in_time_is_taken_again_and_both_are_recorded() {
    let (one, database) = open().await;
    let two = open_on(&database).await;
    let (acme, ann) = doomed(&one, "ann@example.com").await;
    let (globex, _) = tenant(&one, "bob@example.com").await;

    // Who gives it is held up after it is given, and before that is committed.
    let mut conn = superuser(&database).await;
    let mut holding = conn.begin().await.unwrap();
    sqlx::query("LOCK TABLE audit_heads IN SHARE MODE").execute(&mut *holding).await.unwrap();
    let given = tokio::spawn({
        let change = change(&globex, ann, &[TenantRole::Member]);
        async move { two.set_roles(change).await }
    });
    until_waiting(&database, 1).await;
    let deleted = tokio::spawn({
        let (one, deletion) = (one.clone(), deletion(&acme));
        async move { one.advance(deletion).await }
    });
    until_waiting(&database, 2).await;
    holding.commit().await.unwrap();

    given.await.unwrap().unwrap();
    deleted.await.unwrap().unwrap();
    let changed = "account_roles_changed";
    assert_eq!(records(&one, &globex).await, ["tenant_provisioned", changed, changed]);
    assert_eq!(memberships(&database).await, 1, "the other owner's own");
    assert!(audit_is_intact(&one).await);
}

/// Two tenants with guests in each other, and both in a third, are deleted at once: each waits for the other.
#[tokio::test]
async fn deletions_that_deadlock_both_succeed() {
    let (one, database) = open().await;
    let two = open_on(&database).await;
    let (acme, ann) = doomed(&one, "ann@example.com").await;
    let (globex, bob) = doomed(&one, "bob@example.com").await;
    let (initech, _) = tenant(&one, "eve@example.com").await;
    for (org_id, guest) in [(&globex, ann), (&acme, bob), (&initech, ann), (&initech, bob)] {
        one.set_roles(change(org_id, guest, &[TenantRole::Admin])).await.unwrap();
    }

    // The first is held up when it has its own tenant, until the second waits for that.
    let mut conn = superuser(&database).await;
    let mut holding = conn.begin().await.unwrap();
    let row = "SELECT FROM sagas WHERE org_id = $1 AND kind = 'purge' FOR UPDATE";
    sqlx::query(row).bind(acme.as_str()).execute(&mut *holding).await.unwrap();
    let deletions = [(one.clone(), acme), (two, globex)];
    let mut deleting = Vec::new();
    for (waiting, (store, org_id)) in (1..).zip(deletions) {
        deleting.push(tokio::spawn(async move { store.advance(deletion(&org_id)).await }));
        until_waiting(&database, waiting).await;
    }
    holding.commit().await.unwrap();
    for deleted in deleting {
        deleted.await.unwrap().unwrap();
    }

    assert_eq!(memberships(&database).await, 1, "the third owner's own");
    let changed = "account_roles_changed";
    assert_eq!(records(&one, &initech).await, ["tenant_provisioned", changed, changed, changed, changed]);
    assert!(audit_is_intact(&one).await);
    eventually(WAIT, async || {
        let deadlocks: i64 =
            sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
                .fetch_one(&mut conn)
                .await
                .unwrap();
        deadlocks > 0
    })
    .await;
}

/// A journal row of a purge is begun by one replica, though all find the tenant in lifecycle's list.
#[tokio::test]
async fn a_purge_begins_once() {
    let (one, database) = open().await;
    let two = open_on(&database).await;
    let (acme, ann) = tenant(&one, "ann@example.com").await;
    let tries = (0..10).map(|number| if number % 2 == 0 { &one } else { &two }.begin(purge(&acme)));
    let begun: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(begun.iter().filter(|begun| **begun == Begun::Started).count(), 1);
    assert_eq!(owner_of(&one.find_saga(&SagaId::provision(acme)).await.unwrap().unwrap()), ann);
}
