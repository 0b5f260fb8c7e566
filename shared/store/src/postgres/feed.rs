//! What changed, for those who keep copies: caches in other replicas, and streams to other services.
//!
//! Every write that others must hear of [appends](append) its tenant and version to `changes`, in its own transaction. A reader
//! goes on from where it was. Sequence numbers are given out before their transactions commit, so a reader that only
//! remembered the last one it saw would skip rows that become visible behind it. Therefore rows are read in the order of their
//! transactions' ids, and only those of transactions older than every one that is still going on: nothing can appear among
//! them any more. The price is that the slowest write delays the feed for as long as it takes, and the server ends those that
//! are forgotten.
//!
//! `NOTIFY` says that there may be something to read. It is sent after the commit and may get lost; whoever listens looks
//! again every [`POLL`] in any case.
//!
//! Each follower notes in `followers` how far it is, so that a write can [wait](PgDb::wait_for_followers) until all have heard.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx as _};
use pulse_kernel::OrgId;
use pulse_runtime::Shutdown;
use sqlx::{
    PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::{Instant, sleep, timeout};

use super::{PgDb, Scope};
use crate::StoreError;

/// How long a change can go unnoticed when its notification is lost.
pub const POLL: Duration = Duration::from_secs(1);

/// A follower that has not said how far it is for this long is not waited for.
const ALIVE: &str = "3 seconds";

/// How many changes are read at a time.
const BATCH: i64 = 1000;

/// How long changes are kept for readers that were away, and how often older ones are dropped.
const KEPT: &str = "1 day";
const PRUNE_INTERVAL: Duration = Duration::from_mins(10);

/// The tables. A service with a feed repeats this text in its first migration, and grants itself what `GRANTS` says there.
pub const DDL: &str = "\
-- What changed, as in shared/store/src/postgres/feed.rs.
CREATE TABLE changes (
    xid      bigint      NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
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

-- One row: which life of the feed this is, and below which transaction its changes have been dropped.
CREATE TABLE feed (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch        bigint  NOT NULL,
    pruned_below bigint  NOT NULL DEFAULT 0
);
INSERT INTO feed (epoch) VALUES (pg_current_xact_id()::text::bigint);

-- How far each follower is; worth nothing after a crash, when all of them have to say so again.
CREATE UNLOGGED TABLE followers (
    id      uuid        PRIMARY KEY,
    horizon bigint      NOT NULL,
    seen_at timestamptz NOT NULL
);
";

/// A place in a feed: everything before it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    epoch: i64,
    xid: i64,
    sequence: i64,
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
    /// These changes, oldest first.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// Where to go on.
        next: Position,
        /// Whether there is more right now.
        more: bool,
    },
    /// More than is kept: whatever the reader has copied may be out of date. It goes on from here.
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
    sqlx::query_scalar("INSERT INTO changes (org_id, version, at) VALUES ($1, $2, $3) RETURNING xid")
        .bind(org_id.as_str())
        .bind(version)
        .bind(at.to_sqlx())
        .fetch_one(conn)
        .await
}

/// The place after everything that has surely happened.
///
/// # Errors
/// When the database fails.
pub async fn end(conn: &mut PgConnection) -> Result<Position, sqlx::Error> {
    let (epoch, xid): (i64, i64) =
        sqlx::query_as("SELECT epoch, pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM feed")
            .fetch_one(conn)
            .await?;
    Ok(Position { epoch, xid, sequence: 0 })
}

