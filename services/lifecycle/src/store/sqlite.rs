//! The embedded store: `lifecycle.db`. Its tables and their constraints are in `migrations/sqlite/`.

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::{Clock, Entropy, OrgId};
use pulse_store::{
    SqlErrorClass, SqliteDb, StoreError,
    audit::{AuditRecord, Salt, sqlite as audit},
    classify,
    time::to_micros,
};
use sqlx::{SqliteConnection, migrate::Migrator};

use super::{
    Counts, Creation, Found, Lease, OpenStoreError, QueueEntry, StatusChange, Store, Written, make_default,
    rows::{self, HistoryRow, QueueRow},
};
use crate::domain::{Author, Organization, Removal, StatusKind, Tombstone, Transition};

/// As rows are here, where an instant is a number.
type OrganizationRow = rows::OrganizationRow<i64>;
type StatusColumns = rows::StatusColumns<i64>;
type TombstoneRow = rows::TombstoneRow<i64>;

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The constraint that two organizations with one owner's email run into.
const ONE_PER_EMAIL: &str = "organizations.owner_email_canonical";

/// The embedded store. Clones share it.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    db: SqliteDb,
    entropy: Arc<dyn Entropy>,
}

impl SqliteStore {
    /// Opens the database at `path`; makes it, and the default organization in it, where there is none.
    ///
    /// # Errors
    /// When it cannot be opened, migrated or written, or is in use by another process.
    pub async fn open(
        path: &Path,
        clock: &dyn Clock,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenStoreError> {
        let db = SqliteDb::open(path, &MIGRATIONS).await?;
        let store = Self { db, entropy };
        store.end_leases().await?;
        make_default(&store, clock).await?;
        Ok(store)
    }

    fn salt(&self) -> Salt {
        Salt::random(&*self.entropy)
    }

    /// Whoever had a lease is gone: this process has the file to itself.
    async fn end_leases(&self) -> Result<(), StoreError> {
        self.db
            .write(|conn| {
                Box::pin(async move {
                    sqlx::query("UPDATE leases SET until = 0 WHERE until <> 0").execute(conn).await?;
                    Ok(())
                })
            })
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create(&self, new: Transition, author: Author) -> Result<Creation, StoreError> {
        let salt = self.salt();
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    if id_is_used(conn, &new.organization.id).await? {
                        return Ok(Creation::IdUsed);
                    }
                    if let Some(by) = insert_unless_email_is_used(conn, &new.organization).await? {
                        return Ok(Creation::EmailUsed { by });
                    }
                    audit::append(conn, new.audit(author), salt).await?;
                    Ok(Creation::Created)
                })
            })
            .await
    }

    async fn change(&self, transition: Transition, author: Author) -> Result<Written, StoreError> {
        let salt = self.salt();
        self.db
            .write(move |conn| Box::pin(async move { Ok(change(conn, &transition, author, salt).await?) }))
            .await
    }

    async fn change_under(
        &self,
        lease: &Lease,
        transition: Transition,
        author: Author,
    ) -> Result<Option<Written>, StoreError> {
        let (lease, salt) = (lease.clone(), self.salt());
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    if !is_held(conn, &lease).await? {
                        return Ok(None);
                    }
                    Ok(Some(change(conn, &transition, author, salt).await?))
                })
            })
            .await
    }

    async fn remove(&self, removal: Removal, author: Author) -> Result<Written, StoreError> {
        let salt = self.salt();
        let written: Result<Written, StoreError> = self
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let as_decided = match removal.expected {
                        Some((_, version)) => delete(conn, &removal.tombstone.id, version).await?,
                        None => !id_is_used(conn, &removal.tombstone.id).await?,
                    };
                    if !as_decided {
                        return Ok(Written::Stale);
                    }
                    insert_tombstone(conn, &removal.tombstone).await?;
                    audit::erase_details(conn, &removal.tombstone.id).await?;
                    audit::append(conn, removal.audit(author), salt).await?;
                    Ok(Written::Done(None))
                })
            })
            .await;
        if written.as_ref().is_ok_and(|written| written.is_done()) {
            // Personal data is to be in no file any more, the log included. It is removed already, so a log that is
            // in use is no failure: the store says so, and the next removal or the next start empties it.
            self.db.empty_log().await.ok();
        }
        written
    }

    async fn find(&self, id: &OrgId) -> Result<Found, StoreError> {
        let id = id.clone();
        self.db.read(move |conn| Box::pin(async move { Ok(find(conn, &id).await?) })).await
    }

    async fn list(
        &self,
        status: Option<StatusKind>,
        after: Option<&OrgId>,
        limit: usize,
    ) -> Result<Vec<Organization>, StoreError> {
        // Ids are not empty, so every one comes after the empty text.
        let after = after.map(|id| id.as_str().to_owned()).unwrap_or_default();
        self.db
            .read(move |conn| {
                Box::pin(async move {
                    let rows: Vec<OrganizationRow> = match status {
                        None => sqlx::query_as(LIST).bind(after),
                        Some(status) => sqlx::query_as(LIST_BY_STATUS).bind(after).bind(status.as_str()),
                    }
                    .bind(sql_limit(limit))
                    .fetch_all(conn)
                    .await?;
                    Ok(rows.into_iter().map(Organization::try_from).collect::<Result<_, _>>()?)
                })
            })
            .await
    }

    async fn due(
        &self,
        now: Timestamp,
        after: Option<&QueueEntry>,
        limit: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        let (at, id) = queue_position(after);
        self.db
            .read(move |conn| {
                Box::pin(async move {
                    let query = sqlx::query_as(DUE).bind(at).bind(id).bind(to_micros(now));
                    queue(query.bind(sql_limit(limit)).fetch_all(conn).await?)
                })
            })
            .await
    }

    async fn purging(&self, after: Option<&QueueEntry>, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let (at, id) = queue_position(after);
        self.db
            .read(move |conn| {
                Box::pin(async move {
                    let query = sqlx::query_as(PURGING).bind(at).bind(id).bind(sql_limit(limit));
                    queue(query.fetch_all(conn).await?)
                })
            })
            .await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.db
            .read(|conn| {
                Box::pin(async move {
                    let rows: Vec<(String, i64)> =
                        sqlx::query_as("SELECT status, tenants FROM status_counts").fetch_all(conn).await?;
                    Ok(rows.into_iter().map(rows::count).collect::<Result<_, _>>()?)
                })
            })
            .await
    }

    async fn history(&self, id: &OrgId) -> Result<Vec<StatusChange>, StoreError> {
        let id = id.clone();
        self.db
            .read(move |conn| {
                Box::pin(async move {
                    let rows: Vec<HistoryRow<i64>> = sqlx::query_as(
                        "SELECT version, from_status, to_status, at FROM status_history WHERE org_id = ?
                         ORDER BY version",
                    )
                    .bind(id.as_str())
                    .fetch_all(conn)
                    .await?;
                    Ok(rows.into_iter().map(StatusChange::try_from).collect::<Result<_, _>>()?)
                })
            })
            .await
    }

    async fn audit_events(
        &self,
        id: &OrgId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let (id, limit) = (id.clone(), u32::try_from(limit).unwrap_or(u32::MAX));
        self.db
            .read(move |conn| Box::pin(async move { Ok(audit::list(conn, &id, before, limit).await?) }))
            .await
    }

    async fn take_lease(
        &self,
        name: &'static str,
        owner: &str,
        lasting: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let owner = owner.to_owned();
        let micros = i64::try_from(lasting.as_micros()).unwrap_or(i64::MAX);
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let take = sqlx::query_scalar(TAKE_LEASE).bind(name).bind(&owner).bind(micros);
                    let token: Option<i64> = take.fetch_optional(conn).await?;
                    Ok(token.map(|token| Lease { name, owner, token }))
                })
            })
            .await
    }

    async fn return_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    sqlx::query("UPDATE leases SET until = 0 WHERE name = ? AND owner = ? AND token = ?")
                        .bind(lease.name)
                        .bind(lease.owner)
                        .bind(lease.token)
                        .execute(conn)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await
    }

    async fn close(&self) {
        self.db.close().await;
    }
}

