//! What changed, for those who keep copies: caches in other replicas, and streams to other services.
//!
//! Every write that others must hear of [appends](append) its tenant and version to `changes`, in its own transaction. A reader
//! goes on from where it was. Sequence numbers, and ids of transactions too, are given out before their transactions commit, so
//! a reader that only remembered the last one it saw would skip rows that become visible behind it. Therefore a [`Position`] is
//! a snapshot: which transactions had committed when the reader looked. What comes next are the rows of all others that have
//! committed since, however old their ids are. Nothing waits for a transaction that is still going on, be it a stranger's in
//! another database of the same server.
//!
//! One tenant's changes come in the order in which they were made, because its writes take place, and take their sequence
//! numbers, one after the other. Between tenants there is no order.
//!
//! A server that crashes, fails over or is restored may give out ids of transactions once more, to other transactions, and
//! then a position means nothing. `feed` holds which life of the feed this is, and is not logged: it does not outlive any of
//! these. Whoever finds it empty begins another life, in which every reader of the last one starts over.
//!
//! `NOTIFY` says that there may be something to read. It is sent after the commit and may get lost; whoever listens looks
//! again every [`POLL`] in any case.
//!
//! Each follower notes in `followers` what it has been told, so that a write can [wait](PgDb::wait_for_followers) until all
//! have heard.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx as _};
use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use sqlx::{
    Acquire as _, PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{PgDb, Scope, connect::connect};
use crate::StoreError;

/// How long a change can go unnoticed when its notification is lost.
pub const POLL: Duration = Duration::from_secs(1);

/// A follower that has not said what it has heard for this long is not waited for.
const ALIVE: &str = "3 seconds";

/// A follower whose connection does not answer for this long takes another.
const PATIENCE: Duration = Duration::from_secs(3);

/// A reader that has missed more changes than this starts over instead.
const MOST: i64 = 10_000;

/// How long changes are kept for readers that were away, and how often older ones are dropped.
const KEPT: &str = "1 day";
const PRUNE_INTERVAL: Duration = Duration::from_mins(10);

/// The tables. A service with a feed repeats this text in its first migration. There it grants itself `SELECT, INSERT, DELETE`
/// on `changes`, `SELECT, INSERT, UPDATE` on `feed`, and `SELECT, INSERT, UPDATE, DELETE` on `followers`.
pub const DDL: &str = "\
-- What changed, as in shared/store/src/postgres/feed.rs.
CREATE TABLE changes (
    xid      xid8        NOT NULL DEFAULT pg_current_xact_id(),
    sequence bigint      GENERATED ALWAYS AS IDENTITY,
    org_id   text        NOT NULL COLLATE \"C\" CHECK (org_id <> ''),
    version  bigint      NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (xid, sequence)
);
CREATE INDEX changes_by_age ON changes (at);

ALTER TABLE changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE changes FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON changes USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON changes FOR SELECT USING (current_setting('pulse.tenant', true) = '*');
CREATE POLICY pruning ON changes FOR DELETE USING (current_setting('pulse.tenant', true) = '*');

-- One row: which life of the feed this is, on which start of the server and for which table, and up to which transaction
-- changes have been dropped. Not logged, so that it does not outlive a crash, after which ids of transactions may come again.
CREATE UNLOGGED TABLE feed (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch          bigint      NOT NULL DEFAULT extract(epoch FROM clock_timestamp()) * 1000000,
    server_started timestamptz NOT NULL DEFAULT pg_postmaster_start_time(),
    changes        oid         NOT NULL DEFAULT 'changes'::regclass,
    pruned         xid8        NOT NULL DEFAULT '0'
);

-- What each follower has heard of; worth nothing after a crash, when all of them have to say so again.
CREATE UNLOGGED TABLE followers (
    id      uuid        PRIMARY KEY,
    heard   pg_snapshot NOT NULL,
    seen_at timestamptz NOT NULL
);
";

/// A place in a feed: what has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The life of the feed that it is a place in.
    epoch: i64,
    /// The transactions whose changes have been read: a `pg_snapshot`.
    heard: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The tenant that changed.
    pub org_id: OrgId,
    /// Its version since; grows with every change of the tenant.
    pub version: i64,
    /// When it was decided.
    pub at: Timestamp,
}

