//! Protobuf to domain types. What cannot be read, or is about another tenant, is as good as no answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use pulse_entitlements::{BillingState, Grants, Lookup, Name, Stored, SubscriptionState};
use pulse_kernel::{ApiError, OrgId};
use pulse_proto::{
    billing::v1::{self as billing, billing_state_change},
    lifecycle::v1::{self as lifecycle, organization_change},
};
use pulse_rpc::convert::{try_duration, try_timestamp};
use pulse_tenant_guard::{OrganizationStatus, StatusLookup};

/// What a stream of changes says of a tenant.
#[derive(Debug)]
pub(crate) struct Told<T> {
    /// The tenant.
    pub(crate) org: OrgId,
    /// What it is now; none where nobody knows.
    pub(crate) now: Option<T>,
    /// When that was decided.
    pub(crate) at: Option<Timestamp>,
}

/// The billing state that entitles to what the answer says, now and when its time has passed.
pub(crate) fn stored(org: &OrgId, answer: &billing::GetEntitlementsResponse) -> Result<Stored, String> {
    about(org, &answer.org_id)?;
    let subscription_state = subscription_state(answer.subscription_state())?;
    // A grace has no field of its own for its end, which is the next moment at which the answer changes.
    let valid_until = time(answer.valid_until, "valid_until")?;
    let grace_ends_at = valid_until.filter(|_| subscription_state == SubscriptionState::Grace);
    let state = BillingState {
        org_id: org.clone(),
        subscription_state,
        plan_version: name(&answer.plan_version)?,
        grants: grants(&answer.capabilities, &answer.limits, &answer.meters_enabled)?,
        trial_started_at: time(answer.trial_started_at, "trial_started_at")?,
        trial_ends_at: time(answer.trial_ends_at, "trial_ends_at")?,
        grace_ends_at,
        updated_at: None,
    };
    Ok(Stored { state, revision: answer.revision })
}

/// How long ago the answer was so. What is fresh, or does not say, is so now.
pub(crate) fn age(answer: &billing::GetEntitlementsResponse) -> Result<Duration, String> {
    let age =
        answer.age.map(|age| try_duration(age, "age")).transpose().map_err(|error| error.to_string())?;
    Ok(age.unwrap_or_default())
}

/// A change of a billing state; none where it does not say whose.
pub(crate) fn billing_state_change(change: &billing::BillingStateChange) -> Option<Told<Lookup>> {
    let org = OrgId::parse(&change.org_id).ok()?;
    let (now, at) = match &change.now {
        Some(billing_state_change::Now::BillingState(state)) => match billing_state(&org, state) {
            Ok(state) => {
                let at = state.updated_at;
                let stored = Stored { state, revision: change.revision };
                (Some(Lookup::Stored(Box::new(stored))), at)
            }
            Err(error) => {
                warn_unreadable(&org, &error);
                (None, None)
            }
        },
        Some(billing_state_change::Now::Gone(_)) => (Some(Lookup::Purged), None),
        Some(billing_state_change::Now::Unreadable(_)) | None => (None, None),
    };
    Some(Told { org, now, at })
}

/// A billing state as it is stored.
fn billing_state(org: &OrgId, state: &billing::BillingState) -> Result<BillingState, String> {
    about(org, &state.org_id)?;
    Ok(BillingState {
        org_id: org.clone(),
        subscription_state: subscription_state(state.subscription_state())?,
        plan_version: name(&state.plan_version)?,
        grants: grants(&state.capabilities, &state.limits, &state.meters_enabled)?,
        trial_started_at: time(state.trial_started_at, "trial_started_at")?,
        trial_ends_at: time(state.trial_ends_at, "trial_ends_at")?,
        grace_ends_at: time(state.grace_ends_at, "grace_ends_at")?,
        updated_at: time(state.updated_at, "updated_at")?,
    })
}

