//! Protobuf to REST and back; generated types go no further than here and `clients`.
//!
//! An answer of a service that cannot be read is a fault on our side, never the caller's: it is logged and becomes an
//! internal error.

use jiff::Timestamp;
use pulse_kernel::ApiError;
use pulse_proto::{
    audit::v1 as audit, billing::v1 as billing, lifecycle::v1 as lifecycle, signup::v1 as signup,
};
use pulse_rpc::convert::{timestamp, try_structure, try_timestamp};
use serde_json::{Map, Number, Value};

use crate::model::{
    AuditEvent, BillingState, Organization, OrganizationStatus, SetBillingStateBody, SignUpAnswer,
    SignUpStatus, SubscriptionState,
};

impl TryFrom<Option<lifecycle::Organization>> for Organization {
    type Error = ApiError;

    fn try_from(wire: Option<lifecycle::Organization>) -> Result<Self, ApiError> {
        let wire = wire.ok_or_else(|| unreadable("organization"))?;
        Ok(Self {
            status: status(wire.status())?,
            suspended_at: time(wire.suspended_at, "suspended_at")?,
            deletion_requested_at: time(wire.deletion_requested_at, "deletion_requested_at")?,
            retention_days: wire.retention_days.map(number).transpose()?,
            purge_after: time(wire.purge_after, "purge_after")?,
            created_at: time(wire.created_at, "created_at")?,
            updated_at: time(wire.updated_at, "updated_at")?,
            id: wire.id,
            display_name: wire.display_name,
            owner_user_id: text(wire.owner_user_id),
            owner_email: text(wire.owner_email),
            suspend_reason: text(wire.suspend_reason),
            etag: wire.etag,
        })
    }
}

fn status(wire: lifecycle::OrganizationStatus) -> Result<OrganizationStatus, ApiError> {
    use lifecycle::OrganizationStatus as Wire;
    match wire {
        Wire::Provisioning => Ok(OrganizationStatus::Provisioning),
        Wire::Active => Ok(OrganizationStatus::Active),
        Wire::Suspended => Ok(OrganizationStatus::Suspended),
        Wire::PendingDeletion => Ok(OrganizationStatus::PendingDeletion),
        Wire::Purging => Ok(OrganizationStatus::Purging),
        Wire::Unspecified => Err(unreadable("status")),
    }
}

impl From<OrganizationStatus> for lifecycle::OrganizationStatus {
    fn from(status: OrganizationStatus) -> Self {
        match status {
            OrganizationStatus::Provisioning => Self::Provisioning,
            OrganizationStatus::Active => Self::Active,
            OrganizationStatus::Suspended => Self::Suspended,
            OrganizationStatus::PendingDeletion => Self::PendingDeletion,
            OrganizationStatus::Purging => Self::Purging,
        }
    }
}

impl TryFrom<Option<billing::BillingState>> for BillingState {
    type Error = ApiError;

    fn try_from(wire: Option<billing::BillingState>) -> Result<Self, ApiError> {
        let wire = wire.ok_or_else(|| unreadable("billing_state"))?;
        Ok(Self {
            subscription_state: subscription_state(wire.subscription_state())?,
            trial_started_at: time(wire.trial_started_at, "trial_started_at")?,
            trial_ends_at: time(wire.trial_ends_at, "trial_ends_at")?,
            grace_ends_at: time(wire.grace_ends_at, "grace_ends_at")?,
            updated_at: time(wire.updated_at, "updated_at")?,
            org_id: wire.org_id,
            plan_version: wire.plan_version,
            capabilities: wire.capabilities,
            limits: wire.limits.into_iter().collect(),
            meters_enabled: wire.meters_enabled,
            etag: text(wire.etag),
        })
    }
}

impl From<SetBillingStateBody> for billing::BillingState {
    fn from(body: SetBillingStateBody) -> Self {
        Self {
            subscription_state: billing::SubscriptionState::from(body.subscription_state).into(),
            plan_version: body.plan_version,
            capabilities: body.capabilities.unwrap_or_default(),
            limits: body.limits.into_iter().flatten().collect(),
            meters_enabled: body.meters_enabled.unwrap_or_default(),
            trial_ends_at: body.trial_ends_at.map(timestamp),
            grace_ends_at: body.grace_ends_at.map(timestamp),
            ..Self::default()
        }
    }
}

fn subscription_state(wire: billing::SubscriptionState) -> Result<SubscriptionState, ApiError> {
    use billing::SubscriptionState as Wire;
    match wire {
        Wire::Trial => Ok(SubscriptionState::Trial),
        Wire::Active => Ok(SubscriptionState::Active),
        Wire::Grace => Ok(SubscriptionState::Grace),
        Wire::Expired => Ok(SubscriptionState::Expired),
        Wire::Suspended => Ok(SubscriptionState::Suspended),
        Wire::Unspecified => Err(unreadable("subscription_state")),
    }
}

