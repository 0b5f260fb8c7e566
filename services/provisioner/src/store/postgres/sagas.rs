//! The journal's statements. Each runs in the transaction that its connection is in.

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx};
use pulse_store::time;
use sqlx::{PgConnection, Postgres, QueryBuilder, postgres::PgArguments, query::Query};

use crate::{
    saga::{Saga, SagaId, SagaKind, Subject},
    store::{
        SagaQuery,
        rows::{self, SagaRow},
    },
};

type Row = SagaRow<PgTimestamp>;

macro_rules! select_saga {
    ($rest:literal) => {
        concat!(
            "SELECT org_id, kind, state, step, direction, attempts, next_attempt_at, cause_reason, cause_message,
                    failure_reason, failure_message, version, lease_owner, lease_until, owner_user_id, owner_email,
                    password_hash, org_name, trial_ends_at, created_at, updated_at
             FROM sagas ",
            $rest
        )
    };
}

pub(super) async fn find(conn: &mut PgConnection, id: &SagaId) -> Result<Option<Saga>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(select_saga!("WHERE org_id = $1 AND kind = $2"))
        .bind(id.org_id.as_str())
        .bind(id.kind.as_str())
        .fetch_optional(conn)
        .await?;
    row.map(Saga::try_from).transpose()
}

pub(super) async fn find_by_email(
    conn: &mut PgConnection,
    canonical: &str,
) -> Result<Option<Saga>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(select_saga!("WHERE owner_email_canonical = $1"))
        .bind(canonical)
        .fetch_optional(conn)
        .await?;
    row.map(Saga::try_from).transpose()
}

pub(super) async fn due(
    conn: &mut PgConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Saga>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(select_saga!(
        "WHERE next_attempt_at IS NOT NULL AND greatest(next_attempt_at, lease_until) <= $1
         ORDER BY greatest(next_attempt_at, lease_until) LIMIT $2"
    ))
    .bind(now.to_sqlx())
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    Ok(rows::readable(rows))
}

pub(super) async fn list(conn: &mut PgConnection, query: &SagaQuery) -> Result<Vec<Saga>, sqlx::Error> {
    // Nothing is newer than the end of time, so that the first page is found like any other.
    let mut after = match &query.after {
        Some(cursor) => {
            let kind = if cursor.purge { SagaKind::Purge } else { SagaKind::Provision };
            let created_at = time::from_micros(cursor.created_at)?.to_sqlx();
            (created_at, cursor.org_id.to_string(), kind.as_str().to_owned())
        }
        None => (Timestamp::MAX.to_sqlx(), String::new(), String::new()),
    };
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut sagas = Vec::new();
    // Once, but for rows that cannot be read: a page that they made shorter would pass for the last one.
    while sagas.len() < limit {
        let missing = limit - sagas.len();
        let rows: Vec<Row> = page(query, &after, missing).build_query_as().fetch_all(&mut *conn).await?;
        let found = rows.len();
        let Some(last) = rows.last() else { break };
        after = last.position();
        sagas.extend(rows::readable(rows));
        if found < missing {
            break;
        }
    }
    Ok(sagas)
}

/// The statement for a page. The state and the kind are part of its text, so that the database can use the index for either, which
/// is a partial one; they are names of ours.
fn page(query: &SagaQuery, after: &(PgTimestamp, String, String), limit: usize) -> QueryBuilder<Postgres> {
    let mut page = QueryBuilder::new(select_saga!("WHERE (created_at, org_id, kind) < ("));
    let mut values = page.separated(", ");
    values.push_bind(after.0).push_bind(after.1.clone()).push_bind(after.2.clone());
    page.push(")");
    if let Some(state) = query.state {
        page.push(" AND state = '").push(rows::state_name(state)).push("'");
    }
    if let Some(kind) = query.kind {
        page.push(" AND kind = '").push(kind.as_str()).push("'");
    }
    page.push(" ORDER BY created_at DESC, org_id DESC, kind DESC LIMIT ");
    page.push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    page
}

pub(super) async fn count_stuck(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sagas WHERE state = 'stuck'").fetch_one(conn).await?;
    Ok(count.unsigned_abs())
}

