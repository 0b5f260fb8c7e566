//! Both services over one store, as often as there are replicas: each has streams of its own.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use pulse_kernel::{ApiError, OrgId, Reason};
use pulse_proto::{
    billing::v1::{
        self as billing, BillingState, EntitlementSource, GetEntitlementsRequest, GetEntitlementsResponse,
        WatchBillingStatesRequest, WatchBillingStatesResponse, billing_state_change,
        billing_state_service_server::{BillingStateService, BillingStateServiceServer},
        entitlement_service_server::{EntitlementService, EntitlementServiceServer},
        watch_billing_states_response,
    },
    lifecycle::v1::{
        self as lifecycle, Organization, OrganizationServiceGetOrganizationRequest,
        OrganizationServiceGetOrganizationResponse, WatchOrganizationsRequest, WatchOrganizationsResponse,
        organization_change,
        organization_service_server::{OrganizationService, OrganizationServiceServer},
        watch_organizations_response,
    },
    watch::v1::{Gone, Synced, Unreadable},
};
use pulse_rpc::{
    GrpcServer,
    convert::duration,
    reject,
    watch::{Change, Event, Hub, Message, Now, WatchRequest, hub::Limits},
};
use pulse_runtime::{Readiness, Shutdown};
use pulse_testkit::{SeededEntropy, listener};
use tokio::{io::DuplexStream, sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    org,
    store::{self, Store, Table},
};

/// A tenant whose changes come without a name that can be read.
pub(crate) const NAMELESS: &str = "nameless";

/// One replica of both services, and how to connect to it.
pub(crate) struct Replica {
    pub(crate) incoming: mpsc::UnboundedSender<DuplexStream>,
    service: Service,
    limits: Limits,
    shutdown: Shutdown,
}

/// What answers. Clones are the same.
#[derive(Clone)]
struct Service(Arc<Inner>);

struct Inner {
    store: Store,
    hubs: Mutex<Hubs>,
    /// What was read of billing states, and when.
    remembered: Mutex<HashMap<OrgId, Remembered>>,
    /// For how many milliseconds entitlements are answered with that.
    memory: AtomicU64,
    reads: AtomicUsize,
}

/// A billing state, and when it was that.
type Remembered = (Instant, Option<Now<BillingState>>);

/// The streams of one life of a replica.
#[derive(Clone)]
pub(crate) struct Hubs {
    pub(crate) organizations: Hub<Table<store::Status>>,
    pub(crate) billing_states: Hub<Table<BillingState>>,
}

impl Hubs {
    fn start(store: &Store, seed: u64, limits: Limits, shutdown: &Shutdown) -> Self {
        let (clock, entropy) = (Arc::new(store.clock), SeededEntropy::new(seed));
        let (organizations, billing_states) = (store.organizations.clone(), store.billing_states.clone());
        let organizations = Hub::new("organizations", organizations, limits, clock.clone(), &entropy);
        let billing_states = Hub::new("billing_states", billing_states, limits, clock, &entropy);
        organizations.run(shutdown, None);
        billing_states.run(shutdown, None);
        Self { organizations, billing_states }
    }

    /// Something about the tenant has changed.
    pub(crate) fn changed(&self, id: &str) {
        self.organizations.changed(&org(id));
        self.billing_states.changed(&org(id));
    }

    /// Anything may have changed.
    pub(crate) fn missed(&self) {
        self.organizations.missed();
        self.billing_states.missed();
    }
}

impl Replica {
    pub(crate) fn start(store: &Store, seed: u64, limits: Limits, shutdown: &Shutdown) -> Self {
        let service = Service(Arc::new(Inner {
            store: store.clone(),
            hubs: Mutex::new(Hubs::start(store, seed, limits, shutdown)),
            remembered: Mutex::default(),
            memory: AtomicU64::new(0),
            reads: AtomicUsize::new(0),
        }));
        let (incoming, connections) = mpsc::unbounded_channel();
        let connections = UnboundedReceiverStream::new(connections).map(Ok::<_, io::Error>);
        let server = Server::builder()
            .add_service(OrganizationServiceServer::new(service.clone()))
            .add_service(EntitlementServiceServer::new(service.clone()))
            .add_service(BillingStateServiceServer::new(service.clone()));
        tokio::spawn(server.serve_with_incoming(connections));
        Self { incoming, service, limits, shutdown: shutdown.clone() }
    }

    /// Listens on a port too, as the services do; a call may take so long.
    pub(crate) async fn listen(&self, request_timeout: Duration) -> SocketAddr {
        let (listener, addr) = listener().await;
        let limits = pulse_rpc::Limits { request_timeout, ..pulse_rpc::Limits::default() };
        let server = GrpcServer::new(limits).add(OrganizationServiceServer::new(self.service.clone()));
        let readiness = Readiness::until_draining(&self.shutdown);
        tokio::spawn(server.serve(listener, readiness, self.shutdown.clone()));
        addr
    }

