//! [`Guard`]: the decision with what is known of a tenant now, and what counts while that cannot be known.
//!
//! Sources keep answering while lifecycle or billing-state is away, and say that they do. The guard lets that be good
//! enough or not, by capability ([`OutagePolicy`]); but an outage never opens what is known to be closed, whatever the
//! policy: that is looked at first.

use std::{collections::HashMap, sync::Arc, time::Duration};

use pulse_entitlements::{Answer, EntitlementSource, Name, Source, SourceError};
use pulse_kernel::{ApiError, OrgId};

use crate::{
    Asked, Decision, DenyReason, OrganizationStatus, Requirement, StatusAnswer, StatusError, StatusSource,
    decide,
};

/// What counts where the sources do not know for certain, because what is behind them does not answer. The stricter is
/// the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum OnOutage {
    /// What the sources still answer: the last known state, and after that a trial where nothing forbids it.
    #[default]
    Allow,
    /// Nothing that is not certain: the caller is told to try again.
    Deny,
}

/// What counts during an outage, by what is asked for.
#[derive(Debug, Clone, Default)]
pub struct OutagePolicy {
    otherwise: OnOutage,
    by_name: HashMap<Name, OnOutage>,
}

impl OutagePolicy {
    /// `otherwise` for everything.
    pub fn new(otherwise: OnOutage) -> Self {
        Self { otherwise, by_name: HashMap::new() }
    }

    /// The same, but `on_outage` for the capability or limit of that name.
    #[must_use]
    pub fn with(mut self, name: Name, on_outage: OnOutage) -> Self {
        self.by_name.insert(name, on_outage);
        self
    }

    /// What counts for a requirement: the stricter, where it names two things.
    pub fn of(&self, requirement: &Requirement<'_>) -> OnOutage {
        // Most have no exceptions, and then nothing needs to be hashed.
        if self.by_name.is_empty() {
            return self.otherwise;
        }
        let of_name = |name| self.by_name.get(name).copied().unwrap_or(self.otherwise);
        requirement.names().map(of_name).max().unwrap_or(self.otherwise)
    }
}

/// Decides about tenants, from what its sources know of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    statuses: Arc<dyn StatusSource>,
    entitlements: Arc<dyn EntitlementSource>,
    policy: Arc<OutagePolicy>,
}

/// A decision, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The tenant.
    pub org: OrgId,
    /// What was decided about it.
    pub decision: Decision,
    /// Its status, with where that came from and how old it is.
    pub status: Result<StatusAnswer, StatusError>,
    /// What it may use, with the same. None where that did not matter: nothing of it was required, or the status denies.
    pub entitlements: Option<Result<Answer, SourceError>>,
}

impl Guard {
    /// A guard that takes what its sources answer also during an outage.
    pub fn new(statuses: Arc<dyn StatusSource>, entitlements: Arc<dyn EntitlementSource>) -> Self {
        Self { statuses, entitlements, policy: Arc::default() }
    }

    /// The same with another policy for outages.
    #[must_use]
    pub fn with_policy(self, policy: OutagePolicy) -> Self {
        Self { policy: Arc::new(policy), ..self }
    }

    /// Whether the tenant meets what is asked. Waits for the sources where they have to look.
    pub async fn check(&self, org: &OrgId, asked: &Requirement<'_>) -> Verdict {
        // The boxed future of a source is for those who have to wait.
        let status = match self.statuses.cached(org) {
            Some(status) => status,
            None => self.statuses.status(org).await,
        };
        // One after the other: about organizations that do not exist, billing is not asked.
        let entitlements = if matters(&status, asked) {
            Some(match self.entitlements.cached(org) {
                Some(entitlements) => entitlements,
                None => self.entitlements.entitlements(org).await,
            })
        } else {
            None
        };
        self.verdict(org.clone(), status, entitlements, asked)
    }

    /// The same where it takes no waiting and no allocation: for hot paths, to be tried first.
    pub fn check_cached(&self, org: &OrgId, asked: &Requirement<'_>) -> Option<Verdict> {
        let status = self.statuses.cached(org)?;
        self.check_rest(org.clone(), status, asked)
    }

    /// The same by the text of an id; see [`StatusSource::find`].
    pub fn find_cached(&self, org: &str, asked: &Requirement<'_>) -> Option<Verdict> {
        let (org, status) = self.statuses.find(org)?;
        self.check_rest(org, status, asked)
    }

    fn check_rest(
        &self,
        org: OrgId,
        status: Result<StatusAnswer, StatusError>,
        asked: &Requirement<'_>,
    ) -> Option<Verdict> {
        let entitlements = if matters(&status, asked) { Some(self.entitlements.cached(&org)?) } else { None };
        Some(self.verdict(org, status, entitlements, asked))
    }

