//! A tenant's flags: what they are called, and what they say. What they say is decided by the guard, as at every door.

use std::collections::BTreeSet;

use pulse_entitlements::{Answer, Name, Source};
use pulse_kernel::OrgId;
use pulse_tenant_guard::{Decision, DenyReason, Requirement, StatusError, Verdict};

use super::wire::{
    BulkEvaluation, ErrorCode, Evaluated, EvaluationFailure, Flag, FlagMetadata, FlagValue, Refusal,
    ResolutionReason,
};
use crate::tenants::Tenants;

const CAPABILITY: &str = "capability.";
const LIMIT: &str = "limit.";

/// A flag by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// `capability.NAME`: there is one for every name, as what nobody grants is not granted.
    Capability(Name),
    /// `NAME` alone: a capability that a plan or the tenant has.
    Plain(Name),
    /// `limit.NAME`: there is one for every name, as a limit that nobody grants allows nothing.
    Limit(Name),
}

impl Key {
    /// Reads a flag's key; none where no flag can be called so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, name): (fn(Name) -> Self, _) =
            match (text.strip_prefix(CAPABILITY), text.strip_prefix(LIMIT)) {
                (Some(name), _) => (Self::Capability, name),
                (None, Some(name)) => (Self::Limit, name),
                (None, None) => (Self::Plain, text),
            };
        Name::parse(name).ok().map(kind)
    }

    fn text(&self) -> String {
        match self {
            Self::Capability(name) => format!("{CAPABILITY}{name}"),
            Self::Plain(name) => name.to_string(),
            Self::Limit(name) => format!("{LIMIT}{name}"),
        }
    }

    fn requirement(&self) -> Requirement<'_> {
        match self {
            Self::Capability(name) | Self::Plain(name) => Requirement::capability(name.as_str()),
            Self::Limit(name) => Requirement::limit(name.as_str(), 1),
        }
    }
}

/// What one flag says for a tenant.
pub(super) async fn evaluate(tenants: &Tenants, org: &OrgId, key: &Key) -> Result<Flag, Refusal> {
    let verdict = tenants.guard().check(org, &key.requirement()).await;
    let answer = known(tenants, &verdict).await;
    let (is_met, reason, denied) = match verdict.decision {
        Decision::Allow => (true, ResolutionReason::TargetingMatch, None),
        Decision::Deny(DenyReason::Unavailable) => return Err(DenyReason::Unavailable.into()),
        Decision::Deny(DenyReason::CapabilityRequired | DenyReason::LimitExceeded) => {
            if let Key::Plain(name) = key
                && !tenants.names().capabilities.contains(name)
            {
                return Err(Refusal::no_such_flag(name.as_str()));
            }
            (false, ResolutionReason::TargetingMatch, None)
        }
        Decision::Deny(
            denied @ (DenyReason::OrgNotFound
            | DenyReason::OrgSuspended
            | DenyReason::OrgPendingDeletion
            | DenyReason::RoleRequired
            | DenyReason::SubscriptionInactive),
        ) => (false, ResolutionReason::Disabled, Some(denied)),
    };
    let (value, variant) = match key {
        Key::Capability(_) | Key::Plain(_) => {
            (FlagValue::Capability(is_met), if is_met { "on" } else { "off" })
        }
        Key::Limit(name) => limit(verdict.entitlements().filter(|_| is_met), name),
    };
    let metadata = metadata(&verdict, answer.as_ref(), denied);
    Ok(Flag { key: key.text(), value, reason, variant, metadata })
}

fn limit(answer: Option<&Answer>, name: &Name) -> (FlagValue, &'static str) {
    let value = answer.and_then(|answer| answer.entitlements.limit(name.as_str())).unwrap_or(0);
    let variant = match value {
        0 => "none",
        1.. => "limited",
        _ => "unlimited",
    };
    (FlagValue::Limit(value), variant)
}

