//! `/api/internal/authz`: may this request of a tenant go on? For gateways that ask before they pass a request on: nginx
//! with `auth_request`, Traefik with `ForwardAuth`, Caddy with `forward_auth`.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, Query, State},
    routing::any,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts};
use pulse_entitlements::{Answer as Entitled, Name, Source};
use pulse_kernel::{ApiError, OrgId, Reason};
use pulse_tenant_guard::{DenyReason, OnOutage, Requirement, StatusAnswer, StatusError};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Answer;
use crate::{
    problem::Problem,
    tenants::{Tenants, source_name},
};

const ORG_ID: HeaderName = HeaderName::from_static("x-pulse-org-id");
const CAPABILITY: HeaderName = HeaderName::from_static("x-pulse-capability");
const ORG_STATUS: HeaderName = HeaderName::from_static("x-pulse-org-status");
const ORG_STATUS_SOURCE: HeaderName = HeaderName::from_static("x-pulse-org-status-source");
const ORG_STATUS_AGE: HeaderName = HeaderName::from_static("x-pulse-org-status-age");
const SUBSCRIPTION_STATE: HeaderName = HeaderName::from_static("x-pulse-subscription-state");
const PLAN: HeaderName = HeaderName::from_static("x-pulse-plan");
const ENTITLEMENT_SOURCE: HeaderName = HeaderName::from_static("x-pulse-entitlement-source");
const ENTITLEMENT_AGE: HeaderName = HeaderName::from_static("x-pulse-entitlement-age");

/// The status of an organization that nobody has told yet, in [`ORG_STATUS`].
const UNKNOWN: &str = "unknown";

pub(crate) fn router() -> OpenApiRouter<Tenants> {
    // Some gateways ask with the method, or below the path, of the request that they ask about.
    OpenApiRouter::default()
        .routes(routes!(authorize))
        .route("/api/internal/authz", any(authorize))
        .route("/api/internal/authz/", any(authorize))
        .route("/api/internal/authz/{*path}", any(authorize))
}

/// Decide whether a request of a tenant may go on
///
/// For a gateway's subrequest. Any method and any path below this one are answered alike, and a body is not read. The
/// headers of the answer 200 are to be passed on in place of any that the client sent.
#[utoipa::path(
    get,
    path = "/api/internal/authz",
    tag = "decisions",
    params(Parameters, Headers),
    responses(
        (
            status = OK,
            description = "The request may go on",
            headers(
                ("x-pulse-org-id" = String, description = "The tenant"),
                ("x-pulse-org-status" = String, description = "`active`, or `unknown` where lifecycle was not heard of yet and does not answer"),
                ("x-pulse-org-status-source" = String, description = "`fresh`, `cached`, `stale` when lifecycle does not answer, `default` when it never did"),
                ("x-pulse-org-status-age" = i64, description = "Whole seconds since lifecycle said so; 0 when it never did"),
                ("x-pulse-subscription-state" = String, description = "`trial`, `active`, `grace`, `expired` or `suspended`, as of now"),
                ("x-pulse-plan" = String, description = "The plan"),
                ("x-pulse-entitlement-source" = String, description = "`fresh`, `cached`, `stale` when billing-state does not answer, `default` when no state is known: a trial"),
                ("x-pulse-entitlement-age" = i64, description = "Whole seconds since billing-state said so; 0 when it never did"),
            )
        ),
        (status = BAD_REQUEST, description = "`invalid_request`: the question is not one; the gateway's configuration is to be mended"),
        (
            status = FORBIDDEN,
            description = "It may not: `org_suspended`, `org_pending_deletion`, `org_not_found`, `subscription_inactive`, `capability_required` or `limit_exceeded`; `invalid_org_id` where no tenant is named, or not one",
            headers(("x-pulse-deny-reason" = String, description = "The same as `code`, for gateways that do not read the body"))
        ),
        (status = SERVICE_UNAVAILABLE, description = "`unavailable`: what is known is not good enough to let it go on"),
    )
)]
async fn authorize(State(tenants): State<Tenants>, question: Question) -> Answer<(StatusCode, HeaderMap)> {
    let guard = tenants.guard(question.on_outage);
    let verdict = guard.check(&question.org, &question.requirement()).await.into_result();
    let verdict = verdict.map_err(Problem::to_gateway)?;
    let entitled = match verdict.entitlements {
        Some(entitled) => entitled,
        None => tenants.entitlements(&question.org).await,
    };
    let entitled = entitled.map_err(|_| Problem::to_gateway(DenyReason::OrgNotFound.into()))?;
    Ok((StatusCode::OK, trusted_headers(&question.org, verdict.status, &entitled)))
}

