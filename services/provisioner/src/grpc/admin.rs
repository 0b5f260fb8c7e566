//! `pulse.provisioner.v1.ProvisionerAdminService`, for operators. Each call checks its own token, whoever forwarded it.

use pulse_kernel::OrgId;
use pulse_proto::provisioner::v1::{
    AbandonProvisioningRequest, AbandonProvisioningResponse, GetProvisioningRequest, GetProvisioningResponse,
    ListAuditEventsRequest, ListAuditEventsResponse, ListProvisioningsRequest, ListProvisioningsResponse,
    RetryProvisioningRequest, RetryProvisioningResponse, SetAccountRolesRequest, SetAccountRolesResponse,
    provisioner_admin_service_server::ProvisionerAdminService,
};
use pulse_rpc::{OperatorTokens, Role, page, reject};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    app::{App, admin::Order},
    convert,
    error::ProvisionerError,
    store::SagaQuery,
};

/// The service on the app.
#[derive(Debug, Clone)]
pub struct AdminServiceImpl {
    /// What it does.
    pub app: App,
    /// For whom.
    pub tokens: OperatorTokens,
}

impl AdminServiceImpl {
    /// Who orders it and why, if they may.
    fn order(&self, metadata: &MetadataMap, role: Role, reason: String) -> Result<Order, ProvisionerError> {
        let operator = self.tokens.require(metadata, role)?;
        Ok(Order { actor: operator.name.to_string(), reason: convert::reason_in(reason)? })
    }
}

#[tonic::async_trait]
impl ProvisionerAdminService for AdminServiceImpl {
    async fn list_provisionings(
        &self,
        request: Request<ListProvisioningsRequest>,
    ) -> Result<Response<ListProvisioningsResponse>, Status> {
        self.tokens.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let query = SagaQuery::try_from(request.into_inner()).map_err(reject)?;
        let listed = self.app.list_provisionings(query).await.map_err(reject)?;
        Ok(Response::new(ListProvisioningsResponse {
            next_page_token: listed.next.map(|cursor| page::token(&cursor)).unwrap_or_default(),
            provisionings: listed.items.into_iter().map(Into::into).collect(),
        }))
    }

    async fn get_provisioning(
        &self,
        request: Request<GetProvisioningRequest>,
    ) -> Result<Response<GetProvisioningResponse>, Status> {
        self.tokens.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let request = request.into_inner();
        let id = convert::saga_id(&request.org_id, request.kind).map_err(reject)?;
        let saga = self.app.provisioning(&id).await.map_err(reject)?;
        Ok(Response::new(GetProvisioningResponse { provisioning: Some(saga.into()) }))
    }

    async fn retry_provisioning(
        &self,
        request: Request<RetryProvisioningRequest>,
    ) -> Result<Response<RetryProvisioningResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let order = self.order(&metadata, Role::Support, request.reason).map_err(reject)?;
        let id = convert::saga_id(&request.org_id, request.kind).map_err(reject)?;
        let saga = self.app.retry_provisioning(&id, &order).await.map_err(reject)?;
        Ok(Response::new(RetryProvisioningResponse { provisioning: Some(saga.into()) }))
    }

    async fn abandon_provisioning(
        &self,
        request: Request<AbandonProvisioningRequest>,
    ) -> Result<Response<AbandonProvisioningResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let order = self.order(&metadata, Role::Admin, request.reason).map_err(reject)?;
        let org_id = OrgId::parse(&request.org_id).map_err(reject)?;
        let saga = self.app.abandon_provisioning(org_id, &order).await.map_err(reject)?;
        Ok(Response::new(AbandonProvisioningResponse { provisioning: Some(saga.into()) }))
    }

    async fn set_account_roles(
        &self,
        request: Request<SetAccountRolesRequest>,
    ) -> Result<Response<SetAccountRolesResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let order = self.order(&metadata, Role::Admin, request.reason).map_err(reject)?;
        let (org_id, user_id) = convert::place(&request.org_id, &request.user_id).map_err(reject)?;
        let roles = convert::roles_in(&request.roles).map_err(reject)?;
        let answer = SetAccountRolesResponse {
            org_id: org_id.to_string(),
            user_id: user_id.to_string(),
            roles: convert::roles_out(&roles),
        };
        self.app.set_account_roles(org_id, user_id, roles, order).await.map_err(reject)?;
        Ok(Response::new(answer))
    }

    async fn list_audit_events(
        &self,
        request: Request<ListAuditEventsRequest>,
    ) -> Result<Response<ListAuditEventsResponse>, Status> {
        self.tokens.require(request.metadata(), Role::Viewer).map_err(reject)?;
        let request = request.into_inner();
        let org_id = OrgId::parse(&request.org_id).map_err(reject)?;
        let limit = convert::page_limit(request.page_size).map_err(reject)?;
        let before = page::cursor(&request.page_token).map_err(reject)?;
        let listed = self.app.list_audit_events(&org_id, before, limit).await.map_err(reject)?;
        Ok(Response::new(ListAuditEventsResponse {
            next_page_token: listed.next.map(|sequence| page::token(&sequence)).unwrap_or_default(),
            audit_events: listed.items.into_iter().map(convert::audit_event).collect(),
        }))
    }
}