/// The columns of [`OrganizationRow`], written out in every query: sqlx takes no SQL that is put together.
const LIST: &str = "\
SELECT id, display_name, owner_user_id, owner_email, status, suspended_at, suspend_reason, deletion_requested_at,
       retention_days, purge_after, purging_since, created_at, updated_at, version
FROM organizations WHERE id > ?1 ORDER BY id LIMIT ?2";

const LIST_BY_STATUS: &str = "\
SELECT id, display_name, owner_user_id, owner_email, status, suspended_at, suspend_reason, deletion_requested_at,
       retention_days, purge_after, purging_since, created_at, updated_at, version
FROM organizations WHERE id > ?1 AND status = ?2 ORDER BY id LIMIT ?3";

const FIND: &str = "\
SELECT id, display_name, owner_user_id, owner_email, status, suspended_at, suspend_reason, deletion_requested_at,
       retention_days, purge_after, purging_since, created_at, updated_at, version
FROM organizations WHERE id = ?1";

const DUE: &str = "\
SELECT purge_after AS at, id FROM organizations INDEXED BY organizations_due
WHERE status = 'pending_deletion' AND (purge_after, id) > (?1, ?2) AND purge_after <= ?3
ORDER BY purge_after, id LIMIT ?4";

const PURGING: &str = "\
SELECT purging_since AS at, id FROM organizations INDEXED BY organizations_purging
WHERE status = 'purging' AND (purging_since, id) > (?1, ?2) ORDER BY purging_since, id LIMIT ?3";