/// A change of an organization, with its version; none where it does not say of which.
pub(crate) fn organization_change(
    change: &lifecycle::OrganizationChange,
) -> Option<Told<(StatusLookup, u64)>> {
    let org = OrgId::parse(&change.org_id).ok()?;
    let now = match &change.now {
        Some(organization_change::Now::Status(status)) => {
            match organization_status((*status).try_into().unwrap_or_default()) {
                Ok(status) => Some((StatusLookup::Status(status), change.version)),
                Err(error) => {
                    warn_unreadable(&org, &error);
                    None
                }
            }
        }
        Some(organization_change::Now::Gone(_)) => Some((StatusLookup::Purged, change.version)),
        Some(organization_change::Now::Unreadable(_)) | None => None,
    };
    let at = time(change.changed_at, "changed_at").ok().flatten();
    Some(Told { org, now, at })
}

fn warn_unreadable(org: &OrgId, error: &str) {
    tracing::warn!(org_id = %org, error, "a change cannot be read; the tenant will be asked about");
}

/// The status of the organization, and its version, which is what its etag is made of.
pub(crate) fn status(
    org: &OrgId,
    organization: Option<lifecycle::Organization>,
) -> Result<(OrganizationStatus, u64), String> {
    let organization = organization.ok_or("the organization is missing")?;
    about(org, &organization.id)?;
    let status = organization_status(organization.status())?;
    let version = organization.etag.parse().map_err(|_| "the organization's etag is no version")?;
    Ok((status, version))
}

fn subscription_state(state: billing::SubscriptionState) -> Result<SubscriptionState, String> {
    match state {
        billing::SubscriptionState::Unspecified => Err("the subscription's state is missing".into()),
        billing::SubscriptionState::Trial => Ok(SubscriptionState::Trial),
        billing::SubscriptionState::Active => Ok(SubscriptionState::Active),
        billing::SubscriptionState::Grace => Ok(SubscriptionState::Grace),
        billing::SubscriptionState::Expired => Ok(SubscriptionState::Expired),
        billing::SubscriptionState::Suspended => Ok(SubscriptionState::Suspended),
    }
}

fn organization_status(status: lifecycle::OrganizationStatus) -> Result<OrganizationStatus, String> {
    match status {
        lifecycle::OrganizationStatus::Unspecified => Err("the organization's status is missing".into()),
        lifecycle::OrganizationStatus::Provisioning => Ok(OrganizationStatus::Provisioning),
        lifecycle::OrganizationStatus::Active => Ok(OrganizationStatus::Active),
        lifecycle::OrganizationStatus::Suspended => Ok(OrganizationStatus::Suspended),
        lifecycle::OrganizationStatus::PendingDeletion => Ok(OrganizationStatus::PendingDeletion),
        lifecycle::OrganizationStatus::Purging => Ok(OrganizationStatus::Purging),
    }
}

fn time(time: Option<prost_types::Timestamp>, field: &str) -> Result<Option<Timestamp>, String> {
    time.map(|time| try_timestamp(time, field)).transpose().map_err(|error: ApiError| error.to_string())
}

fn grants(
    capabilities: &[String],
    limits: &HashMap<String, i64>,
    meters_enabled: &[String],
) -> Result<Grants, String> {
    let limits = limits.iter().map(|(limit, value)| Ok((name(limit)?, *value)));
    Ok(Grants {
        capabilities: names(capabilities)?,
        limits: limits.collect::<Result<BTreeMap<_, _>, String>>()?,
        meters_enabled: names(meters_enabled)?,
    })
}

fn about(org: &OrgId, answered: &str) -> Result<(), String> {
    if answered == org.as_str() { Ok(()) } else { Err("the answer is about another organization".into()) }
}

fn name(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| format!("a name {error}"))
}

fn names(list: &[String]) -> Result<BTreeSet<Name>, String> {
    list.iter().map(|text| name(text)).collect()
}
