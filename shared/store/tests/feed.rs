//! The change feed: nothing is skipped and nothing told twice, whatever order transactions commit in, whoever is away, and
//! whatever becomes of the server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use futures::future::join_all;
use jiff::Timestamp;
use pulse_kernel::{OrgId, OsEntropy};
use pulse_runtime::{DatabaseSettings, Shutdown};
use pulse_store::{
    PgDb, StoreError,
    postgres::{
        Schema,
        feed::{self, Batch, Change, Event, POLL, Position},
        turn_to,
    },
};
use pulse_testkit::{Postgres, Proxy, eventually, postgres::Database};
use sqlx::{AssertSqlSafe, PgConnection, migrate::Migrator};
use tokio::time::Instant;

static MIGRATIONS: Migrator = sqlx::migrate!("tests/migrations/postgres/feed");
static SCHEMA: Schema =
    Schema { name: "pulse_lifecycle", program: "pulse-lifecycle", migrator: &MIGRATIONS, has_feed: true };

const SOON: Duration = Duration::from_secs(20);

fn settings(url: &str) -> DatabaseSettings {
    DatabaseSettings {
        database_url: Some(url.into()),
        database_max_connections: 4.try_into().unwrap(),
        database_acquire_timeout: Duration::from_secs(2),
        database_migrate: true,
    }
}

async fn open_at(url: &str) -> PgDb {
    PgDb::open(&settings(url), &SCHEMA, Arc::new(OsEntropy)).await.unwrap()
}

async fn open() -> (PgDb, Database) {
    let database = Postgres::shared().await.database().await;
    (open_at(&database.url()).await, database)
}

fn org(id: &str) -> OrgId {
    OrgId::parse(id).unwrap()
}

fn at() -> Timestamp {
    Timestamp::from_second(1_893_456_000).unwrap()
}

fn change(tenant: &str, version: i64) -> Change {
    Change { org_id: org(tenant), version, at: at() }
}

async fn append(db: &PgDb, tenant: &str, version: i64) -> i64 {
    let tenant = org(tenant);
    let appended = db.write(&tenant, (tenant.clone(), version), |(tenant, version), conn| {
        Box::pin(async move { Ok::<_, StoreError>(feed::append(conn, tenant, *version, at()).await?) })
    });
    appended.await.unwrap()
}

/// A connection of the superuser in the schema, told of by nobody.
async fn aside(database: &Database) -> PgConnection {
    let mut conn = database.connect().await;
    execute(&mut conn, "SET search_path = pulse_lifecycle").await;
    conn
}

