//! An operator's change. Any state may be set; what the transition table does not have is an override, and is
//! audited as one.

use jiff::Timestamp;
use pulse_entitlements::{BillingState, Change, Grants, Name, SubscriptionState, effective};
use pulse_kernel::OrgId;
use pulse_store::audit::AuditDraft;

use super::{Author, Expected, Note, Plans, Write, document};

/// What an operator wants stored.
#[derive(Debug, Clone)]
pub struct SetRequest {
    /// The state.
    pub subscription_state: SubscriptionState,
    /// The plan; none keeps the stored one.
    pub plan_version: Option<Name>,
    /// What is granted; none stands for what the catalog grants on the plan.
    pub grants: Option<Grants>,
    /// When the trial ends; none keeps the stored end, but for a trial that would be over at once.
    pub trial_ends_at: Option<Timestamp>,
    /// When the grace ends; none keeps the end of a grace that is running.
    pub grace_ends_at: Option<Timestamp>,
    /// Only replace the state with this etag; none replaces any.
    pub etag: Option<String>,
    /// Store it even where nothing is.
    pub allow_missing: bool,
    /// Why.
    pub note: Option<Note>,
}

/// Why a change is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing is stored, and the caller did not say that this may be.
    #[error("no billing state is stored")]
    NotStored,
    /// What is stored is not what the caller has seen.
    #[error("the billing state has changed")]
    EtagMismatch,
}

/// The state of `org` after the change, in place of what is `stored`.
///
/// # Errors
/// When the request's own conditions are not met.
pub fn set(
    org: &OrgId,
    stored: Option<&BillingState>,
    asked: &SetRequest,
    author: Author,
    plans: &Plans,
    now: Timestamp,
) -> Result<Write, Refused> {
    if stored.is_none() && !asked.allow_missing {
        return Err(Refused::NotStored);
    }
    let etag = stored.map(BillingState::etag);
    if asked.etag.is_some() && asked.etag != etag {
        return Err(Refused::EtagMismatch);
    }
    let state = new_state(org, stored, asked, plans, now);
    let from = stored.map(|stored| effective(stored, now).subscription_state);
    let change = Change::classify(from, state.subscription_state);
    let action = match change {
        Change::Unchanged | Change::Transition(_) => "billing_state_changed",
        Change::Override => "billing_state_overridden",
    };
    let draft = AuditDraft {
        org_id: org.clone(),
        at: now,
        actor: author.actor,
        action: action.to_owned(),
        reason: asked.note.clone().map(String::from),
        before: stored.and_then(document::before),
        after: document::after(&state, change.as_str(), None),
        request_id: author.request_id,
    };
    let expected = etag.map_or(Expected::Nothing, Expected::Etag);
    Ok(Write { expected, state, draft })
}

fn new_state(
    org: &OrgId,
    stored: Option<&BillingState>,
    asked: &SetRequest,
    plans: &Plans,
    now: Timestamp,
) -> BillingState {
    let is = |state| asked.subscription_state == state;
    let plan_version = asked
        .plan_version
        .clone()
        .or_else(|| stored.map(|stored| stored.plan_version.clone()))
        .unwrap_or_else(Name::trial_plan);
    let of_plan = || plans.catalog.plan(&plan_version).map(|plan| (*plan.grants).clone());
    let grants = asked.grants.clone().or_else(of_plan).unwrap_or_default();
    // The end of a trial that is over says when it was, and nothing about one that is to begin again.
    let kept_trial_end = stored
        .and_then(|stored| stored.trial_ends_at)
        .filter(|end| !is(SubscriptionState::Trial) || *end > now);
    let usual_trial_end = || is(SubscriptionState::Trial).then(|| plans.trial_end(now));
    // The end of a grace that is over says nothing about the next one.
    let running_grace = stored.filter(|stored| stored.subscription_state == SubscriptionState::Grace);
    let grace_end = || {
        is(SubscriptionState::Grace).then(|| {
            running_grace.and_then(|stored| stored.grace_ends_at).unwrap_or_else(|| plans.grace_end(now))
        })
    };
    let trial_started_at = stored.and_then(|stored| stored.trial_started_at);
    BillingState {
        org_id: org.clone(),
        subscription_state: asked.subscription_state,
        plan_version,
        grants,
        trial_started_at: trial_started_at.or_else(|| is(SubscriptionState::Trial).then_some(now)),
        trial_ends_at: asked.trial_ends_at.or(kept_trial_end).or_else(usual_trial_end),
        grace_ends_at: asked.grace_ends_at.or_else(grace_end),
        updated_at: Some(now),
    }
}
