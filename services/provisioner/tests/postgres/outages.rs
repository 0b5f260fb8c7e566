//! One saga, and a database that is away, busy, or cut off in the middle of a commit. Its runner has the lease and goes on as
//! soon as it can; nobody has to take the saga over.

use std::{sync::Arc, time::Duration};

use pulse_provisioner::{
    saga::{Saga, retry::Tuning},
    store::{RoleChange, Store as _},
};
use pulse_testkit::{Postgres, Proxy, eventually};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    engines::request,
    faults::{Call, Chaos, Fault, When},
    replicas::{Deployment, Replica, store_at, store_with},
    support::WAIT,
};

/// The lock of a tenant's writes, as every replica takes it.
fn lock_of(org_id: &str) -> String {
    format!("hashtextextended('pulse_provisioner/{org_id}', 0)")
}

async fn run(conn: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await.unwrap();
}

/// A saga that has begun, and whose runner stands still in its first call.
async fn standing_still(deployment: &Deployment, replica: &Replica, chaos: &Chaos) -> Saga {
    let saga = deployment.saga(replica, "ann@example.com");
    let room = replica.engine.room().unwrap();
    replica.engine.begin(saga.clone(), request(), room).await.unwrap();
    chaos.stalled().await;
    saga
}

/// It has ended, in the three advances that it takes without any faults, and without a take-over.
async fn has_gone_on(deployment: &Deployment, replica: &Replica, saga: &Saga) {
    replica.engine.idle().await;
    let store = deployment.store().await;
    deployment.is_whole(&*store, &saga.org_id).await;
    assert_eq!(store.find_saga(&saga.id()).await.unwrap().unwrap().version, 4);
}

const STALL: [(Call, When, Fault); 1] = [(Call::Create, When::Nth(1), Fault::Stall)];

#[tokio::test]
async fn a_saga_goes_on_when_the_database_is_back() {
    let deployment = Deployment::start().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let chaos = Chaos::new(&STALL);
    let store = store_at(deployment.database.url_through(proxy.addr())).await;
    let replica = deployment.replica_on(store, "one", &chaos, Tuning::default());
    let saga = standing_still(&deployment, &replica, &chaos).await;
    proxy.cut().await;
    chaos.resume();
    // Several times it has been told that the database is away.
    eventually(WAIT, async || chaos.count(Call::Commit) >= 4).await;
    proxy.heal().await;
    has_gone_on(&deployment, &replica, &saga).await;
}

#[tokio::test]
async fn a_saga_that_has_begun_is_not_shed_while_the_database_is_overloaded() {
    let deployment = Deployment::start().await;
    let chaos = Chaos::new(&STALL);
    // One connection, for which nobody waits long.
    let store = store_with(deployment.database.url(), 1, Duration::from_millis(20)).await;
    let replica = deployment.replica_on(Arc::clone(&store), "one", &chaos, Tuning::default());
    let saga = standing_still(&deployment, &replica, &chaos).await;

    // A write of another tenant has the connection, and waits.
    let mut conn = deployment.database.connect().await;
    run(&mut conn, format!("SELECT pg_advisory_lock({})", lock_of("default"))).await;
    let change = RoleChange {
        org_id: "default".parse().unwrap(),
        user_id: "0198c0de-0000-7000-8000-000000000001".parse().unwrap(),
        roles: std::iter::empty().collect(),
        at: saga.created_at,
        actor: "ann".into(),
        reason: None,
        request_id: None,
    };
    let waiting = tokio::spawn(async move { store.set_roles(change).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(WAIT, async || {
        let count: i64 = sqlx::query_scalar(waits).fetch_one(&mut conn).await.unwrap();
        count == 1
    })
    .await;
    chaos.resume();
    eventually(WAIT, async || chaos.count(Call::Commit) >= 4).await;
    run(&mut conn, format!("SELECT pg_advisory_unlock({})", lock_of("default"))).await;
    // There is no such account.
    waiting.await.unwrap().unwrap_err();
    has_gone_on(&deployment, &replica, &saga).await;
}

/// The connection is lost in the middle of a commit and the database cannot be asked what became of it, for as long as the store
/// itself asks. Then the runner reads it back.
#[tokio::test]
async fn a_commit_that_nobody_knows_of_is_read_back() {
    for happens in [true, false] {
        let deployment = Deployment::start().await;
        let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
        let chaos = Chaos::new(&STALL);
        let store = store_at(deployment.database.url_through(proxy.addr())).await;
        let replica = deployment.replica_on(store, "one", &chaos, Tuning::default());
        let saga = standing_still(&deployment, &replica, &chaos).await;

        // From now on a commit of the journal waits for whoever has this lock.
        let mut conn = deployment.database.connect().await;
        let slow_commits = "SELECT pg_advisory_lock(7);
            CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON pulse_provisioner.sagas
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.wait()";
        run(&mut conn, slow_commits.to_owned()).await;
        chaos.resume();
        let committing = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                          AND wait_event_type = 'Lock' AND query LIKE '%COMMIT%'";
        let backend: i32 = eventually(WAIT, async || {
            sqlx::query_scalar(committing).fetch_optional(&mut conn).await.unwrap()
        })
        .await;
        proxy.cut().await;
        if happens {
            run(&mut conn, "SELECT pg_advisory_unlock(7)".to_owned()).await;
        } else {
            run(&mut conn, format!("SELECT pg_terminate_backend({backend}), pg_advisory_unlock(7)")).await;
        }
        // It was told that nobody knows, could not read it back either, and tries again.
        eventually(WAIT, async || chaos.count(Call::Commit) >= 2).await;
        proxy.heal().await;
        has_gone_on(&deployment, &replica, &saga).await;
    }
}
