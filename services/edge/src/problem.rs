//! Every error answer: RFC 9457 `application/problem+json`.
//!
//! What a service refuses arrives as an [`ApiError`]; what only HTTP can get wrong is an [`HttpError`]. Both become
//! a [`Problem`], and nothing else in this crate makes an error answer.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use pulse_kernel::{ApiError, ErrorKind, FieldViolation, Quota, Reason};
use pulse_rpc::RequestContext;
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of every error answer.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// The header that names the policies of a limit (draft-ietf-httpapi-ratelimit-headers).
pub(crate) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The header that says what is left of a limit (same draft).
pub(crate) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The header that tells a gateway why it is to refuse a request.
pub(crate) const DENY_REASON: HeaderName = HeaderName::from_static("x-pulse-deny-reason");

/// What a caller is told to wait where nobody knows for how long.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);

/// An error answer, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, title = "Problem")]
pub(crate) struct Document {
    /// Names the kind of problem: `urn:pulse:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:pulse:problem:[a-z_]+$", example = "urn:pulse:problem:org_not_found")]
    kind: String,
    /// The same for every problem of the kind.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What went wrong this time.
    detail: String,
    /// The kind of problem, to branch on.
    #[schema(pattern = "^[a-z_]+$", example = "org_not_found")]
    code: String,
    /// Finds the request in the logs. Absent where no route answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
    /// What is wrong with which field of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Debug, Serialize, ToSchema)]
struct FieldError {
    /// The field, as in the request.
    #[schema(example = "org_name")]
    field: String,
    /// Which rule it breaks.
    #[schema(pattern = "^[a-z_]+$", example = "invalid_org_name")]
    code: String,
    /// What is accepted.
    message: String,
}

/// What only HTTP can get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// No such route.
    NotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The body is not JSON, or says so.
    UnsupportedMediaType,
    /// The body is longer than is read.
    PayloadTooLarge,
    /// The body did not arrive in time.
    RequestTimeout,
}

impl HttpError {
    const fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::NotFound => ("not_found", "Not found", "there is nothing at this path"),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                "Method not allowed",
                "the Allow header lists the methods of this path",
            ),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                "Unsupported media type",
                "send the body as application/json, without content encoding",
            ),
            Self::PayloadTooLarge => {
                ("payload_too_large", "Payload too large", "the body must not be longer than 64 KiB")
            }
            Self::RequestTimeout => ("request_timeout", "Request timeout", "the body did not arrive in time"),
        }
    }
}

/// An error on its way out.
#[derive(Debug)]
pub(crate) enum Problem {
    /// What a service, or a rule of ours, refuses.
    Api(Box<ApiError>),
    /// The same, said to a gateway that asks for a decision: see [`Problem::to_gateway`].
    Gateway(Box<ApiError>),
    /// What HTTP refuses.
    Http(HttpError),
}

impl Problem {
    /// A decision of a gateway's against a request. Gateways take 401 and 403 for a no, and some of them anything else for a
    /// fault; so whatever speaks against the tenant is a 403, also what is another status elsewhere. The reason is in a
    /// header too, because not every gateway reads the body.
    pub(crate) fn to_gateway(error: ApiError) -> Self {
        Self::Gateway(Box::new(error))
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self::Api(Box::new(error))
    }
}

impl From<HttpError> for Problem {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Api(error) => of_api_error(&error, http_status(error.reason())),
            Self::Gateway(error) => to_gateway(&error),
            Self::Http(error) => of_http_error(error),
        }
    }
}

fn of_http_error(error: HttpError) -> Response {
    let (code, title, detail) = error.words();
    let request_id = match error {
        // A path that is not served answers the same bytes every time: whether hosted mode is off or the path
        // never existed cannot be told.
        HttpError::NotFound => None,
        _ => request_id(),
    };
    render(error.status(), code.to_owned(), title, detail.to_owned(), request_id, Vec::new())
}

