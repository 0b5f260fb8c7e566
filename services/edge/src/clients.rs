//! The services behind the edge, as functions of domain values.
//!
//! Request id, trace and what is left of the request's time go along by themselves: see [`pulse_rpc::Channel`].

use pulse_kernel::{ApiError, ErrorKind, OrgId, Reason};
use pulse_proto::{
    billing::v1::{
        self as billing, SetBillingStateRequest, billing_admin_service_client::BillingAdminServiceClient,
    },
    lifecycle::v1::{
        self as lifecycle, ListOrganizationsRequest, RestoreOrganizationRequest,
        SoftDeleteOrganizationRequest, SuspendOrganizationRequest, UnsuspendOrganizationRequest,
        lifecycle_admin_service_client::LifecycleAdminServiceClient,
    },
    provisioner::v1::{self as provisioner, provisioner_admin_service_client::ProvisionerAdminServiceClient},
    signup::v1::{SignUpRequest, signup_service_client::SignupServiceClient},
};
use pulse_rpc::{Channel, client::InvalidUrl};
use pulse_runtime::{Endpoints, Service};
use secrecy::ExposeSecret;
use tonic::{Code, Response, Status};

use crate::{
    auth::Credentials,
    client_ip::ClientIp,
    model::{
        AuditEvent, BillingState, Organization, OrganizationPage, OrganizationStatus, SetBillingStateBody,
        SignUpAnswer, SignUpBody, SoftDeleteBody,
    },
};

/// The largest answer read, in bytes: a page of a thousand audit events.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A channel to every service. Clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    /// To signup-gateway.
    pub(crate) signup: Channel,
    /// To lifecycle.
    pub(crate) lifecycle: Channel,
    /// To billing-state.
    pub(crate) billing: Channel,
    /// To provisioner.
    pub(crate) provisioner: Channel,
}

impl Channels {
    /// Channels to where the services are said to be; they connect when they are used.
    ///
    /// # Errors
    /// When a URL is not one.
    pub(crate) fn new(endpoints: &Endpoints) -> Result<Self, InvalidUrl> {
        let channel = |service| pulse_rpc::channel(&endpoints.url(service).to_string());
        Ok(Self {
            signup: channel(Service::SignupGateway)?,
            lifecycle: channel(Service::Lifecycle)?,
            billing: channel(Service::BillingState)?,
            provisioner: channel(Service::Provisioner)?,
        })
    }
}

/// The services' RPCs that the edge needs.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    signup: SignupServiceClient<Channel>,
    lifecycle: LifecycleAdminServiceClient<Channel>,
    billing: BillingAdminServiceClient<Channel>,
    provisioner: ProvisionerAdminServiceClient<Channel>,
}

/// Part of a list, and the token that leads to the rest; empty on the last page.
#[derive(Debug)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Leads to the next page.
    pub(crate) next_token: String,
}

/// Which organizations to list.
#[derive(Debug, Default)]
pub(crate) struct OrganizationFilter {
    /// Only those in this status.
    pub(crate) status: Option<OrganizationStatus>,
    /// How many at the most; 0 leaves it to the service.
    pub(crate) page_size: i32,
    /// Where to go on; empty for the first page.
    pub(crate) page_token: String,
}

impl Clients {
    /// Clients over these channels.
    pub(crate) fn new(channels: Channels) -> Self {
        Self {
            signup: SignupServiceClient::new(channels.signup),
            lifecycle: LifecycleAdminServiceClient::new(channels.lifecycle)
                .max_decoding_message_size(MAX_ANSWER),
            billing: BillingAdminServiceClient::new(channels.billing).max_decoding_message_size(MAX_ANSWER),
            provisioner: ProvisionerAdminServiceClient::new(channels.provisioner)
                .max_decoding_message_size(MAX_ANSWER),
        }
    }

    /// Signs a stranger up.
    pub(crate) async fn sign_up(&self, body: SignUpBody, client: ClientIp) -> Result<SignUpAnswer, ApiError> {
        let request = SignUpRequest {
            email: body.email,
            password: body.password.expose_secret().to_owned(),
            org_name: body.org_name,
            client_ip: client.0.to_string(),
        };
        let call = self.signup.clone().sign_up(request).await;
        answer(Service::SignupGateway, call)?.try_into()
    }