/// What a reader has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// These changes, each tenant's oldest first.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// Where to go on.
        next: Position,
    },
    /// More than can be told: whatever the reader has copied may be out of date. It goes on from here.
    Reset(Position),
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Anything may have changed.
    Reset,
    /// This has changed.
    Changed(Change),
}

/// When a follower last began a look at the feed that it has told of since; none before the first time. All that was committed
/// before then has been told.
pub type LastLook = watch::Receiver<Option<Instant>>;

/// Appends a change of the tenant to the feed, in the transaction that `conn` is in. Returns the transaction's id, for
/// [`PgDb::wait_for_followers`].
///
/// # Errors
/// When the database fails.
pub async fn append(
    conn: &mut PgConnection,
    org_id: &OrgId,
    version: i64,
    at: Timestamp,
) -> Result<i64, sqlx::Error> {
    let append = "INSERT INTO changes (org_id, version, at) VALUES ($1, $2, $3) RETURNING xid::text::bigint";
    sqlx::query_scalar(append).bind(org_id.as_str()).bind(version).bind(at.to_sqlx()).fetch_one(conn).await
}

/// What has happened since `after`, in a transaction that sees one moment, of every tenant. None: the feed has no life yet.
async fn read(conn: &mut PgConnection, after: Option<&Position>) -> Result<Option<Batch>, sqlx::Error> {
    let heard = after.map(|after| &after.heard);
    let life: Option<(i64, String, Option<bool>)> = sqlx::query_as(
        "SELECT epoch, pg_current_snapshot()::text, pruned < pg_snapshot_xmin($1::text::pg_snapshot) FROM feed
         WHERE server_started = pg_postmaster_start_time() AND changes = 'changes'::regclass",
    )
    .bind(heard)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((epoch, now, nothing_missed)) = life else { return Ok(None) };
    let next = Position { epoch, heard: now };
    if after.is_none_or(|after| after.epoch != epoch) || nothing_missed != Some(true) {
        return Ok(Some(Batch::Reset(next)));
    }
    let rows: Vec<(String, i64, PgTimestamp)> = sqlx::query_as(
        "SELECT org_id, version, at FROM changes
         WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
             AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
         ORDER BY sequence LIMIT $2",
    )
    .bind(heard)
    .bind(MOST + 1)
    .fetch_all(conn)
    .await?;
    if i64::try_from(rows.len()).unwrap_or(i64::MAX) > MOST {
        return Ok(Some(Batch::Reset(next)));
    }
    let change = |(org_id, version, at): (String, i64, PgTimestamp)| {
        let org_id = OrgId::parse(&org_id).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Change { org_id, version, at: at.to_jiff() })
    };
    let changes = rows.into_iter().map(change).collect::<Result<_, sqlx::Error>>()?;
    Ok(Some(Batch::Changes { changes, next }))
}

/// Begins another life of the feed where the last one is over: the server has started again, or the tables are a copy of others,
/// made by restoring a dump. Changes of the last life whose transactions seem to lie in the future go, as they would be told
/// once more. In a transaction of every tenant.
async fn begin_life(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO feed AS last DEFAULT VALUES ON CONFLICT (only_row) DO UPDATE
         SET epoch = greatest(excluded.epoch, last.epoch + 1), server_started = excluded.server_started,
             changes = excluded.changes, pruned = excluded.pruned
         WHERE (last.server_started, last.changes) <> (excluded.server_started, excluded.changes)
             OR EXISTS (SELECT FROM changes WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))",
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM changes WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())")
        .execute(conn)
        .await?;
    Ok(())
}

/// As [`begin_life`], on a connection that is in no transaction.
pub(super) async fn begin_life_where_over(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("BEGIN; SET LOCAL pulse.tenant = '*'").execute(&mut *conn).await?;
    begin_life(&mut *conn).await?;
    sqlx::raw_sql("COMMIT").execute(conn).await.map(|_| ())
}

/// Drops what nobody can be waiting for any more. Only where every transaction has ended can nothing appear afterwards.
async fn prune(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    super::turn_to_every(conn).await?;
    let pruned: Option<String> = sqlx::query_scalar(
        "UPDATE feed SET pruned = last.xid FROM (
             SELECT xid FROM changes
             WHERE at < now() - $1::text::interval AND xid < pg_snapshot_xmin(pg_current_snapshot())
             ORDER BY xid DESC LIMIT 1
         ) AS last
         WHERE last.xid > pruned RETURNING pruned::text",
    )
    .bind(KEPT)
    .fetch_optional(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM changes WHERE xid <= $1::text::xid8").bind(pruned).execute(conn).await?;
    Ok(())
}

