//! `pulse.lifecycle.v1.LifecycleAdminService`. Every call proves its operator here, whoever forwarded it.

use pulse_kernel::OrgId;
use pulse_proto::lifecycle::v1::{
    GetOrganizationRequest, GetOrganizationResponse, ListAuditEventsRequest, ListAuditEventsResponse,
    ListOrganizationsRequest, ListOrganizationsResponse, RestoreOrganizationRequest,
    RestoreOrganizationResponse, SoftDeleteOrganizationRequest, SoftDeleteOrganizationResponse,
    SuspendOrganizationRequest, SuspendOrganizationResponse, UnsuspendOrganizationRequest,
    UnsuspendOrganizationResponse, lifecycle_admin_service_server::LifecycleAdminService,
};
use pulse_rpc::{OperatorTokens, Role, reject};
use tonic::{Request, Response, Status};

use crate::{
    app::Organizations,
    convert::{AuditListing, Event, Listing, deletion, page_of},
    domain::Retention,
};

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    organizations: Organizations,
    operators: OperatorTokens,
    default_retention: Retention,
}

impl Service {
    pub(crate) fn new(
        organizations: Organizations,
        operators: OperatorTokens,
        default_retention: Retention,
    ) -> Self {
        Self { organizations, operators, default_retention }
    }
}

#[tonic::async_trait]
impl LifecycleAdminService for Service {
    async fn get_organization(
        &self,
        request: Request<GetOrganizationRequest>,
    ) -> Result<Response<GetOrganizationResponse>, Status> {
        self.operators.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let id = OrgId::parse(&request.into_inner().org_id).map_err(reject)?;
        let organization = Some(self.organizations.get(&id).await.map_err(reject)?.into());
        Ok(Response::new(GetOrganizationResponse { organization }))
    }

    async fn list_organizations(
        &self,
        request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        self.operators.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let Listing { status, after, size } = request.into_inner().try_into().map_err(reject)?;
        let page = self.organizations.list(status, after.as_ref(), size).await.map_err(reject)?;
        let (organizations, next_page_token) = page_of(page);
        Ok(Response::new(ListOrganizationsResponse { organizations, next_page_token }))
    }

    async fn suspend_organization(
        &self,
        request: Request<SuspendOrganizationRequest>,
    ) -> Result<Response<SuspendOrganizationResponse>, Status> {
        let operator = self.operators.require(request.metadata(), Role::Support).map_err(reject)?;
        let order = request.into_inner().try_into().map_err(reject)?;
        let organization = self.organizations.suspend(order, &operator.name).await.map_err(reject)?;
        Ok(Response::new(SuspendOrganizationResponse { organization: Some(organization.into()) }))
    }

    async fn unsuspend_organization(
        &self,
        request: Request<UnsuspendOrganizationRequest>,
    ) -> Result<Response<UnsuspendOrganizationResponse>, Status> {
        let operator = self.operators.require(request.metadata(), Role::Support).map_err(reject)?;
        let order = request.into_inner().try_into().map_err(reject)?;
        let organization = self.organizations.unsuspend(order, &operator.name).await.map_err(reject)?;
        Ok(Response::new(UnsuspendOrganizationResponse { organization: Some(organization.into()) }))
    }

    async fn soft_delete_organization(
        &self,
        request: Request<SoftDeleteOrganizationRequest>,
    ) -> Result<Response<SoftDeleteOrganizationResponse>, Status> {
        let operator = self.operators.require(request.metadata(), Role::Admin).map_err(reject)?;
        let (order, retention) = deletion(request.into_inner()).map_err(reject)?;
        let retention = retention.unwrap_or(self.default_retention);
        let deleted =
            self.organizations.soft_delete(order, retention, &operator.name).await.map_err(reject)?;
        Ok(Response::new(SoftDeleteOrganizationResponse { organization: Some(deleted.into()) }))
    }

    async fn restore_organization(
        &self,
        request: Request<RestoreOrganizationRequest>,
    ) -> Result<Response<RestoreOrganizationResponse>, Status> {
        let operator = self.operators.require(request.metadata(), Role::Admin).map_err(reject)?;
        let order = request.into_inner().try_into().map_err(reject)?;
        let organization = self.organizations.restore(order, &operator.name).await.map_err(reject)?;
        Ok(Response::new(RestoreOrganizationResponse { organization: Some(organization.into()) }))
    }

    async fn list_audit_events(
        &self,
        request: Request<ListAuditEventsRequest>,
    ) -> Result<Response<ListAuditEventsResponse>, Status> {
        self.operators.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let AuditListing { id, before, size } = request.into_inner().try_into().map_err(reject)?;
        let page = self.organizations.audit_events(&id, before, size).await.map_err(reject)?;
        let (events, next_page_token) = page_of::<_, _, Event>(page);
        let audit_events = events.into_iter().map(|event| event.0).collect();
        Ok(Response::new(ListAuditEventsResponse { audit_events, next_page_token }))
    }
}
