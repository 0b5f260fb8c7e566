//! How a gRPC service refuses, with a status like every other of this system, and reads the verdict.

use http::Response;
use pulse_kernel::ApiError;
use tonic::{Status, body::Body, server::NamedService};

use super::{Door, GuardLayer, Guarded, Head, sealed::Sealed};
use crate::{Guard, Verdict};

/// The door of gRPC services. Routes are methods by their paths, such as `/acme.hosts.v1.HostService/AddHost`.
#[derive(Debug, Clone, Copy)]
pub enum Grpc {}

impl Sealed for Grpc {}

impl Door for Grpc {
    type Body = Body;

    fn route<'a>(head: &Head<'a>) -> Option<&'a str> {
        Some(head.uri.path())
    }

    /// Headers that end the stream: what gRPC over HTTP/2 calls trailers only.
    fn refuse(error: ApiError) -> Response<Body> {
        pulse_rpc::reject(error).into_http()
    }
}

impl GuardLayer<Grpc> {
    /// For gRPC. Layer each service with it, `layer.layer(HostServiceServer::new(…))`, or the whole server; then health and
    /// reflection have to be [opened](Self::open).
    pub fn grpc(guard: Guard) -> Self {
        Self::new(guard)
    }
}

/// A guarded service is served under its own name.
impl<S: NamedService> NamedService for Guarded<S, Grpc> {
    const NAME: &'static str = S::NAME;
}

impl Verdict {
    /// The verdict with which a [`GuardLayer`] let this request in.
    ///
    /// # Errors
    /// `INTERNAL` where there is none: no guard in front of the method, or one that needs no tenant there.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Status> {
        request.extensions().get().ok_or_else(|| {
            tracing::error!("a handler asks for the tenant of a request that no tenant guard has let in");
            pulse_rpc::to_status(&ApiError::internal())
        })
    }
}
