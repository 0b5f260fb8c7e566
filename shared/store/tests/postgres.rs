//! A schema in PostgreSQL: prepared, kept to one tenant at a time, and what becomes of a transaction when things go wrong.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join_all};
use pulse_kernel::{OrgId, OsEntropy};
use pulse_runtime::DatabaseSettings;
use pulse_store::{
    PgDb, PgOpenError, SqlErrorClass, StoreError,
    postgres::{Schema, Scope, migrate, turn_to},
};
use pulse_testkit::{Postgres, eventually, postgres::Database, proxy::Proxy};
use sqlx::{AssertSqlSafe, PgConnection, migrate::Migrator};
use tokio::{
    sync::Barrier,
    time::{Instant, timeout},
};

static V1: Migrator = sqlx::migrate!("tests/migrations/postgres/v1");
static V2: Migrator = sqlx::migrate!("tests/migrations/postgres/v2");

static OLD: Schema =
    Schema { name: "pulse_lifecycle", program: "pulse-lifecycle", migrator: &V1, has_feed: false };
static NEW: Schema =
    Schema { name: "pulse_lifecycle", program: "pulse-lifecycle", migrator: &V2, has_feed: false };

const SOON: Duration = Duration::from_secs(20);

fn settings(url: &str) -> DatabaseSettings {
    DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: 4.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(2),
        database_migrate: true,
    }
}

async fn open_at(settings: &DatabaseSettings) -> Result<PgDb, PgOpenError> {
    PgDb::open(settings, &OLD, Arc::new(OsEntropy)).await
}

async fn database() -> Database {
    Postgres::shared().await.database().await
}

async fn open() -> (PgDb, Database) {
    let database = database().await;
    (open_at(&settings(&database.url())).await.unwrap(), database)
}

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}

async fn insert(db: &PgDb, tenant: &str, name: &'static str) -> Result<(), StoreError> {
    db.write(&org(tenant), (org(tenant), name), |(tenant, name), conn| {
        Box::pin(async move {
            sqlx::query("INSERT INTO things (org_id, name) VALUES ($1, $2)")
                .bind(tenant.as_str())
                .bind(*name)
                .execute(conn)
                .await?;
            Ok(())
        })
    })
    .await
}

async fn names(db: &PgDb, scope: Scope<'_>) -> Result<Vec<String>, StoreError> {
    db.read(scope, &(), |(), conn| {
        Box::pin(async move {
            Ok(sqlx::query_scalar("SELECT name FROM things ORDER BY 1").fetch_all(conn).await?)
        })
    })
    .await
}

/// Every name there is, asked past all of this.
async fn all_names(database: &Database) -> Vec<String> {
    sqlx::query_scalar("SELECT name FROM pulse_lifecycle.things ORDER BY 1")
        .fetch_all(&mut database.connect().await)
        .await
        .unwrap()
}

