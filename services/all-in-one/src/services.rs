//! The five services in this process. They are as far apart as on five machines: each has its own store and listener,
//! and they talk over gRPC.

use std::net::SocketAddr;

use anyhow::Context as _;
use pulse_rpc::OperatorTokens;
use pulse_runtime::{Service, Shutdown, settings::bind};
use tokio::net::TcpListener;

use crate::cli::Config;

/// Where the edge listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EdgeAddrs {
    pub(crate) public: SocketAddr,
    /// The admin surface, in hosted mode; the public address when it has no listener of its own.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) internal: SocketAddr,
}

/// The listeners of every service.
struct Listeners {
    edge: pulse_edge::Listeners,
    signup_gateway: TcpListener,
    provisioner: TcpListener,
    billing_state: TcpListener,
    lifecycle: TcpListener,
}

/// Opens every listener and every store, then serves. `config` then holds the addresses really listened on.
///
/// # Errors
/// When a listener or a store cannot be opened, or a file that a setting names cannot be read; nothing is served then.
pub(crate) async fn start(config: &mut Config, shutdown: &Shutdown) -> anyhow::Result<EdgeAddrs> {
    OperatorTokens::check(&config.common)?;
    let listeners = listen(config).await?;
    let addrs = edge_addrs(&listeners.edge, config.common.hosted_mode)?;
    let lifecycle = pulse_lifecycle::open_store(&config.lifecycle()).await.context("lifecycle")?;
    let billing_state =
        pulse_billing_state::open_store(&config.billing_state()).await.context("billing-state")?;
    let provisioner = pulse_provisioner::open_store(&config.provisioner()).await.context("provisioner")?;
    let signup_gateway =
        pulse_signup_gateway::open_store(&config.signup_gateway()).await.context("signup-gateway")?;

    // In the order of calls: what is in flight in front still finds what it needs behind.
    let edge_end = shutdown.clone();
    let signup_gateway_end = edge_end.behind();
    let provisioner_end = signup_gateway_end.behind();
    let lifecycle_end = provisioner_end.behind();
    let billing_state_end = lifecycle_end.behind();

    let serve = pulse_billing_state::serve(
        config.billing_state(),
        billing_state,
        listeners.billing_state,
        billing_state_end.clone(),
    );
    billing_state_end.spawn_service("billing-state", serve);
    let serve =
        pulse_lifecycle::serve(config.lifecycle(), lifecycle, listeners.lifecycle, lifecycle_end.clone());
    lifecycle_end.spawn_service("lifecycle", serve);
    let serve = pulse_provisioner::serve(
        config.provisioner(),
        provisioner,
        listeners.provisioner,
        provisioner_end.clone(),
    );
    provisioner_end.spawn_service("provisioner", serve);
    let serve = pulse_signup_gateway::serve(
        config.signup_gateway(),
        signup_gateway,
        listeners.signup_gateway,
        signup_gateway_end.clone(),
    );
    signup_gateway_end.spawn_service("signup-gateway", serve);
    edge_end.spawn_service("edge", pulse_edge::serve(config.edge(), listeners.edge, edge_end.clone()));
    Ok(addrs)
}

async fn listen(config: &mut Config) -> anyhow::Result<Listeners> {
    let edge = pulse_edge::Listeners::bind(&config.edge()).await?;
    Ok(Listeners {
        edge,
        signup_gateway: listen_for(Service::SignupGateway, config).await?,
        provisioner: listen_for(Service::Provisioner, config).await?,
        billing_state: listen_for(Service::BillingState, config).await?,
        lifecycle: listen_for(Service::Lifecycle, config).await?,
    })
}

async fn listen_for(service: Service, config: &mut Config) -> anyhow::Result<TcpListener> {
    let (setting, addr) = config.endpoints.listener(service);
    let listener = bind(setting, addr).await?;
    config.endpoints.set_addr(service, listener.local_addr()?);
    Ok(listener)
}

fn edge_addrs(listeners: &pulse_edge::Listeners, hosted_mode: bool) -> anyhow::Result<EdgeAddrs> {
    let public = listeners.public.local_addr()?;
    let own = listeners.admin.as_ref().map(TcpListener::local_addr).transpose()?;
    let internal = listeners.internal.local_addr()?;
    Ok(EdgeAddrs { public, admin: hosted_mode.then(|| own.unwrap_or(public)), internal })
}
