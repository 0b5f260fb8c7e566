//! `/api/admin/orgs/{id}/billing-state`.

use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Answer, openapi::IfMatch};
use crate::{
    auth::Credentials,
    clients::Clients,
    etag::{Precondition, WithEtag},
    extract::{JsonBody, OrgPath, OrgPathParameter},
    model::{BillingState, SetBillingStateBody},
};

pub(crate) fn router() -> OpenApiRouter<Clients> {
    OpenApiRouter::default().routes(routes!(get_billing_state, set_billing_state))
}

/// Look a tenant's billing state up
///
/// The stored state; the trial default, without an etag, when none is stored. Role: viewer.
#[utoipa::path(
    get,
    path = "/api/admin/orgs/{id}/billing-state",
    tag = "billing",
    params(OrgPathParameter),
    responses((status = OK, body = BillingState, description = "The billing state"))
)]
async fn get_billing_state(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
) -> Answer<WithEtag<BillingState>> {
    // Billing answers for every id, with the default; only lifecycle knows who exists.
    clients.organization(&who, &org_id).await?;
    Ok(WithEtag(clients.billing_state(&who, &org_id).await?))
}

/// Set a tenant's billing state
///
/// Replaces it. Any state may be set; a change that billing would not make by itself is audited as an override. Role:
/// billing.
#[utoipa::path(
    put,
    path = "/api/admin/orgs/{id}/billing-state",
    tag = "billing",
    params(OrgPathParameter, IfMatch),
    request_body = SetBillingStateBody,
    responses(
        (status = OK, body = BillingState, description = "The state as it is stored"),
        (status = BAD_REQUEST, description = "`invalid_subscription_state`, `invalid_org_id` or `invalid_request`"),
    )
)]
async fn set_billing_state(
    State(clients): State<Clients>,
    who: Credentials,
    OrgPath(org_id): OrgPath,
    precondition: Precondition,
    JsonBody(mut body): JsonBody<SetBillingStateBody>,
) -> Answer<WithEtag<BillingState>> {
    clients.organization(&who, &org_id).await?;
    let current = async || Ok(clients.billing_state(&who, &org_id).await?.etag);
    let etag = precondition.or_tag(body.etag.take()).resolve(current).await?;
    Ok(WithEtag(clients.set_billing_state(&who, &org_id, body, etag).await?))
}