/// Takes or renews a lease, if nobody else has it. SQLite's clock tells milliseconds.
const TAKE_LEASE: &str = "\
INSERT INTO leases (name, owner, token, until)
VALUES (?1, ?2, 1, CAST(unixepoch('subsec') * 1000000 AS INTEGER) + ?3)
ON CONFLICT (name) DO UPDATE
SET owner = excluded.owner, until = excluded.until,
    token = token + (owner <> excluded.owner OR until <= CAST(unixepoch('subsec') * 1000000 AS INTEGER))
WHERE owner = excluded.owner OR until <= CAST(unixepoch('subsec') * 1000000 AS INTEGER)
RETURNING token";

async fn is_held(conn: &mut SqliteConnection, lease: &Lease) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leases WHERE name = ? AND owner = ? AND token = ?
                        AND until > CAST(unixepoch('subsec') * 1000000 AS INTEGER))",
    )
    .bind(lease.name)
    .bind(&lease.owner)
    .bind(lease.token)
    .fetch_one(conn)
    .await
}

/// Changes an organization that is still as the transition expects, and records it.
async fn change(
    conn: &mut SqliteConnection,
    transition: &Transition,
    author: Author,
    salt: Salt,
) -> Result<Written, sqlx::Error> {
    if !update(conn, transition).await? {
        return Ok(Written::Stale);
    }
    audit::append(conn, transition.audit(author), salt).await?;
    Ok(Written::Done(None))
}

async fn find(conn: &mut SqliteConnection, id: &OrgId) -> Result<Found, sqlx::Error> {
    let row: Option<OrganizationRow> =
        sqlx::query_as(FIND).bind(id.as_str()).fetch_optional(&mut *conn).await?;
    if let Some(row) = row {
        return Ok(Found::Organization(row.try_into()?));
    }
    let row: Option<TombstoneRow> =
        sqlx::query_as("SELECT org_id, kind, removed_at FROM tombstones WHERE org_id = ?")
            .bind(id.as_str())
            .fetch_optional(conn)
            .await?;
    Ok(row.map(Tombstone::try_from).transpose()?.map_or(Found::Nothing, Found::Tombstone))
}

