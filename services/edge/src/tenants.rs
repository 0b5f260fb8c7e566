//! What tenants may do now, for the internal surface.

use std::{collections::BTreeSet, sync::Arc};

use pulse_entitlements::{Answer, Catalog, EntitlementSource as _, Name, SourceError};
use pulse_kernel::OrgId;
use pulse_tenant_client::{TenantClient, gateway::Gatekeeper};
use pulse_tenant_guard::Guard;

/// What is known of tenants, and what is decided from it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tenants(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: TenantClient,
    guard: Guard,
    gatekeeper: Gatekeeper,
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
        let (guard, gatekeeper) = (client.guard(), client.gatekeeper());
        Self(Arc::new(Inner { client, guard, gatekeeper, names }))
    }

    /// Who decides, by what is last known while the services behind are away.
    pub(crate) fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// Who decides for gateways.
    pub(crate) fn gatekeeper(&self) -> &Gatekeeper {
        &self.0.gatekeeper
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
