//! Waits until everything is ready, by asking from outside as an orchestrator would.

use std::{net::SocketAddr, time::Duration};

use pulse_runtime::{Endpoints, Service};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// How long to wait before asking again who did not answer.
const RETRY: Duration = Duration::from_millis(20);

/// Completes when every gRPC service and the edge say that they are ready.
pub(crate) async fn everything(endpoints: &Endpoints, edge: SocketAddr, hosted_mode: bool) {
    let services = Service::ALL.map(|service| grpc(endpoints.addr(service), probed(service, hosted_mode)));
    futures::future::join_all(services).await;
    // Last, because it asks the services too, and keeps a bad answer for a while.
    rest(edge).await;
}

/// The gRPC service that stands for the readiness of its server.
fn probed(service: Service, hosted_mode: bool) -> &'static str {
    match service {
        Service::SignupGateway if hosted_mode => "pulse.signup.v1.SignupService",
        // Outside hosted mode it serves nothing but its health.
        Service::SignupGateway => "",
        Service::Provisioner => "pulse.provisioner.v1.AccountService",
        Service::BillingState => "pulse.billing.v1.EntitlementService",
        Service::Lifecycle => "pulse.lifecycle.v1.OrganizationService",
    }
}

async fn grpc(addr: SocketAddr, service: &str) {
    loop {
        if serving(addr, service).await.is_ok_and(|serving| serving) {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows the service's health until it is serving, or until the stream ends before.
async fn serving(addr: SocketAddr, service: &str) -> anyhow::Result<bool> {
    let mut health = HealthClient::new(Endpoint::from_shared(format!("http://{addr}"))?.connect().await?);
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut changes = health.watch(request).await?.into_inner();
    while let Some(change) = changes.message().await? {
        if change.status() == ServingStatus::Serving {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn rest(edge: SocketAddr) {
    while answers(edge).await.is_err() {
        tokio::time::sleep(RETRY).await;
    }
}

/// Asks the edge straight, whatever proxy the environment names.
async fn answers(edge: SocketAddr) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    client.get(format!("http://{edge}/readyz")).send().await?.error_for_status()?;
    Ok(())
}
