//! gRPC.

use pulse_rpc::{reject, server::MAX_MESSAGE_BYTES};
use pulse_tenant_guard::{
    Verdict,
    layer::{Grpc, GuardLayer, Guarded},
};
use tonic::{Request, Response, Status};
use tower::Layer as _;

use crate::{
    hosts::{Host, Hosts},
    proto,
    proto::host_service_server::{HostService, HostServiceServer},
};

/// The schema, for reflection.
pub(crate) const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The service with its guard. Health and reflection, which are nobody's, have none.
pub(crate) fn service(
    hosts: Hosts,
    guard: &GuardLayer<Grpc>,
) -> Guarded<HostServiceServer<impl HostService>, Grpc> {
    guard.layer(HostServiceServer::new(Service(hosts)).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

struct Service(Hosts);

#[tonic::async_trait]
impl HostService for Service {
    async fn list_hosts(
        &self,
        request: Request<proto::ListHostsRequest>,
    ) -> Result<Response<proto::ListHostsResponse>, Status> {
        let tenant = Verdict::of(&request)?;
        let hosts = self.0.list(&tenant.org).into_iter().map(proto::Host::from).collect();
        Ok(Response::new(proto::ListHostsResponse { hosts }))
    }

    async fn add_host(
        &self,
        request: Request<proto::AddHostRequest>,
    ) -> Result<Response<proto::AddHostResponse>, Status> {
        let tenant = Verdict::of(&request)?;
        let host = self.0.add(&tenant.org, &request.get_ref().name).await.map_err(reject)?;
        Ok(Response::new(proto::AddHostResponse { host: Some(host.into()) }))
    }

    async fn enable_alerts(
        &self,
        request: Request<proto::EnableAlertsRequest>,
    ) -> Result<Response<proto::EnableAlertsResponse>, Status> {
        let tenant = Verdict::of(&request)?;
        let host = self.0.enable_alerts(&tenant.org, &request.get_ref().name).map_err(reject)?;
        Ok(Response::new(proto::EnableAlertsResponse { host: Some(host.into()) }))
    }

    async fn export_hosts(
        &self,
        request: Request<proto::ExportHostsRequest>,
    ) -> Result<Response<proto::ExportHostsResponse>, Status> {
        let tenant = Verdict::of(&request)?;
        Ok(Response::new(proto::ExportHostsResponse { csv: self.0.export(&tenant.org) }))
    }
}

impl From<Host> for proto::Host {
    fn from(host: Host) -> Self {
        Self { name: host.name, alerts: host.alerts }
    }
}
