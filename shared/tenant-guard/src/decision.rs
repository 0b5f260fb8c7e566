//! The decision: a pure function of an organization's status, its entitlements and what is asked.

use std::{fmt, time::Duration};

use pulse_entitlements::Entitlements;
use pulse_kernel::{ApiError, Reason};

use crate::{OrganizationStatus, Requirement, TenantRole};

/// What a caller is told to wait when what is known is not good enough. A cache asks again about as often.
const RETRY: Duration = Duration::from_secs(1);

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// To sign in. Only the organization's status decides: a customer whose subscription is over must get in, to pay.
    SignIn,
    /// To use the tenant in a way that requires this, whoever in it asks.
    Use(Requirement<'a>),
    /// To do something as a person.
    Access {
        /// The person's roles in this tenant; none for a stranger.
        roles: &'a [TenantRole],
        /// The least role that will do.
        at_least: TenantRole,
        /// The capability that it needs, if any. Without one the subscription does not matter.
        capability: Option<&'a str>,
    },
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// No, and why.
    Deny(DenyReason),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// To the caller it does not exist: it is still being made.
    OrgNotFound,
    /// An operator suspended it.
    OrgSuspended,
    /// It is deleted, whether or not it could still be restored.
    OrgPendingDeletion,
    /// The person is nobody in this tenant, or not enough.
    RoleRequired,
    /// The subscription is expired or suspended by billing, or there is none.
    SubscriptionInactive,
    /// The subscription does not include the capability.
    CapabilityRequired,
    /// The subscription does not allow so many.
    LimitExceeded,
    /// What is known is not good enough to allow it. Never a decision of [`decide`]; see [`Guard`](crate::Guard).
    Unavailable,
}

/// Decides. `entitlements` are the tenant's effective ones; none counts as no subscription.
///
/// Causes are looked at in one order, and the first that denies is the reason: a stranger learns only that a role is
/// required; then the organization's status; then the person's role; then the subscription; then the capability; then
/// the limit.
pub fn decide(
    status: OrganizationStatus,
    entitlements: Option<&Entitlements>,
    asked: &Asked<'_>,
) -> Decision {
    match check(status, entitlements, asked) {
        Ok(()) => Decision::Allow,
        Err(reason) => Decision::Deny(reason),
    }
}

fn check(
    status: OrganizationStatus,
    entitlements: Option<&Entitlements>,
    asked: &Asked<'_>,
) -> Result<(), DenyReason> {
    match asked {
        Asked::SignIn => check_status(status),
        Asked::Use(requirement) => {
            check_status(status)?;
            check_entitlements(entitlements, requirement)
        }
        Asked::Access { roles, at_least, capability } => {
            let role = roles.iter().max().ok_or(DenyReason::RoleRequired)?;
            check_status(status)?;
            if role < at_least {
                return Err(DenyReason::RoleRequired);
            }
            check_entitlements(entitlements, &Requirement { capability: *capability, limit: None })
        }
    }
}

fn check_status(status: OrganizationStatus) -> Result<(), DenyReason> {
    match status {
        OrganizationStatus::Active => Ok(()),
        OrganizationStatus::Provisioning => Err(DenyReason::OrgNotFound),
        OrganizationStatus::Suspended => Err(DenyReason::OrgSuspended),
        OrganizationStatus::PendingDeletion | OrganizationStatus::Purging => {
            Err(DenyReason::OrgPendingDeletion)
        }
    }
}

fn check_entitlements(
    entitlements: Option<&Entitlements>,
    requirement: &Requirement<'_>,
) -> Result<(), DenyReason> {
    if !requirement.needs_entitlements() {
        return Ok(());
    }
    let granted = entitlements
        .filter(|entitlements| !entitlements.is_locked())
        .ok_or(DenyReason::SubscriptionInactive)?;
    if requirement.capability.is_some_and(|capability| !granted.has_capability(capability)) {
        return Err(DenyReason::CapabilityRequired);
    }
    if requirement.limit.is_some_and(|limit| !granted.allows(limit.name, limit.at_least)) {
        return Err(DenyReason::LimitExceeded);
    }
    Ok(())
}

impl Decision {
    /// Whether it is [`Decision::Allow`].
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow)
    }

    /// For callers to whom a denial is an error.
    ///
    /// # Errors
    /// The reason, when it is a denial.
    pub const fn into_result(self) -> Result<(), DenyReason> {
        match self {
            Self::Allow => Ok(()),
            Self::Deny(reason) => Err(reason),
        }
    }
}

impl DenyReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::OrgNotFound,
        Self::OrgSuspended,
        Self::OrgPendingDeletion,
        Self::RoleRequired,
        Self::SubscriptionInactive,
        Self::CapabilityRequired,
        Self::LimitExceeded,
        Self::Unavailable,
    ];

    /// The stable reason that callers see and may branch on.
    pub const fn reason(self) -> Reason {
        match self {
            Self::OrgNotFound => Reason::OrgNotFound,
            Self::OrgSuspended => Reason::OrgSuspended,
            Self::OrgPendingDeletion => Reason::OrgPendingDeletion,
            Self::RoleRequired => Reason::RoleRequired,
            Self::SubscriptionInactive => Reason::SubscriptionInactive,
            Self::CapabilityRequired => Reason::CapabilityRequired,
            Self::LimitExceeded => Reason::LimitExceeded,
            Self::Unavailable => Reason::Unavailable,
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OrgNotFound => "the organization does not exist",
            Self::OrgSuspended => "the organization is suspended",
            Self::OrgPendingDeletion => "the organization is being deleted",
            Self::RoleRequired => "this needs a role in the organization",
            Self::SubscriptionInactive => "the organization's subscription is not active",
            Self::CapabilityRequired => "the organization's plan does not include this capability",
            Self::LimitExceeded => "the organization's plan does not allow so many",
            Self::Unavailable => "what the organization may do cannot be told now; try again",
        })
    }
}

impl std::error::Error for DenyReason {}

impl From<DenyReason> for ApiError {
    fn from(reason: DenyReason) -> Self {
        let error = Self::new(reason.reason(), reason.to_string());
        match reason {
            DenyReason::Unavailable => error.retry_after(RETRY),
            DenyReason::OrgNotFound
            | DenyReason::OrgSuspended
            | DenyReason::OrgPendingDeletion
            | DenyReason::RoleRequired
            | DenyReason::SubscriptionInactive
            | DenyReason::CapabilityRequired
            | DenyReason::LimitExceeded => error,
        }
    }
}

#[cfg(test)]
mod tests;
