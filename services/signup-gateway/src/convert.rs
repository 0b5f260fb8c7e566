//! Protobuf to and from domain types.

use jiff::Timestamp;
use pulse_kernel::{ApiError, OrgId, UserId};
use pulse_proto::{
    provisioner::v1::{ProvisionStatus, ProvisionTenantRequest, ProvisionTenantResponse},
    signup::v1::{SignUpOutcome, SignUpRequest, SignUpResponse},
};
use pulse_rpc::convert::{timestamp, try_timestamp};

use crate::domain::{Origin, RawSignUp, SignUp, Tenant};

/// The provisioner answered what it should not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnexpectedAnswer {
    #[error("a field of it: {0}")]
    Field(#[from] ApiError),
    #[error("status {0}")]
    Status(i32),
}

impl From<SignUpRequest> for RawSignUp {
    fn from(request: SignUpRequest) -> Self {
        Self {
            email: request.email,
            password: request.password.into(),
            org_name: request.org_name,
            client_ip: request.client_ip,
        }
    }
}

/// The only place where the password leaves its wrapper, for the message that takes it to the provisioner.
pub(crate) fn provision_tenant_request(sign_up: &SignUp) -> ProvisionTenantRequest {
    ProvisionTenantRequest {
        owner_email: sign_up.email.typed().to_owned(),
        password: String::from_utf8_lossy(sign_up.password.expose_bytes()).into_owned(),
        org_name: sign_up.org_name.as_str().to_owned(),
    }
}

impl TryFrom<ProvisionTenantResponse> for Tenant {
    type Error = UnexpectedAnswer;

    fn try_from(answer: ProvisionTenantResponse) -> Result<Self, UnexpectedAnswer> {
        let origin = match answer.status() {
            ProvisionStatus::Created => Origin::Created,
            ProvisionStatus::Existing => Origin::Existing,
            ProvisionStatus::Unspecified => return Err(UnexpectedAnswer::Status(answer.status)),
        };
        let ends = |time| try_timestamp(time, "trial_ends_at");
        let trial_ends_at: Option<Timestamp> = answer.trial_ends_at.map(ends).transpose()?;
        Ok(Self {
            org_id: OrgId::parse(&answer.org_id)?,
            user_id: UserId::parse(&answer.user_id)?,
            origin,
            trial_ends_at,
        })
    }
}

impl From<Tenant> for SignUpResponse {
    fn from(tenant: Tenant) -> Self {
        let outcome = match tenant.origin {
            Origin::Created => SignUpOutcome::Created,
            Origin::Existing => SignUpOutcome::Existing,
        };
        Self {
            org_id: tenant.org_id.to_string(),
            user_id: tenant.user_id.to_string(),
            outcome: outcome.into(),
            trial_ends_at: tenant.trial_ends_at.map(timestamp),
        }
    }
}
