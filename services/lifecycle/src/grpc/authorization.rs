//! `envoy.service.auth.v3.Authorization`: the decision about a request, for gateways that speak Envoy's external authorization.

use pulse_envoy_api::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, authorization_server::Authorization,
};
use pulse_tenant_client::gateway::Gatekeeper;
use tonic::{Request, Response, Status};

use crate::convert::envoy::Inquiry;

/// The service.
#[derive(Debug)]
pub(crate) struct Service(Gatekeeper);

impl Service {
    pub(crate) fn new(gatekeeper: Gatekeeper) -> Self {
        Self(gatekeeper)
    }
}

#[tonic::async_trait]
impl Authorization for Service {
    /// A refusal is an answer and no error: for an error, Envoy may be set to let requests go on.
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let inquiry = Inquiry::from(request.into_inner());
        let decided = match &inquiry.question {
            Ok(question) => self.0.ask(question).await,
            Err(refusal) => Err(refusal.clone()),
        };
        Ok(Response::new(inquiry.answer(decided)))
    }
}