/// What is asked of the gateway's own configuration.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Parameters {
    /// The tenant, where the header does not name it.
    #[param(pattern = "^[a-z0-9][a-z0-9-]{0,63}$")]
    org_id: Option<String>,
    /// A capability that the tenant must have.
    #[param(example = "alerting")]
    capability: Option<String>,
    /// A limit and what it must allow at least, such as `monitored_hosts:11` for one more than ten.
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}:[0-9]+$", example = "monitored_hosts:11")]
    limit: Option<String>,
    /// Whether what is known is good enough while lifecycle or billing-state does not answer.
    #[param(inline)]
    on_outage: Option<OnOutageParameter>,
}

/// `allow`, the default, goes by what is last known, and never lets in whoever is known to be closed. `deny` answers 503.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OnOutageParameter {
    Allow,
    Deny,
}

/// What is asked in headers, which are the client's own where the gateway does not set them.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what is read straight from the headers")]
struct Headers {
    /// The tenant.
    #[param(rename = "x-pulse-org-id", pattern = "^[a-z0-9][a-z0-9-]{0,63}$")]
    org_id: Option<String>,
    /// A capability that the tenant must have.
    #[param(rename = "x-pulse-capability", example = "alerting")]
    capability: Option<String>,
}

/// What a gateway asks.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    org: OrgId,
    capability: Option<Name>,
    limit: Option<(Name, u64)>,
    on_outage: OnOutage,
}

impl Question {
    fn requirement(&self) -> Requirement<'_> {
        let mut requirement = Requirement::active();
        if let Some(name) = &self.capability {
            requirement = requirement.and_capability(name.as_str());
        }
        if let Some((name, at_least)) = &self.limit {
            requirement = requirement.and_limit(name.as_str(), *at_least);
        }
        requirement
    }

    fn read(parts: &Parts) -> Result<Self, Problem> {
        let Query(parameters) = Query::<Parameters>::try_from_uri(&parts.uri).map_err(|_| {
            ApiError::new(
                Reason::InvalidRequest,
                "the query may have org_id, capability, limit and on_outage (allow or deny), each at most once",
            )
        })?;
        let capability = either(&parts.headers, &CAPABILITY, parameters.capability)?;
        let capability = capability.map(|name| parse_name(&name, "capability")).transpose()?;
        let limit = parameters.limit.map(|limit| parse_limit(&limit)).transpose()?;
        let on_outage = match parameters.on_outage {
            Some(OnOutageParameter::Deny) => OnOutage::Deny,
            Some(OnOutageParameter::Allow) | None => OnOutage::Allow,
        };
        // Last, as it may be the client's own: a configuration that is wrong is wrong for everybody.
        let org = match either(&parts.headers, &ORG_ID, parameters.org_id) {
            Ok(Some(org)) => OrgId::parse(&org),
            Ok(None) | Err(_) => Err(not_one_tenant()),
        };
        Ok(Self { org: org.map_err(Problem::to_gateway)?, capability, limit, on_outage })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Question {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(parts)
    }
}

fn not_one_tenant() -> ApiError {
    ApiError::field(Reason::InvalidOrgId, ORG_ID.as_str(), "must name one tenant, once")
}

/// The value of the header or of the parameter. Two that differ, or a header that comes twice, may be somebody's attempt to
/// be taken for another.
fn either(
    headers: &HeaderMap,
    name: &HeaderName,
    parameter: Option<String>,
) -> Result<Option<String>, ApiError> {
    let contradiction = || ApiError::field(Reason::InvalidRequest, name.as_str(), "must be said once");
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next(), parameter) {
        (None, _, parameter) => Ok(parameter),
        (Some(value), None, parameter) => {
            let value = value.to_str().map_err(|_| contradiction())?;
            match parameter {
                Some(parameter) if parameter != value => Err(contradiction()),
                Some(_) | None => Ok(Some(value.to_owned())),
            }
        }
        (Some(_), Some(_), _) => Err(contradiction()),
    }
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

/// Every header on every 200, so that a gateway that copies them leaves none of the client's in place.
fn trusted_headers(org: &OrgId, status: Result<StatusAnswer, StatusError>, entitled: &Entitled) -> HeaderMap {
    let (status_name, status_source, status_age) = match &status {
        Ok(answer) => (answer.status.as_str(), answer.source, answer.age),
        Err(_) => (UNKNOWN, Source::Default, Duration::ZERO),
    };
    let entitlements = &entitled.entitlements;
    let texts = [
        (ORG_ID, org.as_str()),
        (ORG_STATUS, status_name),
        (ORG_STATUS_SOURCE, source_name(status_source)),
        (SUBSCRIPTION_STATE, entitlements.subscription_state.as_str()),
        (PLAN, entitlements.plan_version.as_str()),
        (ENTITLEMENT_SOURCE, source_name(entitled.source)),
    ];
    // All of these are made of letters, digits and a few signs.
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?)));
    let ages = [(ORG_STATUS_AGE, status_age), (ENTITLEMENT_AGE, entitled.age)];
    texts.chain(ages.map(|(name, age)| (name, HeaderValue::from(age.as_secs())))).collect()
}