    /// Forgets all that it has told, as a restart does. Connections are the network's concern.
    pub(crate) fn restart(&self, seed: u64) {
        *self.service.hubs() = Hubs::start(&self.service.0.store, seed, self.limits, &self.shutdown);
    }

    pub(crate) fn hubs(&self) -> Hubs {
        self.service.hubs().clone()
    }

    /// Entitlements are answered from memory for so long, whatever happens meanwhile.
    pub(crate) fn remembers_for(&self, memory: Duration) {
        self.service.0.memory.store(memory.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    /// How often it was asked about a tenant.
    pub(crate) fn reads(&self) -> usize {
        self.service.0.reads.load(Ordering::SeqCst)
    }
}

impl Service {
    fn hubs(&self) -> MutexGuard<'_, Hubs> {
        self.0.hubs.lock().unwrap()
    }

    /// A billing state as this replica knows it, and how long ago it was so.
    fn recall(&self, org: &OrgId) -> Result<(Option<Now<BillingState>>, Duration), Status> {
        let memory = Duration::from_millis(self.0.memory.load(Ordering::SeqCst));
        let mut remembered = self.0.remembered.lock().unwrap();
        if let Some((at, now)) = remembered.get(org).filter(|(at, _)| at.elapsed() < memory) {
            return Ok((now.clone(), at.elapsed()));
        }
        let now = self.0.store.billing_states.get(org).map_err(reject)?;
        remembered.insert(org.clone(), (Instant::now(), now.clone()));
        Ok((now, Duration::ZERO))
    }
}

fn not_found() -> Status {
    reject(ApiError::new(Reason::OrgNotFound, "the organization does not exist"))
}

fn unreadable() -> Status {
    reject(ApiError::new(Reason::StoredStateUnreadable, "nobody knows"))
}

fn not_here() -> Status {
    Status::unimplemented("not for a consumer")
}

fn name(org: &OrgId) -> String {
    if org.as_str() == NAMELESS { "NOT AN ID".to_owned() } else { org.to_string() }
}

fn organization_change(change: &Change<store::Status>) -> lifecycle::OrganizationChange {
    let told = lifecycle::OrganizationChange { org_id: name(&change.org), ..Default::default() };
    match &change.now {
        Now::State { version, state } => lifecycle::OrganizationChange {
            version: *version,
            now: Some(organization_change::Now::Status(state.status.into())),
            changed_at: Some(state.changed_at),
            ..told
        },
        Now::Gone => {
            lifecycle::OrganizationChange { now: Some(organization_change::Now::Gone(Gone {})), ..told }
        }
        Now::Unreadable => lifecycle::OrganizationChange {
            now: Some(organization_change::Now::Unreadable(Unreadable {})),
            ..told
        },
    }
}

fn billing_change(change: &Change<BillingState>) -> billing::BillingStateChange {
    let (revision, now) = match &change.now {
        Now::State { version, state } => (*version, billing_state_change::Now::BillingState(state.clone())),
        Now::Gone => (0, billing_state_change::Now::Gone(Gone {})),
        Now::Unreadable => (0, billing_state_change::Now::Unreadable(Unreadable {})),
    };
    billing::BillingStateChange { org_id: name(&change.org), revision, now: Some(now) }
}

#[tonic::async_trait]
impl OrganizationService for Service {
    async fn get_organization(
        &self,
        request: Request<OrganizationServiceGetOrganizationRequest>,
    ) -> Result<Response<OrganizationServiceGetOrganizationResponse>, Status> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let org = org(&request.into_inner().org_id);
        let organization = match self.0.store.organizations.get(&org).map_err(reject)? {
            Some(Now::State { version, state }) => Organization {
                id: org.to_string(),
                etag: version.to_string(),
                status: state.status.into(),
                ..Organization::default()
            },
            Some(Now::Gone) | None => return Err(not_found()),
            Some(Now::Unreadable) => return Err(unreadable()),
        };
        Ok(Response::new(OrganizationServiceGetOrganizationResponse { organization: Some(organization) }))
    }

    type WatchOrganizationsStream = BoxStream<'static, Result<WatchOrganizationsResponse, Status>>;

    async fn watch_organizations(
        &self,
        request: Request<WatchOrganizationsRequest>,
    ) -> Result<Response<Self::WatchOrganizationsStream>, Status> {
        use watch_organizations_response::Event as Wire;
        let WatchOrganizationsRequest { org_ids, mode, resume_token } = request.into_inner();
        let request = WatchRequest::parse(&org_ids, mode, resume_token).map_err(reject)?;
        let messages = self.hubs().organizations.watch(request).map_err(reject)?;
        let told = messages.map(|message| {
            let Message { event, resume_token } = message?;
            let event = Some(match event {
                Event::Changed(change) => Wire::Changed(organization_change(&change)),
                Event::Synced => Wire::Synced(Synced {}),
                Event::Reset(reason) => Wire::Reset(reason.into()),
                Event::Heartbeat(heartbeat) => Wire::Heartbeat(heartbeat.into()),
            });
            Ok(WatchOrganizationsResponse { event, resume_token })
        });
        Ok(Response::new(told.boxed()))
    }