    fn verdict(
        &self,
        org: OrgId,
        status: Result<StatusAnswer, StatusError>,
        entitlements: Option<Result<Answer, SourceError>>,
        asked: &Requirement<'_>,
    ) -> Verdict {
        let decision = judge(&status, entitlements.as_ref(), asked, self.policy.of(asked));
        Verdict { org, decision, status, entitlements }
    }
}

/// Whether the entitlements of a tenant with that status can still change the decision.
fn matters(status: &Result<StatusAnswer, StatusError>, asked: &Requirement<'_>) -> bool {
    asked.needs_entitlements() && judge(status, None, &Requirement::active(), OnOutage::Allow).is_allowed()
}

/// What [`decide`] says of what the sources said, as far as that can be relied on. Pure.
///
/// 1. What is known to be closed stays closed: a status that denies, a subscription that is locked, a tenant that is
///    gone. However old that knowledge is, and whatever the policy.
/// 2. What is not certain is not good enough where the policy says so.
/// 3. What is granted only because nothing is known is a reason to let in, but none to tell a customer that it is missing.
/// 4. Everything else is as [`decide`] says. A status that is not known counts as active here.
fn judge(
    status: &Result<StatusAnswer, StatusError>,
    entitlements: Option<&Result<Answer, SourceError>>,
    asked: &Requirement<'_>,
    on_outage: OnOutage,
) -> Decision {
    let known = match status {
        Ok(answer) => answer.status,
        Err(StatusError::Unknown) => OrganizationStatus::Active,
        Err(StatusError::NotFound) => return Decision::Deny(DenyReason::OrgNotFound),
        Err(StatusError::Forgotten) => return Decision::Deny(DenyReason::Unavailable),
    };
    let granted = match entitlements {
        None => None,
        Some(Ok(answer)) => Some(answer),
        // Gone, unless the status has another word for it.
        Some(Err(SourceError::Purged)) => {
            let by_status = decide(known, None, &Asked::Use(Requirement::active()));
            return if by_status.is_allowed() { Decision::Deny(DenyReason::OrgNotFound) } else { by_status };
        }
    };
    let decision = decide(known, granted.map(|answer| &*answer.entitlements), &Asked::Use(*asked));
    let open = match decision {
        Decision::Allow => true,
        Decision::Deny(DenyReason::CapabilityRequired | DenyReason::LimitExceeded) => false,
        Decision::Deny(
            DenyReason::OrgNotFound
            | DenyReason::OrgSuspended
            | DenyReason::OrgPendingDeletion
            | DenyReason::RoleRequired
            | DenyReason::SubscriptionInactive
            | DenyReason::Unavailable,
        ) => return decision,
    };
    let is_certain =
        status.is_ok_and(|answer| answer.is_confirmed()) && granted.is_none_or(|answer| answer.confirmed);
    let is_guess = granted.is_some_and(|answer| !answer.confirmed && answer.source == Source::Default);
    if (on_outage == OnOutage::Deny && !is_certain) || (is_guess && !open) {
        return Decision::Deny(DenyReason::Unavailable);
    }
    decision
}

impl Verdict {
    /// The verdict where it lets in.
    ///
    /// # Errors
    /// What a refused caller is told.
    pub fn into_result(self) -> Result<Self, ApiError> {
        match self.decision {
            Decision::Allow => Ok(self),
            Decision::Deny(reason) => Err(reason.into()),
        }
    }

    /// Whether lifecycle and billing-state, as far as they matter, have said so within the refresh age. Otherwise one of
    /// them does not answer, and the decision is the best that can be said without it.
    pub fn is_certain(&self) -> bool {
        let by_status = match &self.status {
            Ok(answer) => answer.is_confirmed(),
            Err(StatusError::NotFound) => true,
            Err(StatusError::Unknown | StatusError::Forgotten) => false,
        };
        let by_entitlements = match &self.entitlements {
            None | Some(Err(SourceError::Purged)) => true,
            Some(Ok(answer)) => answer.confirmed,
        };
        by_status && by_entitlements
    }

    /// The age of the older of the two answers, as far as they matter and there are any.
    pub fn age(&self) -> Option<Duration> {
        let status = self.status.as_ref().ok().map(|answer| answer.age);
        let entitlements = self.entitlements.as_ref().and_then(|answer| answer.as_ref().ok());
        status.into_iter().chain(entitlements.map(|answer| answer.age)).max()
    }

    /// What the tenant may use, where that mattered.
    pub fn entitlements(&self) -> Option<&Answer> {
        self.entitlements.as_ref()?.as_ref().ok()
    }
}

#[cfg(test)]
mod tests;