impl PgDb {
    /// What has happened since `after`; a [`Batch::Reset`] where that is nowhere.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn changes_since(&self, after: Option<&Position>) -> Result<Batch, StoreError> {
        loop {
            let batch = self.read(Scope::EveryTenant, &after, |after, conn| {
                Box::pin(async move { Ok::<_, StoreError>(read(conn, *after).await?) })
            });
            if let Some(batch) = batch.await? {
                return Ok(batch);
            }
            let beginning = self.write_apart((), |(), conn| {
                Box::pin(async move {
                    super::turn_to_every(conn).await?;
                    Ok::<_, StoreError>(begin_life(conn).await?)
                })
            });
            beginning.await?;
        }
    }

    /// Drops the changes that nobody can be waiting for any more. Followers do so by themselves, now and then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune_changes(&self) -> Result<(), StoreError> {
        self.write_apart((), |(), conn| Box::pin(async move { Ok::<_, StoreError>(prune(conn).await?) }))
            .await
    }

    /// Tells `on` of every change from now on, in the background, until the process is told to stop. Begins with a
    /// [`Event::Reset`]. While the database is away nothing is told; afterwards, all that happened meanwhile. It has a connection
    /// of its own, so that it goes on when those of the pool are all in use. Returns how far it is.
    pub fn follow(&self, shutdown: &Shutdown, on: impl FnMut(Event) + Send + 'static) -> LastLook {
        let (looked, last_look) = watch::channel(None);
        let mut follower = Follower::new(self.clone(), on, looked);
        let draining = shutdown.draining();
        shutdown.spawn("change feed", async move {
            tokio::select! { () = follower.run() => {}, () = draining => {} }
            follower.leave().await;
        });
        last_look
    }

    /// Waits until every follower that is alive has been told of what the transaction of that id changed; not longer than
    /// `most`. Says whether all have.
    pub async fn wait_for_followers(&self, xid: i64, most: Duration) -> bool {
        let waiting = async {
            let mut pause = Duration::from_millis(1);
            while !matches!(self.followers_behind(xid).await, Ok(0)) {
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        };
        timeout(most, waiting).await.is_ok()
    }

    async fn followers_behind(&self, xid: i64) -> Result<i64, StoreError> {
        self.read(Scope::EveryTenant, &xid, |xid, conn| {
            Box::pin(async move {
                let behind = sqlx::query_scalar(
                    "SELECT count(*) FROM followers
                     WHERE NOT pg_visible_in_snapshot($1::text::xid8, heard)
                         AND seen_at > clock_timestamp() - $2::text::interval",
                );
                Ok(behind.bind(xid.to_string()).bind(ALIVE).fetch_one(conn).await?)
            })
        })
        .await
    }
}

/// One reader of the feed in this process.
struct Follower<F> {
    db: PgDb,
    on: F,
    id: String,
    /// What it reads with, and listens to. None while the database is away.
    session: Option<PgListener>,
    /// None before the first look.
    position: Option<Position>,
    looked: watch::Sender<Option<Instant>>,
    pruned: Instant,
    away: bool,
}

impl<F: FnMut(Event) + Send> Follower<F> {
    fn new(db: PgDb, on: F, looked: watch::Sender<Option<Instant>>) -> Self {
        let mut id = [0; 16];
        db.0.entropy.fill(&mut id);
        let (id, pruned) = (hex::encode(id), Instant::now());
        Self { db, on, id, session: None, position: None, looked, pruned, away: false }
    }

    async fn run(&mut self) {
        loop {
            let looked = timeout(PATIENCE, self.look()).await;
            self.note(looked.unwrap_or(Err(StoreError::Unavailable("the database does not answer in time"))));
            let told = tokio::select! {
                lost = hint(self.session.as_mut(), &self.id) => lost.map_err(StoreError::from),
                () = self.db.0.written.notified() => timeout(PATIENCE, self.tell_others())
                    .await
                    .unwrap_or(Err(StoreError::Unavailable("the other replicas could not be told in time"))),
                () = sleep(POLL) => Ok(()),
            };
            if let Err(error) = told {
                tracing::debug!(%error, "the connection of the change feed is lost");
                self.session = None;
            }
        }
    }

