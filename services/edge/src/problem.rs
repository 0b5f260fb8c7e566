//! Every error answer: RFC 9457 `application/problem+json`.
//!
//! What a service refuses arrives as an [`ApiError`]; what only HTTP can get wrong is an [`HttpError`]. Both become
//! a [`Problem`], and nothing else in this crate makes an error answer. What one looks like is told by
//! [`pulse_rpc::problem`], for every service that speaks REST.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use pulse_kernel::ApiError;
use pulse_rpc::problem::{self, Document};
use pulse_tenant_client::gateway::Refusal;

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
    /// What a gateway that asks for a decision is told.
    Gateway(Refusal),
    /// What HTTP refuses.
    Http(HttpError),
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self::Api(Box::new(error))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Gateway(refusal)
    }
}

impl From<HttpError> for Problem {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let response = match self {
            Self::Api(error) => problem::to_response(&error),
            Self::Gateway(refusal) => refusal.to_response(),
            Self::Http(error) => of_http_error(error),
        };
        response.map(Body::from)
    }
}

fn of_http_error(error: HttpError) -> http::Response<Bytes> {
    let (code, title, detail) = error.words();
    let mut document = Document::new(error.status(), code.to_owned(), title, detail.to_owned());
    if error == HttpError::NotFound {
        // A path that is not served answers the same bytes every time: whether hosted mode is off or the path
        // never existed cannot be told.
        document.request_id = None;
    }
    document.into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use pulse_kernel::Reason;
    use pulse_rpc::{RequestContext, problem::MEDIA_TYPE};
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
