//! Rows to domain values and back, for every database. What the program would never have written is an error that names the
//! row.

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx as _};
use pulse_kernel::{EmailAddress, OrgId, OrgName, UserId};
use pulse_store::time::{from_micros, to_micros};
use sqlx::{Error, FromRow};

use super::{QueueEntry, StatusChange};
use crate::domain::{
    Deletion, Note, Organization, Owner, Purge, Retention, Status, StatusKind, Suspension, Tombstone,
    TombstoneKind,
};

/// A row that contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("the stored row of {id:?} is inconsistent: {what}")]
struct Inconsistent {
    id: String,
    what: String,
}

fn inconsistent(id: &str, what: &(impl ToString + ?Sized)) -> Error {
    Error::Decode(Inconsistent { id: id.to_owned(), what: what.to_string() }.into())
}

/// How a database keeps an instant.
pub(super) trait Instant: Copy {
    fn of(at: Timestamp) -> Self;
    fn timestamp(self) -> Result<Timestamp, Error>;
}

/// SQLite: microseconds since the Unix epoch.
impl Instant for i64 {
    fn of(at: Timestamp) -> Self {
        to_micros(at)
    }

    fn timestamp(self) -> Result<Timestamp, Error> {
        from_micros(self)
    }
}

impl Instant for PgTimestamp {
    fn of(at: Timestamp) -> Self {
        at.to_sqlx()
    }

    fn timestamp(self) -> Result<Timestamp, Error> {
        Ok(self.to_jiff())
    }
}

#[derive(FromRow)]
pub(super) struct OrganizationRow<T> {
    id: String,
    display_name: String,
    owner_user_id: Option<String>,
    owner_email: Option<String>,
    status: String,
    suspended_at: Option<T>,
    suspend_reason: Option<String>,
    deletion_requested_at: Option<T>,
    retention_days: Option<f64>,
    purge_after: Option<T>,
    purging_since: Option<T>,
    created_at: T,
    updated_at: T,
    version: i64,
}

impl<T: Instant> OrganizationRow<T> {
    fn owner(&self) -> Result<Option<Owner>, Error> {
        let failed = |error: pulse_kernel::ApiError| inconsistent(&self.id, &error);
        match (&self.owner_user_id, &self.owner_email) {
            (Some(user_id), Some(email)) => Ok(Some(Owner {
                user_id: UserId::parse(user_id).map_err(failed)?,
                email: EmailAddress::parse(email).map_err(failed)?,
            })),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(inconsistent(&self.id, "half an owner")),
        }
    }

    fn status(&self) -> Result<Status, Error> {
        match status_kind(&self.status)? {
            StatusKind::Provisioning => Ok(Status::Provisioning),
            StatusKind::Active => Ok(Status::Active),
            StatusKind::Suspended => {
                let suspension = self.suspension()?;
                suspension
                    .map(Status::Suspended)
                    .ok_or_else(|| inconsistent(&self.id, "suspended, but not since when"))
            }
            StatusKind::PendingDeletion => Ok(Status::PendingDeletion(self.deletion()?)),
            StatusKind::Purging => {
                let since =
                    self.purging_since.ok_or_else(|| inconsistent(&self.id, "purging without a begin"))?;
                Ok(Status::Purging(Purge { deletion: self.deletion()?, since: since.timestamp()? }))
            }
        }
    }

    fn suspension(&self) -> Result<Option<Suspension>, Error> {
        let Some(at) = self.suspended_at else { return Ok(None) };
        let reason = self.suspend_reason.as_deref().map(Note::parse).transpose();
        let reason = reason.map_err(|error| inconsistent(&self.id, &error))?.flatten();
        Ok(Some(Suspension { at: at.timestamp()?, reason }))
    }

    fn deletion(&self) -> Result<Deletion, Error> {
        let (Some(requested_at), Some(days), Some(purge_after)) =
            (self.deletion_requested_at, self.retention_days, self.purge_after)
        else {
            return Err(inconsistent(&self.id, "deleted, but not when or for how long"));
        };
        Ok(Deletion {
            requested_at: requested_at.timestamp()?,
            retention: Retention::from_days(days).map_err(|error| inconsistent(&self.id, &error))?,
            purge_after: purge_after.timestamp()?,
            suspended: self.suspension()?,
        })
    }
}

