//! What answers look like, as the protocol's own description (`service/openapi.yaml`, version 0.3.0) has it.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode};
use pulse_kernel::ApiError;
use pulse_tenant_guard::DenyReason;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::problem::{HttpError, Problem};

/// What a flag says for a tenant.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Flag {
    /// The flag.
    #[schema(example = "capability.alerting")]
    pub(super) key: String,
    /// A boolean for a capability, an integer for a limit.
    pub(super) value: FlagValue,
    /// Why.
    pub(super) reason: ResolutionReason,
    /// `on` or `off`; `limited`, `unlimited` or `none`.
    #[schema(example = "on")]
    pub(super) variant: &'static str,
    /// What the value was decided from.
    pub(super) metadata: FlagMetadata,
}

/// A boolean for a capability, an integer for a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum FlagValue {
    /// Whether the tenant has the capability.
    Capability(bool),
    /// How much the limit allows; -1 for no limit.
    Limit(i64),
}

/// Why a flag says what it says. Whether that is certain stands in the metadata: the protocol has no reasons for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum ResolutionReason {
    /// That is what the tenant's subscription has.
    TargetingMatch,
    /// Nothing is granted to the tenant: see `denied` in the metadata.
    Disabled,
}

/// What a value was decided from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub(super) struct FlagMetadata {
    /// `fresh`, `cached`, `stale` while a service behind does not answer, `default` where it never did.
    #[schema(example = "cached")]
    pub(super) source: &'static str,
    /// How long ago lifecycle or billing-state, whichever is longer ago, said so; 0 where neither did.
    pub(super) age_seconds: u64,
    /// The organization's status; `unknown` or `not_found` where it has none.
    #[schema(example = "active")]
    pub(super) org_status: &'static str,
    /// Where the subscription stands; absent where that does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "active")]
    pub(super) subscription_state: Option<&'static str>,
    /// The plan; absent where that does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "pro")]
    pub(super) plan_version: Option<String>,
    /// Why nothing is granted, with the reason `DISABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "org_suspended")]
    pub(super) denied: Option<String>,
}

impl IntoResponse for Flag {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// What every flag says for a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkEvaluation {
    /// The flags, by key.
    pub(super) flags: Vec<Evaluated>,
    /// What holds for all of them.
    pub(super) metadata: FlagMetadata,
}

/// What a flag says, or why that cannot be told.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Evaluated {
    /// It says something.
    Flag(Flag),
    /// It cannot be told.
    Failure(EvaluationFailure),
}

impl BulkEvaluation {
    /// A tag of what the flags say. It is a weak one: how old that is may differ in what has the same tag.
    pub(super) fn etag(&self) -> HeaderValue {
        let said: Vec<_> = self
            .flags
            .iter()
            .map(|evaluated| match evaluated {
                Evaluated::Flag(flag) => (&flag.key, Some((flag.value, flag.reason)), &flag.metadata.denied),
                Evaluated::Failure(failure) => (&failure.key, None, &None),
            })
            .collect();
        let said =
            (said, self.metadata.org_status, self.metadata.subscription_state, &self.metadata.plan_version);
        // Strings and numbers only: this cannot fail, and hexadecimal digits make a header.
        let hash = Sha256::digest(serde_json::to_vec(&said).unwrap_or_default());
        HeaderValue::try_from(format!("W/\"{}\"", hex::encode(&hash[..16])))
            .unwrap_or(HeaderValue::from_static("W/\"\""))
    }
}

impl IntoResponse for BulkEvaluation {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// Why a flag cannot be evaluated.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EvaluationFailure {
    /// The flag; absent where the request was about all of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub(super) key: String,
    /// The kind of failure.
    pub(super) error_code: ErrorCode,
    /// What is wrong.
    pub(super) error_details: String,
}

/// The kinds of failure that OpenFeature has and this can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum ErrorCode {
    /// The body is not JSON.
    ParseError,
    /// No tenant is named.
    TargetingKeyMissing,
    /// What is named is no tenant's id.
    InvalidContext,
    /// There is no such flag.
    FlagNotFound,
    /// It cannot be told now.
    General,
}

impl ErrorCode {
    const fn status(self) -> StatusCode {
        match self {
            Self::ParseError | Self::TargetingKeyMissing | Self::InvalidContext => StatusCode::BAD_REQUEST,
            Self::FlagNotFound => StatusCode::NOT_FOUND,
            Self::General => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Why a request for flags is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// In the protocol's words.
    Failure { key: String, code: ErrorCode, details: String },
    /// For which the protocol has none.
    Problem(Problem),
}

impl Refusal {
    pub(super) fn failure(code: ErrorCode, details: impl Into<String>) -> Self {
        Self::Failure { key: String::new(), code, details: details.into() }
    }

    pub(super) fn no_such_flag(key: &str) -> Self {
        let details = "there is no such flag; flags are capability.NAME and limit.NAME";
        Self::failure(ErrorCode::FlagNotFound, details).about(key)
    }

    /// The same, with the flag that was asked for.
    pub(super) fn about(self, flag: &str) -> Self {
        match self {
            Self::Failure { code, details, .. } => Self::Failure { key: flag.to_owned(), code, details },
            Self::Problem(problem) => Self::Problem(problem),
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<HttpError> for Refusal {
    fn from(error: HttpError) -> Self {
        Self::Problem(error.into())
    }
}

impl From<DenyReason> for Refusal {
    fn from(reason: DenyReason) -> Self {
        Self::Problem(ApiError::from(reason).into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Failure { key, code: error_code, details: error_details } => {
                let failure = EvaluationFailure { key, error_code, error_details };
                (error_code.status(), Json(failure)).into_response()
            }
            Self::Problem(problem) => problem.into_response(),
        }
    }
}
