//! Who someone is, and what they may do in a tenant.

use std::sync::Arc;

use pulse_entitlements::Entitlements;
use pulse_kernel::{EmailAddress, OrgId, Password, Reason, UserId};
use pulse_rpc::ClientKey;
use pulse_tenant_guard::{Asked, Decision, DenyReason, OrganizationStatus, TenantRole, decide};

use super::{App, SIGN_IN_WINDOW};
use crate::{
    domain::{Member, Roles},
    error::ProvisionerError,
};

/// Someone wants to sign in.
#[derive(Debug)]
pub struct SignIn {
    /// With that address.
    pub email: EmailAddress,
    /// And that password.
    pub password: Password,
    /// From there.
    pub client: ClientKey,
}

/// Someone wants to do something in a tenant.
#[derive(Debug, Clone)]
pub struct AccessQuestion {
    /// In which tenant.
    pub org_id: OrgId,
    /// Who.
    pub user_id: UserId,
    /// The least role that it needs.
    pub required_role: TenantRole,
    /// The capability that it needs, if any.
    pub capability: Option<String>,
}

/// Whether they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessAnswer {
    /// Yes, or why not.
    pub decision: Decision,
    /// Their roles in that tenant.
    pub roles: Roles,
}

impl App {
    /// The account with that address and password, as seen from its own tenant.
    ///
    /// # Errors
    /// `BadCredentials` for an unknown address and a wrong password alike, after the same work; `Denied` when the tenant
    /// is closed, told only to who knows the password.
    pub async fn verify_credentials(&self, attempt: SignIn) -> Result<Member, ProvisionerError> {
        self.admit(&attempt)?;
        let login = self.store.find_login(&attempt.email).await?;
        let hash = login.as_ref().map(|member| member.account.password_hash.clone());
        let matches = self.hashing.verify(Arc::new(attempt.password), hash).await?;
        let member = login.filter(|_| matches).ok_or(ProvisionerError::BadCredentials)?;
        match decide(self.status_of(&member.org_id).await?, None, &Asked::SignIn) {
            Decision::Allow => Ok(member),
            // Its tenant is still being made, so to the outside there is no such account yet.
            Decision::Deny(DenyReason::OrgNotFound) => Err(ProvisionerError::BadCredentials),
            Decision::Deny(reason) => Err(reason.into()),
        }
    }

    /// An account as seen from a tenant in which it has a role.
    ///
    /// # Errors
    /// `AccountNotFound` when it does not exist or has no role there, alike.
    pub async fn account(&self, org_id: &OrgId, user_id: UserId) -> Result<Member, ProvisionerError> {
        self.store.find_member(org_id, user_id).await?.ok_or(ProvisionerError::AccountNotFound)
    }

    /// Whether an account may do something in a tenant.
    ///
    /// # Errors
    /// When the organization's status, or its entitlements where they matter, cannot be determined: then nobody may
    /// assume that it is allowed.
    pub async fn check_access(&self, question: AccessQuestion) -> Result<AccessAnswer, ProvisionerError> {
        let AccessQuestion { org_id, user_id, required_role, capability } = question;
        let member = self.store.find_member(&org_id, user_id).await?;
        let roles = member.map(|member| member.roles).unwrap_or_default();
        let status = self.status_of(&org_id).await?;
        let held: Vec<_> = roles.iter().collect();
        let ask = |capability| Asked::Access { roles: &held, at_least: required_role, capability };
        let mut decision = decide(status, None, &ask(None));
        if let (Decision::Allow, Some(capability)) = (decision, capability.as_deref()) {
            let entitlements = self.entitlements_of(&org_id).await?;
            decision = decide(status, entitlements.as_ref(), &ask(Some(capability)));
        }
        Ok(AccessAnswer { decision, roles })
    }

    /// Counts a try against both limits, before any work is done for it.
    fn admit(&self, attempt: &SignIn) -> Result<(), ProvisionerError> {
        let limited = |policy, limit, retry_after| ProvisionerError::RateLimited {
            policy,
            limit,
            window: SIGN_IN_WINDOW,
            retry_after,
        };
        let limits = &self.sign_in;
        limits
            .by_client
            .check(&attempt.client)
            .map_err(|exceeded| limited("sign-in-client", limits.by_client.limit(), exceeded.retry_after))?;
        limits
            .by_email
            .check(&attempt.email.canonical().to_owned())
            .map_err(|exceeded| limited("sign-in-email", limits.by_email.limit(), exceeded.retry_after))
    }

    /// The status that decides. One that lifecycle does not know counts as one that is not made yet.
    async fn status_of(&self, org_id: &OrgId) -> Result<OrganizationStatus, ProvisionerError> {
        match self.organizations.status(org_id).await {
            Err(error) if error.reason() == Reason::OrgNotFound => Ok(OrganizationStatus::Provisioning),
            status => status.map_err(ProvisionerError::Peer),
        }
    }

    async fn entitlements_of(&self, org_id: &OrgId) -> Result<Option<Entitlements>, ProvisionerError> {
        match self.billing.entitlements(org_id).await {
            Err(error) if error.reason() == Reason::OrgNotFound => Ok(None),
            entitlements => entitlements.map(Some).map_err(ProvisionerError::Peer),
        }
    }
}
