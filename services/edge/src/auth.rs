//! The door of the admin surface.
//!
//! Whoever has no operator's token is turned away here, before anything of the request is looked at: neither its body,
//! nor whether its organization exists. What an operator may do is decided by the services, which check the token
//! again: the edge only passes it on.

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::{header::AUTHORIZATION, request::Parts};
use pulse_kernel::{ApiError, Reason};
use pulse_rpc::OperatorTokens;
use tonic::metadata::{Ascii, MetadataValue};

use crate::problem::Problem;

/// An operator's token, checked, as it is passed on to a service.
#[derive(Debug, Clone)]
pub(crate) struct Credentials(MetadataValue<Ascii>);

impl Credentials {
    /// A call to a service in the operator's name.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert(AUTHORIZATION.as_str(), self.0.clone());
        request
    }
}

/// Lets operators pass; the layer around every admin route.
pub(crate) async fn require_operator(
    State(tokens): State<OperatorTokens>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let header = request.headers().get(AUTHORIZATION);
    let operator = tokens.authenticate(header)?;
    tracing::debug!(operator = %operator.name, "authenticated");
    let value = header.and_then(|value| MetadataValue::try_from(value.as_bytes()).ok()).ok_or_else(nobody)?;
    request.extensions_mut().insert(Credentials(sensitive(value)));
    Ok(next.run(request).await)
}

/// Keeps the token out of HTTP/2's header table and out of every `Debug`.
fn sensitive(mut value: MetadataValue<Ascii>) -> MetadataValue<Ascii> {
    value.set_sensitive(true);
    value
}

impl<S: Send + Sync> FromRequestParts<S> for Credentials {
    type Rejection = Problem;

    /// A route that the layer does not stand before lets nobody in.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(parts.extensions.get::<Self>().cloned().ok_or_else(nobody)?)
    }
}

fn nobody() -> ApiError {
    ApiError::new(Reason::Unauthenticated, "an operator's token is required")
}