/// What every flag says for a tenant: those of the plans, and those that only this tenant has.
pub(super) async fn evaluate_all(tenants: &Tenants, org: &OrgId) -> Result<BulkEvaluation, Refusal> {
    let verdict = tenants.guard().check(org, &Requirement::active()).await;
    if verdict.decision == Decision::Deny(DenyReason::Unavailable) {
        return Err(DenyReason::Unavailable.into());
    }
    let answer = known(tenants, &verdict).await;
    let is_locked = answer.as_ref().is_some_and(|answer| answer.entitlements.is_locked());
    let by_billing = is_locked.then_some(DenyReason::SubscriptionInactive);
    let denied = verdict.decision.into_result().err().or(by_billing);
    let metadata = metadata(&verdict, answer.as_ref(), denied);
    let mut flags = Vec::new();
    for key in keys(tenants, answer.as_ref()) {
        flags.push(match evaluate(tenants, org, &key).await {
            Ok(flag) => Evaluated::Flag(flag),
            Err(_) => Evaluated::Failure(EvaluationFailure {
                key: key.text(),
                error_code: ErrorCode::General,
                error_details: DenyReason::Unavailable.to_string(),
            }),
        });
    }
    Ok(BulkEvaluation { flags, metadata })
}

fn keys(tenants: &Tenants, answer: Option<&Answer>) -> BTreeSet<Key> {
    let own = answer.map(|answer| &answer.entitlements.grants);
    let own_capabilities = own.into_iter().flat_map(|own| &own.capabilities);
    let own_limits = own.into_iter().flat_map(|own| own.limits.keys());
    let capabilities = tenants.names().capabilities.iter().chain(own_capabilities);
    let limits = tenants.names().limits.iter().chain(own_limits).cloned().map(Key::Limit);
    let both = |name: &Name| [Key::Capability(name.clone()), Key::Plain(name.clone())];
    // A capability whose own name reads as another kind of flag is only there under its full one.
    let capabilities =
        capabilities.flat_map(both).filter(|key| Key::parse(&key.text()).as_ref() == Some(key));
    capabilities.chain(limits).collect()
}

/// What the tenant is entitled to, for the metadata also where the decision did not need it. About an organization that does
/// not exist, nobody is asked.
async fn known(tenants: &Tenants, verdict: &Verdict) -> Option<Answer> {
    match (&verdict.entitlements, &verdict.status) {
        (Some(answer), _) => answer.clone().ok(),
        (None, Ok(_)) => tenants.entitlements(&verdict.org).await.ok(),
        (None, Err(_)) => None,
    }
}

fn metadata(verdict: &Verdict, answer: Option<&Answer>, denied: Option<DenyReason>) -> FlagMetadata {
    let entitlements = answer.map(|answer| &answer.entitlements);
    let status = match &verdict.status {
        Ok(answer) => (answer.source, answer.age),
        Err(StatusError::NotFound) => (Source::Cached, std::time::Duration::ZERO),
        Err(StatusError::Unknown | StatusError::Forgotten) => (Source::Default, std::time::Duration::ZERO),
    };
    // The one that is least to be relied on counts for both.
    let sources = std::iter::once(status).chain(answer.map(|answer| (answer.source, answer.age)));
    let (source, age) = sources.fold((Source::Fresh, std::time::Duration::ZERO), |(source, age), next| {
        (less_reliable(source, next.0), age.max(next.1))
    });
    FlagMetadata {
        source: source.as_str(),
        age_seconds: age.as_secs(),
        org_status: match &verdict.status {
            Ok(answer) => answer.status.as_str(),
            Err(StatusError::NotFound) => "not_found",
            Err(StatusError::Unknown | StatusError::Forgotten) => "unknown",
        },
        subscription_state: entitlements.map(|entitlements| entitlements.subscription_state.as_str()),
        plan_version: entitlements.map(|entitlements| entitlements.plan_version.to_string()),
        denied: denied.map(|denied| denied.reason().code()),
    }
}

fn less_reliable(one: Source, other: Source) -> Source {
    [Source::Default, Source::Stale, Source::Cached]
        .into_iter()
        .find(|source| [one, other].contains(source))
        .unwrap_or(Source::Fresh)
}
