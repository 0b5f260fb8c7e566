//! [`Organization`] and its transitions. Each consumes the organization and returns what it becomes, or says why not.
//!
//! | | provisioning | active | suspended | pending deletion | purging |
//! |---|---|---|---|---|---|
//! | activate | active | - | - | - | - |
//! | abandon | (gone) | - | - | - | - |
//! | suspend | - | suspended | - | - | - |
//! | unsuspend | - | - | active | - | - |
//! | soft-delete | - | pending deletion | pending deletion | - | - |
//! | restore | - | - | - | the status before | - |
//! | begin purge | - | - | - | purging, when due | - |
//! | finish purge | - | - | - | - | (gone) |
//!
//! The default organization can be neither suspended nor deleted.

use jiff::Timestamp;
use pulse_kernel::{EmailAddress, OrgId, OrgName, Reason, UserId};
use serde_json::{Value, json};

use super::{
    Deletion, Event, InvalidTransition, Note, Purge, Removal, Retention, Status, Suspension, Tombstone,
    TombstoneKind, Transition,
};

/// The name of the organization that exists from the first start.
const DEFAULT_NAME: &str = "Default organization";

/// A tenant, or the default organization.
#[derive(Debug, Clone, PartialEq)]
pub struct Organization {
    pub id: OrgId,
    pub display_name: OrgName,
    /// Nobody owns the default organization.
    pub owner: Option<Owner>,
    pub status: Status,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Counts its changes, from 1.
    pub version: i64,
}

/// Who owns an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub user_id: UserId,
    pub email: EmailAddress,
}

impl Organization {
    /// A new tenant, in status provisioning.
    pub fn create(id: OrgId, owner: Owner, display_name: OrgName, now: Timestamp) -> Transition {
        let after = json!({
            "status": "provisioning",
            "display_name": display_name.as_str(),
            "owner_user_id": owner.user_id,
            "owner_email": owner.email.typed(),
        });
        Self::new(id, Some(owner), display_name, Status::Provisioning, now).created(after)
    }

