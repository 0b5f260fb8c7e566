//! [`RemoteStatus`]: the status of organizations from lifecycle, over gRPC.

use async_trait::async_trait;
use pulse_kernel::OrgId;
use pulse_proto::lifecycle::v1::{
    OrganizationServiceGetOrganizationRequest, organization_service_client::OrganizationServiceClient,
};
use pulse_rpc::Channel;
use pulse_tenant_guard::{StatusLookup, StatusStore, StatusStoreError};

use crate::{convert, failure, is_not_found};

/// A [`StatusStore`] over lifecycle.
#[derive(Debug, Clone)]
pub struct RemoteStatus(OrganizationServiceClient<Channel>);

impl RemoteStatus {
    /// Over a channel to lifecycle.
    pub fn new(channel: Channel) -> Self {
        Self(OrganizationServiceClient::new(channel))
    }
}

#[async_trait]
impl StatusStore for RemoteStatus {
    async fn status(&self, org: &OrgId) -> Result<(StatusLookup, u64), StatusStoreError> {
        let request = OrganizationServiceGetOrganizationRequest { org_id: org.to_string() };
        match self.0.clone().get_organization(request).await {
            Ok(answer) => {
                let found = convert::status(org, answer.into_inner().organization);
                let (status, version) = found.map_err(StatusStoreError)?;
                Ok((StatusLookup::Status(status), version))
            }
            // Also once it was purged, which lifecycle does not tell apart.
            Err(status) if is_not_found(&status) => Ok((StatusLookup::NotFound, 0)),
            Err(status) => Err(StatusStoreError(failure("lifecycle", &status))),
        }
    }
}
