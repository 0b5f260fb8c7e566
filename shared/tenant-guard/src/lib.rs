//! The one decision behind every door: may this be done in this tenant, now?
//!
//! | module | holds |
//! |---|---|
//! | here | [`decide`], what it is [`Asked`] and how it answers |
//! | [`status`] | [`OrganizationStatus`]: what lifecycle says about a tenant |
//! | [`role`] | [`TenantRole`]: what a person is in one tenant |
//!
//! Two authorities can close a tenant, and each clears only its own cause: an operator through the organization's
//! status, billing through the subscription. They are separate arguments here and have separate reasons, so that
//! neither can be mistaken for the other or undo it.

#![warn(missing_docs)]

pub mod role;
pub mod status;

use std::fmt;

use pulse_entitlements::Entitlements;
use pulse_kernel::{ApiError, Reason};

pub use role::TenantRole;
pub use status::OrganizationStatus;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// To sign in. Only the organization's status decides: a customer whose subscription is over must get in, to pay.
    SignIn,
    /// To use a capability on behalf of the tenant, whoever in it asks.
    Capability(&'a str),
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
}

/// Decides. `entitlements` are the tenant's effective ones; none counts as no subscription.
///
/// Causes are looked at in one order, and the first that denies is the reason: a stranger learns only that a role is
/// required; then the organization's status; then the person's role; then the subscription; then the capability.
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
        Asked::Capability(capability) => {
            check_status(status)?;
            check_capability(entitlements, capability)
        }
        Asked::Access { roles, at_least, capability } => {
            let role = roles.iter().max().ok_or(DenyReason::RoleRequired)?;
            check_status(status)?;
            if role < at_least {
                return Err(DenyReason::RoleRequired);
            }
            capability.map_or(Ok(()), |capability| check_capability(entitlements, capability))
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

fn check_capability(entitlements: Option<&Entitlements>, capability: &str) -> Result<(), DenyReason> {
    match entitlements {
        None => Err(DenyReason::SubscriptionInactive),
        Some(entitlements) if entitlements.is_locked() => Err(DenyReason::SubscriptionInactive),
        Some(entitlements) if entitlements.has_capability(capability) => Ok(()),
        Some(_) => Err(DenyReason::CapabilityRequired),
    }
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
    pub const ALL: [Self; 6] = [
        Self::OrgNotFound,
        Self::OrgSuspended,
        Self::OrgPendingDeletion,
        Self::RoleRequired,
        Self::SubscriptionInactive,
        Self::CapabilityRequired,
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
        })
    }
}

impl std::error::Error for DenyReason {}

impl From<DenyReason> for ApiError {
    fn from(reason: DenyReason) -> Self {
        Self::new(reason.reason(), reason.to_string())
    }
}

#[cfg(test)]
mod tests;
