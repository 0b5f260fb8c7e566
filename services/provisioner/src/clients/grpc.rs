//! The other services over gRPC.

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_entitlements::Entitlements;
use pulse_kernel::{ApiError, OrgId};
use pulse_proto::{
    billing::v1::{
        self as billing, billing_state_service_client::BillingStateServiceClient,
        entitlement_service_client::EntitlementServiceClient,
    },
    lifecycle::v1::{self as lifecycle, organization_service_client::OrganizationServiceClient},
};
use pulse_rpc::{Channel, from_status};
use pulse_tenant_guard::OrganizationStatus;

use super::{Billing, NewOrganization, Organizations, PurgingPage};
use crate::convert;

/// How many organizations a page lists.
const PAGE: i32 = 100;

/// lifecycle.
#[derive(Debug, Clone)]
pub struct LifecycleClient(OrganizationServiceClient<Channel>);

impl LifecycleClient {
    /// A client over `channel`.
    pub fn new(channel: Channel) -> Self {
        Self(OrganizationServiceClient::new(channel))
    }
}

#[async_trait]
impl Organizations for LifecycleClient {
    async fn create(&self, new: &NewOrganization) -> Result<(), ApiError> {
        let request = lifecycle::CreateOrganizationRequest::from(new);
        self.0.clone().create_organization(request).await.map_err(|status| from_status(&status))?;
        Ok(())
    }

    async fn activate(&self, org_id: &OrgId) -> Result<(), ApiError> {
        let request = lifecycle::ActivateOrganizationRequest { org_id: org_id.to_string() };
        self.0.clone().activate_organization(request).await.map_err(|status| from_status(&status))?;
        Ok(())
    }

    async fn abandon(&self, org_id: &OrgId) -> Result<(), ApiError> {
        let request = lifecycle::AbandonOrganizationRequest { org_id: org_id.to_string() };
        self.0.clone().abandon_organization(request).await.map_err(|status| from_status(&status))?;
        Ok(())
    }

    async fn status(&self, org_id: &OrgId) -> Result<OrganizationStatus, ApiError> {
        let request = lifecycle::OrganizationServiceGetOrganizationRequest { org_id: org_id.to_string() };
        let answer = self.0.clone().get_organization(request).await.map_err(|status| from_status(&status))?;
        convert::organization_status(&answer.into_inner())
    }

    async fn list_purging(&self, page: Option<&str>) -> Result<PurgingPage, ApiError> {
        let page_token = page.unwrap_or_default().to_owned();
        let request = lifecycle::ListPurgingRequest { page_size: PAGE, page_token };
        let answer = self.0.clone().list_purging(request).await.map_err(|status| from_status(&status))?;
        answer.into_inner().try_into()
    }

    async fn finish_purge(&self, org_id: &OrgId) -> Result<(), ApiError> {
        let request = lifecycle::FinishPurgeRequest { org_id: org_id.to_string() };
        self.0.clone().finish_purge(request).await.map_err(|status| from_status(&status))?;
        Ok(())
    }
}

/// billing-state.
#[derive(Debug, Clone)]
pub struct BillingClient {
    states: BillingStateServiceClient<Channel>,
    entitlements: EntitlementServiceClient<Channel>,
}

impl BillingClient {
    /// A client over `channel`.
    pub fn new(channel: Channel) -> Self {
        Self {
            states: BillingStateServiceClient::new(channel.clone()),
            entitlements: EntitlementServiceClient::new(channel),
        }
    }
}

#[async_trait]
impl Billing for BillingClient {
    async fn start_trial(&self, org_id: &OrgId, key: &str) -> Result<Option<Timestamp>, ApiError> {
        let request =
            billing::StartTrialRequest { org_id: org_id.to_string(), idempotency_key: key.to_owned() };
        let answer = self.states.clone().start_trial(request).await.map_err(|status| from_status(&status))?;
        convert::trial_ends_at(answer.into_inner().billing_state)
    }

    async fn trial_ends_at(&self, org_id: &OrgId) -> Result<Option<Timestamp>, ApiError> {
        let request = billing::BillingStateServiceGetBillingStateRequest { org_id: org_id.to_string() };
        let answer =
            self.states.clone().get_billing_state(request).await.map_err(|status| from_status(&status))?;
        convert::trial_ends_at(answer.into_inner().billing_state)
    }

    async fn entitlements(&self, org_id: &OrgId) -> Result<Entitlements, ApiError> {
        let request = billing::GetEntitlementsRequest { org_id: org_id.to_string() };
        let answer = self
            .entitlements
            .clone()
            .get_entitlements(request)
            .await
            .map_err(|status| from_status(&status))?;
        convert::entitlements(answer.into_inner())
    }

    async fn purge(&self, org_id: &OrgId, created_by: Option<&str>) -> Result<(), ApiError> {
        let created_by_key = created_by.unwrap_or_default().to_owned();
        let request = billing::PurgeBillingStateRequest { org_id: org_id.to_string(), created_by_key };
        self.states.clone().purge_billing_state(request).await.map_err(|status| from_status(&status))?;
        Ok(())
    }
}