async fn execute(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

#[tokio::test]
async fn many_that_start_at_once_prepare_an_empty_database_together() {
    let database = database().await;
    let settings = settings(&database.url());
    let opened = join_all((0..6).map(|_| open_at(&settings))).await;
    for db in opened {
        insert(&db.unwrap(), "acme", "one").await.ok();
    }
    assert_eq!(all_names(&database).await, ["one"]);
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused_and_told_what_to_do() {
    let (_, database) = open().await;
    let mut settings = settings(&database.url());
    settings.database_migrate = false;
    let behind = PgDb::open(&settings, &NEW, Arc::new(OsEntropy)).await.unwrap_err();
    assert!(matches!(behind, PgOpenError::OldSchema { found: 1, needed: 2, .. }), "{behind}");
    assert!(behind.to_string().contains("run `pulse-lifecycle migrate`"), "{behind}");

    migrate(&settings, &NEW).await.unwrap();
    PgDb::open(&settings, &NEW, Arc::new(OsEntropy)).await.unwrap();
    for migrating in [true, false] {
        settings.database_migrate = migrating;
        let newer = open_at(&settings).await.unwrap_err();
        assert!(matches!(newer, PgOpenError::NewerSchema { found: 2, .. }), "{newer}");
    }
    let newer = migrate(&settings, &OLD).await.unwrap_err();
    assert!(matches!(newer, PgOpenError::NewerSchema { found: 2, .. }), "{newer}");
}

#[tokio::test]
async fn who_may_not_prepare_a_database_is_told_what_to_run() {
    let database = database().await;
    let mut superuser = database.connect().await;
    execute(&mut superuser, "CREATE ROLE nobody_special LOGIN").await;
    let url = database.url().replace("postgres@", "nobody_special@");
    let denied = open_at(&settings(&url)).await.unwrap_err();
    assert!(matches!(denied, PgOpenError::NotPrepared { .. }), "{denied}");
    assert!(denied.to_string().contains("deploy/postgres/roles.sql"), "{denied}");

    // Prepared, and a member of the migrator's role alone, it brings the schema up to date but does not use it.
    execute(&mut superuser, include_str!("../../../deploy/postgres/roles.sql")).await;
    execute(&mut superuser, "CREATE ROLE migrates LOGIN IN ROLE pulse_migrator").await;
    let migrates = database.url().replace("postgres@", "migrates@");
    migrate(&settings(&migrates), &OLD).await.unwrap();
    let denied = open_at(&settings(&migrates)).await.unwrap_err();
    assert!(matches!(denied, PgOpenError::NotPrepared { .. }), "{denied}");

    // A member of the service's role alone, it uses the schema but changes no table.
    execute(&mut superuser, "GRANT pulse_lifecycle TO nobody_special").await;
    let db = open_at(&settings(&url)).await.unwrap();
    insert(&db, "acme", "one").await.unwrap();
    let behind = PgDb::open(&settings(&url), &NEW, Arc::new(OsEntropy)).await.unwrap_err();
    assert!(matches!(behind, PgOpenError::OldSchema { .. }), "{behind}");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_not_shown() {
    for url in
        ["postgres://ann:canary@127.0.0.1:port/x", "postgres://ann:canary@127.0.0.1:1/x?sslmode=canary"]
    {
        let error = open_at(&settings(url)).now_or_never().unwrap().unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(told.contains("PULSE_DATABASE_URL") && !told.contains("canary"), "{told}");
    }
    assert!(!format!("{:?}", settings("postgres://ann:canary@db/x")).contains("canary"));
}

/// One connection, so that whatever one transaction left behind would be there in the next.
#[tokio::test]
async fn a_tenant_is_a_transactions_own_on_a_connection_that_others_use_next() {
    let database = database().await;
    let mut settings = settings(&database.url());
    settings.database_max_connections = 1.try_into().unwrap();
    let db = open_at(&settings).await.unwrap();
    let (acme, other) = (org("acme"), org("other"));
    insert(&db, "acme", "of acme").await.unwrap();
    insert(&db, "other", "of other").await.unwrap();

    assert_eq!(names(&db, Scope::Tenant(&acme)).await.unwrap(), ["of acme"]);
    assert_eq!(names(&db, Scope::Tenant(&other)).await.unwrap(), ["of other"]);
    assert_eq!(names(&db, Scope::EveryTenant).await.unwrap(), ["of acme", "of other"]);
    let unseen: Vec<String> = db
        .write_apart((), |(), conn| {
            Box::pin(async move {
                Ok::<_, StoreError>(sqlx::query_scalar("SELECT name FROM things").fetch_all(conn).await?)
            })
        })
        .await
        .unwrap();
    assert_eq!(unseen, [""; 0], "whoever belongs to no tenant sees none");

    // Without any condition of its own, a statement reaches the rows of its tenant and no others.
    for (statement, reached) in [("UPDATE things SET count = 7", 1), ("DELETE FROM things", 1)] {
        let rows = db.write(&acme, statement, |statement, conn| {
            Box::pin(async move {
                Ok::<_, StoreError>(sqlx::query(*statement).execute(conn).await?.rows_affected())
            })
        });
        assert_eq!(rows.await.unwrap(), reached, "{statement}");
    }
    assert_eq!(all_names(&database).await, ["of other"]);
    let foreign = db
        .write(&acme, (), |(), conn| {
            Box::pin(async move {
                sqlx::query("INSERT INTO things (org_id, name) VALUES ('other', 'forged')")
                    .execute(conn)
                    .await?;
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap_err();
    assert!(foreign.to_string().contains("row-level security"), "{foreign}");

    // It took the service's role, although a superuser logged in, and reads of every tenant change nothing.
    let role: String = db
        .read(Scope::EveryTenant, &(), |(), conn| {
            Box::pin(async move {
                Ok::<_, StoreError>(sqlx::query_scalar("SELECT current_user").fetch_one(conn).await?)
            })
        })
        .await
        .unwrap();
    assert_eq!(role, "pulse_lifecycle");
    let written = db
        .read(Scope::EveryTenant, &(), |(), conn| {
            Box::pin(async move {
                sqlx::query("DELETE FROM things").execute(conn).await?;
                Ok::<_, StoreError>(())
            })
        })
        .await;
    assert!(written.is_err());
    assert_eq!(all_names(&database).await, ["of other"]);
}

#[tokio::test]
async fn writes_of_one_tenant_happen_one_after_the_other() {
    let (db, database) = open().await;
    insert(&db, "acme", "one").await.unwrap();
    let acme = org("acme");
    let add = || {
        db.write(&acme, (), |(), conn| {
            Box::pin(async move {
                // Read and written apart, as a program would that decides in between.
                let count: i64 = sqlx::query_scalar("SELECT count FROM things").fetch_one(&mut *conn).await?;
                sqlx::query("UPDATE things SET count = $1").bind(count + 1).execute(conn).await?;
                Ok::<_, StoreError>(())
            })
        })
    };
    let added = join_all((0..20).map(|_| add())).await;
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    let count: i64 = sqlx::query_scalar("SELECT count FROM pulse_lifecycle.things")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(count, 20);
}

#[tokio::test]
async fn two_that_deadlock_both_succeed() {
    let (db, database) = open().await;
    insert(&db, "acme", "one").await.unwrap();
    insert(&db, "other", "two").await.unwrap();
    let (acme, other) = (org("acme"), org("other"));
    let both = Arc::new(Barrier::new(2));
    let crossing = async |from: &OrgId, to: &OrgId| {
        db.write(from, (from.clone(), to.clone(), Arc::clone(&both)), |(from, to, both), conn| {
            Box::pin(async move {
                sqlx::query("UPDATE things SET count = count + 1").execute(&mut *conn).await?;
                sqlx::query("SELECT nextval('tries')").execute(&mut *conn).await?;
                // At the first try the other holds its row by then, too; later there is no other.
                timeout(Duration::from_millis(500), both.wait()).await.ok();
                turn_to(conn, to).await?;
                sqlx::query("UPDATE things SET count = count + 1").execute(&mut *conn).await?;
                turn_to(conn, from).await?;
                Ok::<_, StoreError>(())
            })
        })
        .await
    };
    let (one, two) = tokio::join!(crossing(&acme, &other), crossing(&other, &acme));
    one.unwrap();
    two.unwrap();
    let mut superuser = database.connect().await;
    let counts: Vec<i64> = sqlx::query_scalar("SELECT count FROM pulse_lifecycle.things")
        .fetch_all(&mut superuser)
        .await
        .unwrap();
    assert_eq!(counts, [2, 2]);
    let tries: i64 = sqlx::query_scalar("SELECT last_value FROM pulse_lifecycle.tries")
        .fetch_one(&mut superuser)
        .await
        .unwrap();
    assert!(tries > 2, "they did not deadlock, so this shows nothing");
}

#[tokio::test]
async fn a_transaction_that_gives_way_is_done_again_and_another_failure_is_not() {
    for (code, done) in
        [("40001", true), ("40P01", true), ("55P03", true), ("23514", false), ("P0001", false)]
    {
        let (db, _database) = open().await;
        let outcome = db
            .write(&org("acme"), code, |code, conn| {
                Box::pin(async move {
                    let tries: i64 =
                        sqlx::query_scalar("SELECT nextval('tries')").fetch_one(&mut *conn).await?;
                    if tries % 3 != 0 {
                        let fail = format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$");
                        sqlx::raw_sql(AssertSqlSafe(fail)).execute(conn).await?;
                    }
                    Ok::<_, StoreError>(tries)
                })
            })
            .await;
        assert_eq!(outcome.is_ok(), done, "{code}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_transaction_that_has_failed_does_not_pass_for_a_success() {
    let (db, database) = open().await;
    insert(&db, "acme", "one").await.unwrap();
    let outcome = db
        .write(&org("acme"), (), |(), conn| {
            Box::pin(async move {
                sqlx::query("UPDATE things SET count = 9").execute(&mut *conn).await?;
                // Whoever passes over an error has lost everything before it, too.
                let same = sqlx::query("INSERT INTO things (org_id, name) VALUES ('acme', 'one')");
                same.execute(conn).await.unwrap_err();
                Ok::<_, StoreError>(())
            })
        })
        .await;
    assert!(outcome.is_err(), "{outcome:?}");
    let count: i64 = sqlx::query_scalar("SELECT count FROM pulse_lifecycle.things")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_violated_constraint_is_named() {
    let (db, _database) = open().await;
    insert(&db, "acme", "one").await.unwrap();
    let error = insert(&db, "other", "one").await.unwrap_err();
    let named = SqlErrorClass::UniqueViolation { constraint: "things_have_their_own_name".to_owned() };
    assert_eq!(error.class(), Some(named));
}

/// A commit that waits until `lock` is let go of.
async fn commit_slowly(db: &PgDb, happens: bool) -> Result<(), StoreError> {
    db.write(&org("acme"), happens, |happens, conn| {
        Box::pin(async move {
            sqlx::query("INSERT INTO things (org_id, name) VALUES ('acme', 'slow')")
                .execute(&mut *conn)
                .await?;
            sqlx::query("INSERT INTO commits VALUES ('acme', $1)").bind(*happens).execute(conn).await?;
            Ok(())
        })
    })
    .await
}

async fn wait_for_a_commit(superuser: &mut PgConnection) {
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%COMMIT' AND wait_event_type = 'Lock')";
    for _ in 0..2000 {
        if sqlx::query_scalar(waiting).fetch_one(&mut *superuser).await.unwrap() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("nobody commits");
}

#[tokio::test]
async fn a_commit_that_is_cut_off_is_settled_by_asking() {
    for happens in [true, false] {
        let database = database().await;
        let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
        let db = open_at(&settings(&database.url_through(proxy.addr()))).await.unwrap();
        let mut holder = database.connect().await;
        let mut superuser = database.connect().await;
        execute(&mut holder, "SELECT pg_advisory_lock(42)").await;
        let trouble = async {
            wait_for_a_commit(&mut superuser).await;
            proxy.cut().await;
            proxy.heal().await;
            execute(&mut holder, "SELECT pg_advisory_unlock(42)").await;
        };
        let (outcome, ()) = tokio::join!(commit_slowly(&db, happens), trouble);
        assert_eq!(outcome.is_ok(), happens, "{outcome:?}");
        let there = all_names(&database).await;
        assert_eq!(there.len(), usize::from(happens), "{there:?}");
    }
}

#[tokio::test]
async fn a_commit_that_nobody_can_be_asked_about_is_ambiguous() {
    let database = database().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let db = open_at(&settings(&database.url_through(proxy.addr()))).await.unwrap();
    let mut holder = database.connect().await;
    let mut superuser = database.connect().await;
    execute(&mut holder, "SELECT pg_advisory_lock(42)").await;
    let trouble = async {
        wait_for_a_commit(&mut superuser).await;
        proxy.cut().await;
    };
    let (outcome, ()) = tokio::join!(commit_slowly(&db, true), trouble);
    assert!(matches!(outcome, Err(StoreError::Ambiguous(_))), "{outcome:?}");
}

/// A server that crashes forgets which ids it had given to transactions that were still going on, and gives them to others.
#[tokio::test]
async fn a_commit_that_a_crash_undid_is_not_taken_for_that_of_another_transaction_with_its_id() {
    let mut server = Postgres::start().await;
    let database = server.database().await;
    let proxy = Proxy::to(&[server.addr()]);
    let db = open_at(&settings(&database.url_through(proxy.addr()))).await.unwrap();
    let mut superuser = database.connect().await;
    // Only a commit writes the log, then.
    execute(&mut superuser, "ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    execute(&mut superuser, "SELECT pg_reload_conf()").await;
    insert(&db, "acme", "one").await.unwrap();
    let mut holder = database.connect().await;
    execute(&mut holder, "SELECT pg_advisory_lock(42)").await;

    let writing = tokio::spawn({
        let db = db.clone();
        async move { commit_slowly(&db, true).await }
    });
    wait_for_a_commit(&mut superuser).await;
    let lost =
        "SELECT max(backend_xid::text::bigint) FROM pg_stat_activity WHERE datname = current_database()";
    let lost: i64 = sqlx::query_scalar(lost).fetch_one(&mut superuser).await.unwrap();
    proxy.cut().await;
    server.kill().await;
    server.start_again().await;
    let mut superuser = database.connect().await;
    let mut id = 0;
    while id < lost {
        let next = "SELECT pg_current_xact_id()::text::bigint";
        id = sqlx::query_scalar(next).fetch_one(&mut superuser).await.unwrap();
    }
    assert_eq!(id, lost, "the id was not given out again, so this shows nothing");
    proxy.heal().await;

    let outcome = writing.await.unwrap();
    assert!(matches!(outcome, Err(StoreError::Ambiguous(_))), "{outcome:?}");
    assert_eq!(all_names(&database).await, ["one"]);
    insert(&db, "acme", "two").await.unwrap();
}

#[tokio::test]
async fn connections_that_died_are_not_noticed_by_callers() {
    let (db, database) = open().await;
    insert(&db, "acme", "one").await.unwrap();
    let mut superuser = database.connect().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for _ in 0..3 {
        execute(&mut superuser, kill).await;
        assert_eq!(names(&db, Scope::EveryTenant).await.unwrap(), ["one"]);
        execute(&mut superuser, kill).await;
        insert(&db, "acme", "one").await.unwrap_err();
    }
}

#[tokio::test]
async fn when_every_connection_is_busy_what_comes_is_shed() {
    let database = database().await;
    let mut settings = settings(&database.url());
    settings.database_max_connections = 1.try_into().unwrap();
    settings.database_acquire_timeout = Duration::from_millis(300);
    let db = open_at(&settings).await.unwrap();
    let mut holder = database.connect().await;
    execute(&mut holder, "SELECT pg_advisory_lock(42)").await;
    insert(&db, "acme", "one").await.unwrap();
    let busy = tokio::spawn({
        let db = db.clone();
        async move { commit_slowly(&db, true).await }
    });
    wait_for_a_commit(&mut database.connect().await).await;

    let began = Instant::now();
    let everyone = join_all((0..100).map(|_| names(&db, Scope::EveryTenant))).await;
    assert!(everyone.iter().all(|outcome| matches!(outcome, Err(StoreError::Overloaded(_)))));
    assert!(began.elapsed() < Duration::from_secs(3), "they waited {:?}", began.elapsed());
    assert_eq!(db.load(), (1, 0));
    // Busy is not broken.
    db.ping().await.unwrap();

    execute(&mut holder, "SELECT pg_advisory_unlock(42)").await;
    busy.await.unwrap().unwrap();
    assert_eq!(names(&db, Scope::EveryTenant).await.unwrap(), ["one", "slow"]);
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_given_up_on_and_found_again() {
    let database = database().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let db = open_at(&settings(&database.url_through(proxy.addr()))).await.unwrap();
    insert(&db, "acme", "one").await.unwrap();
    proxy.freeze().await;
    let tries = async {
        let acme = org("acme");
        tokio::join!(names(&db, Scope::Tenant(&acme)), insert(&db, "acme", "two"), db.ping())
    };
    let (read, written, pinged) =
        timeout(Duration::from_secs(9), Box::pin(tries)).await.expect("nothing hangs");
    assert!(read.unwrap_err().is_transient() && pinged.unwrap_err().is_transient());
    assert!(written.unwrap_err().is_transient());
    proxy.heal().await;
    eventually(SOON, async || db.ping().await.map_err(|error| error.to_string())).await;
    insert(&db, "acme", "three").await.unwrap();
    assert!(all_names(&database).await.contains(&"three".to_owned()));
}

#[tokio::test]
async fn a_database_that_is_silent_under_load_is_away_and_not_busy() {
    let database = database().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let db = open_at(&settings(&database.url_through(proxy.addr()))).await.unwrap();
    insert(&db, "acme", "one").await.unwrap();
    proxy.freeze().await;
    let everyone = join_all((0..30).map(|_| names(&db, Scope::EveryTenant)));
    let outcomes = timeout(Duration::from_secs(9), Box::pin(everyone)).await.expect("nothing hangs");
    for outcome in outcomes {
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_restarts_is_told_and_found_again() {
    let mut server = Postgres::start().await;
    let database = server.database().await;
    let db = open_at(&settings(&database.url())).await.unwrap();
    insert(&db, "acme", "one").await.unwrap();
    for crash in [false, true] {
        if crash {
            server.kill().await;
        } else {
            server.stop().await;
        }
        assert!(insert(&db, "acme", "two").await.unwrap_err().is_transient());
        assert!(names(&db, Scope::EveryTenant).await.unwrap_err().is_transient());
        assert!(db.ping().await.unwrap_err().is_transient());
        server.start_again().await;
        eventually(SOON, async || db.ping().await.map_err(|error| error.to_string())).await;
        assert_eq!(names(&db, Scope::EveryTenant).await.unwrap(), ["one"]);
    }
}

#[tokio::test]
async fn a_write_is_done_although_its_caller_left() {
    let (db, database) = open().await;
    let mut left = Box::pin(insert(&db, "acme", "one"));
    assert!(futures::poll!(&mut left).is_pending());
    drop(left);
    eventually(SOON, async || all_names(&database).await == ["one"]).await;
}

#[tokio::test]
async fn a_reader_that_leaves_takes_its_connection_with_it() {
    let database = database().await;
    let mut settings = settings(&database.url());
    settings.database_max_connections = 1.try_into().unwrap();
    let db = open_at(&settings).await.unwrap();
    let mut holder = database.connect().await;
    execute(&mut holder, "SELECT pg_advisory_lock(43)").await;
    let slow = db.read(Scope::EveryTenant, &(), |(), conn| {
        Box::pin(async move {
            sqlx::query("SELECT pg_advisory_xact_lock(43)").execute(conn).await?;
            Ok::<_, StoreError>(())
        })
    });
    timeout(Duration::from_millis(200), slow).await.unwrap_err();
    assert_eq!(names(&db, Scope::EveryTenant).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_not_ready() {
    let (db, database) = open().await;
    db.ping().await.unwrap();
    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name());
    execute(&mut database.connect().await, &read_only).await;
    let db =
        open_at(&DatabaseSettings { database_migrate: false, ..settings(&database.url()) }).await.unwrap();
    assert!(db.ping().await.unwrap_err().to_string().contains("takes no writes"));
    assert!(insert(&db, "acme", "one").await.unwrap_err().is_transient());
}

#[tokio::test]
async fn a_closed_schema_says_so() {
    let (db, _database) = open().await;
    db.close();
    assert!(names(&db, Scope::EveryTenant).await.unwrap_err().is_transient());
    assert!(insert(&db, "acme", "one").await.unwrap_err().is_transient());
    assert!(db.ping().await.is_err());
}