/// What has surely happened since `after`. In one transaction that sees one moment, of every tenant.
///
/// # Errors
/// When the database fails.
pub async fn read(conn: &mut PgConnection, after: Position) -> Result<Batch, sqlx::Error> {
    let pruned_below: i64 = sqlx::query_scalar("SELECT pruned_below FROM feed").fetch_one(&mut *conn).await?;
    let end = end(&mut *conn).await?;
    if after.epoch != end.epoch || after.xid < pruned_below {
        return Ok(Batch::Reset(end));
    }
    let rows: Vec<(i64, i64, String, i64, PgTimestamp)> = sqlx::query_as(
        "SELECT xid, sequence, org_id, version, at FROM changes
         WHERE (xid, sequence) >= ($1, $2) AND xid < $3 ORDER BY xid, sequence LIMIT $4",
    )
    .bind(after.xid)
    .bind(after.sequence)
    .bind(end.xid)
    .bind(BATCH)
    .fetch_all(conn)
    .await?;
    let last = rows.last().map(|(xid, sequence, ..)| (*xid, *sequence));
    let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= BATCH;
    let next = match last {
        Some((xid, sequence)) if full => Position { epoch: end.epoch, xid, sequence: sequence + 1 },
        _ => end,
    };
    let change = |(_, _, org_id, version, at): (i64, i64, String, i64, PgTimestamp)| {
        let org_id = OrgId::parse(&org_id).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Change { org_id, version, at: at.to_jiff() })
    };
    let changes = rows.into_iter().map(change).collect::<Result<_, sqlx::Error>>()?;
    Ok(Batch::Changes { changes, next, more: full })
}

/// Begins a new life of the feed where the database was moved to a server whose transactions are counted anew: positions in the
/// old one mean nothing there.
pub(super) async fn begin_anew_where_restored(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let statements = "BEGIN; SET LOCAL pulse.tenant = '*';
        UPDATE feed SET epoch = greatest(epoch + 1, pg_current_xact_id()::text::bigint), pruned_below = 0
        WHERE EXISTS (SELECT FROM changes WHERE xid > pg_snapshot_xmax(pg_current_snapshot())::text::bigint);
        DELETE FROM changes WHERE xid > pg_current_xact_id_if_assigned()::text::bigint;
        COMMIT";
    sqlx::raw_sql(statements).execute(conn).await.map(|_| ())
}

/// Drops what nobody can be waiting for any more.
async fn prune(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    super::turn_to_every(conn).await?;
    let last: Option<i64> =
        sqlx::query_scalar("SELECT max(xid) FROM changes WHERE at < now() - $1::text::interval")
            .bind(KEPT)
            .fetch_one(&mut *conn)
            .await?;
    let Some(last) = last else { return Ok(()) };
    sqlx::query("UPDATE feed SET pruned_below = greatest(pruned_below, $1 + 1)")
        .bind(last)
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM changes WHERE xid <= $1").bind(last).execute(conn).await?;
    Ok(())
}

impl PgDb {
    /// Tells `on` of every change from now on, in the background, until the process is told to stop. Begins with a
    /// [`Event::Reset`]. While the database is away nothing is told; afterwards, all that happened meanwhile.
    pub fn follow(&self, shutdown: &Shutdown, on: impl FnMut(Event) + Send + 'static) {
        let (following, notifying) = (self.clone(), self.clone());
        let draining = shutdown.draining();
        shutdown.spawn("change feed", async move {
            let mut follower = Follower::new(following, on);
            tokio::select! { () = follower.run() => {}, () = draining => {} }
            follower.leave().await;
        });
        let draining = shutdown.draining();
        shutdown.spawn("change feed hints", async move {
            tokio::select! { () = notifying.notify_others() => {}, () = draining => {} }
        });
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
                     WHERE horizon <= $1 AND seen_at > clock_timestamp() - $2::text::interval",
                );
                Ok(behind.bind(xid).bind(ALIVE).fetch_one(conn).await?)
            })
        })
        .await
    }

    /// Tells the other replicas that something was written. What is written meanwhile is told together.
    async fn notify_others(&self) {
        loop {
            self.0.written.elsewhere.notified().await;
            let told: Result<(), StoreError> = async {
                let mut session = self.0.connections.get().await?;
                sqlx::query("SELECT pg_notify($1, '')")
                    .bind(self.0.schema.name)
                    .execute(session.conn()?)
                    .await?;
                session.keep();
                Ok(())
            }
            .await;
            if let Err(error) = told {
                tracing::debug!(%error, "the other replicas were not told; they look by themselves");
            }
        }
    }
}

/// One reader of the feed in this process.
struct Follower<F> {
    db: PgDb,
    on: F,
    id: String,
    /// None before the first look.
    position: Option<Position>,
    pruned: Instant,
    away: bool,
}

