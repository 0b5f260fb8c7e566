//! Whether the services behind the edge are there: `grpc.health.v1`, asked at most once a second.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use pulse_proto::{
    billing::v1::billing_admin_service_server, lifecycle::v1::lifecycle_admin_service_server,
    provisioner::v1::provisioner_admin_service_server, signup::v1::signup_service_server,
};
use pulse_rpc::Channel;
use pulse_runtime::Service;
use tokio::{sync::Mutex, time::Instant};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::clients::Channels;

/// For how long an answer counts: probes come from every load balancer and kubelet, and must cost the services nothing.
const FRESH: Duration = Duration::from_secs(1);

/// How long a service may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(1);

/// The services that the edge needs. Clones share what was last heard.
#[derive(Debug, Clone)]
pub(crate) struct Upstreams {
    upstreams: Arc<[Upstream]>,
    heard: Arc<Mutex<Option<Heard>>>,
}

#[derive(Debug)]
struct Upstream {
    service: Service,
    /// The gRPC service whose readiness is asked for.
    name: &'static str,
    health: HealthClient<Channel>,
}

#[derive(Debug, Clone)]
struct Heard {
    at: Instant,
    missing: Vec<&'static str>,
}

impl Upstreams {
    pub(crate) fn new(channels: &Channels) -> Self {
        let upstream = |service, name, channel: &Channel| Upstream {
            service,
            name,
            health: HealthClient::new(channel.clone()),
        };
        let upstreams = [
            upstream(Service::SignupGateway, signup_service_server::SERVICE_NAME, &channels.signup),
            upstream(
                Service::Provisioner,
                provisioner_admin_service_server::SERVICE_NAME,
                &channels.provisioner,
            ),
            upstream(Service::BillingState, billing_admin_service_server::SERVICE_NAME, &channels.billing),
            upstream(Service::Lifecycle, lifecycle_admin_service_server::SERVICE_NAME, &channels.lifecycle),
        ];
        Self { upstreams: upstreams.into(), heard: Arc::default() }
    }

    /// The names of the services that are not ready, as of at most a second ago.
    pub(crate) async fn missing(&self) -> Vec<&'static str> {
        // Held while asking: whoever comes meanwhile waits for that answer rather than asking too.
        let mut heard = self.heard.lock().await;
        if let Some(heard) = heard.as_ref().filter(|heard| heard.at.elapsed() < FRESH) {
            return heard.missing.clone();
        }
        let asked = join_all(self.upstreams.iter().map(Upstream::is_serving)).await;
        let missing: Vec<_> = self
            .upstreams
            .iter()
            .zip(asked)
            .filter(|(_, serving)| !serving)
            .map(|(upstream, _)| upstream.service.name())
            .collect();
        let before = heard.replace(Heard { at: Instant::now(), missing: missing.clone() });
        if before.is_none_or(|before| before.missing != missing) {
            match missing.as_slice() {
                [] => tracing::info!("every service is ready"),
                missing => tracing::warn!(?missing, "services are not ready"),
            }
        }
        missing
    }
}

impl Upstream {
    async fn is_serving(&self) -> bool {
        let mut health = self.health.clone();
        let check = health.check(HealthCheckRequest { service: self.name.to_owned() });
        let answer = tokio::time::timeout(PATIENCE, check).await;
        answer.is_ok_and(|status| {
            status.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
        })
    }
}