async fn execute(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

/// A transaction that has appended this, and goes on.
async fn begin_append(database: &Database, tenant: &str, version: i64) -> PgConnection {
    let mut conn = aside(database).await;
    execute(&mut conn, "BEGIN").await;
    feed::append(&mut conn, &org(tenant), version, at()).await.unwrap();
    conn
}

async fn read(db: &PgDb, after: &mut Position) -> Vec<Change> {
    match db.changes_since(Some(after)).await.unwrap() {
        Batch::Changes { changes, next } => {
            *after = next;
            changes
        }
        Batch::Reset(next) => panic!("starts over at {next:?}"),
    }
}

/// Where a reader is that starts now.
async fn start(db: &PgDb) -> Position {
    reset(db, None).await
}

/// Where a reader goes on that has to start over.
async fn reset(db: &PgDb, after: Option<&Position>) -> Position {
    match db.changes_since(after).await.unwrap() {
        Batch::Reset(next) => next,
        Batch::Changes { changes, .. } => panic!("does not start over: {changes:?}"),
    }
}

/// A follower that notes what it is told.
struct Following {
    told: Arc<Mutex<Vec<Event>>>,
    shutdown: Shutdown,
}

impl Following {
    fn begin(db: &PgDb) -> Self {
        Self::telling(db, |_| {})
    }

    /// One that does this as well.
    fn telling(db: &PgDb, mut on: impl FnMut(&Event) + Send + 'static) -> Self {
        let (told, shutdown) = (Arc::new(Mutex::new(Vec::new())), Shutdown::new());
        let noting = told.clone();
        db.follow(&shutdown, move |event| {
            on(&event);
            noting.lock().unwrap().push(event);
        });
        Self { told, shutdown }
    }

    /// One that has begun.
    async fn started(db: &PgDb) -> Self {
        let following = Self::begin(db);
        following.hears(&[Event::Reset]).await;
        following
    }

    /// Waits until this is what it was told since it was last asked.
    async fn hears(&self, events: &[Event]) {
        eventually(SOON, async || self.told.lock().unwrap().len() >= events.len()).await;
        assert_eq!(std::mem::take(&mut *self.told.lock().unwrap()), events);
    }

    async fn stop(self) {
        self.shutdown.trigger();
        self.shutdown.wait().await.unwrap();
    }
}

async fn followers(database: &Database) -> i64 {
    let count = "SELECT count(*) FROM pulse_lifecycle.followers";
    sqlx::query_scalar(count).fetch_one(&mut database.connect().await).await.unwrap()
}

#[test]
fn the_tables_are_those_that_services_repeat() {
    assert!(include_str!("migrations/postgres/feed/0001_feed.sql").contains(feed::DDL));
}

#[tokio::test]
async fn a_change_that_becomes_visible_behind_a_later_one_is_not_skipped() {
    let (db, database) = open().await;
    let mut position = start(&db).await;
    let mut early = begin_append(&database, "early", 1).await;
    append(&db, "late", 1).await;

    // What a reader would do that remembers the last sequence, or the last transaction, that it has seen.
    let mut naive = aside(&database).await;
    let seen: (i64, String) = sqlx::query_as("SELECT max(sequence), max(xid::text) FROM changes")
        .fetch_one(&mut naive)
        .await
        .unwrap();
    assert_eq!(read(&db, &mut position).await, [change("late", 1)], "it waits for no other transaction");

    execute(&mut early, "COMMIT").await;
    let skips = "SELECT count(*) FROM changes WHERE sequence > $1 OR xid > $2::xid8";
    let found: i64 = sqlx::query_scalar(skips).bind(seen.0).bind(seen.1).fetch_one(&mut naive).await.unwrap();
    assert_eq!(found, 0, "such a reader never sees the early one");
    assert_eq!(read(&db, &mut position).await, [change("early", 1)]);
    assert_eq!(read(&db, &mut position).await, []);
}

#[tokio::test]
async fn what_is_rolled_back_is_never_told() {
    let (db, database) = open().await;
    let mut position = start(&db).await;
    let mut given_up = begin_append(&database, "acme", 1).await;
    append(&db, "late", 1).await;
    assert_eq!(read(&db, &mut position).await, [change("late", 1)]);
    execute(&mut given_up, "ROLLBACK").await;
    assert_eq!(read(&db, &mut position).await, []);
}

#[tokio::test]
async fn a_strangers_transaction_holds_nobody_up() {
    let (db, _) = open().await;
    // Another database of the server, in a transaction that has an id and is then forgotten.
    let other = Postgres::shared().await.database().await;
    let mut stranger = other.connect().await;
    execute(&mut stranger, "BEGIN; CREATE TABLE t (i int)").await;

    let following = Following::started(&db).await;
    let xid = append(&db, "acme", 1).await;
    assert!(db.wait_for_followers(xid, SOON).await);
    following.hears(&[Event::Changed(change("acme", 1))]).await;
    following.stop().await;
    execute(&mut stranger, "ROLLBACK").await;
}

/// One transaction may change two tenants, and take its id long before it gets to the second.
#[tokio::test]
async fn a_tenants_changes_come_in_their_order_whatever_the_order_of_the_transactions() {
    let (db, database) = open().await;
    let mut position = start(&db).await;
    let mut early = begin_append(&database, "first", 1).await;
    append(&db, "second", 1).await;
    feed::append(&mut early, &org("second"), 2, at()).await.unwrap();
    execute(&mut early, "COMMIT").await;
    assert_eq!(
        read(&db, &mut position).await,
        [change("first", 1), change("second", 1), change("second", 2)]
    );
}

/// Writes of every kind at once, and readers that look all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_readers_lose_nothing_and_repeat_nothing() {
    const TENANTS: i64 = 5;
    const WRITES: i64 = 60;
    /// The tenant's next version is that after its newest.
    async fn append_next(conn: &mut PgConnection, tenant: &OrgId) -> Result<(), StoreError> {
        let newest = "SELECT coalesce(max(version), 0) FROM changes WHERE org_id = $1";
        let version: i64 = sqlx::query_scalar(newest).bind(tenant.as_str()).fetch_one(&mut *conn).await?;
        feed::append(conn, tenant, version + 1, at()).await?;
        Ok(())
    }
    let (db, _) = open().await;
    let mut positions = [start(&db).await, start(&db).await];
    let following = Following::started(&db).await;

    let writing = join_all((0..8_i64).map(|writer| {
        let db = &db;
        async move {
            for write in 0..WRITES {
                let number = |n: i64| org(&format!("t{}", (writer + write * n) % TENANTS));
                let tenant = number(1);
                let input = (tenant.clone(), number(3), write);
                let done = db.write(&tenant, input, |(tenant, other, write), conn| {
                    Box::pin(async move {
                        append_next(conn, tenant).await?;
                        if write % 7 == 3 && other > tenant {
                            turn_to(conn, other).await?;
                            append_next(conn, other).await?;
                        }
                        // Some give up, and leave gaps.
                        if write % 5 == 4 {
                            return Err(StoreError::Panicked);
                        }
                        Ok(())
                    })
                });
                let done: Result<(), StoreError> = done.await;
                assert_eq!(done.is_err(), write % 5 == 4, "{done:?}");
            }
        }
    }));
    let mut reading = [Vec::new(), Vec::new()];
    tokio::pin!(writing);
    loop {
        for (position, told) in positions.iter_mut().zip(&mut reading) {
            told.extend(read(&db, position).await);
        }
        if futures::poll!(&mut writing).is_ready() {
            break;
        }
    }
    for (position, told) in positions.iter_mut().zip(&mut reading) {
        told.extend(read(&db, position).await);
        assert_eq!(read(&db, position).await, []);
    }
    let there: Vec<(String, i64)> = db
        .read(pulse_store::postgres::Scope::EveryTenant, &(), |(), conn| {
            Box::pin(async move {
                let newest = "SELECT org_id, max(version) FROM changes GROUP BY org_id";
                Ok::<_, StoreError>(sqlx::query_as(newest).fetch_all(conn).await?)
            })
        })
        .await
        .unwrap();
    let total: i64 = there.iter().map(|(_, newest)| newest).sum();
    assert!(total >= 8 * WRITES * 4 / 5, "{there:?}");
    let total = usize::try_from(total).unwrap();
    eventually(SOON, async || following.told.lock().unwrap().len() == total).await;
    reading[1] = std::mem::take(&mut *following.told.lock().unwrap())
        .into_iter()
        .map(|event| match event {
            Event::Changed(change) => change,
            Event::Reset => panic!("starts over"),
        })
        .collect();
    for told in reading {
        let mut versions: HashMap<String, i64> = HashMap::new();
        for change in told {
            let last = versions.entry(change.org_id.to_string()).or_default();
            assert_eq!(change.version, *last + 1, "{}", change.org_id);
            *last += 1;
        }
        assert_eq!(versions, there.iter().cloned().collect());
    }
    following.stop().await;
}

