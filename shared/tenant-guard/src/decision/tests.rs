//! The decision, exhaustively: every status, every subscription, every question.

use std::collections::HashSet;

use jiff::Timestamp;
use pulse_entitlements::{BillingState, Grants, Name, SubscriptionState, UNLIMITED, effective};
use pulse_kernel::OrgId;

use super::*;
use crate::Limit;
use DenyReason::{
    CapabilityRequired, LimitExceeded, OrgNotFound, OrgPendingDeletion, OrgSuspended, RoleRequired,
    SubscriptionInactive,
};

/// Entitlements in that state, with the capability `alerting` and 10 `hosts` where the state grants anything.
fn entitlements(subscription_state: SubscriptionState) -> Entitlements {
    let state = BillingState {
        org_id: OrgId::parse("acme").unwrap(),
        subscription_state,
        plan_version: Name::trial_plan(),
        grants: Grants {
            capabilities: [Name::parse("alerting").unwrap()].into(),
            limits: [("hosts", 10), ("users", UNLIMITED), ("rules", 0)]
                .map(|(name, value)| (Name::parse(name).unwrap(), value))
                .into(),
            ..Grants::default()
        },
        trial_started_at: None,
        trial_ends_at: None,
        grace_ends_at: None,
        updated_at: None,
    };
    effective(&state, Timestamp::UNIX_EPOCH)
}

/// What each status says to those who belong to the tenant.
fn by_status(status: OrganizationStatus) -> Option<DenyReason> {
    match status {
        OrganizationStatus::Active => None,
        OrganizationStatus::Provisioning => Some(OrgNotFound),
        OrganizationStatus::Suspended => Some(OrgSuspended),
        OrganizationStatus::PendingDeletion | OrganizationStatus::Purging => Some(OrgPendingDeletion),
    }
}

/// What each subscription says about a capability and a limit; of both it is told whether they are granted.
fn by_subscription(
    state: Option<SubscriptionState>,
    has_capability: Option<bool>,
    allows: Option<bool>,
) -> Option<DenyReason> {
    use SubscriptionState::{Active, Expired, Grace, Suspended, Trial};
    match (state, has_capability, allows) {
        (_, None, None) => None,
        (Some(Expired | Suspended) | None, ..) => Some(SubscriptionInactive),
        (Some(Trial | Active | Grace), Some(false), _) => Some(CapabilityRequired),
        (Some(Trial | Active | Grace), _, Some(false)) => Some(LimitExceeded),
        (Some(Trial | Active | Grace), _, _) => None,
    }
}

/// Capabilities to ask for, and whether they are granted.
const CAPABILITIES: [(&str, bool); 3] = [("alerting", true), ("teleporting", false), ("", false)];

/// Limits to ask for, and whether they allow it.
const LIMITS: [(&str, u64, bool); 12] = [
    ("hosts", 0, true),
    ("hosts", 9, true),
    ("hosts", 10, true),
    ("hosts", 11, false),
    ("hosts", u64::MAX, false),
    ("users", 0, true),
    ("users", u64::MAX, true),
    ("rules", 0, true),
    ("rules", 1, false),
    ("unheard-of", 0, true),
    ("unheard-of", 1, false),
    ("", 1, false),
];

#[test]
fn every_combination_has_the_first_cause_as_its_reason() {
    let subscriptions = SubscriptionState::ALL.into_iter().map(Some).chain([None]);
    let mut combinations = 0;
    for subscription in subscriptions {
        let entitlements = subscription.map(entitlements);
        for status in OrganizationStatus::ALL {
            let mut expect = |asked: Asked<'_>, reason: Option<DenyReason>| {
                let decision = decide(status, entitlements.as_ref(), &asked);
                assert_eq!(decision.into_result().err(), reason, "{status} {subscription:?} {asked:?}");
                assert_eq!(decision.is_allowed(), reason.is_none());
                combinations += 1;
            };
            expect(Asked::SignIn, by_status(status));
            for capability in CAPABILITIES.map(Some).into_iter().chain([None]) {
                for limit in LIMITS.map(Some).into_iter().chain([None]) {
                    let has = capability.map(|(_, has)| has);
                    let allows = limit.map(|(.., allows)| allows);
                    let refused = by_status(status).or(by_subscription(subscription, has, allows));
                    let requirement = Requirement {
                        capability: capability.map(|(name, _)| name),
                        limit: limit.map(|(name, at_least, _)| Limit { name, at_least }),
                    };
                    expect(Asked::Use(requirement), refused);
                }
            }
            for at_least in TenantRole::ALL {
                for (capability, has) in
                    [(None, None), (Some("alerting"), Some(true)), (Some("teleporting"), Some(false))]
                {
                    expect(Asked::Access { roles: &[], at_least, capability }, Some(RoleRequired));
                    for role in TenantRole::ALL {
                        let refused = by_status(status)
                            .or((role < at_least).then_some(RoleRequired))
                            .or(by_subscription(subscription, has, None));
                        expect(Asked::Access { roles: &[role], at_least, capability }, refused);
                        let several = [TenantRole::Viewer, role, TenantRole::Viewer];
                        expect(Asked::Access { roles: &several, at_least, capability }, refused);
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 6 * 5 * (1 + 4 * 13 + 4 * 3 * (1 + 4 * 2)));
}

#[test]
fn an_expired_customer_gets_in_to_pay_but_not_into_a_suspended_organization() {
    let expired = entitlements(SubscriptionState::Expired);
    let owner = Asked::Access { roles: &[TenantRole::Owner], at_least: TenantRole::Owner, capability: None };
    for asked in [Asked::SignIn, owner] {
        assert_eq!(decide(OrganizationStatus::Active, Some(&expired), &asked), Decision::Allow);
        assert_eq!(
            decide(OrganizationStatus::Suspended, Some(&expired), &asked),
            Decision::Deny(OrgSuspended)
        );
    }
}

#[test]
fn roles_rank_and_read_back() {
    assert!(TenantRole::Owner > TenantRole::Admin && TenantRole::Admin > TenantRole::Member);
    assert!(TenantRole::Member > TenantRole::Viewer);
    for role in TenantRole::ALL {
        assert_eq!(role.as_str().parse(), Ok(role));
        assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
    }
    for status in OrganizationStatus::ALL {
        assert_eq!(status.as_str().parse(), Ok(status));
        assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{status}\""));
    }
    assert_eq!(TenantRole::parse("Owner").unwrap_err().reason(), Reason::InvalidRequest);
    assert_eq!(OrganizationStatus::parse("").unwrap_err().reason(), Reason::InvalidRequest);
}

#[test]
fn each_reason_is_its_own_on_the_wire() {
    let wire: HashSet<_> = DenyReason::ALL.iter().map(|reason| reason.reason().as_str()).collect();
    assert_eq!(wire.len(), DenyReason::ALL.len());
    for reason in DenyReason::ALL {
        let retry = ApiError::from(reason).retry_delay();
        assert_eq!(retry.is_some(), reason == DenyReason::Unavailable, "{reason:?}");
    }
    let error = ApiError::from(OrgSuspended);
    assert_eq!((error.reason(), error.message()), (Reason::OrgSuspended, "the organization is suspended"));
}
