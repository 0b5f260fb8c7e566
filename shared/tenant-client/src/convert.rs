//! Protobuf to domain types. What cannot be read, or is about another tenant, is as good as no answer.

use std::collections::{BTreeMap, BTreeSet};

use pulse_entitlements::{BillingState, Grants, Name, Stored, SubscriptionState};
use pulse_kernel::{ApiError, OrgId};
use pulse_proto::{billing::v1 as billing, lifecycle::v1 as lifecycle};
use pulse_rpc::convert::try_timestamp;
use pulse_tenant_guard::OrganizationStatus;

/// The billing state that entitles to what the answer says, now and when its time has passed.
pub(crate) fn stored(org: &OrgId, answer: &billing::GetEntitlementsResponse) -> Result<Stored, String> {
    about(org, &answer.org_id)?;
    let subscription_state = match answer.subscription_state() {
        billing::SubscriptionState::Unspecified => return Err("the subscription's state is missing".into()),
        billing::SubscriptionState::Trial => SubscriptionState::Trial,
        billing::SubscriptionState::Active => SubscriptionState::Active,
        billing::SubscriptionState::Grace => SubscriptionState::Grace,
        billing::SubscriptionState::Expired => SubscriptionState::Expired,
        billing::SubscriptionState::Suspended => SubscriptionState::Suspended,
    };
    let time = |time: Option<_>, field| time.map(|time| try_timestamp(time, field)).transpose();
    let unreadable = |error: ApiError| error.to_string();
    // A grace has no field of its own for its end, which is the next moment at which the answer changes.
    let valid_until = time(answer.valid_until, "valid_until").map_err(unreadable)?;
    let grace_ends_at = valid_until.filter(|_| subscription_state == SubscriptionState::Grace);
    let state = BillingState {
        org_id: org.clone(),
        subscription_state,
        plan_version: name(&answer.plan_version)?,
        grants: Grants {
            capabilities: names(&answer.capabilities)?,
            limits: answer
                .limits
                .iter()
                .map(|(limit, value)| Ok((name(limit)?, *value)))
                .collect::<Result<BTreeMap<_, _>, String>>()?,
            meters_enabled: names(&answer.meters_enabled)?,
        },
        trial_started_at: time(answer.trial_started_at, "trial_started_at").map_err(unreadable)?,
        trial_ends_at: time(answer.trial_ends_at, "trial_ends_at").map_err(unreadable)?,
        grace_ends_at,
        updated_at: None,
    };
    Ok(Stored { state, revision: answer.revision })
}

/// The status of the organization, and its version, which is what its etag is made of.
pub(crate) fn status(
    org: &OrgId,
    organization: Option<lifecycle::Organization>,
) -> Result<(OrganizationStatus, u64), String> {
    let organization = organization.ok_or("the organization is missing")?;
    about(org, &organization.id)?;
    let status = match organization.status() {
        lifecycle::OrganizationStatus::Unspecified => {
            return Err("the organization's status is missing".into());
        }
        lifecycle::OrganizationStatus::Provisioning => OrganizationStatus::Provisioning,
        lifecycle::OrganizationStatus::Active => OrganizationStatus::Active,
        lifecycle::OrganizationStatus::Suspended => OrganizationStatus::Suspended,
        lifecycle::OrganizationStatus::PendingDeletion => OrganizationStatus::PendingDeletion,
        lifecycle::OrganizationStatus::Purging => OrganizationStatus::Purging,
    };
    let version = organization.etag.parse().map_err(|_| "the organization's etag is no version")?;
    Ok((status, version))
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
