//! Rows to domain values. What the program would never have written is an error that names the row.

use pulse_kernel::{EmailAddress, OrgId, OrgName, UserId};
use pulse_store::time::{from_micros, to_micros};
use sqlx::{Error, FromRow};

use super::StatusChange;
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

#[derive(FromRow)]
pub(super) struct OrganizationRow {
    id: String,
    display_name: String,
    owner_user_id: Option<String>,
    owner_email: Option<String>,
    status: String,
    suspended_at: Option<i64>,
    suspend_reason: Option<String>,
    deletion_requested_at: Option<i64>,
    retention_days: Option<f64>,
    purge_after: Option<i64>,
    purging_since: Option<i64>,
    created_at: i64,
    updated_at: i64,
    version: i64,
}

impl OrganizationRow {
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
                Ok(Status::Purging(Purge { deletion: self.deletion()?, since: from_micros(since)? }))
            }
        }
    }

    fn suspension(&self) -> Result<Option<Suspension>, Error> {
        let Some(at) = self.suspended_at else { return Ok(None) };
        let reason = self.suspend_reason.as_deref().map(Note::parse).transpose();
        let reason = reason.map_err(|error| inconsistent(&self.id, &error))?.flatten();
        Ok(Some(Suspension { at: from_micros(at)?, reason }))
    }

    fn deletion(&self) -> Result<Deletion, Error> {
        let (Some(requested_at), Some(days), Some(purge_after)) =
            (self.deletion_requested_at, self.retention_days, self.purge_after)
        else {
            return Err(inconsistent(&self.id, "deleted, but not when or for how long"));
        };
        Ok(Deletion {
            requested_at: from_micros(requested_at)?,
            retention: Retention::from_days(days).map_err(|error| inconsistent(&self.id, &error))?,
            purge_after: from_micros(purge_after)?,
            suspended: self.suspension()?,
        })
    }
}

impl TryFrom<OrganizationRow> for Organization {
    type Error = Error;

    fn try_from(row: OrganizationRow) -> Result<Self, Error> {
        Ok(Self {
            owner: row.owner()?,
            status: row.status()?,
            display_name: OrgName::parse(&row.display_name).map_err(|error| inconsistent(&row.id, &error))?,
            created_at: from_micros(row.created_at)?,
            updated_at: from_micros(row.updated_at)?,
            version: row.version,
            id: org_id(&row.id)?,
        })
    }
}

/// What a status is as columns.
pub(super) struct StatusColumns {
    pub(super) kind: StatusKind,
    pub(super) suspended_at: Option<i64>,
    pub(super) suspend_reason: Option<String>,
    pub(super) deletion_requested_at: Option<i64>,
    pub(super) retention_days: Option<f64>,
    pub(super) purge_after: Option<i64>,
    pub(super) purging_since: Option<i64>,
}

impl From<&Status> for StatusColumns {
    fn from(status: &Status) -> Self {
        let (suspension, deletion) = (status.suspension(), status.deletion());
        let purging_since = match status {
            Status::Purging(purge) => Some(to_micros(purge.since)),
            Status::Provisioning | Status::Active | Status::Suspended(_) | Status::PendingDeletion(_) => None,
        };
        Self {
            kind: status.kind(),
            suspended_at: suspension.map(|suspension| to_micros(suspension.at)),
            suspend_reason: suspension.and_then(|suspension| suspension.reason.clone()).map(String::from),
            deletion_requested_at: deletion.map(|deletion| to_micros(deletion.requested_at)),
            retention_days: deletion.map(|deletion| deletion.retention.days()),
            purge_after: deletion.map(|deletion| to_micros(deletion.purge_after)),
            purging_since,
        }
    }
}

#[derive(FromRow)]
pub(super) struct TombstoneRow {
    org_id: String,
    kind: String,
    removed_at: i64,
}

impl TryFrom<TombstoneRow> for Tombstone {
    type Error = Error;

    fn try_from(row: TombstoneRow) -> Result<Self, Error> {
        let kind = TombstoneKind::ALL.into_iter().find(|kind| kind.as_str() == row.kind);
        Ok(Self {
            kind: kind.ok_or_else(|| inconsistent(&row.org_id, "unknown kind of tombstone"))?,
            at: from_micros(row.removed_at)?,
            id: org_id(&row.org_id)?,
        })
    }
}

#[derive(FromRow)]
pub(super) struct HistoryRow {
    version: i64,
    from_status: Option<String>,
    to_status: String,
    at: i64,
}

impl TryFrom<HistoryRow> for StatusChange {
    type Error = Error;

    fn try_from(row: HistoryRow) -> Result<Self, Error> {
        Ok(Self {
            version: row.version,
            from: row.from_status.as_deref().map(status_kind).transpose()?,
            to: status_kind(&row.to_status)?,
            at: from_micros(row.at)?,
        })
    }
}

#[derive(FromRow)]
pub(super) struct QueueRow {
    pub(super) at: i64,
    pub(super) id: String,
}

pub(super) fn count((status, tenants): (String, i64)) -> Result<(StatusKind, u64), Error> {
    Ok((status_kind(&status)?, u64::try_from(tenants).map_err(|error| inconsistent(&status, &error))?))
}

pub(super) fn status_kind(name: &str) -> Result<StatusKind, Error> {
    name.parse().map_err(|error| inconsistent(name, &error))
}

pub(super) fn org_id(text: &str) -> Result<OrgId, Error> {
    OrgId::parse(text).map_err(|error| inconsistent(text, &error))
}
