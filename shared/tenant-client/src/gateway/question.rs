//! [`Question`]: what a gateway asks about a request.

use pulse_entitlements::Name;
use pulse_kernel::{ApiError, OrgId, Reason};
use pulse_tenant_guard::{OnOutage, Requirement};

use super::{Refusal, header};

/// What a gateway asks: may this tenant's request go on?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub(super) org: OrgId,
    capability: Option<Name>,
    limit: Option<(Name, u64)>,
    pub(super) on_outage: OnOutage,
}

impl Question {
    /// Reads a question. `org` is none where no tenant was named, or not clearly. `limit` is a name, a colon and what it must
    /// allow at least, such as `monitored_hosts:11`.
    ///
    /// # Errors
    /// What is wrong with it, as the gateway is to tell the client.
    pub fn parse(
        org: Option<&str>,
        capability: Option<&str>,
        limit: Option<&str>,
        on_outage: OnOutage,
    ) -> Result<Self, Refusal> {
        let capability = capability.map(|name| parse_name(name, "capability")).transpose();
        let capability = capability.map_err(Refusal::not_understood)?;
        let limit = limit.map(parse_limit).transpose().map_err(Refusal::not_understood)?;
        // Last, as it may be the client's own: a configuration that is wrong is wrong for everybody.
        let org = org.map_or_else(|| Err(not_one_tenant()), OrgId::parse).map_err(Refusal::denied)?;
        Ok(Self { org, capability, limit, on_outage })
    }

    pub(super) fn requirement(&self) -> Requirement<'_> {
        let mut requirement = Requirement::active();
        if let Some(name) = &self.capability {
            requirement = requirement.and_capability(name.as_str());
        }
        if let Some((name, at_least)) = &self.limit {
            requirement = requirement.and_limit(name.as_str(), *at_least);
        }
        requirement
    }
}

fn not_one_tenant() -> ApiError {
    ApiError::field(Reason::InvalidOrgId, header::ORG_ID.as_str(), "must name one tenant, once")
}

fn parse_name(text: &str, field: &str) -> Result<Name, ApiError> {
    Name::parse(text).map_err(|error| ApiError::field(Reason::InvalidRequest, field, error.to_string()))
}

fn parse_limit(text: &str) -> Result<(Name, u64), ApiError> {
    let invalid = || {
        ApiError::field(
            Reason::InvalidRequest,
            "limit",
            "must be a limit's name, a colon and a whole number, such as users:5",
        )
    };
    // A name may have colons itself.
    let (name, at_least) = text.rsplit_once(':').ok_or_else(invalid)?;
    let digits = at_least.bytes().all(|byte| byte.is_ascii_digit());
    match at_least.parse() {
        Ok(at_least) if digits => Ok((parse_name(name, "limit")?, at_least)),
        _ => Err(invalid()),
    }
}
