//! `pulse.billing.v1.BillingAdminService`. Every method checks the operator itself, whoever forwarded the call.

use pulse_kernel::OrgId;
use pulse_proto::billing::v1::{
    GetBillingStateRequest, GetBillingStateResponse, ListAuditEventsRequest, ListAuditEventsResponse,
    SetBillingStateRequest, SetBillingStateResponse, billing_admin_service_server::BillingAdminService,
};
use pulse_rpc::{OperatorTokens, Role, reject};
use tonic::{Request, Response, Status};

use super::author;
use crate::{
    app::BillingStates,
    convert::{self, ListAudit, SetState},
};

/// The service.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) states: BillingStates,
    pub(crate) operators: OperatorTokens,
}

#[tonic::async_trait]
impl BillingAdminService for Admin {
    async fn get_billing_state(
        &self,
        request: Request<GetBillingStateRequest>,
    ) -> Result<Response<GetBillingStateResponse>, Status> {
        self.operators.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let org = OrgId::parse(&request.get_ref().org_id).map_err(reject)?;
        let found = self.states.get(&org).await.map_err(reject)?;
        let default = || convert::unstored(&self.states.trial_default(&org));
        let billing_state = Some(found.as_ref().map_or_else(default, convert::stored));
        Ok(Response::new(GetBillingStateResponse { billing_state }))
    }

    async fn set_billing_state(
        &self,
        request: Request<SetBillingStateRequest>,
    ) -> Result<Response<SetBillingStateResponse>, Status> {
        let operator = self.operators.require(request.metadata(), Role::Billing).map_err(reject)?;
        let SetState { org, asked } = request.into_inner().try_into().map_err(reject)?;
        let author = author(operator.name.to_string());
        let state = self.states.set(org, asked, author).await.map_err(reject)?;
        let billing_state = Some(convert::stored(&state));
        Ok(Response::new(SetBillingStateResponse { billing_state }))
    }

    async fn list_audit_events(
        &self,
        request: Request<ListAuditEventsRequest>,
    ) -> Result<Response<ListAuditEventsResponse>, Status> {
        self.operators.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let ListAudit { org, before, size } = request.into_inner().try_into().map_err(reject)?;
        let records = self.states.audit(&org, before, size + 1).await.map_err(reject)?;
        Ok(Response::new(convert::audit_page(records, size)))
    }
}
