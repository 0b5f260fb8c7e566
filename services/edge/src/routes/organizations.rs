//! `/api/admin/orgs`: organizations and their status.

use axum::{Json, extract::State};
use pulse_kernel::{ApiError, OrgId, Reason, Violations};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, openapi::IfMatch};
use crate::{
    auth::Credentials,
    clients::{Clients, OrganizationFilter},
    etag::{Precondition, Tagged as _, WithEtag},
    extract::{OptionalJsonBody, OrgPath, OrgPathParameter, Parameters},
    model::{Organization, OrganizationPage, OrganizationStatus, ReasonBody, SoftDeleteBody},
};

pub(crate) fn router() -> OpenApiRouter<Clients> {
    OpenApiRouter::default()
        .routes(routes!(list_organizations))
        .routes(routes!(get_organization, delete_organization))
        .routes(routes!(suspend_organization))
        .routes(routes!(unsuspend_organization))
        .routes(routes!(soft_delete_organization, delete_soft_delete))
        .routes(routes!(restore_organization))
}

/// Which organizations to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StatusParameter {
    /// Only organizations in this status.
    #[param(value_type = Option<OrganizationStatus>, nullable = false)]
    status: Option<String>,
}

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParameters {
    /// How many at the most; 50 when absent or 0.
    #[param(value_type = Option<i32>, minimum = 0, nullable = false)]
    page_size: Option<String>,
    /// `next_page_token` of the page before.
    #[param(nullable = false)]
    page_token: Option<String>,
}

impl PageParameters {
    /// The size and the token, 0 and empty where absent.
    pub(super) fn read(self, violations: &mut Violations) -> (i32, String) {
        let size = self.page_size.map_or(Ok(0), |text| text.parse().map_err(drop));
        let size = size.ok().filter(|size| *size >= 0).ok_or_else(|| {
            ApiError::field(
                Reason::InvalidRequest,
                "page_size",
                "must be a whole number that is not negative",
            )
        });
        (violations.keep(size).unwrap_or_default(), self.page_token.unwrap_or_default())
    }
}

impl OrganizationFilter {
    fn read(status: StatusParameter, page: PageParameters) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        let status = status.status.map(|text| {
            let parsed = text.parse::<OrganizationStatus>();
            parsed.map_err(|expected| ApiError::field(Reason::InvalidRequest, "status", expected))
        });
        let status = status.and_then(|parsed| violations.keep(parsed));
        let (page_size, page_token) = page.read(&mut violations);
        violations.finish()?;
        Ok(Self { status, page_size, page_token })
    }
}

/// List organizations
///
/// By id. Role: viewer.
#[utoipa::path(
    get,
    path = "/api/admin/orgs",
    tag = "organizations",
    params(StatusParameter, PageParameters),
    responses((status = OK, body = OrganizationPage, description = "A page of organizations"))
)]
async fn list_organizations(
    State(clients): State<Clients>,
    who: Credentials,
    Parameters(status): Parameters<StatusParameter>,
    Parameters(page): Parameters<PageParameters>,
) -> Answer<Json<OrganizationPage>> {
    let filter = OrganizationFilter::read(status, page)?;
    Ok(Json(clients.organizations(&who, filter).await?))
}

/// Look an organization up
///
/// Role: viewer.
#[utoipa::path(
    get,
    path = "/api/admin/orgs/{id}",
    tag = "organizations",
    params(OrgPathParameter),
    responses((status = OK, body = Organization, description = "The organization"))
)]
async fn get_organization(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
) -> Answer<WithEtag<Organization>> {
    Ok(WithEtag(clients.organization(&who, &org_id).await?))
}

/// Suspend an organization
///
/// Refuses every request of the tenant from now on. Role: support.
#[utoipa::path(
    post,
    path = "/api/admin/orgs/{id}/suspend",
    tag = "organizations",
    params(OrgPathParameter, IfMatch),
    request_body = Option<ReasonBody>,
    responses(
        (status = OK, body = Organization, description = "The organization, suspended"),
        (status = BAD_REQUEST, description = "`default_org_immutable`, `invalid_org_id` or `invalid_request`"),
        (status = CONFLICT, description = "`already_suspended`, `pending_deletion` or `org_provisioning`"),
    )
)]
async fn suspend_organization(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
    precondition: Precondition,
    OptionalJsonBody(body): OptionalJsonBody<ReasonBody>,
) -> Answer<WithEtag<Organization>> {
    let etag = precondition.resolve(|| current_etag(&clients, &who, &org_id)).await?;
    Ok(WithEtag(clients.suspend(&who, &org_id, body.reason, etag).await?))
}

/// Let a suspended organization back in
///
/// Role: support.
#[utoipa::path(
    post,
    path = "/api/admin/orgs/{id}/unsuspend",
    tag = "organizations",
    params(OrgPathParameter, IfMatch),
    request_body = Option<ReasonBody>,
    responses(
        (status = OK, body = Organization, description = "The organization, active again"),
        (status = CONFLICT, description = "`not_suspended`, or a status that it cannot be let back in from"),
    )
)]
async fn unsuspend_organization(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
    precondition: Precondition,
    OptionalJsonBody(body): OptionalJsonBody<ReasonBody>,
) -> Answer<WithEtag<Organization>> {
    let etag = precondition.resolve(|| current_etag(&clients, &who, &org_id)).await?;
    Ok(WithEtag(clients.unsuspend(&who, &org_id, body.reason, etag).await?))
}

