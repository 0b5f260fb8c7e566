//! The services as a test wants them: they remember what they were asked and answer from a small world, or fail as
//! told. They check operators as the real ones do.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use pulse_kernel::{ApiError, Reason, Violations};
use pulse_proto::{
    audit::v1::AuditEvent,
    billing::v1::{
        self as billing, BillingState,
        billing_admin_service_server::{BillingAdminService, BillingAdminServiceServer},
    },
    lifecycle::v1::{
        self as lifecycle, Organization, OrganizationStatus,
        lifecycle_admin_service_server::{LifecycleAdminService, LifecycleAdminServiceServer},
    },
    provisioner::v1::{
        self as provisioner,
        provisioner_admin_service_server::{ProvisionerAdminService, ProvisionerAdminServiceServer},
    },
    signup::v1::{
        SignUpOutcome, SignUpRequest, SignUpResponse,
        signup_service_server::{SignupService, SignupServiceServer},
    },
};
use pulse_rpc::{OperatorTokens, Role, page, to_status};
use tonic::{Request, Response, Status, metadata::MetadataMap};

/// 2026-01-31T12:00:00Z.
pub(crate) const NOON: prost_types::Timestamp = prost_types::Timestamp { seconds: 1_769_860_800, nanos: 0 };

/// What a service was asked.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) rpc: &'static str,
    pub(crate) metadata: MetadataMap,
    /// The request as `Debug` shows it.
    pub(crate) request: String,
}