fn http_status(reason: Reason) -> StatusCode {
    StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn to_gateway(error: &ApiError) -> Response {
    let status = match http_status(error.reason()) {
        status if status.is_server_error() => status,
        _ => StatusCode::FORBIDDEN,
    };
    let mut response = of_api_error(error, status);
    // Lower-case letters and underscores.
    if let Ok(code) = HeaderValue::try_from(error.reason().code()) {
        response.headers_mut().insert(DENY_REASON, code);
    }
    response
}

fn of_api_error(error: &ApiError, status: StatusCode) -> Response {
    let reason = error.reason();
    // Whatever an internal error was made with, nothing of it leaves.
    let detail = match reason {
        Reason::Internal => ApiError::internal().message().to_owned(),
        _ => error.message().to_owned(),
    };
    let errors = error.violations().iter().map(FieldError::from).collect();
    let mut response = render(status, reason.code(), reason.title(), detail, request_id(), errors);

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

fn request_id() -> Option<String> {
    RequestContext::with(|context| context.request_id.to_string())
}

fn render(
    status: StatusCode,
    code: String,
    title: &'static str,
    detail: String,
    request_id: Option<String>,
    errors: Vec<FieldError>,
) -> Response {
    let kind = format!("urn:pulse:problem:{code}");
    let document = Document { kind, title, status: status.as_u16(), detail, code, request_id, errors };
    // Strings and numbers only: this cannot fail.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    (status, [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], body).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    fn answer(problem: impl Into<Problem>) -> Response {
        problem.into().into_response()
    }

    async fn body(response: Response) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn an_error_of_the_vocabulary_is_told_in_full() {
        let mut violations = pulse_kernel::Violations::default();
        violations.push("email", Reason::InvalidEmail, "is required");
        violations.push("password", Reason::WeakPassword, "is short");
        let response = answer(violations.finish().unwrap_err());
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(header(&response, "content-type"), Some(MEDIA_TYPE));
        assert_eq!(
            body(response).await,
            json!({
                "type": "urn:pulse:problem:invalid_request",
                "title": "The request is not valid",
                "status": 400,
                "detail": "email is required; password is short",
                "code": "invalid_request",
                "errors": [
                    { "field": "email", "code": "invalid_email", "message": "is required" },
                    { "field": "password", "code": "weak_password", "message": "is short" },
                ],
            })
        );
    }

    #[test]
    fn a_limit_says_when_the_next_request_is_allowed_rounded_up() {
        let quota = Quota { policy: "signup".into(), limit: 5, window_seconds: 3600 };
        for (delay, seconds) in [(719_001, "720"), (720_000, "720"), (1, "1"), (0, "1")] {
            let error = ApiError::new(Reason::RateLimited, "slow down")
                .retry_after(Duration::from_millis(delay))
                .quota(quota.clone());
            let response = answer(error);
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(header(&response, "retry-after"), Some(seconds));
            assert_eq!(header(&response, "ratelimit-policy"), Some("\"signup\";q=5;w=3600"));
            assert_eq!(header(&response, "ratelimit"), Some(format!("\"signup\";r=0;t={seconds}").as_str()));
        }
    }

    #[test]
    fn what_passes_by_itself_says_to_retry_and_nothing_else_does() {
        for reason in Reason::ALL {
            let response = answer(ApiError::new(*reason, "x"));
            assert_eq!(response.status().as_u16(), reason.http_status(), "{reason:?}");
            let temporary = matches!(reason.http_status(), 429 | 503 | 504);
            assert_eq!(header(&response, "retry-after").is_some(), temporary, "{reason:?}");
            assert_eq!(header(&response, "www-authenticate").is_some(), reason.http_status() == 401);
            assert_eq!(header(&response, "ratelimit"), None);
        }
    }

    #[tokio::test]
    async fn an_internal_error_says_nothing_about_itself() {
        let response = answer(ApiError::new(Reason::Internal, "table users is locked"));
        assert!(!body(response).await.to_string().contains("users"));
    }

    #[tokio::test]
    async fn every_problem_but_an_unknown_path_names_its_request() {
        let ids = pulse_rpc::context::request_ids();
        let request_id = pulse_rpc::RequestId::generate(&ids);
        let context = RequestContext { request_id: request_id.clone(), deadline: None };
        let problems: [Problem; 3] =
            [HttpError::PayloadTooLarge.into(), ApiError::internal().into(), HttpError::NotFound.into()];
        let [http, api, unknown] = context.sync_scope(|| problems.map(IntoResponse::into_response));
        assert_eq!(body(http).await["request_id"], request_id.as_str());
        assert_eq!(body(api).await["request_id"], request_id.as_str());
        assert_eq!(body(unknown).await.get("request_id"), None);
    }
}
