//! How a REST service refuses, with `application/problem+json`, and reads the verdict.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, OptionalFromRequestParts},
};
use http::{Response, request::Parts};
use pulse_kernel::ApiError;

use super::{Door, GuardLayer, Head, sealed::Sealed};
use crate::{Guard, Verdict};

/// The door of axum routers. Routes are named as the router has them, such as `/v1/hosts/{id}`.
#[derive(Debug, Clone, Copy)]
pub enum Rest {}

impl Sealed for Rest {}

impl Door for Rest {
    type Body = Body;

    /// Never the path itself: what a route requires must not depend on how its path can be written.
    fn route<'a>(head: &Head<'a>) -> Option<&'a str> {
        head.extensions.get::<MatchedPath>().map(MatchedPath::as_str)
    }

    fn refuse(error: ApiError) -> Response<Body> {
        pulse_rpc::problem::reject(error).map(Body::from)
    }
}

impl GuardLayer<Rest> {
    /// For REST. Add it with [`Router::route_layer`](axum::Router::route_layer), so that it stands between the router, which
    /// knows the routes, and their handlers; or to single routes. A fallback is no route, and so not guarded. What answers CORS
    /// preflights goes around it: they name no tenant.
    pub fn rest(guard: Guard) -> Self {
        Self::new(guard)
    }
}

/// The verdict with which a [`GuardLayer`] let the request in. Where there is none, because no guard is in front of the route or
/// it needs no tenant there, the answer is 500 with `internal`; such a handler takes `Option<Verdict>`.
impl<S: Sync> FromRequestParts<S> for Verdict {
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or_else(|| {
            tracing::error!("a handler asks for the tenant of a request that no tenant guard has let in");
            Rest::refuse(ApiError::internal())
        })
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Verdict {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}