    /// Looks an organization up.
    pub(crate) async fn organization(
        &self,
        who: &Credentials,
        org_id: &OrgId,
    ) -> Result<Organization, ApiError> {
        let request = lifecycle::GetOrganizationRequest { org_id: org_id.to_string() };
        let call = self.lifecycle.clone().get_organization(who.request(request)).await;
        answer(Service::Lifecycle, call)?.organization.try_into()
    }

    /// Lists organizations.
    pub(crate) async fn organizations(
        &self,
        who: &Credentials,
        filter: OrganizationFilter,
    ) -> Result<OrganizationPage, ApiError> {
        let request = ListOrganizationsRequest {
            status: filter.status.map_or(0, |status| lifecycle::OrganizationStatus::from(status).into()),
            page_size: filter.page_size,
            page_token: filter.page_token,
        };
        let call = self.lifecycle.clone().list_organizations(who.request(request)).await;
        let page = answer(Service::Lifecycle, call)?;
        let organizations = page.organizations.into_iter().map(|item| Some(item).try_into());
        Ok(OrganizationPage {
            organizations: organizations.collect::<Result<_, _>>()?,
            next_page_token: page.next_page_token,
        })
    }

    /// Suspends an organization.
    pub(crate) async fn suspend(
        &self,
        who: &Credentials,
        org_id: &OrgId,
        reason: String,
        etag: String,
    ) -> Result<Organization, ApiError> {
        let request = SuspendOrganizationRequest { org_id: org_id.to_string(), reason, etag };
        let call = self.lifecycle.clone().suspend_organization(who.request(request)).await;
        answer(Service::Lifecycle, call)?.organization.try_into()
    }

    /// Lets a suspended organization back in.
    pub(crate) async fn unsuspend(
        &self,
        who: &Credentials,
        org_id: &OrgId,
        reason: String,
        etag: String,
    ) -> Result<Organization, ApiError> {
        let request = UnsuspendOrganizationRequest { org_id: org_id.to_string(), reason, etag };
        let call = self.lifecycle.clone().unsuspend_organization(who.request(request)).await;
        answer(Service::Lifecycle, call)?.organization.try_into()
    }

    /// Marks an organization for deletion.
    pub(crate) async fn soft_delete(
        &self,
        who: &Credentials,
        org_id: &OrgId,
        body: SoftDeleteBody,
        etag: String,
    ) -> Result<Organization, ApiError> {
        let SoftDeleteBody { retention_days, reason } = body;
        let request =
            SoftDeleteOrganizationRequest { org_id: org_id.to_string(), retention_days, etag, reason };
        let call = self.lifecycle.clone().soft_delete_organization(who.request(request)).await;
        answer(Service::Lifecycle, call)?.organization.try_into()
    }

    /// Takes a deletion back.
    pub(crate) async fn restore(
        &self,
        who: &Credentials,
        org_id: &OrgId,
        reason: String,
        etag: String,
    ) -> Result<Organization, ApiError> {
        let request = RestoreOrganizationRequest { org_id: org_id.to_string(), reason, etag };
        let call = self.lifecycle.clone().restore_organization(who.request(request)).await;
        answer(Service::Lifecycle, call)?.organization.try_into()
    }

    /// The stored billing state of a tenant, or the default.
    pub(crate) async fn billing_state(
        &self,
        who: &Credentials,
        org_id: &OrgId,
    ) -> Result<BillingState, ApiError> {
        let request = billing::GetBillingStateRequest { org_id: org_id.to_string() };
        let call = self.billing.clone().get_billing_state(who.request(request)).await;
        answer(Service::BillingState, call)?.billing_state.try_into()
    }

    /// Stores the billing state of a tenant, who is known to exist.
    pub(crate) async fn set_billing_state(
        &self,
        who: &Credentials,
        org_id: &OrgId,
        mut body: SetBillingStateBody,
        etag: String,
    ) -> Result<BillingState, ApiError> {
        let request = SetBillingStateRequest {
            org_id: org_id.to_string(),
            reason: std::mem::take(&mut body.reason),
            explicit_grants: body.has_grants(),
            billing_state: Some(body.into()),
            etag,
            allow_missing: true,
        };
        let call = self.billing.clone().set_billing_state(who.request(request)).await;
        answer(Service::BillingState, call)?.billing_state.try_into()
    }