/// Delete an organization
///
/// Marks it for deletion: refused at once, removed from every service after the retention, until which it can be
/// restored. Role: admin.
#[utoipa::path(
    post,
    path = "/api/admin/orgs/{id}/soft-delete",
    tag = "organizations",
    params(OrgPathParameter, IfMatch),
    request_body = Option<SoftDeleteBody>,
    responses(
        (status = OK, body = Organization, description = "The organization, pending deletion"),
        (status = BAD_REQUEST, description = "`invalid_retention_days`, `default_org_immutable`, `invalid_org_id` or `invalid_request`"),
        (status = CONFLICT, description = "`already_pending_deletion` or `org_provisioning`"),
    )
)]
async fn soft_delete_organization(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
    precondition: Precondition,
    OptionalJsonBody(body): OptionalJsonBody<SoftDeleteBody>,
) -> Answer<WithEtag<Organization>> {
    let etag = precondition.resolve(|| current_etag(&clients, &who, &org_id)).await?;
    Ok(WithEtag(clients.soft_delete(&who, &org_id, body, etag).await?))
}

/// Delete an organization
///
/// The same as `POST` here.
#[utoipa::path(
    delete,
    path = "/api/admin/orgs/{id}/soft-delete",
    tag = "organizations",
    params(OrgPathParameter, IfMatch),
    request_body = Option<SoftDeleteBody>,
    responses(
        (status = OK, body = Organization, description = "The organization, pending deletion"),
        (status = BAD_REQUEST, description = "`invalid_retention_days`, `default_org_immutable`, `invalid_org_id` or `invalid_request`"),
        (status = CONFLICT, description = "`already_pending_deletion` or `org_provisioning`"),
    )
)]
async fn delete_soft_delete(
    clients: State<Clients>,
    who: Credentials,
    org_id: OrgPath,
    precondition: Precondition,
    body: OptionalJsonBody<SoftDeleteBody>,
) -> Answer<WithEtag<Organization>> {
    soft_delete_organization(clients, who, org_id, precondition, body).await
}

/// Delete an organization
///
/// The same as `POST /api/admin/orgs/{id}/soft-delete`.
#[utoipa::path(
    delete,
    path = "/api/admin/orgs/{id}",
    tag = "organizations",
    params(OrgPathParameter, IfMatch),
    request_body = Option<SoftDeleteBody>,
    responses(
        (status = OK, body = Organization, description = "The organization, pending deletion"),
        (status = BAD_REQUEST, description = "`invalid_retention_days`, `default_org_immutable`, `invalid_org_id` or `invalid_request`"),
        (status = CONFLICT, description = "`already_pending_deletion` or `org_provisioning`"),
    )
)]
async fn delete_organization(
    clients: State<Clients>,
    who: Credentials,
    org_id: OrgPath,
    precondition: Precondition,
    body: OptionalJsonBody<SoftDeleteBody>,
) -> Answer<WithEtag<Organization>> {
    soft_delete_organization(clients, who, org_id, precondition, body).await
}

/// Take a deletion back
///
/// Back to the status from before it. Role: admin.
#[utoipa::path(
    post,
    path = "/api/admin/orgs/{id}/restore",
    tag = "organizations",
    params(OrgPathParameter, IfMatch),
    request_body = Option<ReasonBody>,
    responses(
        (status = OK, body = Organization, description = "The organization, as before its deletion"),
        (status = CONFLICT, description = "`not_pending_deletion`, also once the purge has begun"),
    )
)]
async fn restore_organization(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
    precondition: Precondition,
    OptionalJsonBody(body): OptionalJsonBody<ReasonBody>,
) -> Answer<WithEtag<Organization>> {
    let etag = precondition.resolve(|| current_etag(&clients, &who, &org_id)).await?;
    Ok(WithEtag(clients.restore(&who, &org_id, body.reason, etag).await?))
}

async fn current_etag(
    clients: &Clients,
    who: &Credentials,
    org_id: &OrgId,
) -> Result<Option<String>, ApiError> {
    Ok(clients.organization(who, org_id).await?.etag().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use axum::extract::Query;

    use super::*;

    fn filter(query: &str) -> Result<OrganizationFilter, ApiError> {
        let uri = format!("/api/admin/orgs?{query}").parse().unwrap();
        let Query(status) = Query::try_from_uri(&uri).unwrap();
        let Query(page) = Query::try_from_uri(&uri).unwrap();
        OrganizationFilter::read(status, page)
    }

    #[test]
    fn a_list_is_asked_for_by_status_size_and_token() {
        let asked = filter("status=pending_deletion&page_size=7&page_token=abc&other=1").unwrap();
        assert_eq!(asked.status, Some(OrganizationStatus::PendingDeletion));
        assert_eq!((asked.page_size, asked.page_token.as_str()), (7, "abc"));
        let all = filter("").unwrap();
        assert_eq!((all.status, all.page_size, all.page_token.as_str()), (None, 0, ""));
    }

    #[test]
    fn everything_that_is_wrong_with_a_query_is_named_at_once() {
        let error = filter("status=Active&page_size=many").unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidRequest);
        let fields: Vec<_> = error.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["status", "page_size"]);
        assert!(error.message().contains("provisioning, active, suspended, pending_deletion or purging"));
        for bad in ["page_size=-1", "page_size=1.5", "page_size=", "page_size=99999999999", "status="] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
