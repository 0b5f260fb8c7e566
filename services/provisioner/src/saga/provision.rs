//! The steps of the saga that makes a tenant.

use jiff::Timestamp;
use pulse_kernel::{ApiError, Reason};
use pulse_store::audit::AuditDraft;
use serde_json::json;

use super::{Direction, Saga, State, Step, Subject, plan::Outcome};
use crate::{
    clients::{Billing, NewOrganization, Organizations},
    domain::Account,
    store::{Effect, SERVICE_ACTOR},
};

/// Does or undoes a step in another service. What the step learns is put into `saga`.
pub(super) async fn act(
    saga: &mut Saga,
    step: Step,
    direction: Direction,
    organizations: &dyn Organizations,
    billing: &dyn Billing,
) -> Result<Outcome, ApiError> {
    let org_id = saga.org_id.clone();
    match (step, direction) {
        (Step::CreateOrganization, Direction::Forward) => {
            organizations.create(&new_organization(saga)?).await?;
        }
        (Step::StartTrial, Direction::Forward) => {
            let ends_at = billing.start_trial(&org_id, org_id.as_str()).await?;
            if let Subject::Provision { trial_ends_at, .. } = &mut saga.subject {
                *trial_ends_at = ends_at;
            }
        }
        (Step::ActivateOrganization, Direction::Forward) => organizations.activate(&org_id).await?,
        (Step::CreateOrganization, Direction::Backward) => organizations.abandon(&org_id).await?,
        (Step::StartTrial, Direction::Backward) => billing.purge(&org_id, Some(org_id.as_str())).await?,
        (Step::ActivateOrganization, Direction::Backward) => {
            return match organizations.abandon(&org_id).await {
                Ok(()) => Ok(Outcome::Succeeded),
                // It is active: everything before it is done, so there is nothing to undo and nothing left to do.
                Err(error) if error.reason() == Reason::OrgNotProvisioning => Ok(Outcome::GoalReached),
                Err(error) => Err(error),
            };
        }
        (
            Step::InsertAccount | Step::PurgeBillingState | Step::DeleteAccounts | Step::FinishPurge,
            Direction::Forward | Direction::Backward,
        ) => return Err(ApiError::internal()),
    }
    Ok(Outcome::Succeeded)
}

/// What doing or undoing a local step changes here.
pub(super) fn local_effect(saga: &Saga, direction: Direction) -> Effect {
    match (&saga.subject, direction) {
        (Subject::Provision { owner, claim: Some(claim), .. }, Direction::Forward) => {
            Effect::InsertAccount(Account {
                user_id: *owner,
                home_org_id: saga.org_id.clone(),
                email: claim.email.clone(),
                password_hash: claim.password_hash.clone(),
                created_at: saga.created_at,
            })
        }
        (Subject::Provision { owner, .. }, Direction::Backward) => Effect::DeleteAccount(*owner),
        (Subject::Provision { claim: None, .. }, Direction::Forward) | (Subject::Purge, _) => Effect::None,
    }
}

/// The record of a provisioning that has ended. Says neither the address nor anything of the password.
pub(super) fn ended_record(saga: &Saga, at: Timestamp, request_id: Option<String>) -> Option<AuditDraft> {
    let Subject::Provision { owner, trial_ends_at, .. } = &saga.subject else { return None };
    let (action, after) = match saga.state() {
        State::Done => {
            ("tenant_provisioned", json!({ "owner_user_id": owner, "trial_ends_at": trial_ends_at }))
        }
        State::Undone => {
            let cause = saga.progress.cause.as_ref().map(ToString::to_string);
            ("provisioning_undone", json!({ "owner_user_id": owner, "cause": cause }))
        }
        State::Running(_) | State::Compensating(_) | State::Stuck { .. } => return None,
    };
    Some(AuditDraft {
        org_id: saga.org_id.clone(),
        at,
        actor: SERVICE_ACTOR.to_owned(),
        action: action.to_owned(),
        reason: None,
        before: None,
        after: Some(after),
        request_id,
    })
}

fn new_organization(saga: &Saga) -> Result<NewOrganization, ApiError> {
    match &saga.subject {
        Subject::Provision { owner, claim: Some(claim), .. } => Ok(NewOrganization {
            org_id: saga.org_id.clone(),
            owner: *owner,
            email: claim.email.clone(),
            name: claim.org_name.clone(),
        }),
        // A provisioning that has not ended has its claim: the store's constraints say so.
        Subject::Provision { claim: None, .. } | Subject::Purge => Err(ApiError::internal()),
    }
}
