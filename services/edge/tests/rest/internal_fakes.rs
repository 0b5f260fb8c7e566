//! The services as other services ask them: what an organization's status is, and what a tenant is entitled to.

use std::sync::Arc;

use futures::stream::BoxStream;
use pulse_kernel::Reason;
use pulse_proto::{
    billing::v1::{
        self as billing, BillingState, EntitlementSource, GetEntitlementsRequest, GetEntitlementsResponse,
        SubscriptionState,
        billing_state_service_server::{BillingStateService, BillingStateServiceServer},
        entitlement_service_server::{EntitlementService, EntitlementServiceServer},
    },
    lifecycle::v1::{
        self as lifecycle, OrganizationServiceGetOrganizationRequest,
        OrganizationServiceGetOrganizationResponse,
        organization_service_server::{OrganizationService, OrganizationServiceServer},
    },
};
use tonic::{Request, Response, Status};

use crate::fakes::{Fake, World, refusal};

/// The RPCs that decisions are made from.
pub(crate) const STATUS: &str = "OrganizationService.GetOrganization";
pub(crate) const ENTITLEMENTS: &str = "GetEntitlements";
pub(crate) const STORED: &str = "BillingStateService.GetBillingState";

impl World {
    pub(crate) fn organizations(self: &Arc<Self>) -> OrganizationServiceServer<Fake> {
        OrganizationServiceServer::new(Fake(Arc::clone(self)))
    }

    pub(crate) fn entitlements(self: &Arc<Self>) -> EntitlementServiceServer<Fake> {
        EntitlementServiceServer::new(Fake(Arc::clone(self)))
    }

    pub(crate) fn billing_states(self: &Arc<Self>) -> BillingStateServiceServer<Fake> {
        BillingStateServiceServer::new(Fake(Arc::clone(self)))
    }
}

/// A paid subscription of that tenant's.
pub(crate) fn pro(org_id: &str) -> BillingState {
    BillingState {
        org_id: org_id.into(),
        subscription_state: SubscriptionState::Active.into(),
        plan_version: "pro".into(),
        capabilities: vec!["alerting".into(), "teleporting".into()],
        limits: [("users".into(), 50), ("alert_rules".into(), -1)].into(),
        ..BillingState::default()
    }
}

#[tonic::async_trait]
impl EntitlementService for Fake {
    /// The stored state is what is granted; a trial with nothing in it otherwise.
    async fn get_entitlements(
        &self,
        request: Request<GetEntitlementsRequest>,
    ) -> Result<Response<GetEntitlementsResponse>, Status> {
        let request = self.0.enter(ENTITLEMENTS, request, None).await?;
        let stored = self.0.billing_state(&request.org_id);
        let (source, revision) = match &stored {
            Some(_) => (EntitlementSource::Cached, 1),
            None => (EntitlementSource::Default, 0),
        };
        let state = stored.unwrap_or_else(|| BillingState {
            org_id: request.org_id,
            subscription_state: SubscriptionState::Trial.into(),
            plan_version: "trial".into(),
            ..BillingState::default()
        });
        let mut answer = GetEntitlementsResponse {
            subscription_state: state.subscription_state,
            org_id: state.org_id,
            plan_version: state.plan_version,
            source: source.into(),
            revision,
            ..GetEntitlementsResponse::default()
        };
        if ![SubscriptionState::Expired, SubscriptionState::Suspended].contains(&answer.subscription_state())
        {
            answer.capabilities = state.capabilities;
            answer.limits = state.limits;
        }
        Ok(Response::new(answer))
    }

    type WatchBillingStatesStream = BoxStream<'static, Result<billing::WatchBillingStatesResponse, Status>>;

    async fn watch_billing_states(
        &self,
        _: Request<billing::WatchBillingStatesRequest>,
    ) -> Result<Response<Self::WatchBillingStatesStream>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }
}

#[tonic::async_trait]
impl BillingStateService for Fake {
    async fn get_billing_state(
        &self,
        request: Request<billing::BillingStateServiceGetBillingStateRequest>,
    ) -> Result<Response<billing::BillingStateServiceGetBillingStateResponse>, Status> {
        let request = self.0.enter(STORED, request, None).await?;
        let stored = self.0.billing_state(&request.org_id).ok_or_else(|| refusal(Reason::OrgNotFound))?;
        let billing_state = Some(stored);
        Ok(Response::new(billing::BillingStateServiceGetBillingStateResponse { billing_state }))
    }

    async fn start_trial(
        &self,
        _: Request<billing::StartTrialRequest>,
    ) -> Result<Response<billing::StartTrialResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn purge_billing_state(
        &self,
        _: Request<billing::PurgeBillingStateRequest>,
    ) -> Result<Response<billing::PurgeBillingStateResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }
}

#[tonic::async_trait]
impl OrganizationService for Fake {
    async fn get_organization(
        &self,
        request: Request<OrganizationServiceGetOrganizationRequest>,
    ) -> Result<Response<OrganizationServiceGetOrganizationResponse>, Status> {
        let request = self.0.enter(STATUS, request, None).await?;
        let mut organization = self.0.organization(&request.org_id)?;
        // Lifecycle's etags are versions.
        "1".clone_into(&mut organization.etag);
        Ok(Response::new(OrganizationServiceGetOrganizationResponse { organization: Some(organization) }))
    }

    async fn create_organization(
        &self,
        _: Request<lifecycle::CreateOrganizationRequest>,
    ) -> Result<Response<lifecycle::CreateOrganizationResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn activate_organization(
        &self,
        _: Request<lifecycle::ActivateOrganizationRequest>,
    ) -> Result<Response<lifecycle::ActivateOrganizationResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn abandon_organization(
        &self,
        _: Request<lifecycle::AbandonOrganizationRequest>,
    ) -> Result<Response<lifecycle::AbandonOrganizationResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn list_purging(
        &self,
        _: Request<lifecycle::ListPurgingRequest>,
    ) -> Result<Response<lifecycle::ListPurgingResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn finish_purge(
        &self,
        _: Request<lifecycle::FinishPurgeRequest>,
    ) -> Result<Response<lifecycle::FinishPurgeResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    type WatchOrganizationsStream = BoxStream<'static, Result<lifecycle::WatchOrganizationsResponse, Status>>;

    async fn watch_organizations(
        &self,
        _: Request<lifecycle::WatchOrganizationsRequest>,
    ) -> Result<Response<Self::WatchOrganizationsStream>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }
}
