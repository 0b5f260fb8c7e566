//! `POST /api/public/signup`.

use axum::{Json, extract::State};
use http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Answer;
use crate::{
    client_ip::ClientIp,
    clients::Clients,
    extract::JsonBody,
    model::{SignUpAnswer, SignUpBody, SignUpStatus},
};

pub(crate) fn router() -> OpenApiRouter<Clients> {
    OpenApiRouter::default().routes(routes!(sign_up))
}

/// Sign up
///
/// Makes a tenant with an owner account and a trial, or finds the one that this owner already has. Repeating a request
/// is safe: the same email with the same password answers the same ids. Requests that fail validation do not count
/// against the hourly limit of signups.
#[utoipa::path(
    post,
    path = "/api/public/signup",
    tag = "signup",
    request_body = SignUpBody,
    responses(
        (status = CREATED, body = SignUpAnswer, description = "The tenant was made"),
        (status = OK, body = SignUpAnswer, description = "The email already owns this tenant, and the password is its owner's"),
        (status = BAD_REQUEST, description = "`invalid_email`, `weak_password` or `invalid_org_name`, or `invalid_request` for several together or a malformed body; `errors` names every field that is wrong"),
        (status = CONFLICT, description = "`email_taken`: the email owns a tenant, and the password is not its owner's"),
    )
)]
async fn sign_up(
    State(clients): State<Clients>,
    client: ClientIp,
    JsonBody(body): JsonBody<SignUpBody>,
) -> Answer<(StatusCode, Json<SignUpAnswer>)> {
    let answer = clients.sign_up(body, client).await?;
    let status = match answer.status {
        SignUpStatus::Created => StatusCode::CREATED,
        SignUpStatus::Existing => StatusCode::OK,
    };
    Ok((status, Json(answer)))
}
