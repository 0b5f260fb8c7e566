//! Between protobuf and the domain: `TryFrom` in, where everything is checked and every violation named; `From` out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use jiff::Timestamp;
use pulse_entitlements::{Entitlements, Grants, InvalidGrant, Name, SubscriptionState};
use pulse_kernel::{
    ApiError, EmailAddress, OrgId, OrgName, Password, PasswordPolicy, Reason, UserId, Violations,
};
use pulse_proto::{
    audit::v1 as audit, billing::v1 as billing, lifecycle::v1 as lifecycle, provisioner::v1 as pb,
};
use pulse_rpc::{client_key, convert, page};
use pulse_store::audit::AuditRecord;
use pulse_tenant_guard::{Decision, OrganizationStatus, TenantRole};
use secrecy::SecretString;

use crate::{
    app::{
        accounts::{AccessAnswer, AccessQuestion, SignIn},
        provision::{Origin, Provisioned, Wanted},
    },
    clients::{NewOrganization, PurgingPage},
    domain::{Member, Roles},
    error::ProvisionerError,
    saga::{Saga, SagaId, SagaKind, State, Subject},
    store::{SagaQuery, StateFilter},
};

/// The name of this service in audit events.
const SERVICE: &str = "provisioner";

/// The longest reason that an operator may give, in characters.
const MAX_REASON: usize = 500;

impl From<ApiError> for ProvisionerError {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

// ProvisionerService

/// Reads the wish for a tenant, naming everything that is wrong with it.
pub(crate) fn wanted(
    request: pb::ProvisionTenantRequest,
    policy: PasswordPolicy,
) -> Result<Wanted, ProvisionerError> {
    let pb::ProvisionTenantRequest { owner_email, password, org_name } = request;
    let mut violations = Violations::default();
    let email = violations.keep(EmailAddress::parse(&owner_email));
    let password = policy.check(SecretString::from(password), &owner_email, &org_name);
    let password = violations.keep(password);
    let org_name = violations.keep(OrgName::parse(&org_name));
    violations.finish()?;
    match (email, password, org_name) {
        (Some(email), Some(password), Some(org_name)) => Ok(Wanted { email, password, org_name }),
        // What is missing is among the violations.
        _ => Err(ApiError::internal().into()),
    }
}

impl From<Provisioned> for pb::ProvisionTenantResponse {
    fn from(tenant: Provisioned) -> Self {
        let status = match tenant.origin {
            Origin::Created => pb::ProvisionStatus::Created,
            Origin::Existing => pb::ProvisionStatus::Existing,
        };
        Self {
            org_id: tenant.org_id.to_string(),
            user_id: tenant.user_id.to_string(),
            status: status.into(),
            trial_ends_at: tenant.trial_ends_at.map(convert::timestamp),
        }
    }
}

// AccountService

/// Reads a sign-in; `peer` is who calls, for whom the client's address is not given.
pub(crate) fn sign_in(
    request: pb::VerifyCredentialsRequest,
    peer: Option<SocketAddr>,
) -> Result<SignIn, ProvisionerError> {
    let pb::VerifyCredentialsRequest { email, password, client_ip } = request;
    let invalid = |field: &str, why: &str| ApiError::field(Reason::InvalidRequest, field, why);
    let mut violations = Violations::default();
    let email = EmailAddress::parse(&email).map_err(|_| invalid("email", "must be one email address"));
    let email = violations.keep(email);
    let password = violations.keep(Password::to_verify(SecretString::from(password)));
    let client = violations.keep(match client_ip.as_str() {
        "" => Ok(peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())),
        text => text.parse::<IpAddr>().map_err(|_| invalid("client_ip", "must be an IP address")),
    });
    violations.finish()?;
    match (email, password, client.map(client_key)) {
        (Some(email), Some(password), Some(client)) => Ok(SignIn { email, password, client }),
        // What is missing is among the violations.
        _ => Err(ApiError::internal().into()),
    }
}

impl From<Member> for pb::VerifyCredentialsResponse {
    fn from(member: Member) -> Self {
        Self {
            user_id: member.account.user_id.to_string(),
            org_id: member.org_id.to_string(),
            roles: roles_out(&member.roles),
        }
    }
}

/// Reads a tenant and an account.
pub(crate) fn place(org_id: &str, user_id: &str) -> Result<(OrgId, UserId), ProvisionerError> {
    let mut violations = Violations::default();
    let org_id = violations.keep(OrgId::parse(org_id));
    let user_id = violations.keep(UserId::parse(user_id));
    violations.finish()?;
    org_id.zip(user_id).ok_or_else(|| ApiError::internal().into())
}

