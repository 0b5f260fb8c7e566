//! `/ofrep/v1/…`: what a tenant may use, as flags of the OpenFeature Remote Evaluation Protocol 0.3, so that applications in
//! any language ask with a stock SDK.
//!
//! | module | holds |
//! |---|---|
//! | here | the routes |
//! | [`context`] | the request: which tenant |
//! | [`evaluation`] | a tenant's flags: what they are called, and what they say |
//! | [`wire`] | what answers look like |

mod context;
mod evaluation;
mod wire;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header::ETAG};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    context::{Context, EvaluationRequest},
    evaluation::Key,
    wire::{BulkEvaluation, EvaluationFailure, Flag, Refusal},
};
use crate::{etag::none_match, tenants::Tenants};

pub(crate) fn router() -> OpenApiRouter<Tenants> {
    OpenApiRouter::default().routes(routes!(evaluate)).routes(routes!(evaluate_all))
}

/// Evaluate a flag
///
/// `capability.NAME`, or just `NAME` where a plan has it, is whether the tenant has the capability. `limit.NAME` is how much
/// its limit of that name allows: -1 for no limit, 0 where it has none. Where nothing is granted, because of the
/// organization's status or the subscription's, every flag is `false` or 0 with the reason `DISABLED`.
#[utoipa::path(
    post,
    path = "/ofrep/v1/evaluate/flags/{key}",
    tag = "decisions",
    params(("key" = String, Path, description = "The flag", example = "capability.alerting")),
    request_body = EvaluationRequest,
    responses(
        (status = OK, body = Flag, description = "What the flag says for this tenant"),
        (status = BAD_REQUEST, body = EvaluationFailure, description = "`PARSE_ERROR`, `TARGETING_KEY_MISSING` or `INVALID_CONTEXT`"),
        (status = NOT_FOUND, body = EvaluationFailure, description = "`FLAG_NOT_FOUND`: neither a plan nor this tenant has it"),
    )
)]
async fn evaluate(
    State(tenants): State<Tenants>,
    key: Result<Path<String>, PathRejection>,
    context: Result<Context, Refusal>,
) -> Result<Flag, Refusal> {
    // A key that is not UTF-8 once decoded is no flag's either.
    let key = key.map_or_else(|_| String::new(), |Path(key)| key);
    let Context { org } = context.map_err(|refusal| refusal.about(&key))?;
    let flag = Key::parse(&key).ok_or_else(|| Refusal::no_such_flag(&key))?;
    evaluation::evaluate(&tenants, &org, &flag).await
}

/// Evaluate every flag
///
/// Each capability and limit that a plan or this tenant has. The etag stays the same as long as no value and no reason
/// changes, however old what is known gets.
#[utoipa::path(
    post,
    path = "/ofrep/v1/evaluate/flags",
    tag = "decisions",
    params(("If-None-Match" = Option<String>, Header, description = "The etag of an earlier answer")),
    request_body = EvaluationRequest,
    responses(
        (
            status = OK,
            body = BulkEvaluation,
            description = "What all of them say for this tenant",
            headers(("ETag" = String, description = "For `If-None-Match`"))
        ),
        (
            status = NOT_MODIFIED,
            description = "As before",
            headers(("ETag" = String, description = "The same as before"))
        ),
        (status = BAD_REQUEST, body = EvaluationFailure, description = "`PARSE_ERROR`, `TARGETING_KEY_MISSING` or `INVALID_CONTEXT`"),
    )
)]
async fn evaluate_all(
    State(tenants): State<Tenants>,
    headers: HeaderMap,
    context: Result<Context, Refusal>,
) -> Result<Response, Refusal> {
    let Context { org } = context?;
    let flags = evaluation::evaluate_all(&tenants, &org).await?;
    let etag = flags.etag();
    if none_match(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    Ok(([(ETAG, etag)], flags).into_response())
}
