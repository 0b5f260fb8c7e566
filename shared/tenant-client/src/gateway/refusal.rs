//! [`Refusal`]: why a request is not to go on, and how a gateway tells its client.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use pulse_kernel::ApiError;
use pulse_rpc::{
    problem,
    status::{to_status, to_status_as},
};
use tonic::{Code, Status};

use super::header;

/// Why a request is not to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The question is not one: a mistake in the gateway's configuration.
    NotUnderstood(Box<ApiError>),
    /// It is, and the answer is no. Gateways take 401 and 403 for a no, and some of them anything else for a fault; so
    /// whatever speaks against the tenant is a 403, also what is another status elsewhere.
    Denied(Box<ApiError>),
}

impl Refusal {
    /// A question that is none.
    pub fn not_understood(error: ApiError) -> Self {
        Self::NotUnderstood(Box::new(error))
    }

    /// A decision against the request.
    pub fn denied(error: ApiError) -> Self {
        Self::Denied(Box::new(error))
    }

    /// For a client that speaks HTTP. The reason of a denial is in a header too, because not every gateway reads the body.
    pub fn to_response(&self) -> Response<Bytes> {
        let error = match self {
            Self::NotUnderstood(error) => return problem::to_response(error),
            Self::Denied(error) => error,
        };
        let status = match problem::http_status(error) {
            status if status.is_server_error() => status,
            _ => StatusCode::FORBIDDEN,
        };
        let mut response = problem::to_response_as(status, error);
        // Lower-case letters and underscores.
        if let Ok(code) = HeaderValue::try_from(error.reason().code()) {
            response.headers_mut().insert(header::DENY_REASON, code);
        }
        response
    }

    /// For a client that speaks gRPC: the same no, with the reason in the details.
    pub fn to_status(&self) -> Status {
        match self {
            Self::Denied(error) if !problem::http_status(error).is_server_error() => {
                to_status_as(Code::PermissionDenied, error)
            }
            Self::NotUnderstood(error) | Self::Denied(error) => to_status(error),
        }
    }
}
