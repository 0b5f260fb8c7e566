//! What is known of the status of organizations, for decisions that are made here.

use async_trait::async_trait;
use pulse_kernel::OrgId;
use pulse_tenant_guard::{OrganizationStatus, StatusCache, StatusLookup, StatusStore, StatusStoreError};

use super::{Organizations, watch::Stored};
use crate::{domain::StatusKind, store::Found};

impl Organizations {
    /// What is known of their statuses: what this process has changed, and what others have as soon as that is heard of.
    pub(crate) fn statuses(&self) -> &StatusCache {
        &self.statuses
    }

    /// Lets decisions go by `now`, where that is what was stored; else the store is asked again.
    pub(super) fn tell_decisions(&self, id: &OrgId, now: &Found, is_stored: bool) {
        if is_stored {
            let (lookup, version) = lookup(now);
            self.statuses.update(id, lookup, version);
        } else {
            self.statuses.invalidate(id);
        }
    }
}

#[async_trait]
impl StatusStore for Stored {
    async fn status(&self, org: &OrgId) -> Result<(StatusLookup, u64), StatusStoreError> {
        let found = self.0.find(org).await.map_err(|error| StatusStoreError(error.to_string()))?;
        Ok(lookup(&found))
    }
}

/// What a decision needs to know of what there is under an id, and its version.
fn lookup(found: &Found) -> (StatusLookup, u64) {
    match found {
        Found::Organization(organization) => {
            let status = StatusLookup::Status(organization.status.kind().into());
            // Versions count changes, from 1.
            (status, organization.version.unsigned_abs())
        }
        // One that was never finished will not come back either.
        Found::Tombstone(_) => (StatusLookup::Purged, 0),
        Found::Nothing => (StatusLookup::NotFound, 0),
    }
}

impl From<StatusKind> for OrganizationStatus {
    fn from(kind: StatusKind) -> Self {
        match kind {
            StatusKind::Provisioning => Self::Provisioning,
            StatusKind::Active => Self::Active,
            StatusKind::Suspended => Self::Suspended,
            StatusKind::PendingDeletion => Self::PendingDeletion,
            StatusKind::Purging => Self::Purging,
        }
    }
}