impl From<SubscriptionState> for billing::SubscriptionState {
    fn from(state: SubscriptionState) -> Self {
        match state {
            SubscriptionState::Trial => Self::Trial,
            SubscriptionState::Active => Self::Active,
            SubscriptionState::Grace => Self::Grace,
            SubscriptionState::Expired => Self::Expired,
            SubscriptionState::Suspended => Self::Suspended,
        }
    }
}

impl TryFrom<audit::AuditEvent> for AuditEvent {
    type Error = ApiError;

    fn try_from(wire: audit::AuditEvent) -> Result<Self, ApiError> {
        Ok(Self {
            occurred_at: time(wire.occurred_at, "occurred_at")?.ok_or_else(|| unreadable("occurred_at"))?,
            before: wire.before.map(|before| object(before, "before")).transpose()?,
            after: wire.after.map(|after| object(after, "after")).transpose()?,
            service: wire.service,
            sequence: wire.sequence,
            actor: wire.actor,
            action: wire.action,
            reason: text(wire.reason),
            request_id: text(wire.request_id),
            hash: wire.hash,
        })
    }
}

impl TryFrom<signup::SignUpResponse> for SignUpAnswer {
    type Error = ApiError;

    fn try_from(wire: signup::SignUpResponse) -> Result<Self, ApiError> {
        let status = match wire.outcome() {
            signup::SignUpOutcome::Created => SignUpStatus::Created,
            signup::SignUpOutcome::Existing => SignUpStatus::Existing,
            signup::SignUpOutcome::Unspecified => return Err(unreadable("outcome")),
        };
        let trial_ends_at = time(wire.trial_ends_at, "trial_ends_at")?;
        Ok(Self { org_id: wire.org_id, user_id: wire.user_id, status, trial_ends_at })
    }
}

/// protobuf has no absent string; here an empty one means that.
fn text(wire: String) -> Option<String> {
    (!wire.is_empty()).then_some(wire)
}

fn time(wire: Option<prost_types::Timestamp>, field: &'static str) -> Result<Option<Timestamp>, ApiError> {
    wire.map(|time| try_timestamp(time, field)).transpose().map_err(|_| unreadable(field))
}

fn object(wire: prost_types::Struct, field: &'static str) -> Result<Map<String, Value>, ApiError> {
    try_structure(wire, field).map_err(|_| unreadable(field))
}

/// A number that prints without a fraction where it has none.
fn number(value: f64) -> Result<Number, ApiError> {
    /// Every whole number up to this is one exactly (2^53).
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53, so within i64")]
        return Ok(Number::from(value as i64));
    }
    Number::from_f64(value).ok_or_else(|| unreadable("retention_days"))
}

fn unreadable(field: &'static str) -> ApiError {
    tracing::error!(field, "a service's answer cannot be read");
    ApiError::internal()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn days_print_as_people_write_them() {
        for (days, printed) in [(30.0, "30"), (0.5, "0.5"), (1.25, "1.25"), (3650.0, "3650")] {
            assert_eq!(number(days).unwrap().to_string(), printed);
        }
        assert!(number(f64::NAN).is_err());
    }

    #[test]
    fn an_organization_has_every_key_and_null_for_what_is_absent() {
        let wire = lifecycle::Organization {
            id: "default".into(),
            display_name: "Default".into(),
            status: lifecycle::OrganizationStatus::Active.into(),
            etag: "1".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_value(Organization::try_from(Some(wire)).unwrap()).unwrap(),
            json!({
                "id": "default", "display_name": "Default", "owner_user_id": null, "owner_email": null,
                "status": "active", "suspended_at": null, "suspend_reason": null,
                "deletion_requested_at": null, "retention_days": null, "purge_after": null,
                "created_at": null, "updated_at": null, "etag": "1",
            })
        );
    }

    #[test]
    fn a_default_billing_state_has_every_key_and_no_etag() {
        let wire = billing::BillingState {
            org_id: "acme".into(),
            subscription_state: billing::SubscriptionState::Trial.into(),
            plan_version: "trial".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_value(BillingState::try_from(Some(wire)).unwrap()).unwrap(),
            json!({
                "org_id": "acme", "subscription_state": "trial", "plan_version": "trial",
                "capabilities": [], "limits": {}, "meters_enabled": [], "trial_started_at": null,
                "trial_ends_at": null, "grace_ends_at": null, "updated_at": null, "etag": null,
            })
        );
    }

    #[test]
    fn what_a_service_leaves_out_or_garbles_is_an_internal_error() {
        let internal = ApiError::internal();
        assert_eq!(Organization::try_from(None).unwrap_err(), internal);
        assert_eq!(Organization::try_from(Some(lifecycle::Organization::default())).unwrap_err(), internal);
        assert_eq!(BillingState::try_from(Some(billing::BillingState::default())).unwrap_err(), internal);
        assert_eq!(AuditEvent::try_from(audit::AuditEvent::default()).unwrap_err(), internal);
        assert_eq!(SignUpAnswer::try_from(signup::SignUpResponse::default()).unwrap_err(), internal);
        let garbled = prost_types::Timestamp { seconds: i64::MAX, nanos: -1 };
        assert_eq!(time(Some(garbled), "t").unwrap_err(), internal);
    }
}