impl<T: Instant> TryFrom<OrganizationRow<T>> for Organization {
    type Error = Error;

    fn try_from(row: OrganizationRow<T>) -> Result<Self, Error> {
        Ok(Self {
            owner: row.owner()?,
            status: row.status()?,
            display_name: OrgName::parse(&row.display_name).map_err(|error| inconsistent(&row.id, &error))?,
            created_at: row.created_at.timestamp()?,
            updated_at: row.updated_at.timestamp()?,
            version: row.version,
            id: org_id(&row.id)?,
        })
    }
}

/// What a status is as columns.
pub(super) struct StatusColumns<T> {
    pub(super) kind: StatusKind,
    pub(super) suspended_at: Option<T>,
    pub(super) suspend_reason: Option<String>,
    pub(super) deletion_requested_at: Option<T>,
    pub(super) retention_days: Option<f64>,
    pub(super) purge_after: Option<T>,
    pub(super) purging_since: Option<T>,
}

impl<T: Instant> From<&Status> for StatusColumns<T> {
    fn from(status: &Status) -> Self {
        let (suspension, deletion) = (status.suspension(), status.deletion());
        let purging_since = match status {
            Status::Purging(purge) => Some(T::of(purge.since)),
            Status::Provisioning | Status::Active | Status::Suspended(_) | Status::PendingDeletion(_) => None,
        };
        Self {
            kind: status.kind(),
            suspended_at: suspension.map(|suspension| T::of(suspension.at)),
            suspend_reason: suspension.and_then(|suspension| suspension.reason.clone()).map(String::from),
            deletion_requested_at: deletion.map(|deletion| T::of(deletion.requested_at)),
            retention_days: deletion.map(|deletion| deletion.retention.days()),
            purge_after: deletion.map(|deletion| T::of(deletion.purge_after)),
            purging_since,
        }
    }
}

#[derive(FromRow)]
pub(super) struct TombstoneRow<T> {
    org_id: String,
    kind: String,
    removed_at: T,
}

impl<T: Instant> TryFrom<TombstoneRow<T>> for Tombstone {
    type Error = Error;

    fn try_from(row: TombstoneRow<T>) -> Result<Self, Error> {
        let kind = TombstoneKind::ALL.into_iter().find(|kind| kind.as_str() == row.kind);
        Ok(Self {
            kind: kind.ok_or_else(|| inconsistent(&row.org_id, "unknown kind of tombstone"))?,
            at: row.removed_at.timestamp()?,
            id: org_id(&row.org_id)?,
        })
    }
}

#[derive(FromRow)]
pub(super) struct HistoryRow<T> {
    version: i64,
    from_status: Option<String>,
    to_status: String,
    at: T,
}

impl<T: Instant> TryFrom<HistoryRow<T>> for StatusChange {
    type Error = Error;

    fn try_from(row: HistoryRow<T>) -> Result<Self, Error> {
        Ok(Self {
            version: row.version,
            from: row.from_status.as_deref().map(status_kind).transpose()?,
            to: status_kind(&row.to_status)?,
            at: row.at.timestamp()?,
        })
    }
}

#[derive(FromRow)]
pub(super) struct QueueRow<T> {
    at: T,
    id: String,
}

impl<T: Instant> TryFrom<QueueRow<T>> for QueueEntry {
    type Error = Error;

    fn try_from(row: QueueRow<T>) -> Result<Self, Error> {
        Ok(Self { at: row.at.timestamp()?, id: org_id(&row.id)? })
    }
}

pub(super) fn count((status, tenants): (String, i64)) -> Result<(StatusKind, u64), Error> {
    Ok((status_kind(&status)?, u64::try_from(tenants).map_err(|error| inconsistent(&status, &error))?))
}

pub(super) fn status_kind(name: &str) -> Result<StatusKind, Error> {
    name.parse().map_err(|error| inconsistent(name, &error))
}

fn org_id(text: &str) -> Result<OrgId, Error> {
    OrgId::parse(text).map_err(|error| inconsistent(text, &error))
}