    /// The organization that exists from the first start.
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "the constant is a valid name")]
    pub fn create_default(now: Timestamp) -> Transition {
        let name = OrgName::parse(DEFAULT_NAME).expect("the constant is a valid name");
        let after = json!({ "status": "active", "display_name": name.as_str() });
        Self::new(OrgId::default_org(), None, name, Status::Active, now).created(after)
    }

    fn new(id: OrgId, owner: Option<Owner>, display_name: OrgName, status: Status, now: Timestamp) -> Self {
        Self { id, display_name, owner, status, created_at: now, updated_at: now, version: 1 }
    }

    fn created(self, after: Value) -> Transition {
        Transition { organization: self, from: None, event: Event::Create, note: None, before: None, after }
    }

    /// Changes whenever anything about the organization does.
    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    /// Whether a request to make an organization describes this one.
    pub fn is_same_as_new(&self, new: &Self) -> bool {
        self.id == new.id && self.owner == new.owner && self.display_name == new.display_name
    }

    /// Its owner may use it from now on.
    pub fn activate(self, now: Timestamp) -> Result<Transition, InvalidTransition> {
        match self.status {
            Status::Provisioning => Ok(self.becomes(Status::Active, Event::Activate, None, now)),
            Status::Active | Status::Suspended(_) | Status::PendingDeletion(_) | Status::Purging(_) => {
                Err(self.refuses(Event::Activate, Reason::OrgNotProvisioning))
            }
        }
    }

    /// It is not going to be finished.
    pub fn abandon(self, now: Timestamp) -> Result<Removal, InvalidTransition> {
        match self.status {
            Status::Provisioning => Ok(self.removed(TombstoneKind::Abandoned, now)),
            Status::Active | Status::Suspended(_) | Status::PendingDeletion(_) | Status::Purging(_) => {
                Err(self.refuses(Event::Abandon, Reason::OrgNotProvisioning))
            }
        }
    }

    /// Refuses the tenant everywhere.
    pub fn suspend(self, note: Option<Note>, now: Timestamp) -> Result<Transition, InvalidTransition> {
        if self.id.is_default() {
            return Err(self.refuses(Event::Suspend, Reason::DefaultOrgImmutable));
        }
        match self.status {
            Status::Active => {
                let suspension = Suspension { at: now, reason: note.clone() };
                Ok(self.becomes(Status::Suspended(suspension), Event::Suspend, note, now))
            }
            Status::Provisioning => Err(self.refuses(Event::Suspend, Reason::OrgProvisioning)),
            Status::Suspended(_) => Err(self.refuses(Event::Suspend, Reason::AlreadySuspended)),
            Status::PendingDeletion(_) | Status::Purging(_) => {
                Err(self.refuses(Event::Suspend, Reason::PendingDeletion))
            }
        }
    }

    /// Lets the tenant back in.
    pub fn unsuspend(self, note: Option<Note>, now: Timestamp) -> Result<Transition, InvalidTransition> {
        match self.status {
            Status::Suspended(_) => Ok(self.becomes(Status::Active, Event::Unsuspend, note, now)),
            Status::Provisioning | Status::Active | Status::PendingDeletion(_) | Status::Purging(_) => {
                Err(self.refuses(Event::Unsuspend, Reason::NotSuspended))
            }
        }
    }

    /// Refuses the tenant everywhere, and removes it once the retention is over.
    pub fn soft_delete(
        self,
        retention: Retention,
        note: Option<Note>,
        now: Timestamp,
    ) -> Result<Transition, InvalidTransition> {
        if self.id.is_default() {
            return Err(self.refuses(Event::SoftDelete, Reason::DefaultOrgImmutable));
        }
        let suspended = match &self.status {
            Status::Active => None,
            Status::Suspended(suspension) => Some(suspension.clone()),
            Status::Provisioning => return Err(self.refuses(Event::SoftDelete, Reason::OrgProvisioning)),
            Status::PendingDeletion(_) | Status::Purging(_) => {
                return Err(self.refuses(Event::SoftDelete, Reason::AlreadyPendingDeletion));
            }
        };
        let purge_after = retention.ends(now);
        let deletion = Deletion { requested_at: now, retention, purge_after, suspended };
        Ok(self.becomes(Status::PendingDeletion(deletion), Event::SoftDelete, note, now))
    }

    /// Takes the deletion back: the status is what it was before.
    pub fn restore(self, note: Option<Note>, now: Timestamp) -> Result<Transition, InvalidTransition> {
        let before = match &self.status {
            Status::PendingDeletion(deletion) => {
                deletion.suspended.clone().map_or(Status::Active, Status::Suspended)
            }
            Status::Provisioning | Status::Active | Status::Suspended(_) | Status::Purging(_) => {
                return Err(self.refuses(Event::Restore, Reason::NotPendingDeletion));
            }
        };
        Ok(self.becomes(before, Event::Restore, note, now))
    }

    /// Begins the purge of an organization that is due for it; none when it is not, at the moment `now`.
    pub fn begin_purge(self, now: Timestamp) -> Option<Transition> {
        let deletion = match &self.status {
            Status::PendingDeletion(deletion) if deletion.purge_after <= now && !self.id.is_default() => {
                deletion.clone()
            }
            Status::Provisioning
            | Status::Active
            | Status::Suspended(_)
            | Status::PendingDeletion(_)
            | Status::Purging(_) => return None,
        };
        let purge = Purge { deletion, since: now };
        Some(self.becomes(Status::Purging(purge), Event::BeginPurge, None, now))
    }

    /// It has been removed from every other service.
    pub fn finish_purge(self, now: Timestamp) -> Result<Removal, InvalidTransition> {
        match self.status {
            Status::Purging(_) => Ok(self.removed(TombstoneKind::Purged, now)),
            Status::Provisioning | Status::Active | Status::Suspended(_) | Status::PendingDeletion(_) => {
                Err(self.refuses(Event::FinishPurge, Reason::NotPendingDeletion))
            }
        }
    }

    fn becomes(self, status: Status, event: Event, note: Option<Note>, now: Timestamp) -> Transition {
        Transition {
            from: Some(self.status.kind()),
            event,
            note,
            before: Some(self.status.to_json()),
            after: status.to_json(),
            organization: Self { status, updated_at: now, version: self.version + 1, ..self },
        }
    }

    fn removed(self, kind: TombstoneKind, now: Timestamp) -> Removal {
        let expected = Some((self.status.kind(), self.version));
        Removal { tombstone: Tombstone { id: self.id, kind, at: now }, expected }
    }

    fn refuses(&self, event: Event, reason: Reason) -> InvalidTransition {
        InvalidTransition { from: self.status.kind(), event, reason }
    }
}
