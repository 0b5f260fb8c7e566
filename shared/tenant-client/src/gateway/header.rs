//! What the headers are called that gateways, applications and this system tell each other about tenants.

use http::HeaderName;

/// The tenant.
pub const ORG_ID: HeaderName = HeaderName::from_static("x-pulse-org-id");
/// The status of its organization.
pub const ORG_STATUS: HeaderName = HeaderName::from_static("x-pulse-org-status");
/// Where the status comes from.
pub const ORG_STATUS_SOURCE: HeaderName = HeaderName::from_static("x-pulse-org-status-source");
/// How many seconds ago it was so.
pub const ORG_STATUS_AGE: HeaderName = HeaderName::from_static("x-pulse-org-status-age");
/// The state of its subscription.
pub const SUBSCRIPTION_STATE: HeaderName = HeaderName::from_static("x-pulse-subscription-state");
/// Its plan.
pub const PLAN: HeaderName = HeaderName::from_static("x-pulse-plan");
/// Where state and plan come from.
pub const ENTITLEMENT_SOURCE: HeaderName = HeaderName::from_static("x-pulse-entitlement-source");
/// How many seconds ago they were so.
pub const ENTITLEMENT_AGE: HeaderName = HeaderName::from_static("x-pulse-entitlement-age");
/// A capability that is asked for.
pub const CAPABILITY: HeaderName = HeaderName::from_static("x-pulse-capability");
/// Why a request is refused.
pub const DENY_REASON: HeaderName = HeaderName::from_static("x-pulse-deny-reason");

/// What an application may believe of the tenant, behind a gateway that asks.
pub const TRUSTED: [HeaderName; 8] = [
    ORG_ID,
    ORG_STATUS,
    ORG_STATUS_SOURCE,
    ORG_STATUS_AGE,
    SUBSCRIPTION_STATE,
    PLAN,
    ENTITLEMENT_SOURCE,
    ENTITLEMENT_AGE,
];

/// Whether an application could take a header of that name, in whatever spelling, for something that this system says. Some
/// applications cannot tell `-` from `_` (RFC 3875 section 4.1.18).
pub fn is_ours(name: &str) -> bool {
    const PREFIX: &[u8] = b"x-pulse-";
    let as_read = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() >= PREFIX.len() && name.as_bytes().iter().map(as_read).zip(PREFIX).all(|(a, b)| a == *b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_told_in_any_spelling() {
        for name in TRUSTED.iter().chain(&[CAPABILITY, DENY_REASON]) {
            assert!(is_ours(name.as_str()), "{name}");
        }
        for name in ["X-Pulse-Plan", "x_pulse_plan", "x-pulse_org-id", "x-pulse-", "x-pulse-whatever"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["", "x-pulse", "x-pulsed-plan", "pulse-plan", "xx-pulse-plan", "authorization"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
