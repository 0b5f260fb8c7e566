//! `pulse.billing.v1.EntitlementService`.

use pulse_kernel::OrgId;
use pulse_proto::billing::v1::{
    GetEntitlementsRequest, GetEntitlementsResponse, entitlement_service_server::EntitlementService,
};
use pulse_rpc::reject;
use tonic::{Request, Response, Status};

use crate::{app::BillingStates, convert};

/// The service.
#[derive(Debug)]
pub(crate) struct Entitlement(pub(crate) BillingStates);

#[tonic::async_trait]
impl EntitlementService for Entitlement {
    async fn get_entitlements(
        &self,
        request: Request<GetEntitlementsRequest>,
    ) -> Result<Response<GetEntitlementsResponse>, Status> {
        let org = OrgId::parse(&request.get_ref().org_id).map_err(reject)?;
        let answer = self.0.entitlements(&org).await.map_err(reject)?;
        Ok(Response::new(convert::entitlements(&answer)))
    }
}
