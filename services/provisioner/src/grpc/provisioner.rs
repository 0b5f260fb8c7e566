//! `pulse.provisioner.v1.ProvisionerService`, for the signup gateway.

use pulse_proto::provisioner::v1::{
    ProvisionTenantRequest, ProvisionTenantResponse, provisioner_service_server::ProvisionerService,
};
use pulse_rpc::reject;
use tonic::{Request, Response, Status};

use crate::{app::App, convert};

/// The service on the app.
#[derive(Debug, Clone)]
pub struct ProvisionerServiceImpl(pub App);

#[tonic::async_trait]
impl ProvisionerService for ProvisionerServiceImpl {
    async fn provision_tenant(
        &self,
        request: Request<ProvisionTenantRequest>,
    ) -> Result<Response<ProvisionTenantResponse>, Status> {
        let wanted = convert::wanted(request.into_inner(), self.0.password_policy).map_err(reject)?;
        let tenant = self.0.provision(wanted).await.map_err(reject)?;
        Ok(Response::new(tenant.into()))
    }
}
