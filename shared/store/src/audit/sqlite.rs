//! Audit chains in a service's SQLite database, written by the transaction whose change they record.

use pulse_kernel::OrgId;
use sqlx::{FromRow, SqliteConnection};

use super::{AuditDraft, AuditRecord, Broken, Details, Hash, Head, Salt, Verifier, canonical, seal};
use crate::time;

/// The tables. A service repeats this text in its first migration; records can then be neither changed, but
/// for erasing their details, nor sealed twice in one place.
pub const DDL: &str = "\
CREATE TABLE audit_events (
    org_id        TEXT    NOT NULL,
    sequence      INTEGER NOT NULL CHECK (sequence >= 1),
    occurred_at   INTEGER NOT NULL,             -- microseconds since the Unix epoch, UTC
    actor         TEXT    NOT NULL CHECK (actor <> ''),
    action        TEXT    NOT NULL CHECK (action <> ''),
    details       TEXT    CHECK (json_valid(details)),
    salt          BLOB    CHECK (length(salt) = 16),
    details_hash  BLOB    NOT NULL CHECK (length(details_hash) = 32),
    previous_hash BLOB    NOT NULL CHECK (length(previous_hash) = 32),
    hash          BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (org_id, sequence),
    CHECK ((details IS NULL) = (salt IS NULL))  -- erased together
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_heads (
    org_id   TEXT    NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_events_change_only_by_erasure BEFORE UPDATE ON audit_events
WHEN NEW.details IS NOT NULL OR NEW.org_id <> OLD.org_id OR NEW.sequence <> OLD.sequence
  OR NEW.occurred_at <> OLD.occurred_at OR NEW.actor <> OLD.actor OR NEW.action <> OLD.action
  OR NEW.details_hash <> OLD.details_hash OR NEW.previous_hash <> OLD.previous_hash OR NEW.hash <> OLD.hash
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: audit_events_change_only_by_erasure');
END;

CREATE TRIGGER audit_heads_only_advance BEFORE UPDATE ON audit_heads
WHEN NEW.org_id <> OLD.org_id OR NEW.sequence <> OLD.sequence + 1
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: audit_heads_only_advance');
END;
";

/// How many records [`verify_all`] reads at a time.
const PAGE: i64 = 500;

/// Seals the draft as the next record of its tenant, in the transaction that `conn` is in.
pub async fn append(
    conn: &mut SqliteConnection,
    draft: AuditDraft,
    salt: Salt,
) -> Result<AuditRecord, sqlx::Error> {
    let head = head(conn, &draft.org_id).await?;
    let record = seal(head.as_ref(), draft, salt);
    let details = record.details.as_ref().map(canonical::details).map(String::from_utf8).transpose();
    let details = details.map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "INSERT INTO audit_events (org_id, sequence, occurred_at, actor, action, details, salt, details_hash,
                                   previous_hash, hash)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(record.org_id.as_str())
    .bind(record.sequence)
    .bind(time::to_micros(record.occurred_at))
    .bind(&record.actor)
    .bind(&record.action)
    .bind(details)
    .bind(record.salt.map(|salt| salt.0.to_vec()))
    .bind(record.details_hash.0.as_slice())
    .bind(record.previous_hash.0.as_slice())
    .bind(record.hash.0.as_slice())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO audit_heads (org_id, sequence, hash) VALUES (?, ?, ?)
         ON CONFLICT (org_id) DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash",
    )
    .bind(record.org_id.as_str())
    .bind(record.sequence)
    .bind(record.hash.0.as_slice())
    .execute(conn)
    .await?;
    Ok(record)
}

/// The head of the tenant's chain, if it has one.
pub async fn head(conn: &mut SqliteConnection, org_id: &OrgId) -> Result<Option<Head>, sqlx::Error> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT sequence, hash FROM audit_heads WHERE org_id = ?")
            .bind(org_id.as_str())
            .fetch_optional(conn)
            .await?;
    row.map(|(sequence, hash)| Ok(Head { sequence, hash: read_hash(&hash)? })).transpose()
}

