//! What the sagas of the provisioner ask for. Every one may be repeated, and may arrive late.

use pulse_kernel::{OrgId, OrgName};

use super::{ATTEMPTS, Organizations, Page, on_behalf_of};
use crate::{
    domain::{Organization, Owner, Removal, Status, StatusKind, TombstoneKind},
    error::LifecycleError,
    store::{Creation, Found, QueueEntry, Written},
};

/// Who makes these changes in audit records.
const PROVISIONER: &str = "service:provisioner";

/// A request for a new organization.
#[derive(Debug, Clone)]
pub(crate) struct NewOrganization {
    pub(crate) id: OrgId,
    pub(crate) owner: Owner,
    pub(crate) display_name: OrgName,
}

impl Organizations {
    /// Makes an organization, or finds it made by the same request before.
    pub(crate) async fn create(&self, new: NewOrganization) -> Result<Organization, LifecycleError> {
        let creation = Organization::create(new.id, new.owner, new.display_name, self.now());
        let created = creation.organization.clone();
        match self.store_creation(creation, on_behalf_of(PROVISIONER)).await? {
            Creation::Created => Ok(created),
            Creation::IdUsed => match self.store.find(&created.id).await? {
                Found::Organization(existing) if existing.is_same_as_new(&created) => Ok(existing),
                Found::Organization(_) | Found::Tombstone(_) | Found::Nothing => Err(LifecycleError::IdTaken),
            },
            Creation::EmailUsed { by: StatusKind::Purging } => Err(LifecycleError::EmailBeingFreed),
            Creation::EmailUsed {
                by:
                    StatusKind::Provisioning
                    | StatusKind::Active
                    | StatusKind::Suspended
                    | StatusKind::PendingDeletion,
            } => Err(LifecycleError::EmailTaken),
        }
    }

    /// Makes it active; what is past that already stays as it is.
    pub(crate) async fn activate(&self, id: &OrgId) -> Result<Organization, LifecycleError> {
        let current = self.get(id).await?;
        if current.status != Status::Provisioning {
            return Ok(current);
        }
        let activated = self.change(id, None, on_behalf_of(PROVISIONER), Organization::activate).await;
        match activated {
            // The same request, sent twice, was quicker.
            Err(LifecycleError::Refused(_)) => self.get(id).await,
            settled => settled.map(|(activated, _)| activated),
        }
    }

    /// Takes back a creation, also one that has not arrived yet.
    pub(crate) async fn abandon(&self, id: &OrgId) -> Result<(), LifecycleError> {
        for _ in 0..ATTEMPTS {
            let removal = match self.store.find(id).await? {
                Found::Organization(organization) => organization.abandon(self.now())?,
                Found::Nothing => Removal::of_unknown(id.clone(), self.now()),
                Found::Tombstone(_) => return Ok(()),
            };
            match self.store_removal(removal, on_behalf_of(PROVISIONER)).await? {
                Written::Done(_) => return Ok(()),
                Written::Stale => {}
            }
        }
        Err(LifecycleError::Contended)
    }

    /// The organizations that are to be removed from every service, oldest decision first.
    pub(crate) async fn list_purging(
        &self,
        after: Option<&QueueEntry>,
        size: usize,
    ) -> Result<Page<OrgId, QueueEntry>, LifecycleError> {
        let entries = self.store.purging(after, size + 1).await?;
        let Page { items, next } = Page::of(entries, size, QueueEntry::clone);
        Ok(Page { items: items.into_iter().map(|entry| entry.id).collect(), next })
    }

    /// Ends a purge: only a tombstone is left.
    pub(crate) async fn finish_purge(&self, id: &OrgId) -> Result<(), LifecycleError> {
        for _ in 0..ATTEMPTS {
            let removal = match self.store.find(id).await? {
                Found::Organization(organization) => organization.finish_purge(self.now())?,
                Found::Tombstone(tombstone) => match tombstone.kind {
                    TombstoneKind::Purged => return Ok(()),
                    TombstoneKind::Abandoned => return Err(LifecycleError::NotFound),
                },
                Found::Nothing => return Err(LifecycleError::NotFound),
            };
            match self.store_removal(removal, on_behalf_of(PROVISIONER)).await? {
                Written::Done(_) => return Ok(()),
                Written::Stale => {}
            }
        }
        Err(LifecycleError::Contended)
    }
}
