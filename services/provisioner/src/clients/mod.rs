//! The services that this one calls, as it needs them: injected, so that tests and simulation put faults in between.
//!
//! | file | holds |
//! |---|---|
//! | here | [`Organizations`] and [`Billing`] |
//! | [`grpc`] | both over gRPC |

pub mod grpc;

use std::fmt::Debug;

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_entitlements::Entitlements;
use pulse_kernel::{ApiError, EmailAddress, OrgId, OrgName, UserId};
use pulse_tenant_guard::OrganizationStatus;

/// An organization to be made.
#[derive(Debug, Clone)]
pub struct NewOrganization {
    /// Its id, chosen here.
    pub org_id: OrgId,
    /// Its owner's account.
    pub owner: UserId,
    /// Its owner's address.
    pub email: EmailAddress,
    /// Its display name.
    pub name: OrgName,
}

/// A page of organizations that are to be purged.
#[derive(Debug, Clone)]
pub struct PurgingPage {
    /// The organizations.
    pub org_ids: Vec<OrgId>,
    /// Leads to the next page; none on the last.
    pub next: Option<String>,
}

/// lifecycle, where organizations are made and unmade. Every call is idempotent by organization.
#[async_trait]
pub trait Organizations: Debug + Send + Sync + 'static {
    /// Makes it, in status provisioning.
    async fn create(&self, new: &NewOrganization) -> Result<(), ApiError>;

    /// Makes it active.
    async fn activate(&self, org_id: &OrgId) -> Result<(), ApiError>;

    /// Takes back a `create`, also one that is still on its way. `ORG_NOT_PROVISIONING` when it is active.
    async fn abandon(&self, org_id: &OrgId) -> Result<(), ApiError>;

    /// Its status. `ORG_NOT_FOUND` also once it is purged.
    async fn status(&self, org_id: &OrgId) -> Result<OrganizationStatus, ApiError>;

    /// Those that are to be purged; `page` is the `next` of the page before.
    async fn list_purging(&self, page: Option<&str>) -> Result<PurgingPage, ApiError>;

    /// Ends its purge.
    async fn finish_purge(&self, org_id: &OrgId) -> Result<(), ApiError>;
}

/// billing-state, where trials begin and entitlements are known. Every call is idempotent by organization.
#[async_trait]
pub trait Billing: Debug + Send + Sync + 'static {
    /// Starts its trial, unless it has a billing state already; answers when the trial ends.
    async fn start_trial(&self, org_id: &OrgId, key: &str) -> Result<Option<Timestamp>, ApiError>;

    /// When its trial ends, if it has one. `ORG_NOT_FOUND` when no state is stored.
    async fn trial_ends_at(&self, org_id: &OrgId) -> Result<Option<Timestamp>, ApiError>;

    /// What it may use now.
    async fn entitlements(&self, org_id: &OrgId) -> Result<Entitlements, ApiError>;

    /// Removes its billing state: all of it, or only one that the `start_trial` with this key made.
    async fn purge(&self, org_id: &OrgId, created_by: Option<&str>) -> Result<(), ApiError>;
}
