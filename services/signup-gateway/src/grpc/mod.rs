//! `pulse.signup.v1.SignupService`: converts, calls, converts.

use pulse_proto::signup::v1::{SignUpRequest, SignUpResponse, signup_service_server::SignupService};
use pulse_rpc::reject;
use tonic::{Request, Response, Status};

use crate::app::SignUps;

/// The service.
#[derive(Debug)]
pub(crate) struct Signup(SignUps);

impl Signup {
    pub(crate) fn new(sign_ups: SignUps) -> Self {
        Self(sign_ups)
    }
}

#[tonic::async_trait]
impl SignupService for Signup {
    async fn sign_up(&self, request: Request<SignUpRequest>) -> Result<Response<SignUpResponse>, Status> {
        let tenant = self.0.sign_up(request.into_inner().into()).await.map_err(reject)?;
        Ok(Response::new(tenant.into()))
    }
}
