//! The steps of the saga that unmakes a tenant.

use pulse_kernel::{ApiError, Reason};
use pulse_tenant_guard::OrganizationStatus;

use super::{Saga, Step, plan::Outcome};
use crate::clients::{Billing, Organizations};

/// Does a step in another service. Nothing is touched before lifecycle has confirmed that the tenant is to be purged: the
/// list that this saga was begun from may be old by now.
pub(super) async fn act(
    saga: &Saga,
    step: Step,
    organizations: &dyn Organizations,
    billing: &dyn Billing,
) -> Result<Outcome, ApiError> {
    let org_id = &saga.org_id;
    match step {
        Step::PurgeBillingState => match organizations.status(org_id).await {
            Ok(OrganizationStatus::Purging) => billing.purge(org_id, None).await.map(|()| Outcome::Succeeded),
            Ok(
                OrganizationStatus::Provisioning
                | OrganizationStatus::Active
                | OrganizationStatus::Suspended
                | OrganizationStatus::PendingDeletion,
            ) => Err(ApiError::new(Reason::NotPendingDeletion, "lifecycle does not say that it is purging")),
            // Gone: an earlier purge has finished, which it does only after everything else.
            Err(error) if error.reason() == Reason::OrgNotFound => Ok(Outcome::GoalReached),
            Err(error) => Err(error),
        },
        Step::FinishPurge => organizations.finish_purge(org_id).await.map(|()| Outcome::Succeeded),
        Step::DeleteAccounts
        | Step::CreateOrganization
        | Step::InsertAccount
        | Step::StartTrial
        | Step::ActivateOrganization => Err(ApiError::internal()),
    }
}