impl From<Member> for pb::GetAccountResponse {
    fn from(member: Member) -> Self {
        let account = pb::Account {
            user_id: member.account.user_id.to_string(),
            org_id: member.org_id.to_string(),
            email: member.account.email.typed().to_owned(),
            roles: roles_out(&member.roles),
            created_at: Some(convert::timestamp(member.account.created_at)),
        };
        Self { account: Some(account) }
    }
}

impl TryFrom<pb::CheckAccessRequest> for AccessQuestion {
    type Error = ProvisionerError;

    fn try_from(request: pb::CheckAccessRequest) -> Result<Self, ProvisionerError> {
        let (org_id, user_id) = place(&request.org_id, &request.user_id)?;
        let required_role = role_in(request.required_role, "required_role")?;
        let capability = (!request.capability.is_empty()).then_some(request.capability);
        Ok(Self { org_id, user_id, required_role, capability })
    }
}

impl From<AccessAnswer> for pb::CheckAccessResponse {
    fn from(answer: AccessAnswer) -> Self {
        let reason = match answer.decision {
            Decision::Allow => String::new(),
            Decision::Deny(reason) => reason.reason().as_str().to_owned(),
        };
        Self { allowed: answer.decision.is_allowed(), reason, roles: roles_out(&answer.roles) }
    }
}

/// Reads a set of roles.
pub(crate) fn roles_in(roles: &[i32]) -> Result<Roles, ProvisionerError> {
    let roles = roles.iter().map(|role| role_in(*role, "roles"));
    Ok(roles.collect::<Result<Roles, _>>()?)
}

fn role_in(role: i32, field: &str) -> Result<TenantRole, ApiError> {
    match pb::TenantRole::try_from(role) {
        Ok(pb::TenantRole::Owner) => Ok(TenantRole::Owner),
        Ok(pb::TenantRole::Admin) => Ok(TenantRole::Admin),
        Ok(pb::TenantRole::Member) => Ok(TenantRole::Member),
        Ok(pb::TenantRole::Viewer) => Ok(TenantRole::Viewer),
        Ok(pb::TenantRole::Unspecified) | Err(_) => {
            Err(ApiError::field(Reason::InvalidRequest, field, "must be owner, admin, member or viewer"))
        }
    }
}

pub(crate) fn roles_out(roles: &Roles) -> Vec<i32> {
    let out = |role| match role {
        TenantRole::Owner => pb::TenantRole::Owner,
        TenantRole::Admin => pb::TenantRole::Admin,
        TenantRole::Member => pb::TenantRole::Member,
        TenantRole::Viewer => pb::TenantRole::Viewer,
    };
    roles.iter().map(|role| out(role).into()).collect()
}

// ProvisionerAdminService

impl TryFrom<pb::ListProvisioningsRequest> for SagaQuery {
    type Error = ProvisionerError;

    fn try_from(request: pb::ListProvisioningsRequest) -> Result<Self, ProvisionerError> {
        use pb::ProvisioningState as S;
        let state = match S::try_from(request.state) {
            Ok(S::Unspecified) => None,
            Ok(S::Running) => Some(StateFilter::Running),
            Ok(S::Compensating) => Some(StateFilter::Compensating),
            Ok(S::Done) => Some(StateFilter::Done),
            Ok(S::Undone) => Some(StateFilter::Undone),
            Ok(S::Stuck) => Some(StateFilter::Stuck),
            Err(_) => return Err(invalid("state", "must be a state of provisionings")),
        };
        Ok(Self {
            state,
            kind: kind_in(request.kind)?,
            after: page::cursor(&request.page_token)?,
            limit: page_limit(request.page_size)?,
        })
    }
}

/// How many items a page holds.
pub(crate) fn page_limit(page_size: i32) -> Result<u32, ProvisionerError> {
    // Bounded by `page::MAX_SIZE`.
    Ok(u32::try_from(page::size(page_size)?).unwrap_or(u32::MAX))
}

/// Reads which saga is meant: the one that makes the tenant where nothing else is said.
pub(crate) fn saga_id(org_id: &str, kind: i32) -> Result<SagaId, ProvisionerError> {
    let org_id = OrgId::parse(org_id)?;
    Ok(SagaId { org_id, kind: kind_in(kind)?.unwrap_or(SagaKind::Provision) })
}

fn kind_in(kind: i32) -> Result<Option<SagaKind>, ProvisionerError> {
    match pb::ProvisioningKind::try_from(kind) {
        Ok(pb::ProvisioningKind::Unspecified) => Ok(None),
        Ok(pb::ProvisioningKind::Provision) => Ok(Some(SagaKind::Provision)),
        Ok(pb::ProvisioningKind::Purge) => Ok(Some(SagaKind::Purge)),
        Err(_) => Err(invalid("kind", "must be a kind of provisionings")),
    }
}