    async fn create_organization(
        &self,
        _: Request<lifecycle::CreateOrganizationRequest>,
    ) -> Result<Response<lifecycle::CreateOrganizationResponse>, Status> {
        Err(not_here())
    }

    async fn activate_organization(
        &self,
        _: Request<lifecycle::ActivateOrganizationRequest>,
    ) -> Result<Response<lifecycle::ActivateOrganizationResponse>, Status> {
        Err(not_here())
    }

    async fn abandon_organization(
        &self,
        _: Request<lifecycle::AbandonOrganizationRequest>,
    ) -> Result<Response<lifecycle::AbandonOrganizationResponse>, Status> {
        Err(not_here())
    }

    async fn list_purging(
        &self,
        _: Request<lifecycle::ListPurgingRequest>,
    ) -> Result<Response<lifecycle::ListPurgingResponse>, Status> {
        Err(not_here())
    }

    async fn finish_purge(
        &self,
        _: Request<lifecycle::FinishPurgeRequest>,
    ) -> Result<Response<lifecycle::FinishPurgeResponse>, Status> {
        Err(not_here())
    }
}

#[tonic::async_trait]
impl EntitlementService for Service {
    async fn get_entitlements(
        &self,
        request: Request<GetEntitlementsRequest>,
    ) -> Result<Response<GetEntitlementsResponse>, Status> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let org = org(&request.into_inner().org_id);
        let (now, age) = self.recall(&org)?;
        let told = GetEntitlementsResponse { org_id: org.to_string(), ..Default::default() };
        let source = if age.is_zero() { EntitlementSource::Fresh } else { EntitlementSource::Cached };
        Ok(Response::new(match now {
            Some(Now::State { version, state }) => GetEntitlementsResponse {
                subscription_state: state.subscription_state,
                plan_version: state.plan_version,
                capabilities: state.capabilities,
                trial_ends_at: state.trial_ends_at,
                source: source.into(),
                age: Some(duration(age)),
                revision: version,
                ..told
            },
            Some(Now::Gone) => return Err(not_found()),
            Some(Now::Unreadable) => return Err(unreadable()),
            None => {
                let source = EntitlementSource::Default.into();
                let subscription_state = billing::SubscriptionState::Trial.into();
                GetEntitlementsResponse { source, subscription_state, ..told }
            }
        }))
    }

    type WatchBillingStatesStream = BoxStream<'static, Result<WatchBillingStatesResponse, Status>>;

    async fn watch_billing_states(
        &self,
        request: Request<WatchBillingStatesRequest>,
    ) -> Result<Response<Self::WatchBillingStatesStream>, Status> {
        use watch_billing_states_response::Event as Wire;
        let WatchBillingStatesRequest { org_ids, mode, resume_token } = request.into_inner();
        let request = WatchRequest::parse(&org_ids, mode, resume_token).map_err(reject)?;
        let messages = self.hubs().billing_states.watch(request).map_err(reject)?;
        let told = messages.map(|message| {
            let Message { event, resume_token } = message?;
            let event = Some(match event {
                Event::Changed(change) => Wire::Changed(billing_change(&change)),
                Event::Synced => Wire::Synced(Synced {}),
                Event::Reset(reason) => Wire::Reset(reason.into()),
                Event::Heartbeat(heartbeat) => Wire::Heartbeat(heartbeat.into()),
            });
            Ok(WatchBillingStatesResponse { event, resume_token })
        });
        Ok(Response::new(told.boxed()))
    }
}

#[tonic::async_trait]
impl BillingStateService for Service {
    async fn get_billing_state(
        &self,
        request: Request<billing::BillingStateServiceGetBillingStateRequest>,
    ) -> Result<Response<billing::BillingStateServiceGetBillingStateResponse>, Status> {
        let org = org(&request.into_inner().org_id);
        match self.0.store.billing_states.get(&org).map_err(reject)? {
            Some(Now::State { state, .. }) => {
                let billing_state = Some(state);
                Ok(Response::new(billing::BillingStateServiceGetBillingStateResponse { billing_state }))
            }
            Some(Now::Unreadable) => Err(unreadable()),
            Some(Now::Gone) | None => Err(not_found()),
        }
    }

    async fn start_trial(
        &self,
        _: Request<billing::StartTrialRequest>,
    ) -> Result<Response<billing::StartTrialResponse>, Status> {
        Err(not_here())
    }

    async fn purge_billing_state(
        &self,
        _: Request<billing::PurgeBillingStateRequest>,
    ) -> Result<Response<billing::PurgeBillingStateResponse>, Status> {
        Err(not_here())
    }
}