/// The tenant's records with a sequence below `before_sequence`, newest first, at most `limit`.
pub async fn list(
    conn: &mut SqliteConnection,
    org_id: &OrgId,
    before_sequence: Option<i64>,
    limit: u32,
) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT org_id, sequence, occurred_at, actor, action, details, salt, details_hash, previous_hash, hash
         FROM audit_events WHERE org_id = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?",
    )
    .bind(org_id.as_str())
    .bind(before_sequence.unwrap_or(i64::MAX))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(AuditRecord::try_from).collect()
}

/// Erases the details of all records of the tenant; the chain verifies as before.
pub async fn erase_details(conn: &mut SqliteConnection, org_id: &OrgId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE audit_events SET details = NULL, salt = NULL WHERE org_id = ? AND salt IS NOT NULL")
        .bind(org_id.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets the tenant's chain, head and all.
pub async fn delete(conn: &mut SqliteConnection, org_id: &OrgId) -> Result<(), sqlx::Error> {
    for table in ["DELETE FROM audit_events WHERE org_id = ?", "DELETE FROM audit_heads WHERE org_id = ?"] {
        sqlx::query(table).bind(org_id.as_str()).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Verifies every chain against its head; returns those that are broken, in order of their tenants' ids.
/// Reads page by page, so memory does not grow with the number of records.
///
/// # Errors
/// When the records cannot be read.
pub async fn verify_all(conn: &mut SqliteConnection) -> Result<Vec<(OrgId, Broken)>, sqlx::Error> {
    let mut broken = Vec::new();
    let mut after = String::new();
    // A chain without a head, or a head without a chain, counts as well.
    let next = "SELECT org_id FROM audit_events WHERE org_id > ?1
                UNION SELECT org_id FROM audit_heads WHERE org_id > ?1 ORDER BY 1 LIMIT ?2";
    loop {
        let ids: Vec<String> = sqlx::query_scalar(next).bind(&after).bind(PAGE).fetch_all(&mut *conn).await?;
        let Some(last) = ids.last() else { return Ok(broken) };
        after.clone_from(last);
        for id in ids {
            let org_id = OrgId::parse(&id).map_err(|error| sqlx::Error::Decode(error.into()))?;
            if let Err(damage) = verify_one(conn, &org_id).await? {
                broken.push((org_id, damage));
            }
        }
    }
}

async fn verify_one(
    conn: &mut SqliteConnection,
    org_id: &OrgId,
) -> Result<Result<Head, Broken>, sqlx::Error> {
    let expected = head(conn, org_id).await?.unwrap_or(Head::EMPTY);
    let mut verifier = Verifier::default();
    let mut after = i64::MIN;
    loop {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT org_id, sequence, occurred_at, actor, action, details, salt, details_hash, previous_hash, hash
             FROM audit_events WHERE org_id = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        )
        .bind(org_id.as_str())
        .bind(after)
        .bind(PAGE)
        .fetch_all(&mut *conn)
        .await?;
        let Some(last) = rows.last() else { return Ok(verifier.finish(Some(&expected))) };
        after = last.sequence;
        for row in rows {
            if let Err(damage) = verifier.push(&row.try_into()?) {
                return Ok(Err(damage));
            }
        }
    }
}

#[derive(FromRow)]
struct Row {
    org_id: String,
    sequence: i64,
    occurred_at: i64,
    actor: String,
    action: String,
    details: Option<String>,
    salt: Option<Vec<u8>>,
    details_hash: Vec<u8>,
    previous_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl TryFrom<Row> for AuditRecord {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let decode = |error: serde_json::Error| sqlx::Error::Decode(error.into());
        let salt = row.salt.as_deref().map(Salt::try_from).transpose();
        Ok(Self {
            org_id: OrgId::parse(&row.org_id).map_err(|error| sqlx::Error::Decode(error.into()))?,
            sequence: row.sequence,
            occurred_at: time::from_micros(row.occurred_at)?,
            actor: row.actor,
            action: row.action,
            details: row
                .details
                .as_deref()
                .map(serde_json::from_str::<Details>)
                .transpose()
                .map_err(decode)?,
            salt: salt.map_err(|error| sqlx::Error::Decode(error.into()))?,
            details_hash: read_hash(&row.details_hash)?,
            previous_hash: read_hash(&row.previous_hash)?,
            hash: read_hash(&row.hash)?,
        })
    }
}

fn read_hash(bytes: &[u8]) -> Result<Hash, sqlx::Error> {
    Hash::try_from(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}
