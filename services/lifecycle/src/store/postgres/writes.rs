//! What each write does. It runs in a transaction of one organization and alone among that organization's writes, so what it
//! has looked at stays as it is until it is done. Others are met in three places only:
//!
//! - the owner's email, where the constraint decides, and lets the second wait until it is known what became of the first;
//! - the row of counts, which is changed at the very end, so that nobody who holds it waits for anything;
//! - the reaper's lease, which stays with its holder until a change under it is done.

use std::time::Duration;

use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx as _};
use pulse_kernel::OrgId;
use pulse_store::{
    StoreError,
    audit::{AuditDraft, Salt, postgres as audit},
    postgres::{feed, turn_to, turn_to_every},
};
use sqlx::{Error, PgConnection};

use super::{Creation, Lease, Written};
use crate::{
    domain::{Author, Organization, Removal, StatusKind, Tombstone, Transition},
    store::rows::StatusColumns,
};

/// How often an email may change hands while somebody asks for it.
const ATTEMPTS: usize = 3;

/// What is to be written, by whom, and with what its audit record is sealed.
#[derive(Debug)]
pub(super) struct Signed<T> {
    pub(super) what: T,
    pub(super) author: Author,
    pub(super) salt: Salt,
}

impl<T> Signed<T> {
    /// What every write ends with. The transaction that those who follow hear of.
    async fn record(
        &self,
        conn: &mut PgConnection,
        draft: impl FnOnce(&T, Author) -> AuditDraft,
        version: i64,
    ) -> Result<i64, Error> {
        let draft = draft(&self.what, self.author.clone());
        let (id, at) = (draft.org_id.clone(), draft.at);
        audit::append(conn, draft, self.salt).await?;
        feed::append(conn, &id, version, at).await
    }
}

pub(super) async fn create(
    conn: &mut PgConnection,
    new: &Signed<Transition>,
) -> Result<Creation, StoreError> {
    let organization = &new.what.organization;
    for _ in 0..ATTEMPTS {
        if insert(conn, organization).await? {
            new.record(conn, Transition::audit, organization.version).await?;
            return Ok(Creation::Created);
        }
        if id_is_used(conn, &organization.id).await? {
            return Ok(Creation::IdUsed);
        }
        turn_to_every(conn).await?;
        if let Some(by) = status_of_owner(conn, organization).await? {
            return Ok(Creation::EmailUsed { by });
        }
        // Whoever had the email was removed since.
        turn_to(conn, &organization.id).await?;
    }
    Err(StoreError::Unavailable("the owner's email keeps changing hands"))
}

pub(super) async fn change(
    conn: &mut PgConnection,
    transition: &Signed<Transition>,
) -> Result<Written, Error> {
    if !update(conn, &transition.what).await? {
        return Ok(Written::Stale);
    }
    let version = transition.what.organization.version;
    Ok(Written::Done(Some(transition.record(conn, Transition::audit, version).await?)))
}

/// Erases what the audit records say, too. What was deleted or erased is in no row any more that a query can see; that the
/// rows themselves go within a minute or so is the business of autovacuum, whose settings for these tables are in the migration,
/// as nothing can be vacuumed in a transaction.
pub(super) async fn remove(conn: &mut PgConnection, removal: &Signed<Removal>) -> Result<Written, Error> {
    let Removal { tombstone, expected } = &removal.what;
    let (as_decided, version) = match expected {
        Some((_, version)) => (delete(conn, &tombstone.id, *version).await?, version + 1),
        None => (!id_is_used(conn, &tombstone.id).await?, 1),
    };
    if !as_decided {
        return Ok(Written::Stale);
    }
    insert_tombstone(conn, tombstone).await?;
    audit::erase_details(conn, &tombstone.id).await?;
    Ok(Written::Done(Some(removal.record(conn, Removal::audit, version).await?)))
}

/// Whether the lease is held; if so it stays held until the transaction ends, as nobody can take it meanwhile.
pub(super) async fn hold(conn: &mut PgConnection, lease: &Lease) -> Result<bool, Error> {
    let held: Option<i64> = sqlx::query_scalar(
        "SELECT token FROM leases WHERE name = $1 AND owner = $2 AND token = $3 AND until > clock_timestamp() FOR SHARE",
    )
    .bind(lease.name)
    .bind(&lease.owner)
    .bind(lease.token)
    .fetch_optional(conn)
    .await?;
    Ok(held.is_some())
}

