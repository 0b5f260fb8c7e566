//! From a billing state and the time to what the tenant may use: pure, and the only place that decides it.

use std::sync::Arc;

use jiff::Timestamp;
use pulse_kernel::OrgId;

use crate::{BillingState, Event, Grants, Name, SubscriptionState, grants::amount};

/// What a tenant may use at one instant, and until when that answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlements {
    /// Whose they are.
    pub org_id: OrgId,
    /// The effective state: a trial or grace past its end is expired.
    pub subscription_state: SubscriptionState,
    /// The plan that the tenant is on, or was on before it was locked.
    pub plan_version: Arc<Name>,
    /// What is granted; empty when the state is locked. Shared between the tenants of a plan.
    pub grants: Arc<Grants>,
    /// When the trial began.
    pub trial_started_at: Option<Timestamp>,
    /// When the trial ends or ended.
    pub trial_ends_at: Option<Timestamp>,
    /// The next instant at which the answer changes by time alone; none if never. Always later than the instant
    /// that the answer was made for.
    pub valid_until: Option<Timestamp>,
}

/// What `state` entitles to at `now`. At `trial_ends_at` or `grace_ends_at` exactly, it is over.
pub fn effective(state: &BillingState, now: Timestamp) -> Entitlements {
    let stored = state.subscription_state;
    let ends_at = match stored {
        SubscriptionState::Trial => state.trial_ends_at,
        SubscriptionState::Grace => state.grace_ends_at,
        SubscriptionState::Active | SubscriptionState::Expired | SubscriptionState::Suspended => None,
    };
    let entitlements = Entitlements {
        org_id: state.org_id.clone(),
        subscription_state: stored,
        plan_version: Arc::new(state.plan_version.clone()),
        grants: if stored.is_locked() { Arc::default() } else { Arc::new(state.grants.clone()) },
        trial_started_at: state.trial_started_at,
        trial_ends_at: state.trial_ends_at,
        valid_until: ends_at,
    };
    entitlements.past_its_end(now).unwrap_or(entitlements)
}

impl Entitlements {
    /// The name of a capability is granted.
    pub fn has_capability(&self, name: &str) -> bool {
        self.grants.capabilities.contains(name)
    }

    /// The limit of that name: none when it is not granted, [`UNLIMITED`](crate::UNLIMITED) for no limit.
    pub fn limit(&self, name: &str) -> Option<i64> {
        self.grants.limits.get(name).copied()
    }

    /// Whether the limit of that name is `needed` or more. One that is not granted allows 0.
    pub fn allows(&self, name: &str, needed: u64) -> bool {
        self.grants.limits.get(name).map_or(0, |value| amount(*value)) >= needed
    }

    /// Whether nothing is granted because of the subscription's state.
    pub fn is_locked(&self) -> bool {
        self.subscription_state.is_locked()
    }

    /// Whether the answer still holds at `now`.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.valid_until.is_none_or(|end| now < end)
    }

    /// The answer that takes over when this one's time has passed; none while it holds.
    ///
    /// The same that [`effective()`] would say of the state that this was made from.
    pub fn past_its_end(&self, now: Timestamp) -> Option<Self> {
        if self.holds_at(now) {
            return None;
        }
        let event = match self.subscription_state {
            SubscriptionState::Grace => Event::GraceEnded,
            _ => Event::TrialEnded,
        };
        // Only a trial and a grace have an end; were it otherwise, over is over.
        let over = self.subscription_state.on(event).unwrap_or(SubscriptionState::Expired);
        Some(self.locked(over))
    }

    /// The same tenant with nothing granted.
    fn locked(&self, state: SubscriptionState) -> Self {
        Self { subscription_state: state, grants: Arc::default(), valid_until: None, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        UNLIMITED,
        billing::tests::{at, billing},
    };
    use SubscriptionState::{Active, Expired, Grace, Suspended, Trial};

    #[test]
    fn a_trial_is_over_at_its_end_exactly() {
        let state = billing(Trial);
        let before = effective(&state, at(1000) - 1.nanosecond());
        assert_eq!((before.subscription_state, before.valid_until), (Trial, Some(at(1000))));
        assert!(before.has_capability("alerting") && before.limit("hosts") == Some(50));

        let after = effective(&state, at(1000));
        assert_eq!((after.subscription_state, after.valid_until), (Expired, None));
        assert!(after.grants.is_empty() && after.is_locked());
        assert_eq!((after.trial_ends_at, after.plan_version.as_str()), (Some(at(1000)), "pro"));
    }

    #[test]
    fn a_grace_is_over_at_its_end_exactly_whatever_the_trial_was() {
        let mut state = billing(Grace);
        state.trial_ends_at = Some(at(10));
        let before = effective(&state, at(999));
        assert_eq!((before.subscription_state, before.valid_until), (Grace, Some(at(1000))));
        assert_eq!(effective(&state, at(1000)).subscription_state, Expired);
    }

    #[test]
    fn an_active_subscription_outlives_the_trial_and_the_grace() {
        let late = effective(&billing(Active), at(100_000));
        assert_eq!((late.subscription_state, late.valid_until), (Active, None));
        assert!(late.has_capability("dashboards"));
    }

    #[test]
    fn expired_and_suspended_grant_nothing_at_any_time() {
        for stored in [Expired, Suspended] {
            for now in [0, 999, 1000, 100_000] {
                let entitlements = effective(&billing(stored), at(now));
                assert_eq!((entitlements.subscription_state, entitlements.valid_until), (stored, None));
                assert!(entitlements.grants.is_empty());
            }
        }
    }

    #[test]
    fn a_limit_allows_up_to_its_value_none_allows_nothing_and_unlimited_everything() {
        let mut state = billing(Active);
        state.grants.limits.insert(Name::parse("users").unwrap(), UNLIMITED);
        let active = effective(&state, at(0));
        for (name, most) in [("hosts", 50), ("users", u64::MAX), ("rules", 0)] {
            assert!(active.allows(name, 0) && active.allows(name, most), "{name}");
            assert!(most == u64::MAX || !active.allows(name, most + 1), "{name}");
        }
        assert!(!effective(&billing(Expired), at(0)).allows("hosts", 1));
    }

    #[test]
    fn without_an_end_it_does_not_end() {
        for stored in [Trial, Grace] {
            let state = BillingState { trial_ends_at: None, grace_ends_at: None, ..billing(stored) };
            let late = effective(&state, at(1_000_000));
            assert_eq!((late.subscription_state, late.valid_until), (stored, None));
        }
    }

    proptest! {
        #[test]
        fn an_answer_carried_forward_is_the_answer_made_then(
            stored in prop::sample::select(SubscriptionState::ALL.to_vec()),
            trial_end in prop::option::of(0_i64..20), grace_end in prop::option::of(0_i64..20),
            first in 0_i64..25, later in 0_i64..25,
        ) {
            let state = BillingState {
                trial_ends_at: trial_end.map(at), grace_ends_at: grace_end.map(at), ..billing(stored)
            };
            let early = effective(&state, at(first));
            prop_assert!(early.holds_at(at(first)));
            let then = at(first + later);
            let carried = early.past_its_end(then).unwrap_or(early);
            prop_assert_eq!(carried, effective(&state, then));
        }

        #[test]
        fn time_alone_never_grants_more(
            stored in prop::sample::select(SubscriptionState::ALL.to_vec()),
            first in 0_i64..2000, later in 0_i64..2000,
        ) {
            let state = billing(stored);
            let (early, late) = (effective(&state, at(first)), effective(&state, at(first + later)));
            prop_assert!(early.grants.covers(&late.grants));
        }
    }
}