#[tokio::test]
async fn a_change_that_nobody_tells_of_is_found_by_looking() {
    let (db, database) = open().await;
    let following = Following::started(&db).await;
    let mut silent = begin_append(&database, "acme", 1).await;
    execute(&mut silent, "COMMIT").await;
    let committed = Instant::now();
    following.hears(&[Event::Changed(change("acme", 1))]).await;
    assert!(committed.elapsed() < POLL * 3, "{:?}", committed.elapsed());
    following.stop().await;
}

/// Each wait is half as long as that for the next look, so without being told this would hold by chance: once in a million times.
#[tokio::test]
async fn what_another_replica_writes_is_told_at_once_also_after_the_listener_was_lost() {
    let (db, database) = open().await;
    let other = open_at(&database.url()).await;
    let (here, there) = (Following::started(&db).await, Following::started(&other).await);
    for round in 1..=2 {
        for version in round * 10..(round + 1) * 10 {
            let xid = append(&db, "acme", version).await;
            assert!(db.wait_for_followers(xid, POLL / 2).await, "{version}");
        }
        let told: Vec<Event> =
            (round * 10..(round + 1) * 10).map(|version| Event::Changed(change("acme", version))).collect();
        here.hears(&told).await;
        there.hears(&told).await;
        let mut superuser = database.connect().await;
        let listening =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query ILIKE '%followers%'
             AND pid <> pg_backend_pid() AND datname = current_database()";
        let ended: i64 = sqlx::query_scalar(listening).fetch_one(&mut superuser).await.unwrap();
        assert!(ended >= 2, "{ended}");
        // They look again as soon as they are back.
        let xid = append(&db, "again", round).await;
        assert!(db.wait_for_followers(xid, SOON).await);
        here.hears(&[Event::Changed(change("again", round))]).await;
        there.hears(&[Event::Changed(change("again", round))]).await;
    }
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_reader_starts_over_where_what_it_has_missed_is_gone() {
    // Nobody else's transaction is in the snapshots here.
    let server = Postgres::start().await;
    let database = server.database().await;
    let db = open_at(&database.url()).await;
    let behind = start(&db).await;
    append(&db, "acme", 1).await;
    append(&db, "acme", 2).await;
    let up_to_date = start(&db).await;
    let mut superuser = aside(&database).await;
    execute(&mut superuser, "UPDATE changes SET at = now() - interval '25 hours' WHERE version = 1").await;
    execute(&mut superuser, "UPDATE changes SET at = now() WHERE version = 2").await;

    db.prune_changes().await.unwrap();
    let left: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM changes").fetch_all(&mut superuser).await.unwrap();
    assert_eq!(left, [2]);
    let mut positions = [up_to_date, reset(&db, Some(&behind)).await];
    db.prune_changes().await.unwrap();
    append(&db, "acme", 3).await;
    for position in &mut positions {
        assert_eq!(read(&db, position).await, [change("acme", 3)]);
    }
}

#[tokio::test]
async fn nothing_is_dropped_below_a_transaction_that_goes_on() {
    let (db, database) = open().await;
    let mut position = start(&db).await;
    let mut going_on = begin_append(&database, "slow", 1).await;
    append(&db, "acme", 1).await;
    let mut superuser = aside(&database).await;
    execute(&mut superuser, "UPDATE changes SET at = now() - interval '25 hours'").await;
    db.prune_changes().await.unwrap();
    execute(&mut going_on, "COMMIT").await;
    assert_eq!(read(&db, &mut position).await.len(), 2);
}

#[tokio::test]
async fn a_reader_that_has_missed_too_much_starts_over() {
    let (db, database) = open().await;
    let mut position = start(&db).await;
    let mut superuser = aside(&database).await;
    let many =
        "INSERT INTO changes (org_id, version, at) SELECT 'acme', n, now() FROM generate_series(1, 10000) n";
    execute(&mut superuser, many).await;
    assert_eq!(read(&db, &mut position.clone()).await.len(), 10_000);
    append(&db, "acme", 10_001).await;
    position = reset(&db, Some(&position)).await;
    assert_eq!(read(&db, &mut position).await, []);
}

#[tokio::test]
async fn a_restored_database_begins_another_life_of_its_feed() {
    let (db, database) = open().await;
    let mut old = start(&db).await;
    let mut superuser = aside(&database).await;
    let future = "INSERT INTO changes (xid, org_id, version, at) VALUES ('99999999999', 'acme', 7, now())";
    // The counter of the server is behind; or the tables are other ones, or were kept by another server.
    for copied in [
        future,
        "UPDATE feed SET changes = 1",
        "UPDATE feed SET server_started = server_started - interval '1 s'",
    ] {
        execute(&mut superuser, copied).await;
        let url = database.url();
        let (one, other) = tokio::join!(open_at(&url), open_at(&url));
        let mut new = reset(&one, Some(&old)).await;
        assert_eq!(read(&other, &mut new).await, [], "what was before is not told again");
        append(&one, "acme", 1).await;
        assert_eq!(read(&other, &mut new).await, [change("acme", 1)]);
        old = new;
    }
}

#[tokio::test]
async fn a_write_waits_for_those_who_are_alive_and_not_for_long() {
    let (db, database) = open().await;
    let mut superuser = aside(&database).await;
    let xid = append(&db, "acme", 1).await;
    assert!(db.wait_for_followers(xid, SOON).await, "there is nobody");

    let silent =
        "INSERT INTO followers VALUES (gen_random_uuid(), '1:1:', clock_timestamp() - interval '4 s')";
    execute(&mut superuser, silent).await;
    assert!(db.wait_for_followers(xid, SOON).await, "nobody is alive");

    let behind =
        "INSERT INTO followers VALUES (gen_random_uuid(), '1:1:', clock_timestamp() + interval '1 h')";
    execute(&mut superuser, behind).await;
    let most = Duration::from_millis(200);
    let begun = Instant::now();
    assert!(!db.wait_for_followers(xid, most).await, "one is behind");
    assert!((most..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());

    execute(&mut superuser, "UPDATE followers SET heard = pg_current_snapshot()").await;
    assert!(db.wait_for_followers(xid, SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_counts_as_told_only_when_it_was() {
    let (db, _) = open().await;
    let (release, held) = mpsc::channel::<()>();
    let following = Following::telling(&db, move |event| {
        if *event != Event::Reset {
            tokio::task::block_in_place(|| held.recv().unwrap());
        }
    });
    following.hears(&[Event::Reset]).await;
    let xid = append(&db, "acme", 1).await;
    assert!(!db.wait_for_followers(xid, Duration::from_millis(300)).await);
    release.send(()).unwrap();
    assert!(db.wait_for_followers(xid, SOON).await);
    following.hears(&[Event::Changed(change("acme", 1))]).await;
    following.stop().await;
}

#[tokio::test]
async fn nobody_waits_for_a_follower_that_has_left() {
    let (db, database) = open().await;
    let following = Following::started(&db).await;
    eventually(SOON, async || followers(&database).await == 1).await;
    following.stop().await;
    assert_eq!(followers(&database).await, 0);
    append(&db, "acme", 1).await;
}

#[tokio::test]
async fn a_follower_goes_on_when_every_connection_of_the_pool_is_taken() {
    let database = Postgres::shared().await.database().await;
    let one =
        DatabaseSettings { database_max_connections: 1.try_into().unwrap(), ..settings(&database.url()) };
    let busy = PgDb::open(&one, &SCHEMA, Arc::new(OsEntropy)).await.unwrap();
    let following = Following::started(&busy).await;

    let mut lock = aside(&database).await;
    execute(&mut lock, "SELECT pg_advisory_lock(7)").await;
    let holding = busy.clone();
    let held = tokio::spawn(async move {
        let work = holding.write_apart((), |(), conn| {
            Box::pin(async move {
                sqlx::query("SELECT pg_advisory_xact_lock(7)").execute(conn).await?;
                Ok::<_, StoreError>(())
            })
        });
        work.await
    });
    eventually(SOON, async || busy.load().0 == 1).await;
    let other = open_at(&database.url()).await;
    append(&other, "acme", 1).await;
    following.hears(&[Event::Changed(change("acme", 1))]).await;
    assert!(!held.is_finished());
    execute(&mut lock, "SELECT pg_advisory_unlock(7)").await;
    held.await.unwrap().unwrap();
    following.stop().await;
}

#[tokio::test]
async fn a_follower_that_was_cut_off_hears_what_it_has_missed() {
    let database = Postgres::shared().await.database().await;
    let proxy = Proxy::to(&[Postgres::shared().await.addr()]);
    let db = open_at(&database.url_through(proxy.addr())).await;
    let other = open_at(&database.url()).await;
    let following = Following::started(&db).await;
    for frozen in [false, true] {
        if frozen {
            proxy.freeze().await;
        } else {
            proxy.cut().await;
        }
        let version = i64::from(frozen) + 1;
        let xid = append(&other, "acme", version).await;
        // Not within a bound that is shorter than the follower counts as alive.
        assert!(!other.wait_for_followers(xid, Duration::from_millis(100)).await);
        assert!(other.wait_for_followers(xid, SOON).await, "it is not waited for once it seems gone");
        assert_eq!(*following.told.lock().unwrap(), []);
        proxy.heal().await;
        following.hears(&[Event::Changed(change("acme", version))]).await;
        let xid = append(&other, "other", version).await;
        assert!(other.wait_for_followers(xid, SOON).await);
        following.hears(&[Event::Changed(change("other", version))]).await;
    }
    following.stop().await;
}

#[tokio::test]
async fn followers_and_readers_start_over_when_the_server_has() {
    let mut server = Postgres::start().await;
    let database = server.database().await;
    let db = open_at(&database.url()).await;
    let following = Following::started(&db).await;
    let mut position = start(&db).await;
    for crash in [false, true] {
        // In a crash the last ids that were given out are forgotten, and given to others.
        let lost = begin_append(&database, "lost", 1).await;
        if crash {
            server.kill().await;
        } else {
            server.stop().await;
        }
        drop(lost);
        server.start_again().await;
        position = eventually(SOON, async || match db.changes_since(Some(&position)).await {
            Ok(Batch::Reset(next)) => Some(next),
            Ok(Batch::Changes { changes, .. }) => panic!("goes on with {changes:?}"),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                None
            }
        })
        .await;
        following.hears(&[Event::Reset]).await;
        append(&db, "acme", 1).await;
        following.hears(&[Event::Changed(change("acme", 1))]).await;
        assert_eq!(read(&db, &mut position).await, [change("acme", 1)]);
    }
    following.stop().await;
}