/// Whether the id is an organization's, or was.
async fn id_is_used(conn: &mut SqliteConnection, id: &OrgId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM organizations WHERE id = ?1)
             OR EXISTS (SELECT 1 FROM tombstones WHERE org_id = ?1)",
    )
    .bind(id.as_str())
    .fetch_one(conn)
    .await
}

/// Inserts the organization. When another has its owner's email, nothing is inserted and the answer is the
/// status of that other one.
async fn insert_unless_email_is_used(
    conn: &mut SqliteConnection,
    new: &Organization,
) -> Result<Option<StatusKind>, sqlx::Error> {
    let owner = new.owner.as_ref();
    let email = owner.map(|owner| owner.email.canonical());
    let inserted = sqlx::query(
        "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
                                    created_at, updated_at, version)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.id.as_str())
    .bind(new.display_name.as_str())
    .bind(owner.map(|owner| owner.user_id.to_string()))
    .bind(owner.map(|owner| owner.email.typed()))
    .bind(email)
    .bind(new.status.kind().as_str())
    .bind(to_micros(new.created_at))
    .bind(to_micros(new.updated_at))
    .bind(new.version)
    .execute(&mut *conn)
    .await;
    match inserted {
        Ok(_) => Ok(None),
        Err(error) => match classify(&error) {
            SqlErrorClass::UniqueViolation { constraint } if constraint == ONE_PER_EMAIL => {
                let status: String =
                    sqlx::query_scalar("SELECT status FROM organizations WHERE owner_email_canonical = ?")
                        .bind(email)
                        .fetch_one(conn)
                        .await?;
                rows::status_kind(&status).map(Some)
            }
            _ => Err(error),
        },
    }
}

/// Whether the organization was at the version that the transition was decided on, and so was changed.
async fn update(conn: &mut SqliteConnection, transition: &Transition) -> Result<bool, sqlx::Error> {
    let organization = &transition.organization;
    let status = StatusColumns::from(&organization.status);
    let updated = sqlx::query(
        "UPDATE organizations
         SET status = ?, suspended_at = ?, suspend_reason = ?, deletion_requested_at = ?, retention_days = ?,
             purge_after = ?, purging_since = ?, updated_at = ?, version = ?
         WHERE id = ? AND version = ?",
    )
    .bind(status.kind.as_str())
    .bind(status.suspended_at)
    .bind(status.suspend_reason)
    .bind(status.deletion_requested_at)
    .bind(status.retention_days)
    .bind(status.purge_after)
    .bind(status.purging_since)
    .bind(to_micros(organization.updated_at))
    .bind(organization.version)
    .bind(organization.id.as_str())
    .bind(transition.expected_version())
    .execute(conn)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// Whether the organization was at that version, and so was deleted.
async fn delete(conn: &mut SqliteConnection, id: &OrgId, version: i64) -> Result<bool, sqlx::Error> {
    let deleted = sqlx::query("DELETE FROM organizations WHERE id = ? AND version = ?")
        .bind(id.as_str())
        .bind(version)
        .execute(conn)
        .await?;
    Ok(deleted.rows_affected() == 1)
}

async fn insert_tombstone(conn: &mut SqliteConnection, tombstone: &Tombstone) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO tombstones (org_id, kind, removed_at) VALUES (?, ?, ?)")
        .bind(tombstone.id.as_str())
        .bind(tombstone.kind.as_str())
        .bind(to_micros(tombstone.at))
        .execute(conn)
        .await?;
    Ok(())
}

/// Where a queue goes on: after `after`, or before any entry that there can be.
fn queue_position(after: Option<&QueueEntry>) -> (i64, String) {
    after.map_or((i64::MIN, String::new()), |entry| (to_micros(entry.at), entry.id.as_str().to_owned()))
}

fn queue(rows: Vec<QueueRow<i64>>) -> Result<Vec<QueueEntry>, StoreError> {
    Ok(rows.into_iter().map(QueueEntry::try_from).collect::<Result<_, _>>()?)
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
