//! What each transaction does. It is that of the tenant, whose other writes wait for it.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use pulse_entitlements::{BillingState, Lookup, Stored};
use pulse_kernel::OrgId;
use pulse_store::{
    audit::{Salt, postgres as audit},
    postgres::feed,
};
use sqlx::PgConnection;

use super::history;
use crate::{
    domain::{Document, Expected, Key, Write, document},
    store::{Listed, PAGE, Purge, StoreError},
};

/// What is there of a tenant.
enum Row {
    Purged,
    Nothing,
    State {
        /// As it stands there.
        document: String,
        revision: i64,
        created_by_key: Option<String>,
    },
}

/// A row as it comes: whether there is a tombstone; document, revision and maker of the state, if there is one.
type Columns = (bool, Option<String>, Option<i64>, Option<String>);

async fn find(conn: &mut PgConnection, org: &OrgId) -> Result<Row, StoreError> {
    let (is_purged, document, revision, created_by_key): Columns = sqlx::query_as(
        "SELECT purged.org_id IS NOT NULL, states.state::text, states.revision, states.created_by_key
         FROM (SELECT $1 AS org_id) AS asked
             LEFT JOIN purged_tenants AS purged ON purged.org_id = asked.org_id COLLATE \"C\"
             LEFT JOIN billing_states AS states ON states.org_id = asked.org_id COLLATE \"C\"",
    )
    .bind(org.as_str())
    .fetch_one(conn)
    .await?;
    Ok(match (is_purged, document, revision) {
        (true, ..) => Row::Purged,
        (false, Some(document), Some(revision)) => Row::State { document, revision, created_by_key },
        (false, ..) => Row::Nothing,
    })
}

/// The state in a document.
async fn read(
    conn: &mut PgConnection,
    org: &OrgId,
    document: &str,
    revision: i64,
) -> Result<Stored, StoreError> {
    let revision = u64::try_from(revision).unwrap_or_default();
    match Document::parse(document.as_bytes(), org) {
        Ok(state) => Ok(Stored { state, revision }),
        Err(problem) => {
            let last_known = history::last_known(conn, org, revision).await?.map(Box::new);
            Err(StoreError::Unreadable { place: place(org), problem, last_known })
        }
    }
}

/// What a tenant's row is called in errors.
fn place(org: &OrgId) -> String {
    format!("billing_states of {org}")
}

pub(super) async fn get(conn: &mut PgConnection, org: &OrgId) -> Result<Lookup, StoreError> {
    Ok(match find(conn, org).await? {
        Row::Purged => Lookup::Purged,
        Row::Nothing => Lookup::NotStored,
        Row::State { document, revision, .. } => {
            Lookup::Stored(Box::new(read(conn, org, &document, revision).await?))
        }
    })
}

/// The next tenants, in the order of their ids.
pub(super) async fn list(conn: &mut PgConnection, after: &str) -> Result<Vec<Listed>, StoreError> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT org_id, state::text, revision FROM billing_states WHERE org_id > $1 ORDER BY org_id LIMIT $2",
    )
    .bind(after)
    .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
    .fetch_all(conn)
    .await?;
    let listed = |(org, document, revision): (String, String, i64)| {
        let org = OrgId::parse(&org).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let revision = u64::try_from(revision).unwrap_or_default();
        let state = Document::parse(document.as_bytes(), &org).ok();
        Ok(Listed { stored: state.map(|state| Stored { state, revision }), org })
    };
    rows.into_iter().map(listed).collect()
}

/// The state that is stored now, and the transaction that those who follow hear of.
pub(super) async fn put(
    conn: &mut PgConnection,
    write: &Write,
    salt: Salt,
) -> Result<(Stored, i64), StoreError> {
    let Write { expected, state, draft } = write;
    let org = &state.org_id;
    let found = match find(conn, org).await? {
        Row::Purged => return Err(StoreError::Purged),
        Row::Nothing => Expected::Nothing,
        Row::State { document, revision, .. } => {
            Expected::Etag(read(conn, org, &document, revision).await?.state.etag())
        }
    };
    if found != *expected {
        return Err(StoreError::Conflict);
    }
    let record = audit::append(conn, draft.clone(), salt).await?;
    let created_by_key = draft.after.as_ref().and_then(document::created_by_key);
    store(conn, state, created_by_key, record.sequence, record.occurred_at).await?;
    let transaction = feed::append(conn, org, record.sequence, record.occurred_at).await?;
    let revision = u64::try_from(record.sequence).unwrap_or_default();
    Ok((Stored { state: state.clone(), revision }, transaction))
}

/// Makes this the tenant's state. Who made the first one stays as it is.
async fn store(
    conn: &mut PgConnection,
    state: &BillingState,
    created_by_key: Option<&str>,
    revision: i64,
    at: Timestamp,
) -> Result<(), StoreError> {
    let document = Document::of(state).to_text().map_err(|error| sqlx::Error::Encode(error.into()))?;
    let stored = sqlx::query(
        "INSERT INTO billing_states (org_id, subscription_state, state, etag, revision, created_by_key, updated_at)
         VALUES ($1, $2, $3::text::jsonb, $4, $5, $6, $7)
         ON CONFLICT (org_id) DO UPDATE SET subscription_state = excluded.subscription_state, state = excluded.state,
             etag = excluded.etag, revision = excluded.revision, updated_at = excluded.updated_at",
    )
    .bind(state.org_id.as_str())
    .bind(state.subscription_state.as_str())
    .bind(document)
    .bind(state.etag())
    .bind(revision)
    .bind(created_by_key)
    .bind(at.to_sqlx())
    .execute(conn)
    .await?;
    only(stored.rows_affected())
}

pub(super) async fn creator(conn: &mut PgConnection, org: &OrgId) -> Result<Option<String>, StoreError> {
    Ok(match find(conn, org).await? {
        Row::State { created_by_key, .. } => created_by_key,
        Row::Purged | Row::Nothing => None,
    })
}

/// What came of it, and the transaction that those who follow hear of, if there is anything to hear.
pub(super) async fn purge(
    conn: &mut PgConnection,
    org: &OrgId,
    created_by: Option<&Key>,
    now: Timestamp,
) -> Result<(Purge, Option<i64>), StoreError> {
    let (purge, revision) = match find(conn, org).await? {
        Row::Purged => return Ok((Purge::Nothing, None)),
        Row::State { created_by_key, .. }
            if created_by.is_some_and(|key| created_by_key.as_deref() != Some(key.as_str())) =>
        {
            return Ok((Purge::NotTheirs, None));
        }
        Row::State { revision, .. } => {
            let gone = sqlx::query("DELETE FROM billing_states WHERE org_id = $1").bind(org.as_str());
            only(gone.execute(&mut *conn).await?.rows_affected())?;
            (Purge::Removed, revision)
        }
        Row::Nothing => (Purge::Nothing, 0),
    };
    audit::delete(conn, org).await?;
    let tombstone = sqlx::query("INSERT INTO purged_tenants (org_id, purged_at) VALUES ($1, $2)");
    let tombstone = tombstone.bind(org.as_str()).bind(now.to_sqlx()).execute(&mut *conn).await?;
    only(tombstone.rows_affected())?;
    let transaction = feed::append(conn, org, revision + 1, now).await?;
    Ok((purge, Some(transaction)))
}

/// One row was written, as the tenant's lock promises.
fn only(rows: u64) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(sqlx::Error::RowNotFound.into()) }
}
