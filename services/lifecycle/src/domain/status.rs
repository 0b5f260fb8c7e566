//! What status an organization is in, and since when and why.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Note, Retention};

/// The status of an organization, with what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Being made; its owner does not know it yet.
    Provisioning,
    /// In use.
    Active,
    /// Refused at every door, by an operator's decision.
    Suspended(Suspension),
    /// Deleted, and can be restored until its retention is over.
    PendingDeletion(Deletion),
    /// Past its retention, being removed from every service. There is no way back.
    Purging(Purge),
}

/// An operator's decision to refuse a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: Option<Note>,
}

/// A deletion that can be taken back.
#[derive(Debug, Clone, PartialEq)]
pub struct Deletion {
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// How long it can be taken back.
    pub retention: Retention,
    /// When that is over.
    pub purge_after: Timestamp,
    /// The suspension that the organization was under, and returns to when it is restored.
    pub suspended: Option<Suspension>,
}

/// A deletion that cannot be taken back any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Purge {
    /// The deletion whose retention is over.
    pub deletion: Deletion,
    /// When the reaper decided so.
    pub since: Timestamp,
}

impl Status {
    /// Its name.
    pub const fn kind(&self) -> StatusKind {
        match self {
            Self::Provisioning => StatusKind::Provisioning,
            Self::Active => StatusKind::Active,
            Self::Suspended(_) => StatusKind::Suspended,
            Self::PendingDeletion(_) => StatusKind::PendingDeletion,
            Self::Purging(_) => StatusKind::Purging,
        }
    }

    /// The suspension that the organization is under, or was under when it was deleted.
    pub const fn suspension(&self) -> Option<&Suspension> {
        match self {
            Self::Provisioning | Self::Active => None,
            Self::Suspended(suspension) => Some(suspension),
            Self::PendingDeletion(deletion) => deletion.suspended.as_ref(),
            Self::Purging(purge) => purge.deletion.suspended.as_ref(),
        }
    }

    /// Its deletion, if it was deleted.
    pub const fn deletion(&self) -> Option<&Deletion> {
        match self {
            Self::Provisioning | Self::Active | Self::Suspended(_) => None,
            Self::PendingDeletion(deletion) => Some(deletion),
            Self::Purging(purge) => Some(&purge.deletion),
        }
    }

    /// As audit records show it: with the names of the public contract, and nothing that is not set.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("status".to_owned(), json!(self.kind().as_str()));
        if let Some(Suspension { at, reason }) = self.suspension() {
            fields.insert("suspended_at".to_owned(), json!(at));
            if let Some(reason) = reason {
                fields.insert("suspend_reason".to_owned(), json!(reason.as_str()));
            }
        }
        if let Some(deletion) = self.deletion() {
            fields.insert("deletion_requested_at".to_owned(), json!(deletion.requested_at));
            fields.insert("retention_days".to_owned(), json!(deletion.retention.days()));
            fields.insert("purge_after".to_owned(), json!(deletion.purge_after));
        }
        Value::Object(fields)
    }
}

/// The name of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusKind {
    Provisioning,
    Active,
    Suspended,
    PendingDeletion,
    Purging,
}

impl StatusKind {
    /// Every status there is.
    pub const ALL: [Self; 5] =
        [Self::Provisioning, Self::Active, Self::Suspended, Self::PendingDeletion, Self::Purging];

    /// The name in the store, in audit records and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::PendingDeletion => "pending_deletion",
            Self::Purging => "purging",
        }
    }
}

impl fmt::Display for StatusKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StatusKind {
    type Err = UnknownStatus;
    fn from_str(name: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or(UnknownStatus)
    }
}

/// There is no status of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected provisioning, active, suspended, pending_deletion or purging")]
pub struct UnknownStatus;