    /// A page of what one service recorded about a tenant, newest first. The gateway keeps no such records.
    pub(crate) async fn audit_events(
        &self,
        source: AuditSource,
        who: &Credentials,
        org_id: &OrgId,
        page_size: i32,
        page_token: &str,
    ) -> Result<Page<AuditEvent>, ApiError> {
        let (org_id, page_token) = (org_id.to_string(), page_token.to_owned());
        let (events, next_token) = match source {
            AuditSource::Lifecycle => {
                let request = lifecycle::ListAuditEventsRequest { org_id, page_size, page_token };
                let call = self.lifecycle.clone().list_audit_events(who.request(request)).await;
                let page = answer(Service::Lifecycle, call)?;
                (page.audit_events, page.next_page_token)
            }
            AuditSource::Provisioner => {
                let request = provisioner::ListAuditEventsRequest { org_id, page_size, page_token };
                let call = self.provisioner.clone().list_audit_events(who.request(request)).await;
                let page = answer(Service::Provisioner, call)?;
                (page.audit_events, page.next_page_token)
            }
            AuditSource::BillingState => {
                let request = billing::ListAuditEventsRequest { org_id, page_size, page_token };
                let call = self.billing.clone().list_audit_events(who.request(request)).await;
                let page = answer(Service::BillingState, call)?;
                (page.audit_events, page.next_page_token)
            }
        };
        let items = events.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Page { items, next_token })
    }
}

/// The services that keep audit records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuditSource {
    /// Of organizations.
    Lifecycle,
    /// Of accounts and sagas.
    Provisioner,
    /// Of billing states.
    BillingState,
}

impl AuditSource {
    /// Every one.
    pub(crate) const ALL: [Self; 3] = [Self::Lifecycle, Self::Provisioner, Self::BillingState];
}

fn answer<T>(service: Service, call: Result<Response<T>, Status>) -> Result<T, ApiError> {
    call.map(Response::into_inner).map_err(|status| failure(service, &status))
}

/// What a failed call means for our caller. The cause is logged; nothing of it leaves.
fn failure(service: Service, status: &Status) -> ApiError {
    let error = match status.code() {
        // The service runs without hosted mode, or is of another version: a deployment that is not done yet.
        Code::Unimplemented => ApiError::new(
            Reason::Unavailable,
            "a service that this request needs does not serve it; try again",
        ),
        // It names a file, which is for the log.
        Code::DataLoss => {
            ApiError::new(Reason::StoredStateUnreadable, "an operator has to look at a stored record")
        }
        _ => pulse_rpc::from_status(status),
    };
    let (service, code, cause) = (service.name(), status.code(), status.message());
    match error.kind() {
        ErrorKind::Internal | ErrorKind::DataLoss => tracing::error!(service, ?code, cause, "a call failed"),
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => {
            tracing::warn!(service, ?code, cause, "a call failed for now");
        }
        ErrorKind::InvalidArgument
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::FailedPrecondition
        | ErrorKind::Aborted
        | ErrorKind::ResourceExhausted => tracing::debug!(service, ?code, "a call was refused"),
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_without_hosted_mode_is_unavailable_not_an_error_of_ours() {
        let error = failure(Service::SignupGateway, &Status::unimplemented("no SignupService here"));
        assert_eq!(error.reason(), Reason::Unavailable);
        assert!(!error.message().contains("SignupService"));
    }

    #[test]
    fn nothing_of_a_transport_s_words_leaves() {
        for code in [Code::Unavailable, Code::Internal, Code::Unknown, Code::DeadlineExceeded, Code::DataLoss]
        {
            let error = failure(Service::Lifecycle, &Status::new(code, "10.0.0.7:50054 refused"));
            assert!(!error.message().contains("10.0.0.7"), "{code:?}: {error}");
        }
    }
}
