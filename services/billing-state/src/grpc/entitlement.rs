//! `pulse.billing.v1.EntitlementService`.

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use pulse_kernel::OrgId;
use pulse_proto::billing::v1::{
    GetEntitlementsRequest, GetEntitlementsResponse, WatchBillingStatesRequest, WatchBillingStatesResponse,
    entitlement_service_server::EntitlementService,
};
use pulse_rpc::{reject, watch::WatchRequest};
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

    type WatchBillingStatesStream = BoxStream<'static, Result<WatchBillingStatesResponse, Status>>;

    async fn watch_billing_states(
        &self,
        request: Request<WatchBillingStatesRequest>,
    ) -> Result<Response<Self::WatchBillingStatesStream>, Status> {
        let WatchBillingStatesRequest { org_ids, mode, resume_token } = request.into_inner();
        let request = WatchRequest::parse(&org_ids, mode, resume_token).map_err(reject)?;
        let messages = self.0.watch(request).map_err(reject)?;
        Ok(Response::new(messages.map_ok(convert::message).boxed()))
    }
}
