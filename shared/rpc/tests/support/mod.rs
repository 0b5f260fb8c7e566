//! A server with one service whose answers the request chooses, and the clients that call it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::stream::BoxStream;
use pulse_kernel::{ApiError, Reason};
use pulse_proto::billing::v1::{
    GetEntitlementsRequest, GetEntitlementsResponse, WatchBillingStatesRequest, WatchBillingStatesResponse,
    entitlement_service_client::EntitlementServiceClient,
    entitlement_service_server::{EntitlementService, EntitlementServiceServer},
};
use pulse_rpc::{
    Channel, GrpcServer, Limits, RequestContext, reject,
    server::{MAX_MESSAGE_BYTES, ServeError},
};
use pulse_runtime::{Readiness, Shutdown};
use tokio::{sync::Semaphore, task::JoinHandle};
use tonic::{Code, Request, Response, Status, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

/// How long a test waits for a condition.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// Says in its field `org_id` what the service should do.
pub(crate) fn entitlements(what: &str) -> Request<GetEntitlementsRequest> {
    Request::new(GetEntitlementsRequest { org_id: what.to_owned() })
}

#[derive(Debug)]
struct Gate {
    entered: AtomicUsize,
    left: AtomicUsize,
    open: Semaphore,
}

struct Leaves<'a>(&'a AtomicUsize);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Clone)]
struct Obedient(Arc<Gate>);

#[tonic::async_trait]
impl EntitlementService for Obedient {
    async fn get_entitlements(
        &self,
        request: Request<GetEntitlementsRequest>,
    ) -> Result<Response<GetEntitlementsResponse>, Status> {
        match request.get_ref().org_id.as_str() {
            "panic" => {
                tokio::task::yield_now().await;
                panic!("secret detail")
            }
            "panic-at-once" => panic!("secret detail"),
            "missing" => return Err(reject(ApiError::new(Reason::OrgNotFound, "there is none"))),
            "wait" => {
                self.0.entered.fetch_add(1, Ordering::SeqCst);
                let _leaves = Leaves(&self.0.left);
                let _ = self.0.open.acquire().await;
            }
            _ => {}
        }
        let plan_version = RequestContext::with(|context| context.request_id.to_string()).unwrap_or_default();
        Ok(Response::new(GetEntitlementsResponse { plan_version, ..GetEntitlementsResponse::default() }))
    }

    type WatchBillingStatesStream = BoxStream<'static, Result<WatchBillingStatesResponse, Status>>;

    async fn watch_billing_states(
        &self,
        _: Request<WatchBillingStatesRequest>,
    ) -> Result<Response<Self::WatchBillingStatesStream>, Status> {
        Err(Status::unimplemented("nobody watches here"))
    }
}

/// A running server.
pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    url: String,
    gate: Arc<Gate>,
    store: Arc<AtomicBool>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    pub(crate) async fn start(limits: Limits) -> Self {
        let (listener, addr) = pulse_testkit::listener().await;
        let gate = Gate { entered: AtomicUsize::new(0), left: AtomicUsize::new(0), open: Semaphore::new(0) };
        let (gate, store) = (Arc::new(gate), Arc::new(AtomicBool::new(true)));
        let shutdown = Shutdown::new();
        let asked = Arc::clone(&store);
        let readiness = Readiness::follow(&shutdown, Duration::from_millis(10), move || {
            let up = asked.load(Ordering::SeqCst);
            async move { if up { Ok(()) } else { Err("away") } }
        });
        let service = EntitlementServiceServer::new(Obedient(Arc::clone(&gate)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let serve = GrpcServer::new(limits).add(service).add_if(false, HiddenServer).serve(
            listener,
            readiness,
            shutdown.clone(),
        );
        let served = tokio::spawn(serve);
        Self { shutdown, url: format!("http://{addr}"), gate, store, served }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn client(&self) -> EntitlementServiceClient<Channel> {
        EntitlementServiceClient::new(pulse_rpc::channel(&self.url).unwrap())
    }

    /// A connection without anything of this crate in it.
    pub(crate) async fn transport(&self) -> tonic::transport::Channel {
        Endpoint::from_shared(self.url()).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn raw_client(&self) -> EntitlementServiceClient<tonic::transport::Channel> {
        EntitlementServiceClient::new(self.transport().await)
    }

    pub(crate) fn entered(&self) -> usize {
        self.gate.entered.load(Ordering::SeqCst)
    }

    pub(crate) fn left(&self) -> usize {
        self.gate.left.load(Ordering::SeqCst)
    }

    pub(crate) fn release(&self) {
        self.gate.open.close();
    }

    pub(crate) fn set_store(&self, up: bool) {
        self.store.store(up, Ordering::SeqCst);
    }

    pub(crate) async fn stopped(self) -> Result<(), ServeError> {
        tokio::time::timeout(WAIT, self.served).await.expect("the server stops").unwrap()
    }

    pub(crate) async fn health(&self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(self.transport().await).check(request).await?;
        Ok(answer.into_inner().status())
    }

    pub(crate) async fn list_services_v1(&self) -> Vec<String> {
        use v1::server_reflection_response::MessageResponse;
        match self.reflect(v1::server_reflection_request::MessageRequest::ListServices(String::new())).await {
            MessageResponse::ListServicesResponse(list) => sorted(list.service.into_iter().map(|s| s.name)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn describes(&self, symbol: &str) -> bool {
        use v1::server_reflection_response::MessageResponse;
        let asked = v1::server_reflection_request::MessageRequest::FileContainingSymbol(symbol.to_owned());
        matches!(self.reflect(asked).await, MessageResponse::FileDescriptorResponse(_))
    }

    async fn reflect(
        &self,
        message: v1::server_reflection_request::MessageRequest,
    ) -> v1::server_reflection_response::MessageResponse {
        let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(self.transport().await);
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
        match answers.into_inner().message().await {
            Ok(answer) => answer.unwrap().message_response.unwrap(),
            Err(status) => {
                v1::server_reflection_response::MessageResponse::ErrorResponse(v1::ErrorResponse {
                    error_code: status.code().into(),
                    error_message: status.message().to_owned(),
                })
            }
        }
    }

    pub(crate) async fn list_services_v1alpha(&self) -> Vec<String> {
        use v1alpha::{
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let request = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client =
            v1alpha::server_reflection_client::ServerReflectionClient::new(self.transport().await);
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
        match answers.into_inner().message().await.unwrap().unwrap().message_response {
            Some(MessageResponse::ListServicesResponse(list)) => {
                sorted(list.service.into_iter().map(|s| s.name))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Calls a path that is not served; its code, message and the names of the headers of the answer.
pub(crate) async fn unimplemented_path(server: &Running, path: &'static str) -> (Code, String, Vec<String>) {
    let mut grpc = tonic::client::Grpc::new(server.transport().await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetEntitlementsRequest, GetEntitlementsResponse>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let status = grpc.unary(entitlements("ok"), path, codec).await.unwrap_err();
    let headers = status.metadata().as_ref().keys().map(ToString::to_string);
    (status.code(), status.message().to_owned(), sorted(headers))
}

/// A service that is not registered, so that what it answers does not matter.
#[derive(Debug, Clone)]
struct HiddenServer;

impl tonic::server::NamedService for HiddenServer {
    const NAME: &'static str = "pulse.billing.v1.BillingAdminService";
}

impl tower::Service<http::Request<tonic::body::Body>> for HiddenServer {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
        std::future::ready(Ok(http::Response::new(tonic::body::Body::empty())))
    }
}
