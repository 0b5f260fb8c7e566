//! A decided change: what the organization becomes, which version it was decided on, and its audit record.

use std::fmt;

use jiff::Timestamp;
use pulse_kernel::{OrgId, Reason};
use pulse_store::audit::AuditDraft;
use serde_json::Value;

use super::{Note, Organization, StatusKind};

/// What may happen to an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Create,
    Activate,
    Abandon,
    Suspend,
    Unsuspend,
    SoftDelete,
    Restore,
    BeginPurge,
    FinishPurge,
}

impl Event {
    /// The action in audit records.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Create => "organization_created",
            Self::Activate => "organization_activated",
            Self::Abandon => "organization_abandoned",
            Self::Suspend => "organization_suspended",
            Self::Unsuspend => "organization_unsuspended",
            Self::SoftDelete => "organization_deleted",
            Self::Restore => "organization_restored",
            Self::BeginPurge => "organization_purge_begun",
            Self::FinishPurge => "organization_purged",
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::Create => "made",
            Self::Activate => "activated",
            Self::Abandon => "abandoned",
            Self::Suspend => "suspended",
            Self::Unsuspend => "unsuspended",
            Self::SoftDelete => "deleted",
            Self::Restore => "restored",
            Self::BeginPurge | Self::FinishPurge => "purged",
        }
    }
}

/// A change that the organization's status does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTransition {
    /// The status it is in.
    pub from: StatusKind,
    /// What was asked for.
    pub event: Event,
    /// The name of the refusal.
    pub reason: Reason,
}

impl fmt::Display for InvalidTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason == Reason::DefaultOrgImmutable {
            return write!(f, "the default organization cannot be {}", self.event.verb());
        }
        let status = self.from.as_str().replace('_', " ");
        write!(f, "an organization in status {status} cannot be {}", self.event.verb())
    }
}

impl std::error::Error for InvalidTransition {}

/// Who makes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The authenticated principal: an operator token's name, or `service:<name>`.
    pub actor: String,
    /// The request that asks for it.
    pub request_id: Option<String>,
}

/// A decided change of an organization's status, to be stored together with its audit record.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The organization after it, at its next version.
    pub organization: Organization,
    /// The status before it; none for a new organization.
    pub from: Option<StatusKind>,
    pub(super) event: Event,
    pub(super) note: Option<Note>,
    pub(super) before: Option<Value>,
    pub(super) after: Value,
}

impl Transition {
    /// The version that it was decided on: nothing is stored when the organization has changed since.
    pub const fn expected_version(&self) -> i64 {
        self.organization.version - 1
    }

    /// The record of it.
    pub fn audit(&self, author: Author) -> AuditDraft {
        AuditDraft {
            org_id: self.organization.id.clone(),
            at: self.organization.updated_at,
            actor: author.actor,
            action: self.event.action().to_owned(),
            reason: self.note.clone().map(String::from),
            before: self.before.clone(),
            after: Some(self.after.clone()),
            request_id: author.request_id,
        }
    }
}

/// Why an id is not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TombstoneKind {
    /// Its organization was never finished.
    Abandoned,
    /// Its organization was deleted, and removed everywhere.
    Purged,
}

impl TombstoneKind {
    /// Every kind there is.
    pub const ALL: [Self; 2] = [Self::Abandoned, Self::Purged];

    /// The name in the store and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Purged => "purged",
        }
    }

    const fn event(self) -> Event {
        match self {
            Self::Abandoned => Event::Abandon,
            Self::Purged => Event::FinishPurge,
        }
    }
}

/// What is left of an organization: enough to never use its id again, and nothing about anyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    pub id: OrgId,
    pub kind: TombstoneKind,
    pub at: Timestamp,
}

/// A decided end: the organization's row becomes a tombstone, and the details of its audit records are erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// What is left.
    pub tombstone: Tombstone,
    /// The status and version that it was decided on; none where there is no such organization, and its id is to
    /// be barred all the same.
    pub expected: Option<(StatusKind, i64)>,
}

impl Removal {
    /// Bars an id that no organization has, before one arrives late.
    pub const fn of_unknown(id: OrgId, now: Timestamp) -> Self {
        Self { tombstone: Tombstone { id, kind: TombstoneKind::Abandoned, at: now }, expected: None }
    }

    /// The record of it, which holds nothing that would have to be erased.
    pub fn audit(&self, author: Author) -> AuditDraft {
        let status = |name: &str| serde_json::json!({ "status": name });
        AuditDraft {
            org_id: self.tombstone.id.clone(),
            at: self.tombstone.at,
            actor: author.actor,
            action: self.tombstone.kind.event().action().to_owned(),
            reason: None,
            before: self.expected.map(|(from, _)| status(from.as_str())),
            after: Some(status(self.tombstone.kind.as_str())),
            request_id: author.request_id,
        }
    }
}