#[derive(Debug, Default)]
struct State {
    organizations: BTreeMap<String, Organization>,
    billing: BTreeMap<String, BillingState>,
    audit: HashMap<&'static str, Vec<AuditEvent>>,
    failures: HashMap<&'static str, Status>,
    hanging: Option<&'static str>,
    calls: Vec<Call>,
    passwords: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct World {
    tokens: OperatorTokens,
    state: Mutex<State>,
}

impl World {
    pub(crate) fn new(tokens: OperatorTokens) -> Self {
        let world = Self { tokens, state: Mutex::default() };
        world.add(Organization { owner_email: String::new(), ..organization("default") });
        world.add(organization("acme"));
        world
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn add(&self, organization: Organization) {
        self.state().organizations.insert(organization.id.clone(), organization);
    }

    pub(crate) fn billing_state(&self, id: &str) -> Option<BillingState> {
        self.state().billing.get(id).cloned()
    }

    pub(crate) fn store_billing(&self, state: BillingState) {
        self.state().billing.insert(state.org_id.clone(), state);
    }

    /// Records an event of `service` about acme, at `second`.
    pub(crate) fn record(&self, service: &'static str, second: i64) {
        let mut state = self.state();
        let events = state.audit.entry(service).or_default();
        let sequence = i64::try_from(events.len()).unwrap() + 1;
        events.push(AuditEvent {
            org_id: "acme".into(),
            service: service.into(),
            sequence,
            occurred_at: Some(prost_types::Timestamp { seconds: second, nanos: 0 }),
            actor: "ada".into(),
            action: "changed".into(),
            hash: format!("{service}-{sequence}"),
            ..AuditEvent::default()
        });
    }

    pub(crate) fn record_event(&self, service: &'static str, event: AuditEvent) {
        self.state().audit.entry(service).or_default().push(event);
    }

    /// Lets every call of `rpc` fail from now on.
    pub(crate) fn fail(&self, rpc: &'static str, status: Status) {
        self.state().failures.insert(rpc, status);
    }

    pub(crate) fn fail_with(&self, rpc: &'static str, error: &ApiError) {
        self.fail(rpc, to_status(error));
    }

    /// Lets calls of `rpc` be answered again.
    pub(crate) fn mend(&self, rpc: &'static str) {
        self.state().failures.remove(rpc);
    }

    /// Lets calls of `rpc` never end.
    pub(crate) fn hang(&self, rpc: &'static str) {
        self.state().hanging = Some(rpc);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The last call of `rpc`.
    #[track_caller]
    pub(crate) fn call(&self, rpc: &str) -> Call {
        let call = self.calls().into_iter().rev().find(|call| call.rpc == rpc);
        call.unwrap_or_else(|| panic!("{rpc} was not called"))
    }

    pub(crate) fn passwords(&self) -> Vec<String> {
        self.state().passwords.clone()
    }

    pub(crate) async fn enter<T: std::fmt::Debug>(
        &self,
        rpc: &'static str,
        request: Request<T>,
        role: Option<Role>,
    ) -> Result<T, Status> {
        let (metadata, _, message) = request.into_parts();
        let call = Call { rpc, metadata: metadata.clone(), request: format!("{message:?}") };
        let (failure, hangs) = {
            let mut state = self.state();
            state.calls.push(call);
            (state.failures.get(rpc).cloned(), state.hanging == Some(rpc))
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        if let Some(role) = role {
            self.tokens.require(&metadata, role).map_err(|error| to_status(&error))?;
        }
        failure.map_or(Ok(message), Err)
    }

    pub(crate) fn organization(&self, id: &str) -> Result<Organization, Status> {
        self.state().organizations.get(id).cloned().ok_or_else(|| refusal(Reason::OrgNotFound))
    }

    /// Changes an organization whose etag is as asked.
    fn change(
        &self,
        id: &str,
        etag: &str,
        change: impl FnOnce(&mut Organization) -> Result<(), Reason>,
    ) -> Result<Option<Organization>, Status> {
        let mut organization = self.organization(id)?;
        if !etag.is_empty() && etag != organization.etag {
            return Err(refusal(Reason::EtagMismatch));
        }
        if id == "default" {
            return Err(refusal(Reason::DefaultOrgImmutable));
        }
        change(&mut organization).map_err(refusal)?;
        organization.etag = format!("{}+", organization.etag);
        organization.updated_at = Some(NOON);
        self.add(organization.clone());
        Ok(Some(organization))
    }

    fn audit(
        &self,
        service: &'static str,
        size: i32,
        token: &str,
    ) -> Result<(Vec<AuditEvent>, String), Status> {
        let refuse = |error| to_status(&error);
        let size = page::size(size).map_err(refuse)?;
        let below: Option<i64> = page::cursor(token).map_err(refuse)?;
        let state = self.state();
        let events = state.audit.get(service).map(Vec::as_slice).unwrap_or_default();
        let rest = events.iter().rev().filter(|event| below.is_none_or(|below| event.sequence < below));
        let events: Vec<_> = rest.take(size).cloned().collect();
        let next = events
            .last()
            .filter(|last| last.sequence > 1)
            .map_or(String::new(), |last| page::token(&last.sequence));
        Ok((events, next))
    }

    pub(crate) fn signup(self: &Arc<Self>) -> SignupServiceServer<Fake> {
        SignupServiceServer::new(Fake(Arc::clone(self)))
    }

    pub(crate) fn lifecycle(self: &Arc<Self>) -> LifecycleAdminServiceServer<Fake> {
        LifecycleAdminServiceServer::new(Fake(Arc::clone(self)))
    }

    pub(crate) fn billing(self: &Arc<Self>) -> BillingAdminServiceServer<Fake> {
        BillingAdminServiceServer::new(Fake(Arc::clone(self)))
    }

    pub(crate) fn provisioner(self: &Arc<Self>) -> ProvisionerAdminServiceServer<Fake> {
        ProvisionerAdminServiceServer::new(Fake(Arc::clone(self)))
    }
}

/// An active organization of that id.
pub(crate) fn organization(id: &str) -> Organization {
    Organization {
        id: id.into(),
        display_name: id.to_uppercase(),
        owner_user_id: "0190a5c8-7c3e-7000-8000-000000000001".into(),
        owner_email: format!("owner@{id}.example"),
        status: OrganizationStatus::Active.into(),
        created_at: Some(NOON),
        updated_at: Some(NOON),
        etag: "v1".into(),
        ..Organization::default()
    }
}

pub(crate) fn refusal(reason: Reason) -> Status {
    to_status(&ApiError::new(reason, reason.title()))
}

#[derive(Debug)]
pub(crate) struct Fake(pub(crate) Arc<World>);

#[tonic::async_trait]
impl SignupService for Fake {
    async fn sign_up(&self, request: Request<SignUpRequest>) -> Result<Response<SignUpResponse>, Status> {
        let request = self.0.enter("SignUp", request, None).await?;
        self.0.state().passwords.push(request.password.clone());
        let mut violations = Violations::default();
        for (field, value, reason) in [
            ("email", &request.email, Reason::InvalidEmail),
            ("password", &request.password, Reason::WeakPassword),
            ("org_name", &request.org_name, Reason::InvalidOrgName),
        ] {
            if value.is_empty() {
                violations.push(field, reason, "is required");
            }
        }
        violations.finish().map_err(|error| to_status(&error))?;
        let known = request.email.starts_with("known");
        let outcome = if known { SignUpOutcome::Existing } else { SignUpOutcome::Created };
        Ok(Response::new(SignUpResponse {
            org_id: "acme".into(),
            user_id: "0190a5c8-7c3e-7000-8000-000000000001".into(),
            outcome: outcome.into(),
            trial_ends_at: (outcome == SignUpOutcome::Created).then_some(NOON),
        }))
    }
}

#[tonic::async_trait]
impl LifecycleAdminService for Fake {
    async fn get_organization(
        &self,
        request: Request<lifecycle::GetOrganizationRequest>,
    ) -> Result<Response<lifecycle::GetOrganizationResponse>, Status> {
        let request = self.0.enter("GetOrganization", request, Some(Role::Viewer)).await?;
        let organization = Some(self.0.organization(&request.org_id)?);
        Ok(Response::new(lifecycle::GetOrganizationResponse { organization }))
    }

    async fn list_organizations(
        &self,
        request: Request<lifecycle::ListOrganizationsRequest>,
    ) -> Result<Response<lifecycle::ListOrganizationsResponse>, Status> {
        let request = self.0.enter("ListOrganizations", request, Some(Role::Viewer)).await?;
        let refuse = |error| to_status(&error);
        let size = page::size(request.page_size).map_err(refuse)?;
        let after: Option<String> = page::cursor(&request.page_token).map_err(refuse)?;
        let state = self.0.state();
        let wanted = state.organizations.values().filter(|organization| {
            let status = request.status == 0 || organization.status == request.status;
            status && after.as_ref().is_none_or(|after| organization.id > *after)
        });
        let mut organizations: Vec<_> = wanted.take(size + 1).cloned().collect();
        let more = organizations.len() > size;
        organizations.truncate(size);
        let last = organizations.last().filter(|_| more);
        let next_page_token = last.map_or(String::new(), |last| page::token(&last.id));
        Ok(Response::new(lifecycle::ListOrganizationsResponse { organizations, next_page_token }))
    }

    async fn suspend_organization(
        &self,
        request: Request<lifecycle::SuspendOrganizationRequest>,
    ) -> Result<Response<lifecycle::SuspendOrganizationResponse>, Status> {
        let request = self.0.enter("SuspendOrganization", request, Some(Role::Support)).await?;
        let organization = self.0.change(&request.org_id, &request.etag, |organization| {
            match organization.status() {
                OrganizationStatus::Active => {}
                OrganizationStatus::PendingDeletion => return Err(Reason::PendingDeletion),
                _ => return Err(Reason::AlreadySuspended),
            }
            organization.set_status(OrganizationStatus::Suspended);
            organization.suspended_at = Some(NOON);
            organization.suspend_reason = request.reason;
            Ok(())
        })?;
        Ok(Response::new(lifecycle::SuspendOrganizationResponse { organization }))
    }

    async fn unsuspend_organization(
        &self,
        request: Request<lifecycle::UnsuspendOrganizationRequest>,
    ) -> Result<Response<lifecycle::UnsuspendOrganizationResponse>, Status> {
        let request = self.0.enter("UnsuspendOrganization", request, Some(Role::Support)).await?;
        let organization = self.0.change(&request.org_id, &request.etag, |organization| {
            if organization.status() != OrganizationStatus::Suspended {
                return Err(Reason::NotSuspended);
            }
            organization.set_status(OrganizationStatus::Active);
            organization.suspended_at = None;
            organization.suspend_reason.clear();
            Ok(())
        })?;
        Ok(Response::new(lifecycle::UnsuspendOrganizationResponse { organization }))
    }

    async fn soft_delete_organization(
        &self,
        request: Request<lifecycle::SoftDeleteOrganizationRequest>,
    ) -> Result<Response<lifecycle::SoftDeleteOrganizationResponse>, Status> {
        let request = self.0.enter("SoftDeleteOrganization", request, Some(Role::Admin)).await?;
        let organization = self.0.change(&request.org_id, &request.etag, |organization| {
            if organization.status() == OrganizationStatus::PendingDeletion {
                return Err(Reason::AlreadyPendingDeletion);
            }
            organization.set_status(OrganizationStatus::PendingDeletion);
            organization.deletion_requested_at = Some(NOON);
            organization.retention_days = request.retention_days.or(Some(30.0));
            organization.purge_after = Some(NOON);
            Ok(())
        })?;
        Ok(Response::new(lifecycle::SoftDeleteOrganizationResponse { organization }))
    }

    async fn restore_organization(
        &self,
        request: Request<lifecycle::RestoreOrganizationRequest>,
    ) -> Result<Response<lifecycle::RestoreOrganizationResponse>, Status> {
        let request = self.0.enter("RestoreOrganization", request, Some(Role::Admin)).await?;
        let organization = self.0.change(&request.org_id, &request.etag, |organization| {
            if organization.status() != OrganizationStatus::PendingDeletion {
                return Err(Reason::NotPendingDeletion);
            }
            organization.set_status(OrganizationStatus::Active);
            organization.deletion_requested_at = None;
            organization.retention_days = None;
            organization.purge_after = None;
            Ok(())
        })?;
        Ok(Response::new(lifecycle::RestoreOrganizationResponse { organization }))
    }

    async fn list_audit_events(
        &self,
        request: Request<lifecycle::ListAuditEventsRequest>,
    ) -> Result<Response<lifecycle::ListAuditEventsResponse>, Status> {
        let request = self.0.enter("lifecycle.ListAuditEvents", request, Some(Role::Viewer)).await?;
        let (audit_events, next_page_token) =
            self.0.audit("lifecycle", request.page_size, &request.page_token)?;
        Ok(Response::new(lifecycle::ListAuditEventsResponse { audit_events, next_page_token }))
    }
}

#[tonic::async_trait]
impl BillingAdminService for Fake {
    async fn get_billing_state(
        &self,
        request: Request<billing::GetBillingStateRequest>,
    ) -> Result<Response<billing::GetBillingStateResponse>, Status> {
        let request = self.0.enter("GetBillingState", request, Some(Role::Viewer)).await?;
        let stored = self.0.state().billing.get(&request.org_id).cloned();
        let default = || BillingState {
            org_id: request.org_id.clone(),
            subscription_state: billing::SubscriptionState::Trial.into(),
            plan_version: "trial".into(),
            ..BillingState::default()
        };
        let billing_state = Some(stored.unwrap_or_else(default));
        Ok(Response::new(billing::GetBillingStateResponse { billing_state }))
    }

    async fn set_billing_state(
        &self,
        request: Request<billing::SetBillingStateRequest>,
    ) -> Result<Response<billing::SetBillingStateResponse>, Status> {
        let request = self.0.enter("SetBillingState", request, Some(Role::Billing)).await?;
        let mut state = request.billing_state.unwrap_or_default();
        let stored = self.0.state().billing.get(&request.org_id).map(|state| state.etag.clone());
        if !request.etag.is_empty() && stored.as_ref() != Some(&request.etag) {
            return Err(refusal(Reason::EtagMismatch));
        }
        state.org_id = request.org_id;
        state.updated_at = Some(NOON);
        state.etag = format!("{}+", stored.unwrap_or_default());
        self.0.store_billing(state.clone());
        Ok(Response::new(billing::SetBillingStateResponse { billing_state: Some(state) }))
    }

    async fn list_audit_events(
        &self,
        request: Request<billing::ListAuditEventsRequest>,
    ) -> Result<Response<billing::ListAuditEventsResponse>, Status> {
        let request = self.0.enter("billing.ListAuditEvents", request, Some(Role::Viewer)).await?;
        let (audit_events, next_page_token) =
            self.0.audit("billing-state", request.page_size, &request.page_token)?;
        Ok(Response::new(billing::ListAuditEventsResponse { audit_events, next_page_token }))
    }
}

/// The edge reads only the audit records of this service.
#[tonic::async_trait]
impl ProvisionerAdminService for Fake {
    async fn list_provisionings(
        &self,
        _: Request<provisioner::ListProvisioningsRequest>,
    ) -> Result<Response<provisioner::ListProvisioningsResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn get_provisioning(
        &self,
        _: Request<provisioner::GetProvisioningRequest>,
    ) -> Result<Response<provisioner::GetProvisioningResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn retry_provisioning(
        &self,
        _: Request<provisioner::RetryProvisioningRequest>,
    ) -> Result<Response<provisioner::RetryProvisioningResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn abandon_provisioning(
        &self,
        _: Request<provisioner::AbandonProvisioningRequest>,
    ) -> Result<Response<provisioner::AbandonProvisioningResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn set_account_roles(
        &self,
        _: Request<provisioner::SetAccountRolesRequest>,
    ) -> Result<Response<provisioner::SetAccountRolesResponse>, Status> {
        Err(Status::unimplemented("not for the edge"))
    }

    async fn list_audit_events(
        &self,
        request: Request<provisioner::ListAuditEventsRequest>,
    ) -> Result<Response<provisioner::ListAuditEventsResponse>, Status> {
        let request = self.0.enter("provisioner.ListAuditEvents", request, Some(Role::Viewer)).await?;
        let (audit_events, next_page_token) =
            self.0.audit("provisioner", request.page_size, &request.page_token)?;
        Ok(Response::new(provisioner::ListAuditEventsResponse { audit_events, next_page_token }))
    }
}
