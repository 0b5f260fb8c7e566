//! `pulse.provisioner.v1.AccountService`, for internal services.

use pulse_proto::provisioner::v1::{
    CheckAccessRequest, CheckAccessResponse, GetAccountRequest, GetAccountResponse, VerifyCredentialsRequest,
    VerifyCredentialsResponse, account_service_server::AccountService,
};
use pulse_rpc::reject;
use tonic::{Request, Response, Status};

use crate::{app::App, convert};

/// The service on the app.
#[derive(Debug, Clone)]
pub struct AccountServiceImpl(pub App);

#[tonic::async_trait]
impl AccountService for AccountServiceImpl {
    async fn verify_credentials(
        &self,
        request: Request<VerifyCredentialsRequest>,
    ) -> Result<Response<VerifyCredentialsResponse>, Status> {
        let peer = request.remote_addr();
        let attempt = convert::sign_in(request.into_inner(), peer).map_err(reject)?;
        let member = self.0.verify_credentials(attempt).await.map_err(reject)?;
        Ok(Response::new(member.into()))
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let request = request.into_inner();
        let (org_id, user_id) = convert::place(&request.org_id, &request.user_id).map_err(reject)?;
        let member = self.0.account(&org_id, user_id).await.map_err(reject)?;
        Ok(Response::new(member.into()))
    }

    async fn check_access(
        &self,
        request: Request<CheckAccessRequest>,
    ) -> Result<Response<CheckAccessResponse>, Status> {
        let question = request.into_inner().try_into().map_err(reject)?;
        let answer = self.0.check_access(question).await.map_err(reject)?;
        Ok(Response::new(answer.into()))
    }
}
