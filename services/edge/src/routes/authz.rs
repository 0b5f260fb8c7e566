//! `/api/internal/authz`: may this request of a tenant go on? For gateways that ask before they pass a request on: nginx
//! with `auth_request`, Traefik with `ForwardAuth`, Caddy with `forward_auth`.

use axum::{
    extract::{FromRequestParts, Query, State},
    routing::any,
};
use http::{HeaderMap, HeaderName, StatusCode, request::Parts};
use pulse_kernel::{ApiError, Reason};
use pulse_tenant_client::gateway::{
    Question, Refusal,
    header::{CAPABILITY, ORG_ID},
};
use pulse_tenant_guard::OnOutage;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Answer;
use crate::{problem::Problem, tenants::Tenants};

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
async fn authorize(
    State(tenants): State<Tenants>,
    Asked(question): Asked,
) -> Answer<(StatusCode, HeaderMap)> {
    Ok((StatusCode::OK, tenants.gatekeeper().ask(&question).await?))
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
struct Asked(Question);

impl Asked {
    fn read(parts: &Parts) -> Result<Self, Refusal> {
        let Query(parameters) = Query::<Parameters>::try_from_uri(&parts.uri).map_err(|_| {
            Refusal::not_understood(ApiError::new(
                Reason::InvalidRequest,
                "the query may have org_id, capability, limit and on_outage (allow or deny), each at most once",
            ))
        })?;
        let capability = either(&parts.headers, &CAPABILITY, parameters.capability.as_deref());
        let capability = capability.map_err(Refusal::not_understood)?;
        let on_outage = match parameters.on_outage {
            Some(OnOutageParameter::Deny) => OnOutage::Deny,
            Some(OnOutageParameter::Allow) | None => OnOutage::Allow,
        };
        // Two that contradict each other are as good as none.
        let org = either(&parts.headers, &ORG_ID, parameters.org_id.as_deref()).unwrap_or_default();
        Question::parse(org, capability, parameters.limit.as_deref(), on_outage).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::read(parts)?)
    }
}

/// The value of the header or of the parameter. Two that differ, or a header that comes twice, may be somebody's attempt to
/// be taken for another.
fn either<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    parameter: Option<&'a str>,
) -> Result<Option<&'a str>, ApiError> {
    let contradiction = || ApiError::field(Reason::InvalidRequest, name.as_str(), "must be said once");
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next(), parameter) {
        (None, _, parameter) => Ok(parameter),
        (Some(value), None, parameter) => {
            let value = value.to_str().map_err(|_| contradiction())?;
            match parameter {
                Some(parameter) if parameter != value => Err(contradiction()),
                Some(_) | None => Ok(Some(value)),
            }
        }
        (Some(_), Some(_), _) => Err(contradiction()),
    }
}