impl<F: FnMut(Event) + Send> Follower<F> {
    fn new(db: PgDb, on: F) -> Self {
        let mut id = [0; 16];
        db.0.entropy.fill(&mut id);
        Self { db, on, id: hex::encode(id), position: None, pruned: Instant::now(), away: false }
    }

    async fn run(&mut self) {
        let options = self.db.0.target.as_service(self.db.0.schema);
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        let mut listener: Option<PgListener> = None;
        loop {
            match self.catch_up().await {
                Ok(()) if self.away => {
                    tracing::info!("the change feed is followed again");
                    self.away = false;
                }
                Ok(()) => {}
                Err(error) => {
                    if !self.away {
                        tracing::warn!(%error, "the change feed cannot be followed");
                    }
                    self.away = true;
                }
            }
            if listener.is_none() && !self.away {
                listener =
                    timeout(POLL, listen(&pool, self.db.0.schema.name)).await.ok().and_then(Result::ok);
                if listener.is_some() {
                    // What was told before it listened has to be read.
                    continue;
                }
            }
            let hint = async {
                match &mut listener {
                    Some(listener) => listener.try_recv().await.ok().flatten().is_some(),
                    None => std::future::pending().await,
                }
            };
            let still_listening = tokio::select! {
                heard = hint => heard,
                () = self.db.0.written.here.notified() => true,
                () = sleep(POLL) => true,
            };
            if !still_listening {
                listener = None;
            }
        }
    }

    /// Reads and tells all that has happened, and says how far that is.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let horizon = loop {
            let Some(after) = self.position else {
                let end = self.db.read(Scope::EveryTenant, &(), |(), conn| {
                    Box::pin(async move { Ok::<_, StoreError>(end(conn).await?) })
                });
                self.position = Some(end.await?);
                (self.on)(Event::Reset);
                continue;
            };
            let batch = self.db.read(Scope::EveryTenant, &after, |after, conn| {
                Box::pin(async move { Ok::<_, StoreError>(read(conn, *after).await?) })
            });
            match batch.await? {
                Batch::Reset(position) => {
                    self.position = Some(position);
                    (self.on)(Event::Reset);
                }
                Batch::Changes { changes, next, more } => {
                    for change in changes {
                        (self.on)(Event::Changed(change));
                    }
                    self.position = Some(next);
                    if !more {
                        break next.xid;
                    }
                }
            }
        };
        self.acknowledge(horizon).await?;
        if self.pruned.elapsed() > PRUNE_INTERVAL {
            self.pruned = Instant::now();
            self.db
                .write_apart((), |(), conn| Box::pin(async move { Ok::<_, StoreError>(prune(conn).await?) }))
                .await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, horizon: i64) -> Result<(), StoreError> {
        let mut session = self.db.0.connections.get().await?;
        let conn = session.conn()?;
        // Nothing is lost with it, so nobody waits for a disk.
        let noted =
            "INSERT INTO followers (id, horizon, seen_at) VALUES ($1::text::uuid, $2, clock_timestamp())
            ON CONFLICT (id) DO UPDATE SET horizon = excluded.horizon, seen_at = excluded.seen_at";
        sqlx::query(noted).bind(&self.id).bind(horizon).execute(conn).await?;
        session.keep();
        Ok(())
    }

    /// Nobody is to wait for a follower that is gone, nor for those that have long been.
    async fn leave(&mut self) {
        let left: Result<(), StoreError> = async {
            let mut session = self.db.0.connections.get().await?;
            let gone = "DELETE FROM followers WHERE id = $1::text::uuid OR seen_at < clock_timestamp() - interval '1 hour'";
            sqlx::query(gone).bind(&self.id).execute(session.conn()?).await?;
            session.keep();
            Ok(())
        }
        .await;
        if let Err(error) = left {
            tracing::debug!(%error, "a follower could not sign off; it is taken for gone soon");
        }
    }
}

async fn listen(pool: &sqlx::PgPool, channel: &str) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel).await?;
    Ok(listener)
}