    /// Reads and tells all that has happened, and says so.
    async fn look(&mut self) -> Result<(), StoreError> {
        let conn = match &mut self.session {
            Some(session) => session,
            // What was told before it listens is read now.
            none => none.insert(listen(&self.db).await?),
        };
        let conn = conn.acquire().await?;
        let began = Instant::now();
        let batch = read_at_once(conn, self.position.as_ref()).await?;
        let (events, next) = match batch {
            Batch::Reset(next) => (vec![Event::Reset], next),
            Batch::Changes { changes, next } => (changes.into_iter().map(Event::Changed).collect(), next),
        };
        events.into_iter().for_each(&mut self.on);
        self.looked.send_replace(Some(began));
        let next = self.position.insert(next);
        acknowledge(conn, &self.id, next).await?;
        if self.pruned.elapsed() > PRUNE_INTERVAL {
            self.pruned = Instant::now();
            self.db.prune_changes().await?;
        }
        Ok(())
    }

    fn note(&mut self, looked: Result<(), StoreError>) {
        match looked {
            Ok(()) => {
                if self.away {
                    tracing::info!("the change feed is followed again");
                }
                self.away = false;
            }
            Err(error) => {
                if !self.away {
                    tracing::warn!(%error, "the change feed cannot be followed");
                }
                (self.away, self.session) = (true, None);
            }
        }
    }

    /// Tells the other replicas that something was written. What is written meanwhile is told together.
    async fn tell_others(&mut self) -> Result<(), StoreError> {
        // Without a connection they find out by themselves.
        let Some(session) = &mut self.session else { return Ok(()) };
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(self.db.0.schema.name)
            .bind(&self.id)
            .execute(session)
            .await?;
        Ok(())
    }

    /// Nobody is to wait for a follower that is gone, nor for those that have long been.
    async fn leave(&mut self) {
        // It may be in the middle of something.
        self.session = None;
        let left: Result<(), StoreError> = async {
            let mut conn = connect(&self.db.0.target.as_service(self.db.0.schema)).await?;
            let gone = "DELETE FROM followers WHERE id = $1::text::uuid OR seen_at < clock_timestamp() - interval '1 hour'";
            sqlx::query(gone).bind(&self.id).execute(&mut conn).await?;
            Ok(())
        }
        .await;
        if let Err(error) = left {
            tracing::debug!(%error, "a follower could not sign off; it is taken for gone soon");
        }
    }
}

/// A connection that hears of what the other replicas write.
async fn listen(db: &PgDb) -> Result<PgListener, sqlx::Error> {
    // Of its own, as the one before may be stuck in it.
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect_lazy_with(db.0.target.as_service(db.0.schema));
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(db.0.schema.name).await?;
    Ok(listener)
}

/// Completes when another replica has written something.
///
/// # Errors
/// When the connection is lost.
async fn hint(listener: Option<&mut PgListener>, own_id: &str) -> Result<(), sqlx::Error> {
    let Some(listener) = listener else { return std::future::pending().await };
    while let Some(heard) = listener.try_recv().await? {
        if heard.payload() != own_id {
            return Ok(());
        }
    }
    Err(sqlx::Error::WorkerCrashed)
}

/// [`read`] in a transaction of its own, in the life that there is now.
async fn read_at_once(conn: &mut PgConnection, after: Option<&Position>) -> Result<Batch, sqlx::Error> {
    loop {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL pulse.tenant = '*'";
        sqlx::raw_sql(begin).execute(&mut *conn).await?;
        let batch = read(&mut *conn, after).await?;
        sqlx::raw_sql("COMMIT").execute(&mut *conn).await?;
        match batch {
            Some(batch) => return Ok(batch),
            None => begin_life_where_over(&mut *conn).await?,
        }
    }
}

/// Notes what the follower has heard of. Nothing is lost with it, so nobody waits for a disk.
async fn acknowledge(conn: &mut PgConnection, id: &str, position: &Position) -> Result<(), sqlx::Error> {
    let note = "INSERT INTO followers (id, heard, seen_at) VALUES ($1::text::uuid, $2::text::pg_snapshot, clock_timestamp())
        ON CONFLICT (id) DO UPDATE SET heard = excluded.heard, seen_at = excluded.seen_at";
    sqlx::query(note).bind(id).bind(&position.heard).execute(conn).await.map(|_| ())
}
