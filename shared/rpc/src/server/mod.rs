//! The one way to serve gRPC: transport limits, the layer stack, health, reflection and a shutdown in two phases.
//!
//! | module | holds |
//! |---|---|
//! | [`descriptors`] | the part of the schema that this server shows to reflection and labels its metrics with |
//! | [`health`] | `grpc.health.v1`: liveness, and the readiness of each service |
//! | `router` | from a path to its service |

pub mod descriptors;
pub mod health;
mod router;

use std::{convert::Infallible, time::Duration};

use pulse_runtime::{Readiness, Shutdown};
use tokio::net::TcpListener;
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tower::Service;

use self::{descriptors::Descriptors, router::Router};
use crate::layers::ServerStack;

/// The largest request message that a service should decode, in bytes: four times what the edge accepts as a body.
/// Set it on a generated server with `max_decoding_message_size`.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// Streams that one connection may have open. The services here share connections, so this is generous; work in
/// flight is bounded by [`Limits::max_in_flight`].
const MAX_STREAMS: u32 = 1024;

/// The largest frame, in bytes: the least that HTTP/2 allows (RFC 9113 section 4.2), as messages here are small.
const MAX_FRAME: u32 = 16 * 1024;

/// The largest header block, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// After how long a silent connection is asked whether the other end is still there, how often, and how many times.
/// TCP asks, not HTTP/2: it costs the requests on the connection nothing. Callers ping over HTTP/2.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// What a server admits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests at work at the same time; what is more is refused with `OVERLOADED`.
    pub max_in_flight: usize,
    /// How long any request may take, whatever its caller would wait.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_in_flight: 1024, request_timeout: Duration::from_secs(30) }
    }
}

/// Why a server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The compiled-in schema is broken.
    #[error("the protobuf descriptors cannot be read: {0}")]
    Descriptors(#[from] prost::DecodeError),
    /// Reflection cannot be built of it.
    #[error("reflection cannot be served: {0:?}")]
    Reflection(tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC transport failed")]
    Transport(#[from] tonic::transport::Error),
}

/// A gRPC server being put together.
///
/// A service that is not added does not exist: calls to it answer `UNIMPLEMENTED` as to any made-up name, and neither
/// reflection nor health know it.
#[derive(Debug)]
pub struct GrpcServer {
    limits: Limits,
    router: Router,
    services: Vec<&'static str>,
    descriptors: Vec<&'static [u8]>,
}

impl GrpcServer {
    /// A server without services.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            router: Router::default(),
            services: Vec::new(),
            descriptors: vec![pulse_proto::FILE_DESCRIPTOR_SET],
        }
    }

    /// Adds a service.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "a builder's `add`; nobody writes `server + service`")]
    pub fn add<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.push(S::NAME);
        self.router = self.router.add(service);
        self
    }

    /// Adds a service on one condition, such as hosted mode.
    #[must_use]
    pub fn add_if<S>(self, condition: bool, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        if condition { self.add(service) } else { self }
    }

    /// Adds the schema of services that are not of this system: an encoded `FileDescriptorSet`.
    #[must_use]
    pub fn describe(mut self, descriptors: &'static [u8]) -> Self {
        self.descriptors.push(descriptors);
        self
    }

    /// Serves on `listener` until `shutdown` is done: when draining begins nothing new is accepted and what is in
    /// flight goes on; when it is aborted this returns at once, and the rest goes with the process.
    ///
    /// # Errors
    /// When the compiled-in schema is broken, or the transport fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        readiness: Readiness,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let built_in = [descriptors::HEALTH, descriptors::REFLECTION_V1, descriptors::REFLECTION_V1ALPHA];
        let registered: Vec<&str> = self.services.iter().chain(&built_in).copied().collect();
        let schema = Descriptors::read(&self.descriptors)?.only(&registered);
        let encoded = schema.encode();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .include_reflection_service(false)
                .register_encoded_file_descriptor_set(&encoded)
        };
        let stack = ServerStack::new(
            &schema.services(),
            &pulse_runtime::telemetry::meter("pulse-rpc"),
            self.limits.max_in_flight,
            self.limits.request_timeout,
        );
        let router = self
            .router
            .add(health)
            .add(reflection().build_v1().map_err(ServeError::Reflection)?)
            .add(reflection().build_v1alpha().map_err(ServeError::Reflection)?);

        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEPALIVE.0))
            .with_keepalive_interval(Some(KEEPALIVE.1))
            .with_keepalive_retries(Some(KEEPALIVE.2));
        let server = Server::builder()
            .layer(stack)
            .max_concurrent_streams(MAX_STREAMS)
            .max_frame_size(MAX_FRAME)
            .http2_max_header_list_size(MAX_HEADERS)
            .serve_with_incoming_shutdown(router, incoming, shutdown.draining());
        let health = health::report(reporter, self.services, readiness.subscribe(), shutdown.draining());
        let serving = async { tokio::join!(server, health).0 };
        tokio::select! {
            ended = serving => Ok(ended?),
            () = shutdown.aborted() => Ok(()),
        }
    }
}