/// Inserts the journal row; says no when the tenant has one of its kind, or another has the address.
pub(super) async fn insert(conn: &mut PgConnection, saga: &Saga) -> Result<bool, sqlx::Error> {
    let statement = sqlx::query(
        "INSERT INTO sagas (state, step, direction, attempts, next_attempt_at, cause_reason, cause_message,
             failure_reason, failure_message, lease_owner, lease_until, owner_email, owner_email_canonical,
             password_hash, org_name, trial_ends_at, updated_at, org_id, kind, version, owner_user_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
         ON CONFLICT DO NOTHING",
    );
    let owner = match &saga.subject {
        Subject::Provision { owner, .. } => Some(owner.to_string()),
        Subject::Purge => None,
    };
    let inserted = bind(statement, saga)?.bind(owner).bind(saga.created_at.to_sqlx()).execute(conn).await?;
    Ok(inserted.rows_affected() == 1)
}

/// Writes what changes, if the row still has the version that `saga` carries, and raises it by one.
pub(super) async fn update(conn: &mut PgConnection, saga: &Saga) -> Result<bool, sqlx::Error> {
    let statement = sqlx::query(
        "UPDATE sagas SET state = $1, step = $2, direction = $3, attempts = $4, next_attempt_at = $5,
             cause_reason = $6, cause_message = $7, failure_reason = $8, failure_message = $9,
             lease_owner = $10, lease_until = $11, owner_email = $12, owner_email_canonical = $13,
             password_hash = $14, org_name = $15, trial_ends_at = $16, updated_at = $17, version = version + 1
         WHERE org_id = $18 AND kind = $19 AND version = $20",
    );
    Ok(bind(statement, saga)?.execute(conn).await?.rows_affected() == 1)
}

/// Deletes the row, if it still has that version.
pub(super) async fn delete(conn: &mut PgConnection, id: &SagaId, version: i64) -> Result<bool, sqlx::Error> {
    let deleted = sqlx::query("DELETE FROM sagas WHERE org_id = $1 AND kind = $2 AND version = $3")
        .bind(id.org_id.as_str())
        .bind(id.kind.as_str())
        .bind(version)
        .execute(conn)
        .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Deletes the row, whatever its version: its runner then fails to advance it and stops.
pub(super) async fn delete_any(conn: &mut PgConnection, id: &SagaId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM sagas WHERE org_id = $1 AND kind = $2")
        .bind(id.org_id.as_str())
        .bind(id.kind.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

type Statement = Query<'static, Postgres, PgArguments>;

/// Binds $1 to $20: everything but what never changes, which the callers bind after it.
fn bind(statement: Statement, saga: &Saga) -> Result<Statement, sqlx::Error> {
    let (state, step, direction) = rows::state_columns(saga.state());
    let progress = &saga.progress;
    let attempts = i32::try_from(progress.attempts).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let (cause, failure) = (progress.cause.as_ref(), progress.last_failure.as_ref());
    let claim = rows::claim(saga);
    let trial_ends_at = match saga.subject {
        Subject::Provision { trial_ends_at, .. } => trial_ends_at,
        Subject::Purge => None,
    };
    let bound = statement
        .bind(state)
        .bind(step)
        .bind(direction)
        .bind(attempts)
        .bind(progress.next_attempt_at.map(ToSqlx::to_sqlx))
        .bind(cause.map(|cause| cause.reason.as_str()))
        .bind(cause.map(|cause| cause.message.clone()))
        .bind(failure.map(|failure| failure.reason.as_str()))
        .bind(failure.map(|failure| failure.message.clone()))
        .bind(saga.lease.as_ref().map(|lease| lease.owner.clone()))
        .bind(saga.lease.as_ref().map(|lease| lease.until.to_sqlx()))
        .bind(claim.map(|claim| claim.email.typed().to_owned()))
        .bind(claim.map(|claim| claim.email.canonical().to_owned()))
        .bind(claim.map(|claim| claim.password_hash.expose_phc().to_owned()))
        .bind(claim.map(|claim| claim.org_name.as_str().to_owned()))
        .bind(trial_ends_at.map(ToSqlx::to_sqlx))
        .bind(saga.updated_at.to_sqlx())
        .bind(saga.org_id.as_str().to_owned())
        .bind(saga.subject.kind().as_str())
        .bind(saga.version);
    Ok(bound)
}
