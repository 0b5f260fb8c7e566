//! The statements that read. Each finds what it returns by an index; the counts are sixteen rows.

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx as _};
use pulse_kernel::OrgId;
use sqlx::{Error, PgConnection};

use super::{Counts, Found, QueueEntry, StatusChange};
use crate::{
    domain::{Organization, StatusKind, Tombstone},
    store::rows::{HistoryRow, OrganizationRow, QueueRow, TombstoneRow},
};

/// Before any entry of a queue; PostgreSQL knows no instant as early as the program's first.
const BEFORE_ALL: Timestamp = Timestamp::constant(-200_000_000_000, 0);

/// The columns of [`OrganizationRow`], written out in every query: sqlx takes no SQL that is put together.
pub(super) const LIST: &str = "\
SELECT id, display_name, owner_user_id, owner_email, status, suspended_at, suspend_reason, deletion_requested_at,
       retention_days, purge_after, purging_since, created_at, updated_at, version
FROM organizations WHERE id > $1 ORDER BY id LIMIT $2";

/// By status and id, although there is one status only: with `status = $3` the planner may go through all ids instead, and leave
/// out most of them.
pub(super) const LIST_BY_STATUS: &str = "\
SELECT id, display_name, owner_user_id, owner_email, status, suspended_at, suspend_reason, deletion_requested_at,
       retention_days, purge_after, purging_since, created_at, updated_at, version
FROM organizations WHERE (status, id) > ($3, $1) AND status <= $3 ORDER BY status, id LIMIT $2";

pub(super) const FIND: &str = "\
SELECT id, display_name, owner_user_id, owner_email, status, suspended_at, suspend_reason, deletion_requested_at,
       retention_days, purge_after, purging_since, created_at, updated_at, version
FROM organizations WHERE id = $1";

pub(super) const DUE: &str = "\
SELECT purge_after AS at, id FROM organizations
WHERE status = 'pending_deletion' AND (purge_after, id) > ($1, $2) AND purge_after <= $4
ORDER BY purge_after, id LIMIT $3";

pub(super) const PURGING: &str = "\
SELECT purging_since AS at, id FROM organizations
WHERE status = 'purging' AND (purging_since, id) > ($1, $2) ORDER BY purging_since, id LIMIT $3";

/// In the order of [`StatusKind::ALL`].
const COUNTS: &str = "\
SELECT ARRAY[sum(provisioning), sum(active), sum(suspended), sum(pending_deletion), sum(purging)]::bigint[]
FROM status_counts";

pub(super) async fn find(conn: &mut PgConnection, id: &OrgId) -> Result<Found, Error> {
    let row: Option<OrganizationRow<PgTimestamp>> =
        sqlx::query_as(FIND).bind(id.as_str()).fetch_optional(&mut *conn).await?;
    if let Some(row) = row {
        return Ok(Found::Organization(row.try_into()?));
    }
    let row: Option<TombstoneRow<PgTimestamp>> =
        sqlx::query_as("SELECT org_id, kind, removed_at FROM tombstones WHERE org_id = $1")
            .bind(id.as_str())
            .fetch_optional(conn)
            .await?;
    Ok(row.map(Tombstone::try_from).transpose()?.map_or(Found::Nothing, Found::Tombstone))
}

pub(super) async fn list(
    conn: &mut PgConnection,
    status: Option<StatusKind>,
    after: Option<&OrgId>,
    limit: usize,
) -> Result<Vec<Organization>, Error> {
    // Ids are not empty, so every one comes after the empty text.
    let after = after.map_or("", OrgId::as_str);
    let query = sqlx::query_as(if status.is_some() { LIST_BY_STATUS } else { LIST });
    let mut query = query.bind(after).bind(sql_limit(limit));
    if let Some(status) = status {
        query = query.bind(status.as_str());
    }
    let rows: Vec<OrganizationRow<PgTimestamp>> = query.fetch_all(conn).await?;
    rows.into_iter().map(Organization::try_from).collect()
}

pub(super) async fn due(
    conn: &mut PgConnection,
    now: Timestamp,
    after: Option<&QueueEntry>,
    limit: usize,
) -> Result<Vec<QueueEntry>, Error> {
    let (at, id) = queue_position(after);
    let query = sqlx::query_as(DUE).bind(at.to_sqlx()).bind(id).bind(sql_limit(limit)).bind(now.to_sqlx());
    queue(query.fetch_all(conn).await?)
}

pub(super) async fn purging(
    conn: &mut PgConnection,
    after: Option<&QueueEntry>,
    limit: usize,
) -> Result<Vec<QueueEntry>, Error> {
    let (at, id) = queue_position(after);
    let query = sqlx::query_as(PURGING).bind(at.to_sqlx()).bind(id).bind(sql_limit(limit));
    queue(query.fetch_all(conn).await?)
}

pub(super) async fn counts(conn: &mut PgConnection) -> Result<Counts, Error> {
    let counts: Vec<i64> = sqlx::query_scalar(COUNTS).fetch_one(conn).await?;
    let unsigned = |count: i64| u64::try_from(count).map_err(|error| Error::Decode(error.into()));
    StatusKind::ALL.into_iter().zip(counts).map(|(status, count)| Ok((status, unsigned(count)?))).collect()
}

pub(super) async fn history(conn: &mut PgConnection, id: &OrgId) -> Result<Vec<StatusChange>, Error> {
    let rows: Vec<HistoryRow<PgTimestamp>> = sqlx::query_as(
        "SELECT version, from_status, to_status, at FROM status_history WHERE org_id = $1 ORDER BY version",
    )
    .bind(id.as_str())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(StatusChange::try_from).collect()
}

/// Where a queue goes on.
fn queue_position(after: Option<&QueueEntry>) -> (Timestamp, &str) {
    after.map_or((BEFORE_ALL, ""), |entry| (entry.at, entry.id.as_str()))
}

fn queue(rows: Vec<QueueRow<PgTimestamp>>) -> Result<Vec<QueueEntry>, Error> {
    rows.into_iter().map(QueueEntry::try_from).collect()
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