/// Takes or renews a lease, if nobody else has it.
pub(super) async fn take_lease(
    conn: &mut PgConnection,
    name: &'static str,
    owner: &str,
    lasting: Duration,
) -> Result<Option<Lease>, Error> {
    let token: Option<i64> = sqlx::query_scalar(
        "INSERT INTO leases AS last (name, owner, token, until)
         VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (name) DO UPDATE
         SET owner = excluded.owner, until = clock_timestamp() + make_interval(secs => $3),
             token = last.token
                 + CASE WHEN last.owner = excluded.owner AND last.until > clock_timestamp() THEN 0 ELSE 1 END
         WHERE last.owner = excluded.owner OR last.until <= clock_timestamp()
         RETURNING token",
    )
    .bind(name)
    .bind(owner)
    .bind(lasting.as_secs_f64())
    .fetch_optional(conn)
    .await?;
    Ok(token.map(|token| Lease { name, owner: owner.to_owned(), token }))
}

pub(super) async fn return_lease(conn: &mut PgConnection, lease: &Lease) -> Result<(), Error> {
    sqlx::query("UPDATE leases SET until = clock_timestamp() WHERE name = $1 AND owner = $2 AND token = $3")
        .bind(lease.name)
        .bind(&lease.owner)
        .bind(lease.token)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether the organization was inserted: its id was never used, and no other has its owner's email.
async fn insert(conn: &mut PgConnection, new: &Organization) -> Result<bool, Error> {
    let owner = new.owner.as_ref();
    let inserted = sqlx::query(
        "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
                                    created_at, updated_at, version)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
         WHERE NOT EXISTS (SELECT FROM organizations WHERE id = $1)
             AND NOT EXISTS (SELECT FROM tombstones WHERE org_id = $1)
         ON CONFLICT (owner_email_canonical) DO NOTHING",
    )
    .bind(new.id.as_str())
    .bind(new.display_name.as_str())
    .bind(owner.map(|owner| owner.user_id.to_string()))
    .bind(owner.map(|owner| owner.email.typed()))
    .bind(owner.map(|owner| owner.email.canonical()))
    .bind(new.status.kind().as_str())
    .bind(new.created_at.to_sqlx())
    .bind(new.updated_at.to_sqlx())
    .bind(new.version)
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Whether the id is an organization's, or was.
async fn id_is_used(conn: &mut PgConnection, id: &OrgId) -> Result<bool, Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM organizations WHERE id = $1)
             OR EXISTS (SELECT FROM tombstones WHERE org_id = $1)",
    )
    .bind(id.as_str())
    .fetch_one(conn)
    .await
}

/// The status of the organization that has the same owner's email.
async fn status_of_owner(
    conn: &mut PgConnection,
    organization: &Organization,
) -> Result<Option<StatusKind>, Error> {
    let status: Option<String> =
        sqlx::query_scalar("SELECT status FROM organizations WHERE owner_email_canonical = $1")
            .bind(organization.owner.as_ref().map(|owner| owner.email.canonical()))
            .fetch_optional(conn)
            .await?;
    status.as_deref().map(crate::store::rows::status_kind).transpose()
}

/// Whether the organization was at the version that the transition was decided on, and so was changed.
async fn update(conn: &mut PgConnection, transition: &Transition) -> Result<bool, Error> {
    let organization = &transition.organization;
    let status: StatusColumns<PgTimestamp> = StatusColumns::from(&organization.status);
    let updated = sqlx::query(
        "UPDATE organizations
         SET status = $1, suspended_at = $2, suspend_reason = $3, deletion_requested_at = $4, retention_days = $5,
             purge_after = $6, purging_since = $7, updated_at = $8, version = $9
         WHERE id = $10 AND version = $11",
    )
    .bind(status.kind.as_str())
    .bind(status.suspended_at)
    .bind(status.suspend_reason)
    .bind(status.deletion_requested_at)
    .bind(status.retention_days)
    .bind(status.purge_after)
    .bind(status.purging_since)
    .bind(organization.updated_at.to_sqlx())
    .bind(organization.version)
    .bind(organization.id.as_str())
    .bind(transition.expected_version())
    .execute(conn)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// Whether the organization was at that version, and so was deleted.
async fn delete(conn: &mut PgConnection, id: &OrgId, version: i64) -> Result<bool, Error> {
    let deleted = sqlx::query("DELETE FROM organizations WHERE id = $1 AND version = $2")
        .bind(id.as_str())
        .bind(version)
        .execute(conn)
        .await?;
    Ok(deleted.rows_affected() == 1)
}

async fn insert_tombstone(conn: &mut PgConnection, tombstone: &Tombstone) -> Result<(), Error> {
    sqlx::query("INSERT INTO tombstones (org_id, kind, removed_at) VALUES ($1, $2, $3)")
        .bind(tombstone.id.as_str())
        .bind(tombstone.kind.as_str())
        .bind(tombstone.at.to_sqlx())
        .execute(conn)
        .await?;
    Ok(())
}
