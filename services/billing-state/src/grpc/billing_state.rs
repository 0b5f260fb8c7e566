//! `pulse.billing.v1.BillingStateService`.

use pulse_kernel::OrgId;
use pulse_proto::billing::v1::{
    BillingStateServiceGetBillingStateRequest, BillingStateServiceGetBillingStateResponse,
    PurgeBillingStateRequest, PurgeBillingStateResponse, StartTrialRequest, StartTrialResponse,
    billing_state_service_server::BillingStateService,
};
use pulse_rpc::reject;
use tonic::{Request, Response, Status};

use super::author;
use crate::{
    app::BillingStates,
    convert::{self, PurgeState, StartTrial},
    error::BillingError,
};

/// The only caller that changes anything here, as the audit names it.
const PROVISIONER: &str = "service:provisioner";

/// The service.
#[derive(Debug)]
pub(crate) struct State(pub(crate) BillingStates);

#[tonic::async_trait]
impl BillingStateService for State {
    async fn start_trial(
        &self,
        request: Request<StartTrialRequest>,
    ) -> Result<Response<StartTrialResponse>, Status> {
        let StartTrial { org, key } = request.into_inner().try_into().map_err(reject)?;
        let author = author(PROVISIONER.to_owned());
        let (state, created) = self.0.start_trial(org, key, author).await.map_err(reject)?;
        let billing_state = Some(convert::stored(&state));
        Ok(Response::new(StartTrialResponse { billing_state, created }))
    }

    async fn get_billing_state(
        &self,
        request: Request<BillingStateServiceGetBillingStateRequest>,
    ) -> Result<Response<BillingStateServiceGetBillingStateResponse>, Status> {
        let org = OrgId::parse(&request.get_ref().org_id).map_err(reject)?;
        let found = self.0.get(&org).await.and_then(|state| state.ok_or(BillingError::NotFound));
        let billing_state = Some(convert::stored(&found.map_err(reject)?));
        Ok(Response::new(BillingStateServiceGetBillingStateResponse { billing_state }))
    }

    async fn purge_billing_state(
        &self,
        request: Request<PurgeBillingStateRequest>,
    ) -> Result<Response<PurgeBillingStateResponse>, Status> {
        let PurgeState { org, created_by } = request.into_inner().try_into().map_err(reject)?;
        let purged = self.0.purge(org, created_by).await.map_err(reject)?;
        Ok(Response::new(PurgeBillingStateResponse { purged }))
    }
}
