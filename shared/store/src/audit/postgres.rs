//! Audit chains in a service's PostgreSQL schema, written by the transaction whose change they record.

use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx as _};
use pulse_kernel::OrgId;
use sqlx::{FromRow, PgConnection};

use super::{AuditDraft, AuditRecord, Broken, Details, Hash, Head, Salt, Verifier, canonical, seal};

/// The tables. A service repeats this text in its first migration, and grants itself what it needs there; records can then be
/// neither changed, but for erasing their details, nor sealed twice in one place. `details` is text, not `jsonb`: what is hashed
/// is its bytes, and `jsonb` writes numbers its own way.
pub const DDL: &str = "\
-- The audit chain, as in shared/store/src/audit/postgres.rs.
CREATE TABLE audit_events (
    org_id        text        NOT NULL COLLATE \"C\" CHECK (org_id <> ''),
    sequence      bigint      NOT NULL CHECK (sequence >= 1),
    occurred_at   timestamptz NOT NULL,
    actor         text        NOT NULL CHECK (actor <> ''),
    action        text        NOT NULL CHECK (action <> ''),
    details       text        CHECK (details::json IS NOT NULL OR details IS NULL),
    salt          bytea       CHECK (octet_length(salt) = 16),
    details_hash  bytea       NOT NULL CHECK (octet_length(details_hash) = 32),
    previous_hash bytea       NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash          bytea       NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (org_id, sequence),
    CONSTRAINT erased_together CHECK ((details IS NULL) = (salt IS NULL))
);

CREATE TABLE audit_heads (
    org_id   text   PRIMARY KEY COLLATE \"C\",
    sequence bigint NOT NULL CHECK (sequence >= 1),
    hash     bytea  NOT NULL CHECK (octet_length(hash) = 32)
);

ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON audit_events USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON audit_events FOR SELECT USING (current_setting('pulse.tenant', true) = '*');
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON audit_heads USING (org_id = current_setting('pulse.tenant', true));
CREATE POLICY every_tenant ON audit_heads FOR SELECT USING (current_setting('pulse.tenant', true) = '*');

CREATE FUNCTION audit_events_change_only_by_erasure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.details IS NOT NULL
        OR (NEW.org_id, NEW.sequence, NEW.occurred_at, NEW.actor, NEW.action, NEW.details_hash, NEW.previous_hash, NEW.hash)
        IS DISTINCT FROM
        (OLD.org_id, OLD.sequence, OLD.occurred_at, OLD.actor, OLD.action, OLD.details_hash, OLD.previous_hash, OLD.hash)
    THEN
        RAISE EXCEPTION 'an audit record changes only by erasure'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_events_change_only_by_erasure';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER audit_events_change_only_by_erasure BEFORE UPDATE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION audit_events_change_only_by_erasure();

CREATE FUNCTION audit_heads_only_advance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.org_id <> OLD.org_id OR NEW.sequence <> OLD.sequence + 1 THEN
        RAISE EXCEPTION 'the head of an audit chain only advances'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_heads_only_advance';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER audit_heads_only_advance BEFORE UPDATE ON audit_heads
    FOR EACH ROW EXECUTE FUNCTION audit_heads_only_advance();
";

/// How many records are verified at a time.
const PAGE: i64 = 500;

/// Seals the draft as the next record of its tenant, in the transaction that `conn` is in.
pub async fn append(
    conn: &mut PgConnection,
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
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(record.org_id.as_str())
    .bind(record.sequence)
    .bind(record.occurred_at.to_sqlx())
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
        "INSERT INTO audit_heads (org_id, sequence, hash) VALUES ($1, $2, $3)
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
pub async fn head(conn: &mut PgConnection, org_id: &OrgId) -> Result<Option<Head>, sqlx::Error> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT sequence, hash FROM audit_heads WHERE org_id = $1")
            .bind(org_id.as_str())
            .fetch_optional(conn)
            .await?;
    row.map(|(sequence, hash)| Ok(Head { sequence, hash: read_hash(&hash)? })).transpose()
}

/// The tenant's records with a sequence below `before_sequence`, newest first, at most `limit`.
pub async fn list(
    conn: &mut PgConnection,
    org_id: &OrgId,
    before_sequence: Option<i64>,
    limit: u32,
) -> Result<Vec<AuditRecord>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT org_id, sequence, occurred_at, actor, action, details, salt, details_hash, previous_hash, hash
         FROM audit_events WHERE org_id = $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3",
    )
    .bind(org_id.as_str())
    .bind(before_sequence.unwrap_or(i64::MAX))
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(AuditRecord::try_from).collect()
}

/// Erases the details of all records of the tenant; the chain verifies as before.
pub async fn erase_details(conn: &mut PgConnection, org_id: &OrgId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE audit_events SET details = NULL, salt = NULL WHERE org_id = $1 AND salt IS NOT NULL")
        .bind(org_id.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets the tenant's chain, head and all.
pub async fn delete(conn: &mut PgConnection, org_id: &OrgId) -> Result<(), sqlx::Error> {
    for table in ["DELETE FROM audit_events WHERE org_id = $1", "DELETE FROM audit_heads WHERE org_id = $1"] {
        sqlx::query(table).bind(org_id.as_str()).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Verifies every chain against its head; returns those that are broken, in order of their tenants' ids.
/// Reads page by page, so memory does not grow with the number of records.
///
/// # Errors
/// When the records cannot be read.
pub async fn verify_all(conn: &mut PgConnection) -> Result<Vec<(OrgId, Broken)>, sqlx::Error> {
    let mut broken = Vec::new();
    let mut after = String::new();
    // A chain without a head, or a head without a chain, counts as well.
    let next = "SELECT org_id FROM audit_events WHERE org_id > $1
                UNION SELECT org_id FROM audit_heads WHERE org_id > $1 ORDER BY 1 LIMIT $2";
    loop {
        let ids: Vec<String> = sqlx::query_scalar(next).bind(&after).bind(PAGE).fetch_all(&mut *conn).await?;
        let Some(last) = ids.last() else { return Ok(broken) };
        after.clone_from(last);
        for id in ids {
            let org_id = OrgId::parse(&id).map_err(|error| sqlx::Error::Decode(error.into()))?;
            if let Err(damage) = verify_chain(conn, &org_id).await? {
                broken.push((org_id, damage));
            }
        }
    }
}

/// Verifies the tenant's chain against its head, page by page.
///
/// # Errors
/// When the records cannot be read.
pub async fn verify_chain(
    conn: &mut PgConnection,
    org_id: &OrgId,
) -> Result<Result<Head, Broken>, sqlx::Error> {
    let expected = head(conn, org_id).await?.unwrap_or(Head::EMPTY);
    let mut verifier = Verifier::default();
    let mut after = i64::MIN;
    loop {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT org_id, sequence, occurred_at, actor, action, details, salt, details_hash, previous_hash, hash
             FROM audit_events WHERE org_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
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
    occurred_at: PgTimestamp,
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
            occurred_at: row.occurred_at.to_jiff(),
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
