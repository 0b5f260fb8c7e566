//! Who decides about tenants, and what each route and method requires of them.
//!
//! | for | a tenant needs | while lifecycle or billing-state is away |
//! |---|---|---|
//! | listing hosts | to be active | what is last known counts |
//! | adding a host | a limit `monitored_hosts` that allows one more | the same |
//! | alerts | `alerting` | the same: nobody is to miss one for an outage of ours |
//! | exports | `integrations` | nothing leaves the house before it is certain |

use std::sync::Arc;

use http::{Method, header::AUTHORIZATION};
use pulse_entitlements::Name;
use pulse_kernel::SystemClock;
use pulse_rpc::{OperatorTokens, Role};
use pulse_runtime::{Shutdown, telemetry::meter};
use pulse_tenant_client::TenantClient;
use pulse_tenant_guard::{
    Guard, OnOutage, OutagePolicy, Requirement,
    layer::{Grpc, GuardLayer, Head, Rest},
};

use crate::Config;

/// The limit on how many hosts a tenant may have.
pub(crate) const MONITORED_HOSTS: &str = "monitored_hosts";
const INTEGRATIONS: &str = "integrations";

const LIST: Requirement<'_> = Requirement::active();
/// One at all. How many there are only the store of hosts knows, which asks for one more than that.
const ADD: Requirement<'_> = Requirement::limit(MONITORED_HOSTS, 1);
const ALERT: Requirement<'_> = Requirement::capability("alerting");
const EXPORT: Requirement<'_> = Requirement::capability(INTEGRATIONS);

/// Who decides: from what lifecycle and billing-state say of a tenant, remembered, and told of every change.
pub(crate) fn guard(config: &Config, shutdown: &Shutdown) -> anyhow::Result<Guard> {
    let lifecycle = pulse_rpc::channel(&config.lifecycle_url.to_string())?;
    let billing_state = pulse_rpc::channel(&config.billing_state_url.to_string())?;
    let (catalog, cache) = (config.tenants.catalog()?, config.tenants.cache());
    let client = TenantClient::new(lifecycle, billing_state, &catalog, cache, Arc::new(SystemClock));
    client.follow(shutdown);
    client.report(&meter("acme-hosts"));
    let policy = OutagePolicy::new(OnOutage::Allow).with(Name::parse(INTEGRATIONS)?, OnOutage::Deny);
    Ok(client.guard().with_policy(policy))
}

/// What stands in front of every REST route. A route that has no rule is refused, so that none can be forgotten.
pub(crate) fn rest(guard: Guard, operators: Option<OperatorTokens>) -> GuardLayer<Rest> {
    let layer = GuardLayer::rest(guard)
        .refuse_unlisted()
        .open("/livez")
        .require("/v1/hosts", LIST)
        .require_for(Method::POST, "/v1/hosts", ADD)
        .require("/v1/hosts/{name}/alerts", ALERT)
        .require("/v1/export", EXPORT);
    match operators {
        Some(operators) => layer.let_through(move |head| is_operator(&operators, head)),
        None => layer,
    }
}

/// What stands in front of every gRPC method.
pub(crate) fn grpc(guard: Guard, operators: Option<OperatorTokens>) -> GuardLayer<Grpc> {
    let layer = GuardLayer::grpc(guard)
        .refuse_unlisted()
        .require("/acme.hosts.v1.HostService/ListHosts", LIST)
        .require("/acme.hosts.v1.HostService/AddHost", ADD)
        .require("/acme.hosts.v1.HostService/EnableAlerts", ALERT)
        .require("/acme.hosts.v1.HostService/ExportHosts", EXPORT);
    match operators {
        Some(operators) => layer.let_through(move |head| is_operator(&operators, head)),
        None => layer,
    }
}

/// Whoever helps customers may look at a tenant whatever its state.
fn is_operator(operators: &OperatorTokens, head: &Head<'_>) -> bool {
    let operator = operators.authenticate(head.headers.get(AUTHORIZATION));
    operator.is_ok_and(|operator| operator.has(Role::Support))
}
