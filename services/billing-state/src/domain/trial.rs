//! Starting a trial: once, and never over anything that is there.

use jiff::Timestamp;
use pulse_entitlements::{BillingState, Event, InvalidTransition, SubscriptionState};
use pulse_kernel::OrgId;
use pulse_store::audit::AuditDraft;

use super::{Author, Expected, Key, Plans, Write, document};

/// The first state of a tenant: a trial from `now` on.
///
/// # Errors
/// When the tenant has a state.
pub fn start(
    org: &OrgId,
    stored: Option<&BillingState>,
    key: &Key,
    author: Author,
    plans: &Plans,
    now: Timestamp,
) -> Result<Write, InvalidTransition> {
    let subscription_state = SubscriptionState::begin(stored.map(|state| state.subscription_state))?;
    let state = BillingState {
        subscription_state,
        trial_started_at: Some(now),
        trial_ends_at: Some(plans.trial_end(now)),
        updated_at: Some(now),
        ..plans.trial_default(org)
    };
    let draft = AuditDraft {
        org_id: org.clone(),
        at: now,
        actor: author.actor,
        action: Event::TrialStarted.as_str().to_owned(),
        reason: None,
        before: None,
        after: document::after(&state, Event::TrialStarted.as_str(), Some(key.as_str())),
        request_id: author.request_id,
    };
    Ok(Write { expected: Expected::Nothing, state, draft })
}
