//! A running gateway with a provisioner that the test controls: both real servers on real ports.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use pulse_kernel::{ApiError, Clock, Ids, OsEntropy, Reason, SystemClock};
use pulse_proto::{
    provisioner::v1::{
        ProvisionStatus, ProvisionTenantRequest, ProvisionTenantResponse,
        provisioner_service_server::{ProvisionerService, ProvisionerServiceServer},
    },
    signup::v1::{SignUpRequest, SignUpResponse, signup_service_client::SignupServiceClient},
};
use pulse_rpc::{Channel, from_status, to_status};
use pulse_runtime::{Shutdown, settings::try_parse_from};
use pulse_signup_gateway::{
    Config, serve_at,
    store::{MemoryStore, Store},
};
use pulse_testkit::ManualClock;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Server};

/// How long a test waits for a condition.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// A strong password.
pub(crate) const PASSWORD: &str = "orbit-lantern-72-quartz";

/// A signup without a mistake in it.
pub(crate) fn good(email: &str, client_ip: &str) -> SignUpRequest {
    SignUpRequest {
        email: email.into(),
        password: PASSWORD.into(),
        org_name: "Acme, Inc.".into(),
        client_ip: client_ip.into(),
    }
}

/// Keeps tenants as the real one does; some addresses make it do other things.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeProvisioner(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    calls: Vec<(MetadataMap, ProvisionTenantRequest)>,
    tenants: HashMap<String, (String, ProvisionTenantResponse)>,
}

impl FakeProvisioner {
    /// What it was asked, in order.
    pub(crate) fn calls(&self) -> Vec<(MetadataMap, ProvisionTenantRequest)> {
        self.0.lock().unwrap().calls.clone()
    }

    fn tenant_of(&self, request: ProvisionTenantRequest) -> Result<ProvisionTenantResponse, ApiError> {
        let mut seen = self.0.lock().unwrap();
        if let Some((password, tenant)) = seen.tenants.get(&request.owner_email) {
            if *password != request.password {
                return Err(ApiError::new(Reason::EmailTaken, "the email address already has an account"));
            }
            return Ok(ProvisionTenantResponse {
                status: ProvisionStatus::Existing.into(),
                ..tenant.clone()
            });
        }
        let ids = Ids::new(Arc::new(SystemClock), Arc::new(OsEntropy));
        let tenant = ProvisionTenantResponse {
            org_id: ids.org_id().to_string(),
            user_id: ids.user_id().to_string(),
            status: ProvisionStatus::Created.into(),
            trial_ends_at: Some(pulse_rpc::convert::timestamp(ManualClock::default().now())),
        };
        seen.tenants.insert(request.owner_email, (request.password, tenant.clone()));
        Ok(tenant)
    }
}

#[tonic::async_trait]
impl ProvisionerService for FakeProvisioner {
    async fn provision_tenant(
        &self,
        request: Request<ProvisionTenantRequest>,
    ) -> Result<Response<ProvisionTenantResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.lock().unwrap().calls.push((metadata, request.clone()));
        match request.owner_email.as_str() {
            "busy@example.com" => {
                let error = ApiError::new(Reason::Overloaded, "no capacity to hash another password now");
                Err(to_status(&error.retry_after(Duration::from_secs(3))))
            }
            "down@example.com" => {
                let error = ApiError::new(Reason::Unavailable, "still being made; try again");
                Err(to_status(&error.retry_after(Duration::from_secs(7))))
            }
            "broken@example.com" => Err(Status::internal("canary-detail of a foreign table")),
            "nonsense@example.com" => Ok(Response::new(ProvisionTenantResponse::default())),
            "slow@example.com" => std::future::pending().await,
            _ => self.tenant_of(request).map(Response::new).map_err(|error| to_status(&error)),
        }
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) clock: ManualClock,
    pub(crate) provisioner: FakeProvisioner,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: JoinHandle<anyhow::Result<()>>,
    addr: SocketAddr,
    _provisioner_server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Gateway {
    /// In hosted mode, with the default limits.
    pub(crate) async fn start() -> Self {
        Self::start_with(&["--hosted-mode", "true"]).await
    }

    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        Self::start_over(None, flags).await
    }

    /// Over that store, or over its own memory.
    pub(crate) async fn start_over(store: Option<Arc<dyn Store>>, flags: &[&str]) -> Self {
        let (listener, addr) = pulse_testkit::listener().await;
        let provisioner = FakeProvisioner::default();
        let serve = Server::builder()
            .add_service(ProvisionerServiceServer::new(provisioner.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let provisioner_server = tokio::spawn(serve);
        Self::start_before(&format!("http://{addr}"), provisioner, provisioner_server, store, flags).await
    }

    /// With a provisioner that nobody can reach.
    pub(crate) async fn start_alone() -> Self {
        let (listener, addr) = pulse_testkit::listener().await;
        drop(listener);
        let nobody = tokio::spawn(async { Ok(()) });
        let flags = ["--hosted-mode", "true"];
        Self::start_before(&format!("http://{addr}"), FakeProvisioner::default(), nobody, None, &flags).await
    }

    async fn start_before(
        provisioner_url: &str,
        provisioner: FakeProvisioner,
        provisioner_server: JoinHandle<Result<(), tonic::transport::Error>>,
        store: Option<Arc<dyn Store>>,
        flags: &[&str],
    ) -> Self {
        let own = ["pulse-signup-gateway", "--provisioner-url", provisioner_url];
        let config: Config = try_parse_from(own.iter().chain(flags).copied()).unwrap();
        let (listener, addr): (TcpListener, SocketAddr) = pulse_testkit::listener().await;
        let (clock, shutdown) = (ManualClock::default(), Shutdown::new());
        let own = || Arc::new(MemoryStore::new(config.signup.allowance(), Arc::new(clock.clone()))) as Arc<_>;
        let store = store.unwrap_or_else(own);
        let serve = serve_at(config, store, Arc::new(clock.clone()), listener, shutdown.clone());
        let served = tokio::spawn(serve);
        Self { clock, provisioner, shutdown, served, addr, _provisioner_server: provisioner_server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn client(&self) -> SignupServiceClient<Channel> {
        SignupServiceClient::new(pulse_rpc::channel(&self.url()).unwrap())
    }

    pub(crate) async fn sign_up(&self, request: SignUpRequest) -> Result<SignUpResponse, ApiError> {
        let answer = self.client().sign_up(request).await;
        answer.map(Response::into_inner).map_err(|status| from_status(&status))
    }
}
