//! The public door: whoever signs up passes here first.
//!
//! A request goes `grpc -> app -> provisioner`, and is refused as early as it can be:
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings of this service |
//! | `grpc` | `SignupService`: converts, calls, converts |
//! | `convert` | protobuf to and from domain types |
//! | `app` | the order of things: general limit, validation, signup limit, provisioning; the limits; the metrics |
//! | `domain` | what a signup is, checked all at once; what came of it |
//! | `clients` | the provisioner, as a function of domain values |
//! | `error` | everything that can go wrong, mapped once to what callers see |
//!
//! This service keeps nothing but counters in memory. A password passes through as a secret and ends in the
//! provisioner, which alone hashes it.

mod app;
mod clients;
pub mod config;
mod convert;
mod domain;
mod error;
mod grpc;

use std::sync::Arc;

use pulse_kernel::{Clock, SystemClock};
use pulse_proto::signup::v1::signup_service_server::SignupServiceServer;
use pulse_rpc::{GrpcServer, Limits as ServerLimits, server::MAX_MESSAGE_BYTES};
use pulse_runtime::{Readiness, Service, Shutdown};
use tokio::net::TcpListener;

pub use crate::config::{Config, SignupSettings};
use crate::{
    app::{SignUps, limits::Limits},
    clients::Provisioner,
};

/// Serves on `listener` until `shutdown` is done.
///
/// # Errors
/// When the provisioner's URL is not one, or the server fails.
pub async fn serve(config: Config, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    serve_at(config, Arc::new(SystemClock), listener, shutdown).await
}

/// As [`serve`], with limits that go by `clock`.
///
/// # Errors
/// As [`serve`].
pub async fn serve_at(
    config: Config,
    clock: Arc<dyn Clock>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let channel = pulse_rpc::channel(&config.endpoints.url(Service::Provisioner).to_string())?;
    let limits = Limits::new(&config, &clock);
    limits.sweep_in_background(&shutdown);
    let sign_ups = SignUps::new(limits, config.password_policy(), Provisioner::new(channel));
    let service =
        SignupServiceServer::new(grpc::Signup::new(sign_ups)).max_decoding_message_size(MAX_MESSAGE_BYTES);

    let limits = ServerLimits {
        max_in_flight: config.common.max_in_flight.get(),
        request_timeout: config.common.request_timeout,
    };
    let readiness = Readiness::until_draining(&shutdown);
    GrpcServer::new(limits)
        .add_if(config.common.hosted_mode, service)
        .serve(listener, readiness, shutdown)
        .await?;
    Ok(())
}