/// Reads why an operator does something.
pub(crate) fn reason_in(reason: String) -> Result<Option<String>, ProvisionerError> {
    if reason.chars().count() > MAX_REASON {
        return Err(invalid("reason", "must be at most 500 characters long"));
    }
    Ok((!reason.trim().is_empty()).then_some(reason))
}

fn invalid(field: &str, why: &str) -> ProvisionerError {
    ApiError::field(Reason::InvalidRequest, field, why).into()
}

impl From<Saga> for pb::Provisioning {
    fn from(saga: Saga) -> Self {
        let kind = match saga.subject.kind() {
            SagaKind::Provision => pb::ProvisioningKind::Provision,
            SagaKind::Purge => pb::ProvisioningKind::Purge,
        };
        let state = match saga.state() {
            State::Running(_) => pb::ProvisioningState::Running,
            State::Compensating(_) => pb::ProvisioningState::Compensating,
            State::Done => pb::ProvisioningState::Done,
            State::Undone => pb::ProvisioningState::Undone,
            State::Stuck { .. } => pb::ProvisioningState::Stuck,
        };
        let owner_user_id = match &saga.subject {
            Subject::Provision { owner, .. } => owner.to_string(),
            Subject::Purge => String::new(),
        };
        let progress = saga.progress;
        let step = progress.state.task().map(|(step, _)| step.to_string());
        let why = progress.last_failure.or(progress.cause);
        Self {
            org_id: saga.org_id.to_string(),
            kind: kind.into(),
            state: state.into(),
            step: step.unwrap_or_default(),
            attempts: i32::try_from(progress.attempts).unwrap_or(i32::MAX),
            reason: why.map(|failure| failure.to_string()).unwrap_or_default(),
            next_attempt_at: progress.next_attempt_at.map(convert::timestamp),
            created_at: Some(convert::timestamp(saga.created_at)),
            updated_at: Some(convert::timestamp(saga.updated_at)),
            owner_user_id,
        }
    }
}

/// One audit record as an event.
pub(crate) fn audit_event(record: AuditRecord) -> audit::AuditEvent {
    let details = record.details.unwrap_or_default();
    let object = |value: Option<serde_json::Value>| match value {
        Some(serde_json::Value::Object(map)) => Some(convert::structure(map)),
        Some(_) | None => None,
    };
    audit::AuditEvent {
        org_id: record.org_id.to_string(),
        service: SERVICE.to_owned(),
        sequence: record.sequence,
        occurred_at: Some(convert::timestamp(record.occurred_at)),
        actor: record.actor,
        action: record.action,
        reason: details.reason.unwrap_or_default(),
        before: object(details.before),
        after: object(details.after),
        request_id: details.request_id.unwrap_or_default(),
        previous_hash: record.previous_hash.to_string(),
        hash: record.hash.to_string(),
    }
}

// The other services

impl From<&NewOrganization> for lifecycle::CreateOrganizationRequest {
    fn from(new: &NewOrganization) -> Self {
        Self {
            org_id: new.org_id.to_string(),
            owner_user_id: new.owner.to_string(),
            owner_email: new.email.typed().to_owned(),
            display_name: new.name.as_str().to_owned(),
        }
    }
}

/// What another service answered makes no sense.
fn nonsense(what: &str) -> ApiError {
    tracing::error!(what, "another service answered nonsense");
    ApiError::internal()
}

/// The status in lifecycle's answer.
pub(crate) fn organization_status(
    answer: &lifecycle::OrganizationServiceGetOrganizationResponse,
) -> Result<OrganizationStatus, ApiError> {
    use lifecycle::OrganizationStatus as S;
    let organization = answer.organization.as_ref().ok_or_else(|| nonsense("no organization"))?;
    match S::try_from(organization.status) {
        Ok(S::Provisioning) => Ok(OrganizationStatus::Provisioning),
        Ok(S::Active) => Ok(OrganizationStatus::Active),
        Ok(S::Suspended) => Ok(OrganizationStatus::Suspended),
        Ok(S::PendingDeletion) => Ok(OrganizationStatus::PendingDeletion),
        Ok(S::Purging) => Ok(OrganizationStatus::Purging),
        Ok(S::Unspecified) | Err(_) => Err(nonsense("an unknown organization status")),
    }
}

impl TryFrom<lifecycle::ListPurgingResponse> for PurgingPage {
    type Error = ApiError;

    fn try_from(answer: lifecycle::ListPurgingResponse) -> Result<Self, ApiError> {
        let org_ids = answer.org_ids.iter().map(|id| OrgId::parse(id));
        let org_ids =
            org_ids.collect::<Result<_, _>>().map_err(|_| nonsense("a malformed organization id"))?;
        Ok(Self { org_ids, next: (!answer.next_page_token.is_empty()).then_some(answer.next_page_token) })
    }
}

