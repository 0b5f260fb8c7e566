//! The one map from [`ApiError`] to an HTTP answer: RFC 9457 `application/problem+json`. The twin of [`status`]
//! for whoever serves REST.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use pulse_kernel::{ApiError, ErrorKind, FieldViolation, Quota, Reason};
use serde::Serialize;

use crate::{RequestContext, ServiceError, status};

/// The media type of every error answer.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The header that names the policies of a limit (draft-ietf-httpapi-ratelimit-headers).
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The header that says what is left of a limit (same draft).
pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What a caller is told to wait where nobody knows for how long.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);

/// An error answer, as RFC 9457 has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Problem, title = "Problem"))]
pub struct Document {
    /// Names the kind of problem: `urn:pulse:problem:` and the code.
    #[serde(rename = "type")]
    #[cfg_attr(
        feature = "openapi",
        schema(pattern = "^urn:pulse:problem:[a-z_]+$", example = "urn:pulse:problem:org_not_found")
    )]
    pub kind: String,
    /// The same for every problem of the kind.
    pub title: &'static str,
    /// The HTTP status.
    #[cfg_attr(feature = "openapi", schema(minimum = 400, maximum = 599))]
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// The kind of problem, to branch on.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[a-z_]+$", example = "org_not_found"))]
    pub code: String,
    /// Finds the request in the logs. Absent where no route answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub request_id: Option<String>,
    /// What is wrong with which field of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// The field, as in the request.
    #[cfg_attr(feature = "openapi", schema(example = "org_name"))]
    pub field: String,
    /// Which rule it breaks.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[a-z_]+$", example = "invalid_org_name"))]
    pub code: String,
    /// What is accepted.
    pub message: String,
}

/// The answer to a failed request; logs the cause, once, where the request id finds it.
#[expect(clippy::needless_pass_by_value, reason = "as `status::reject`")]
pub fn reject(error: impl ServiceError) -> Response<Bytes> {
    let api = error.to_api();
    status::log(&api, &error);
    to_response(&api)
}

/// The HTTP status of an error.
pub fn http_status(error: &ApiError) -> StatusCode {
    StatusCode::from_u16(error.reason().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The answer of an error, with the id of the current request.
pub fn to_response(error: &ApiError) -> Response<Bytes> {
    to_response_as(http_status(error), error)
}

/// The same with another status.
pub fn to_response_as(status: StatusCode, error: &ApiError) -> Response<Bytes> {
    let reason = error.reason();
    // Nothing about an internal error leaves the process, whatever message it was made with.
    let detail = match reason {
        Reason::Internal => ApiError::internal().message().to_owned(),
        _ => error.message().to_owned(),
    };
    let errors = error.violations().iter().map(FieldError::from).collect();
    let document = Document { errors, ..Document::new(status, reason.code(), reason.title(), detail) };
    let mut response = document.into_response();

    let headers = response.headers_mut();
    if reason == Reason::Unauthenticated {
        // RFC 9110 section 11.6.1: a 401 says how to authenticate.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = retry_after(error) {
        headers.insert(RETRY_AFTER, seconds.into());
        if let Some(quota) = error.exhausted_quota() {
            let [policy, left] = rate_limit(quota, seconds);
            headers.extend([(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, left)]);
        }
    }
    response
}

impl Document {
    /// A document about the current request.
    pub fn new(status: StatusCode, code: String, title: &'static str, detail: String) -> Self {
        let kind = format!("urn:pulse:problem:{code}");
        let request_id = RequestContext::with(|context| context.request_id.to_string());
        Self { kind, title, status: status.as_u16(), detail, code, request_id, errors: Vec::new() }
    }

    /// The answer that carries it.
    pub fn into_response(self) -> Response<Bytes> {
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(body.into());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        response
    }
}

/// Whole seconds after which a retry may succeed, rounded up: a caller that obeys is never early.
fn retry_after(error: &ApiError) -> Option<u64> {
    let temporary = match error.kind() {
        ErrorKind::ResourceExhausted | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => true,
        ErrorKind::InvalidArgument
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::FailedPrecondition
        | ErrorKind::Aborted
        | ErrorKind::DataLoss
        | ErrorKind::Internal => false,
    };
    let delay = error.retry_delay().or(temporary.then_some(DEFAULT_RETRY))?;
    Some(delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0)).max(1))
}

/// The values of the two headers. A policy's name that does not fit a structured field (RFC 8941 section 3.3.3) would
/// be a mistake of ours and becomes an empty one.
fn rate_limit(quota: &Quota, seconds: u64) -> [HeaderValue; 2] {
    let fits = quota.policy.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let name = if fits { quota.policy.as_str() } else { "" };
    let policy = format!("\"{name}\";q={};w={}", quota.limit, quota.window_seconds);
    let left = format!("\"{name}\";r=0;t={seconds}");
    [policy, left].map(|text| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\"")))
}

impl From<&FieldViolation> for FieldError {
    fn from(violation: &FieldViolation) -> Self {
        Self {
            field: violation.field.clone(),
            code: violation.reason.code(),
            message: violation.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::RequestId;

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn an_error_is_told_in_full_with_the_id_of_its_request() {
        let request_id = RequestId::generate(&crate::context::request_ids());
        let context = RequestContext { request_id: request_id.clone(), deadline: None };
        let error = ApiError::field(Reason::InvalidOrgId, "org_id", "is required");
        let response = context.sync_scope(|| reject(error));
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (400, Some(MEDIA_TYPE)));
        assert_eq!(
            body(&response),
            json!({
                "type": "urn:pulse:problem:invalid_org_id",
                "title": "The organization id is not valid",
                "status": 400,
                "detail": "org_id is required",
                "code": "invalid_org_id",
                "request_id": request_id.as_str(),
                "errors": [{ "field": "org_id", "code": "invalid_org_id", "message": "is required" }],
            })
        );
    }

    #[test]
    fn what_passes_by_itself_says_to_retry_and_nothing_else_does() {
        for reason in Reason::ALL {
            let response = to_response(&ApiError::new(*reason, "canary"));
            assert_eq!(response.status().as_u16(), reason.http_status(), "{reason:?}");
            assert_eq!(body(&response)["status"], reason.http_status());
            let temporary = matches!(reason.http_status(), 429 | 503 | 504);
            assert_eq!(header(&response, "retry-after").is_some(), temporary, "{reason:?}");
            assert_eq!(header(&response, "www-authenticate").is_some(), reason.http_status() == 401);
            assert_eq!(header(&response, "ratelimit"), None);
            assert_eq!(body(&response)["detail"] == "canary", *reason != Reason::Internal);
        }
    }

    #[test]
    fn a_limit_says_when_the_next_request_is_allowed_rounded_up() {
        let quota = Quota { policy: "signup".into(), limit: 5, window_seconds: 3600 };
        for (delay, seconds) in [(719_001, "720"), (720_000, "720"), (1, "1"), (0, "1")] {
            let error = ApiError::new(Reason::RateLimited, "slow down")
                .retry_after(Duration::from_millis(delay))
                .quota(quota.clone());
            let response = to_response(&error);
            assert_eq!(header(&response, "retry-after"), Some(seconds));
            assert_eq!(header(&response, "ratelimit-policy"), Some("\"signup\";q=5;w=3600"));
            assert_eq!(header(&response, "ratelimit"), Some(format!("\"signup\";r=0;t={seconds}").as_str()));
        }
    }
}
