//! What the settings say about plans.

use jiff::{SignedDuration, Timestamp};
use pulse_entitlements::{BillingState, Catalog, SubscriptionState};
use pulse_kernel::OrgId;

/// The catalog, and how long things last.
#[derive(Debug, Clone)]
pub struct Plans {
    /// What each plan grants.
    pub catalog: Catalog,
    /// How long a trial lasts.
    pub trial: SignedDuration,
    /// How long a grace lasts.
    pub grace: SignedDuration,
}

impl Plans {
    /// What a tenant without a stored state is on: the trial plan, without an end.
    pub fn trial_default(&self, org: &OrgId) -> BillingState {
        let plan = self.catalog.trial();
        BillingState {
            org_id: org.clone(),
            subscription_state: SubscriptionState::Trial,
            plan_version: (*plan.name).clone(),
            grants: (*plan.grants).clone(),
            trial_started_at: None,
            trial_ends_at: None,
            grace_ends_at: None,
            updated_at: None,
        }
    }

    /// When a trial that begins at `now` ends.
    pub fn trial_end(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(self.trial).unwrap_or(Timestamp::MAX)
    }

    /// When a grace that begins at `now` ends.
    pub fn grace_end(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(self.grace).unwrap_or(Timestamp::MAX)
    }
}