/// When the trial in billing-state's answer ends.
pub(crate) fn trial_ends_at(state: Option<billing::BillingState>) -> Result<Option<Timestamp>, ApiError> {
    let state = state.ok_or_else(|| nonsense("no billing state"))?;
    state.trial_ends_at.map(|at| convert::try_timestamp(at, "trial_ends_at")).transpose()
}

/// The entitlements in billing-state's answer.
pub(crate) fn entitlements(answer: billing::GetEntitlementsResponse) -> Result<Entitlements, ApiError> {
    use billing::SubscriptionState as S;
    let grant = |_: InvalidGrant| nonsense("a malformed grant");
    let subscription_state = match S::try_from(answer.subscription_state) {
        Ok(S::Trial) => SubscriptionState::Trial,
        Ok(S::Active) => SubscriptionState::Active,
        Ok(S::Grace) => SubscriptionState::Grace,
        Ok(S::Expired) => SubscriptionState::Expired,
        Ok(S::Suspended) => SubscriptionState::Suspended,
        Ok(S::Unspecified) | Err(_) => return Err(nonsense("an unknown subscription state")),
    };
    let names = |names: Vec<String>| names.iter().map(|name| Name::parse(name)).collect::<Result<_, _>>();
    let limits = answer.limits.iter().map(|(name, limit)| Ok((Name::parse(name)?, *limit)));
    let grants = Grants {
        capabilities: names(answer.capabilities).map_err(grant)?,
        limits: limits.collect::<Result<_, _>>().map_err(grant)?,
        meters_enabled: names(answer.meters_enabled).map_err(grant)?,
    };
    let instant = |at: Option<_>| at.map(|at| convert::try_timestamp(at, "entitlements")).transpose();
    Ok(Entitlements {
        org_id: OrgId::parse(&answer.org_id)?,
        subscription_state,
        plan_version: Name::parse(&answer.plan_version).map_err(grant)?.into(),
        grants: grants.into(),
        trial_started_at: instant(answer.trial_started_at)?,
        trial_ends_at: instant(answer.trial_ends_at)?,
        valid_until: instant(answer.valid_until)?,
    })
}

#[cfg(test)]
mod tests {
    use pulse_rpc::ServiceError as _;

    use super::*;

    fn request() -> pb::ProvisionTenantRequest {
        pb::ProvisionTenantRequest {
            owner_email: "ann@example.com".into(),
            password: "correct horse battery staple".into(),
            org_name: "Acme, Inc.".into(),
        }
    }

    #[test]
    fn a_wish_names_everything_that_is_wrong_with_it() {
        assert!(wanted(request(), PasswordPolicy::default()).is_ok());
        let bad = pb::ProvisionTenantRequest {
            owner_email: "ann".into(),
            password: "password".into(),
            org_name: "a/b".into(),
        };
        let error = wanted(bad, PasswordPolicy::default()).unwrap_err().to_api();
        let reasons: Vec<_> = error.violations().iter().map(|violation| violation.reason).collect();
        assert_eq!(reasons, [Reason::InvalidEmail, Reason::WeakPassword, Reason::InvalidOrgName]);
    }

    #[test]
    fn the_policy_that_is_set_is_the_one_that_counts() {
        let policy = PasswordPolicy { min_length: 64 };
        let error = wanted(request(), policy).unwrap_err().to_api();
        assert_eq!(error.reason(), Reason::WeakPassword);
    }

    #[test]
    fn a_sign_in_counts_against_the_client_that_is_named_or_the_caller() {
        let named = |client_ip: &str| pb::VerifyCredentialsRequest {
            email: "ann@example.com".into(),
            password: "x".into(),
            client_ip: client_ip.into(),
        };
        let peer = Some("10.0.0.1:4711".parse().unwrap());
        let client = |request| sign_in(request, peer).map(|sign_in| sign_in.client);
        assert_eq!(client(named("192.0.2.7")).unwrap(), client_key("192.0.2.7".parse().unwrap()));
        assert_eq!(client(named("")).unwrap(), client_key("10.0.0.1".parse().unwrap()));
        assert!(client(named("somewhere")).is_err());
    }

    #[test]
    fn roles_are_named_or_refused() {
        let all = [1, 2, 3, 4];
        assert_eq!(roles_out(&roles_in(&all).unwrap()), all);
        for unknown in [0, 5, -1] {
            assert!(roles_in(&[unknown]).is_err(), "{unknown}");
        }
        assert!(roles_in(&[]).unwrap().is_empty());
    }
}
