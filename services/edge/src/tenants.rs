//! What tenants may do now, for the internal surface.

use std::{collections::BTreeSet, sync::Arc};

use pulse_entitlements::{Answer, Catalog, EntitlementSource as _, Name, Source, SourceError};
use pulse_kernel::OrgId;
use pulse_tenant_client::TenantClient;
use pulse_tenant_guard::{Guard, OnOutage, OutagePolicy};

/// What is known of tenants, and what is decided from it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tenants(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: TenantClient,
    lenient: Guard,
    strict: Guard,
    names: Names,
}

/// The names that the plans use.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) capabilities: BTreeSet<Name>,
    pub(crate) limits: BTreeSet<Name>,
}

impl Tenants {
    pub(crate) fn new(client: TenantClient, catalog: &Catalog) -> Self {
        let mut names = Names::default();
        for plan in catalog.plans() {
            names.capabilities.extend(plan.grants.capabilities.iter().cloned());
            names.limits.extend(plan.grants.limits.keys().cloned());
        }
        let lenient = client.guard();
        let strict = lenient.clone().with_policy(OutagePolicy::new(OnOutage::Deny));
        Self(Arc::new(Inner { client, lenient, strict, names }))
    }

    /// Who decides, where that counts while the services behind are away.
    pub(crate) fn guard(&self, on_outage: OnOutage) -> &Guard {
        match on_outage {
            OnOutage::Allow => &self.0.lenient,
            OnOutage::Deny => &self.0.strict,
        }
    }

    /// What a tenant may use.
    pub(crate) async fn entitlements(&self, org: &OrgId) -> Result<Answer, SourceError> {
        self.0.client.entitlements().entitlements(org).await
    }

    /// What the plans have names for.
    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }
}

/// How answers name where they came from.
pub(crate) const fn source_name(source: Source) -> &'static str {
    match source {
        Source::Fresh => "fresh",
        Source::Cached => "cached",
        Source::Stale => "stale",
        Source::Default => "default",
    }
}
