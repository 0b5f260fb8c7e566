//! `pulse.lifecycle.v1.OrganizationService`.

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use pulse_kernel::OrgId;
use pulse_proto::lifecycle::v1::{
    AbandonOrganizationRequest, AbandonOrganizationResponse, ActivateOrganizationRequest,
    ActivateOrganizationResponse, CreateOrganizationRequest, CreateOrganizationResponse, FinishPurgeRequest,
    FinishPurgeResponse, ListPurgingRequest, ListPurgingResponse, OrganizationServiceGetOrganizationRequest,
    OrganizationServiceGetOrganizationResponse, WatchOrganizationsRequest, WatchOrganizationsResponse,
    organization_service_server::OrganizationService,
};
use pulse_rpc::{reject, watch::WatchRequest};
use tonic::{Request, Response, Status};

use crate::{
    app::Organizations,
    convert::{PurgingListing, message, page_of},
};

/// The service.
#[derive(Debug)]
pub(crate) struct Service(Organizations);

impl Service {
    pub(crate) fn new(organizations: Organizations) -> Self {
        Self(organizations)
    }
}

#[tonic::async_trait]
impl OrganizationService for Service {
    async fn create_organization(
        &self,
        request: Request<CreateOrganizationRequest>,
    ) -> Result<Response<CreateOrganizationResponse>, Status> {
        let new = request.into_inner().try_into().map_err(reject)?;
        let organization = self.0.create(new).await.map_err(reject)?;
        Ok(Response::new(CreateOrganizationResponse { organization: Some(organization.into()) }))
    }

    async fn activate_organization(
        &self,
        request: Request<ActivateOrganizationRequest>,
    ) -> Result<Response<ActivateOrganizationResponse>, Status> {
        let id = OrgId::parse(&request.into_inner().org_id).map_err(reject)?;
        let organization = self.0.activate(&id).await.map_err(reject)?;
        Ok(Response::new(ActivateOrganizationResponse { organization: Some(organization.into()) }))
    }

    async fn abandon_organization(
        &self,
        request: Request<AbandonOrganizationRequest>,
    ) -> Result<Response<AbandonOrganizationResponse>, Status> {
        let id = OrgId::parse(&request.into_inner().org_id).map_err(reject)?;
        self.0.abandon(&id).await.map_err(reject)?;
        Ok(Response::new(AbandonOrganizationResponse {}))
    }

    async fn get_organization(
        &self,
        request: Request<OrganizationServiceGetOrganizationRequest>,
    ) -> Result<Response<OrganizationServiceGetOrganizationResponse>, Status> {
        let id = OrgId::parse(&request.into_inner().org_id).map_err(reject)?;
        let organization = Some(self.0.get(&id).await.map_err(reject)?.into());
        Ok(Response::new(OrganizationServiceGetOrganizationResponse { organization }))
    }

    async fn list_purging(
        &self,
        request: Request<ListPurgingRequest>,
    ) -> Result<Response<ListPurgingResponse>, Status> {
        let listing = PurgingListing::try_from(request.into_inner()).map_err(reject)?;
        let page = self.0.list_purging(listing.after.as_ref(), listing.size).await.map_err(reject)?;
        let (org_ids, next_page_token) = page_of(page);
        Ok(Response::new(ListPurgingResponse { org_ids, next_page_token }))
    }

    async fn finish_purge(
        &self,
        request: Request<FinishPurgeRequest>,
    ) -> Result<Response<FinishPurgeResponse>, Status> {
        let id = OrgId::parse(&request.into_inner().org_id).map_err(reject)?;
        self.0.finish_purge(&id).await.map_err(reject)?;
        Ok(Response::new(FinishPurgeResponse {}))
    }

    type WatchOrganizationsStream = BoxStream<'static, Result<WatchOrganizationsResponse, Status>>;

    async fn watch_organizations(
        &self,
        request: Request<WatchOrganizationsRequest>,
    ) -> Result<Response<Self::WatchOrganizationsStream>, Status> {
        let WatchOrganizationsRequest { org_ids, mode, resume_token } = request.into_inner();
        let request = WatchRequest::parse(&org_ids, mode, resume_token).map_err(reject)?;
        let messages = self.0.watch(request).map_err(reject)?;
        Ok(Response::new(messages.map_ok(message).boxed()))
    }
}
