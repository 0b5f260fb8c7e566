//! The provisioner, as a function of domain values.
//!
//! Request id, trace and what is left of the request's time go along by themselves: see [`pulse_rpc::Channel`].

use pulse_proto::provisioner::v1::provisioner_service_client::ProvisionerServiceClient;
use pulse_rpc::Channel;

use crate::{
    convert::{self, UnexpectedAnswer},
    domain::{SignUp, Tenant},
    error::SignUpError,
};

/// The service that makes tenants.
#[derive(Debug, Clone)]
pub(crate) struct Provisioner(ProvisionerServiceClient<Channel>);

impl Provisioner {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(ProvisionerServiceClient::new(channel))
    }

    /// Makes a tenant for this owner, or finds the one that the owner has. Safe to repeat.
    pub(crate) async fn provision(&self, sign_up: SignUp) -> Result<Tenant, SignUpError> {
        let request = convert::provision_tenant_request(&sign_up);
        let answer = self.0.clone().provision_tenant(request).await.map_err(SignUpError::Provisioner)?;
        answer.into_inner().try_into().map_err(|error: UnexpectedAnswer| SignUpError::Answer(error))
    }
}
