//! An application's service that refuses tenants as the rest of the system does: to copy.
//!
//! It keeps the hosts that each tenant monitors, in memory, and serves them over REST and gRPC. What it has to do with
//! tenants is in `doors`; its handlers only ask for whom a request was let in.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the settings |
//! | `doors` | who decides about tenants, and what each route and method requires of them |
//! | `hosts` | the hosts of every tenant |
//! | `rest`, `grpc` | the two surfaces |
//! | [`proto`] | the code generated from `proto/` |
//!
//! With `cargo run -- dev` in another terminal, `cargo run -p acme-hosts` starts it.

#![warn(missing_docs)]

pub mod config;
mod doors;
mod grpc;
mod hosts;
#[expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    missing_docs,
    unused_qualifications,
    reason = "generated code follows its generator's taste"
)]
pub mod proto {
    //! `acme.hosts.v1`.
    tonic::include_proto!("acme.hosts.v1");
}
mod rest;

use pulse_rpc::{GrpcServer, Limits, OperatorTokens};
use pulse_runtime::{Readiness, Shutdown, settings::bind};

pub use crate::config::Config;
use crate::hosts::Hosts;

/// Listens on both addresses and serves until `shutdown` is done: when draining begins nothing new is accepted, and what is in
/// flight goes on.
///
/// # Errors
/// When an address is taken, a service's URL is none, or the plans or the operators' tokens cannot be read.
pub async fn start(config: &Config, shutdown: &Shutdown) -> anyhow::Result<()> {
    let rest_listener = bind(config::REST_ADDR, config.rest_addr).await?;
    let grpc_listener = bind(config::GRPC_ADDR, config.grpc_addr).await?;
    let guard = doors::guard(config, shutdown)?;
    let tokens_file = config.common.admin_tokens_file.as_deref();
    let operators = tokens_file.map(|path| OperatorTokens::watch(path, shutdown)).transpose()?;
    let hosts = Hosts::new(guard.clone());

    let router = rest::router(hosts.clone(), doors::rest(guard.clone(), operators.clone()));
    let rest = axum::serve(rest_listener, router).with_graceful_shutdown(shutdown.draining());
    shutdown.spawn_service("rest", async { rest.await });

    let limits = Limits {
        max_in_flight: config.common.max_in_flight.get(),
        request_timeout: config.common.request_timeout,
    };
    let grpc = GrpcServer::new(limits)
        .describe(grpc::FILE_DESCRIPTOR_SET)
        .add(grpc::service(hosts, &doors::grpc(guard, operators)))
        .serve(grpc_listener, Readiness::until_draining(shutdown), shutdown.clone());
    shutdown.spawn_service("grpc", grpc);
    Ok(())
}
