//! Tenants that are made up as they are asked for: as many as are wanted, at no cost.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use pulse_entitlements::{
    BillingState, BillingStore, BillingStoreError, Catalog, Lookup, Plan, Stored, SubscriptionState,
};
use pulse_kernel::{Clock as _, OrgId, SystemClock};
use pulse_tenant_guard::{OrganizationStatus, StatusLookup, StatusStore, StatusStoreError};

/// How long their trials last.
const TRIAL: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The id of the tenant of that number: of the form of those that the provisioner gives out.
pub(crate) fn id(number: usize) -> anyhow::Result<OrgId> {
    // As hashed tables and sorted files see them, ids are in no order.
    let scattered = u64::try_from(number)?.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let text = format!("0193a7f4-{:04x}-7000-8000-{:012x}", scattered >> 48, scattered & 0xffff_ffff_ffff);
    Ok(OrgId::parse(&text)?)
}

/// All of them are active and on a trial.
#[derive(Debug)]
pub(crate) struct Everybody {
    plan: Plan,
    now: Timestamp,
}

impl Everybody {
    pub(crate) fn new() -> Self {
        Self { plan: Catalog::built_in().trial().clone(), now: SystemClock.now() }
    }

    pub(crate) fn lookup(&self, org: &OrgId) -> Lookup {
        let state = BillingState {
            org_id: org.clone(),
            subscription_state: SubscriptionState::Trial,
            plan_version: (*self.plan.name).clone(),
            grants: (*self.plan.grants).clone(),
            trial_started_at: Some(self.now),
            trial_ends_at: Some(self.now + TRIAL),
            grace_ends_at: None,
            updated_at: Some(self.now),
        };
        Lookup::Stored(Box::new(Stored { state, revision: 1 }))
    }
}

#[async_trait]
impl BillingStore for Everybody {
    async fn billing_state(&self, org: &OrgId) -> Result<Lookup, BillingStoreError> {
        Ok(self.lookup(org))
    }
}

#[async_trait]
impl StatusStore for Everybody {
    async fn status(&self, _: &OrgId) -> Result<(StatusLookup, u64), StatusStoreError> {
        Ok((StatusLookup::Status(OrganizationStatus::Active), 1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_tenants_have_the_same_id() {
        let ids: HashSet<_> = (0..10_000).map(|number| id(number).unwrap()).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
